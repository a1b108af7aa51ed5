"""The admin port: health, readiness, metrics, status and moves over HTTP.

Only the mapping to HTTP lives here: who may ask is guard.py's, what a body may say requests.py's.
"""

from __future__ import annotations

import dataclasses
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from xds_server import __version__
from xds_server.admin import explaining, guard, kubernetes, metrics, requests, status
from xds_server.moves import errors as moves

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from xds_server.admin.state import AdminState
    from xds_server.mesh.mesh import Withdrawal

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STOP_LIMIT = 1.0
"""Seconds that requests under way have when the port is closed; then they are cancelled, and with them
the withdrawals that nobody has an answer to yet."""

_BODY_LIMIT = 64 * 1024

_STATUSES: tuple[tuple[type[moves.MoveError], HTTPStatus], ...] = (
    (moves.UnknownEndpointError, HTTPStatus.NOT_FOUND),
    (moves.UnknownWithdrawalError, HTTPStatus.NOT_FOUND),
    (moves.NotAcknowledgedError, HTTPStatus.GATEWAY_TIMEOUT),
    (moves.RuntimeSilentError, HTTPStatus.GATEWAY_TIMEOUT),
    (moves.RuntimeSlowError, HTTPStatus.GATEWAY_TIMEOUT),
    (moves.RuntimeRefusedError, HTTPStatus.BAD_GATEWAY),
    (moves.MoveError, HTTPStatus.CONFLICT),
)
"""The first that fits. Whatever is not listed by itself is in conflict with how things are now."""

PAGE = """\
xds-server {version}

GET    /healthz               the process is alive
GET    /readyz                200 when Envoys are answered, else 503 with the reason
GET    /metrics               for Prometheus
GET    /status                what is known, what is routed, what each Envoy has acknowledged (JSON)
GET    /v1/explain?model=..   what would happen to a request, and why (path, header, authority, port)
POST   /v1/explain            {{"model": .., "path": .., "headers": .., "body": ..}}: the same, with a body
GET    /v1/withdrawals        models that are kept off a replica
POST   /v1/withdrawals        {{"model": .., "endpoint": "HOST:PORT"}}: answers when it is safe to unload
GET    /v1/withdrawals/ID
DELETE /v1/withdrawals/ID     route the model to its replica again
POST   /v1/loads              {{"model": .., "endpoint": "HOST:PORT"}}: answers when every Envoy routes there
POST   /v1/unloads            {{"model": .., "endpoint": "HOST:PORT"}}: withdraw, wait, unload

The commands `xds-server status`, `withdraw`, `cancel`, `load` and `unload` do the same.
"""


