"""A peer that is gone without a word: the connection stands, and nothing comes through it any longer."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.protocol.catalogs import World
from tests.protocol.wire_client import LIMIT, WireClient, connected, served
from xds_server.transport.server import ServerOptions
from xds_server.xds.hub import Hub
from xds_server.xds.messages import Variant
from xds_server.xds.model import CLUSTER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Cable:
    """Carries bytes between a client and the server until it is cut; nobody is told that it was."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        self._whole.clear()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._tasks |= {
            asyncio.create_task(self._carry(reader, far_writer), name="to the server"),
            asyncio.create_task(self._carry(far_reader, writer), name="to the client"),
        }

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._whole.wait()
                writer.write(data)
        finally:
            writer.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def cable(port: int) -> AsyncIterator[tuple[Cable, int]]:
    made = Cable(port)
    server = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    try:
        yield made, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await made.close()


async def test_a_peer_that_is_gone_without_a_word_is_let_go_and_others_are_not() -> None:
    hub, world = Hub(time.monotonic), World()
    world.cds = {"a": "1"}
    world.publish(hub.publish)
    options = ServerOptions(keepalive=1.0, keepalive_timeout=1.0)
    async with (
        served(hub, options) as port,
        cable(port) as (line, through),
        connected(through) as far,
        connected(port) as near,
    ):
        gone, here = WireClient(far, Variant.DELTA, node="gone"), WireClient(near, Variant.DELTA, node="here")
        for client in (gone, here):
            await client.ask(CLUSTER, "a")
            await client.ask(CLUSTER, nonce=(await client.hear()).nonce)
        assert hub.stats.streams_open == 2
        left = asyncio.Event()
        hub.add_listener(left.set)
        line.cut()
        async with asyncio.timeout(LIMIT):
            while hub.stats.streams_open == 2:
                left.clear()
                await left.wait()
        assert [each.id.split("/")[0] for each in hub.clients()] == ["here"]
        world.cds["a"] = "2"
        world.publish(hub.publish)
        await here.hear()
