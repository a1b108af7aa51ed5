"""The commands against a real admin port: what they print and how they exit."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING

import pytest
from admin_world import admin_of
from aiohttp import web
from moves_world import FakeEnvoy, World, refused

from xds_server.admin import ask, client

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = {"service": None, "settle": 0.0, "drain": 0.0, "timeout": 5.0, "force": False}
Captured = pytest.CaptureFixture[str]


@pytest.fixture
async def world() -> World:
    return World().start(m="1,2", solo="3")


async def run(command: Callable[..., int], *arguments: object, **options: object) -> int:
    return await asyncio.to_thread(command, *arguments, **options)


async def test_withdraw_and_cancel(world: World, capsys: Captured) -> None:
    envoy = FakeEnvoy(world, "a")
    async with admin_of(world) as admin:
        assert await run(client.withdraw, admin.address, "m", world.at(1), **NOW) == 0
        (held,) = world.mover.withdrawals()
        said = capsys.readouterr().out
        assert f"withdrawn: m from {world.at(1)} (service models.example), withdrawal {held.id}\n" in said
        assert f"by 1 Envoy: {envoy.session.id}\n" in said
        assert "safe to unload" in said
        assert f"xds-server cancel {held.id}\n" in said
        assert await run(client.cancel, admin.address, held.id) == 0
        assert f"cancelled: m is routed to {world.at(1)}" in capsys.readouterr().out
        assert await run(client.cancel, admin.address, held.id) == 1
        assert held.id in capsys.readouterr().err


async def test_load_and_unload(world: World, capsys: Captured) -> None:
    async with admin_of(world) as admin:
        assert await run(client.load, admin.address, "new", world.at(2), service=None, timeout=5.0) == 0
        said = capsys.readouterr().out
        assert f"loaded: new on {world.at(2)}" in said
        assert "No Envoy is connected" in said
        options = NOW | {"force": True, "service": "models.example"}
        assert await run(client.unload, admin.address, "new", world.at(2), **options) == 0
        said = capsys.readouterr().out
        assert f"unloaded: new on {world.at(2)}" in said
        assert "reported it gone after" in said


async def test_refusals_exit_1_with_the_servers_words(world: World, capsys: Captured) -> None:
    async with admin_of(world) as admin:
        assert await run(client.withdraw, admin.address, "solo", world.at(3), **NOW) == 1
        assert capsys.readouterr().err.startswith(f"xds-server: {world.at(3)} is the last endpoint of")
        world.refusal = refused("HTTP 500 boom")
        assert await run(client.unload, admin.address, "m", world.at(1), **NOW) == 1
        assert "HTTP 500 boom; the withdrawal is cancelled" in capsys.readouterr().err
        assert await run(client.load, admin.address, "m", "1.2.3.4:5", service=None, timeout=1.0) == 1
        assert "no endpoint 1.2.3.4:5" in capsys.readouterr().err


async def test_wrong_usage_exits_2(world: World, capsys: Captured) -> None:
    async with admin_of(world) as admin:
        assert await run(client.withdraw, admin.address, "m", world.at(1), **(NOW | {"settle": -1.0})) == 2
        assert "field 'settle': found -1.0" in capsys.readouterr().err
    assert await run(client.status, "nowhere", as_json=False) == 2
    assert "--admin: 'nowhere' is not HOST:PORT" in capsys.readouterr().err


async def test_nobody_there_exits_3_and_says_what_to_do(capsys: Captured) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        admin = f"127.0.0.1:{unused.getsockname()[1]}"
        assert await run(client.status, admin, as_json=False) == 3
    said = capsys.readouterr().err
    assert f"cannot reach the server's admin port at {admin}: Connection refused" in said
    assert "--admin HOST:PORT" in said


async def test_a_name_without_an_address_exits_3(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert client.status("nowhere.invalid:1", as_json=False) == 3
    assert "Name or service not known" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (200, "<html>"),
        (200, "[]"),
        (200, '{"version": "2"}'),
        (502, "<html>"),
        (500, "[]"),
        (404, '{"detail": "x"}'),
        (404, '{"error": 1}'),
    ],
)
async def test_something_else_there_exits_3(capsys: Captured, code: int, body: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body, status=code)

    application = web.Application()
    application.router.add_get("/status", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        assert await run(client.status, f"127.0.0.1:{runner.addresses[0][1]}", as_json=False) == 3
    finally:
        await runner.cleanup()
    assert "is not an xds-server" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reply", "said"), [(b"", "broke before the answer"), (b"nonsense\r\n\r\n", "does not speak HTTP/1.1")]
)
async def test_a_connection_that_breaks_exits_3(capsys: Captured, reply: bytes, said: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await run(client.status, f"127.0.0.1:{port}", as_json=False) == 3
    assert said in capsys.readouterr().err


async def test_no_answer_in_time(world: World) -> None:
    FakeEnvoy(world, "silent").acks = False
    async with admin_of(world) as admin:
        body = {"model": "m", "endpoint": world.at(1)}
        with pytest.raises(ask.UnreachableError, match=r"no answer .* within 0\.05 s"):
            await asyncio.to_thread(ask.ask, admin.address, "POST", "/v1/withdrawals", body, 0.05)
        await world.until(lambda: not world.mover.withdrawals())


async def test_no_proxy_is_used(world: World, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with admin_of(world) as admin:
        assert await run(client.status, admin.address, as_json=True) == 0


async def test_status_as_tables_and_as_json(world: World, capsys: Captured) -> None:
    FakeEnvoy(world, "envoy-1")
    async with admin_of(world) as admin:
        assert await run(client.status, admin.address, as_json=False) == 0
        said = capsys.readouterr().out
        for part in ("ready", "service models.example", "127.0.0.1:9003", "solo", "envoy-1", "SYNCED"):
            assert part in said
        assert await run(client.status, admin.address, as_json=True) == 0
        document = json.loads(capsys.readouterr().out)
        assert sorted(document["models"]) == ["fixed", "m", "solo"]


async def test_a_client_that_left_is_named(capsys: Captured) -> None:
    world = World(return_limit=0.02).start(m="1,2")
    envoy = FakeEnvoy(world, "gone")
    envoy.acks = False
    async with admin_of(world) as admin:
        task = asyncio.create_task(run(client.withdraw, admin.address, "m", world.at(1), **NOW))
        await world.until(lambda: bool(world.mover.withdrawals()))
        await asyncio.sleep(0)
        envoy.close()
        assert await task == 0
    assert f"Not acknowledged by {envoy.session.id}" in capsys.readouterr().out
