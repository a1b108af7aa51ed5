"""Orders to a runtime over HTTP, as moves give them: where they go, and what each failure means."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from xds_server.mesh.model import Endpoint, EndpointId
from xds_server.mesh.pools import OpenInference, Pool, StaticModels
from xds_server.moves.errors import NoRuntimeError, RuntimeRefusedError, RuntimeSilentError
from xds_server.moves.runtimes import AskedRuntimes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.web import Request, Response

POOL = Pool("ns/models", "models.example", OpenInference(port="rest"))


def endpoint(rest: int) -> Endpoint:
    return Endpoint(EndpointId("models.example", "127.0.0.1", 1), {"http": 1, "rest": rest})


@asynccontextmanager
async def runtime(answer: object) -> AsyncIterator[tuple[Endpoint, list[str]]]:
    asked: list[str] = []

    async def handle(request: Request) -> Response:
        asked.append(request.path)
        if request.path.endswith("/index"):
            return web.json_response([{"name": "m", "state": "READY"}])
        return await answer(request)  # type: ignore[operator, no-any-return]

    application = web.Application()
    application.router.add_post("/{rest:.*}", handle)
    runner = web.AppRunner(application, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield endpoint(runner.addresses[0][1]), asked
    finally:
        await runner.cleanup()


async def done(_: Request) -> Response:
    return web.Response()


async def test_orders_go_to_the_port_of_the_pools_discovery() -> None:
    async with runtime(done) as (there, asked):
        await AskedRuntimes().load(there, POOL, "m", 5)
        await AskedRuntimes().unload(there, POOL, "m", 5)
    assert asked == ["/v2/repository/models/m/load", "/v2/repository/models/m/unload"]


@pytest.mark.parametrize("action", ["load", "unload"])
async def test_a_refusal_is_quoted(action: str) -> None:
    async def broken(_: Request) -> Response:
        return web.json_response({"error": "out of memory"}, status=500)

    async with runtime(broken) as (there, _):
        with pytest.raises(RuntimeRefusedError, match="out of memory"):
            await getattr(AskedRuntimes(), action)(there, POOL, "m", 5)


@pytest.mark.parametrize("action", ["load", "unload"])
async def test_nobody_listening_is_a_refusal(action: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(RuntimeRefusedError, match="no usable answer"):
            await getattr(AskedRuntimes(), action)(endpoint(unused.getsockname()[1]), POOL, "m", 5)


@pytest.mark.parametrize("action", ["load", "unload"])
async def test_no_answer_is_silence(action: str) -> None:
    async def never(_: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with runtime(never) as (there, _):
        with pytest.raises(RuntimeSilentError, match=r"within 0\.05 s"):
            await getattr(AskedRuntimes(), action)(there, POOL, "m", 0.05)


async def test_a_fixed_list_has_no_api() -> None:
    pool = replace(POOL, discovery=StaticModels({}))
    with pytest.raises(NoRuntimeError, match="ns/models"):
        await AskedRuntimes().load(endpoint(1), pool, "m", 5)
