"""Health, readiness and metrics alone, on a port of their own: for a kubelet and for Prometheus.

They come from other machines, and the admin port, which can move models, stays on loopback.
"""

from __future__ import annotations

from aiohttp import web

from xds_server.admin.server import AdminServer


class ProbeServer(AdminServer):
    """The admin server without anything that changes something or tells of addresses and models."""

    def application(self) -> web.Application:
        """Three of the routes."""
        application = web.Application(middlewares=[self._guard, self._errors])
        application.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        return application