class AdminServer:
    """The HTTP server. `address` is HOST:PORT, an IPv6 address in brackets; port 0 takes a free one."""

    def __init__(self, state: AdminState, address: str) -> None:
        self._state = state
        self._host, self._port = guard.split_address(address)
        self._log = structlog.get_logger("admin")
        self._exposition = metrics.Exposition(state)
        self._runner: web.AppRunner | None = None

    @property
    def state(self) -> AdminState:
        """All that is told here."""
        return self._state

    async def start(self) -> int:
        """Listen; returns the port. OSError when it cannot be bound."""
        self._runner = web.AppRunner(
            self.application(), access_log=None, handler_cancellation=True, shutdown_timeout=STOP_LIMIT
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError:
            await self.stop()
            raise
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port; requests under way have STOP_LIMIT seconds."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    def application(self) -> web.Application:
        """The routes, with the guard and the errors around them."""
        application = web.Application(middlewares=[self._guard, self._errors], client_max_size=_BODY_LIMIT)
        application.add_routes(
            [
                web.get("/", self._page),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/status", self._status),
                web.get("/v1/explain", self._explain_query),
                web.post("/v1/explain", self._explain_body),
                web.get("/v1/withdrawals", self._withdrawals),
                web.post("/v1/withdrawals", self._withdraw),
                web.get("/v1/withdrawals/{id}", self._withdrawal),
                web.delete("/v1/withdrawals/{id}", self._cancel),
                web.post("/v1/loads", self._load),
                web.post("/v1/unloads", self._unload),
            ]
        )
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = guard.refusal(self._host, request.headers.get("Host"), request.headers.get("Origin"))
        if refusal is not None:
            return _error(HTTPStatus.FORBIDDEN, refusal)
        return await handler(request)

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except requests.BadRequestError as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))
        except NotReadyError as error:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except moves.MoveError as error:
            found = next(code for kind, code in _STATUSES if isinstance(error, kind))
            return _error(found, str(error))
        except web.HTTPException as error:
            return _error(HTTPStatus(error.status), f"{error.reason}: {request.method} {request.path}")
        except Exception:  # noqa: BLE001 - logged whole, and the caller is told
            self._log.exception("request failed", method=request.method, path=request.path)
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; the server's log has it")

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(text=PAGE.format(version=__version__))

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        readiness = self._state.readiness
        if not readiness.ready:
            return web.Response(
                text=f"not ready: {readiness.reason}\n", status=HTTPStatus.SERVICE_UNAVAILABLE
            )
        stale = status.stale_pools(self._state.mesh)
        lines = [f"stale: {host}: no replica can be read; the last picture stays in force" for host in stale]
        if self._state.kubernetes is not None:
            lines += kubernetes.stale(self._state.kubernetes.status(), self._state.clock())
        return web.Response(text="\n".join(["ready", *lines]) + "\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        body, kind = self._exposition.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _status(self, _request: web.Request) -> web.Response:
        return _json(status.build(self._state))

    async def _explain_query(self, request: web.Request) -> web.Response:
        asked = explaining.from_query(request.query, request.query.getall("header", []))
        return _json(explaining.explain(self._state, asked))

    async def _explain_body(self, request: web.Request) -> web.Response:
        larger = request.clone(client_max_size=explaining.BODY_LIMIT)
        asked = requests.parse(explaining.ExplainBody, await larger.read())
        return _json(explaining.explain(self._state, asked))

    async def _withdrawals(self, _request: web.Request) -> web.Response:
        return _json({"withdrawals": [status.withdrawal(w) for w in self._state.mover.withdrawals()]})

    async def _withdrawal(self, request: web.Request) -> web.Response:
        return _json(status.withdrawal(self._find(request.match_info["id"])))

    async def _withdraw(self, request: web.Request) -> web.Response:
        body = requests.parse(requests.WithdrawalBody, await request.read())
        self._require_ready()
        done = await self._state.mover.withdraw(
            body.model,
            body.endpoint,
            service=body.service,
            settle=body.settle,
            drain=body.drain,
            force=body.force,
            keep=body.keep,
            timeout=body.timeout,
        )
        return _json(dataclasses.asdict(done))

    async def _cancel(self, request: web.Request) -> web.Response:
        cancelled = await self._state.mover.cancel(request.match_info["id"])
        return _json(status.withdrawal(cancelled))

    async def _load(self, request: web.Request) -> web.Response:
        body = requests.parse(requests.LoadBody, await request.read())
        self._require_ready()
        done = await self._state.mover.load(
            body.model,
            body.endpoint,
            service=body.service,
            timeout=body.timeout,
            runtime_timeout=body.runtime_timeout,
        )
        return _json(dataclasses.asdict(done))

    async def _unload(self, request: web.Request) -> web.Response:
        body = requests.parse(requests.UnloadBody, await request.read())
        self._require_ready()
        done = await self._state.mover.unload(
            body.model,
            body.endpoint,
            service=body.service,
            settle=body.settle,
            drain=body.drain,
            force=body.force,
            timeout=body.timeout,
            runtime_timeout=body.runtime_timeout,
        )
        return _json(dataclasses.asdict(done))

    def _find(self, identity: str) -> Withdrawal:
        found = next((w for w in self._state.mover.withdrawals() if w.id == identity), None)
        if found is None:
            raise moves.UnknownWithdrawalError(f"no withdrawal {identity!r}")
        return found

    def _require_ready(self) -> None:
        readiness = self._state.readiness
        if not readiness.ready:
            raise NotReadyError(f"not ready: {readiness.reason}; try again when /readyz answers 200")


class NotReadyError(Exception):
    """A move was asked for before the first sync, or while stopping."""


def _json(content: Any, code: HTTPStatus = HTTPStatus.OK) -> web.Response:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return web.Response(text=text + "\n", status=code, content_type="application/json")


def _error(code: HTTPStatus, text: str) -> web.Response:
    return _json({"error": text}, code)
