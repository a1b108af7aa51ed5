"""A forwarding proxy before one replica of a runtime that does not forward by itself, such as MLServer.

`python -m xds_server.demo.proxy --name replica-1 --port 9101 --replica 127.0.0.1:9001 --peers ...` passes
requests to its replica when that has the model, and otherwise to the proxy of a replica that has it: the
same second hop that ModelMesh's forwarding costs. The demo's latency test goes through the proxies before
and after, so that what is compared is the routing alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

from xds_server.demo import forwarding
from xds_server.demo.runtime import LARGEST_BODY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


REFRESH = 5.0
"""Seconds between two looks at the replicas' indexes: MLServer reads its whole repository for each, which
would weigh on what is measured. An outdated table costs one refused request, which is then forwarded."""


class Proxy:
    """The HTTP side of the proxy. `replica` and `peers` are HOST:PORT; the peers are other proxies."""

    def __init__(self, name: str, replica: str, peers: Sequence[str]) -> None:
        self._name = name
        self._replica = replica
        self._addresses = tuple(peers)
        self._client: aiohttp.ClientSession | None = None
        self._own: forwarding.Peers | None = None
        self._peers: forwarding.Peers | None = None

    def application(self) -> web.Application:
        """The web application: inference is routed, everything else is the replica's."""
        application = web.Application(client_max_size=LARGEST_BODY)
        application.add_routes(
            [web.post("/v2/models/{model}/infer", self._infer), web.route("*", "/{path:.*}", self._pass)]
        )
        application.cleanup_ctx.append(self._running)
        return application

    async def _running(self, _: web.Application) -> AsyncIterator[None]:
        async with forwarding.session() as client:
            self._client = client
            self._own = forwarding.Peers([self._replica], client, REFRESH)
            self._peers = forwarding.Peers(self._addresses, client, REFRESH)
            tables = [asyncio.create_task(table.run(), name="table") for table in (self._own, self._peers)]
            yield
            for task in tables:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tables)

    async def _infer(self, request: web.Request) -> web.Response:
        if self._own is None or self._peers is None or self._client is None:
            raise RuntimeError("a request came before the application had started")
        model, body = request.match_info["model"], await request.read()
        if self._own.holders(model):
            response = await self._to_replica(self._client, request, body)
            if response.status not in forwarding.NOT_HERE:
                return response
            await self._own.refresh()
        forwarded = await self._peers.forward(model, request, body, self._name)
        return forwarded or await self._to_replica(self._client, request, body)

    async def _pass(self, request: web.Request) -> web.Response:
        if self._client is None:
            raise RuntimeError("a request came before the application had started")
        return await self._to_replica(self._client, request, await request.read())

    async def _to_replica(
        self, client: aiohttp.ClientSession, request: web.Request, body: bytes
    ) -> web.Response:
        try:
            response = await forwarding.hand_on(client, self._replica, request, body, {})
        except (aiohttp.ClientError, TimeoutError) as error:
            return web.json_response({"error": f"replica {self._replica}: {error!r}"}, status=502)
        response.headers[forwarding.SERVED_BY] = self._name
        return response


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one proxy until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m xds_server.demo.proxy", description=__doc__)
    parser.add_argument("--name", required=True, help="what x-served-by and x-forwarded-by say")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--replica", required=True, metavar="HOST:PORT", help="the runtime behind this proxy")
    parser.add_argument("--peers", nargs="*", default=[], metavar="HOST:PORT", help="the other proxies")
    options = parser.parse_args(arguments)
    proxy = Proxy(options.name, options.replica, options.peers)
    web.run_app(
        proxy.application(),
        host=options.host,
        port=options.port,
        access_log=None,
        print=None,
        shutdown_timeout=2.0,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
