"""A well-behaved client beside hostile ones: its assignment changes all the time, and it must not notice."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.protocol.catalogs import World
from tests.protocol.wire_client import WireClient, bodies, connected, served
from xds_server.xds.hub import Hub
from xds_server.xds.messages import Variant
from xds_server.xds.model import ENDPOINT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from xds_server.transport.not_found import TakesAnswers
    from xds_server.transport.server import ServerOptions

DELAY = 5.0
"""Seconds that a change may take to the well-behaved client, whatever the others do. Usually 5 ms."""

PAUSE = 0.01
"""Seconds between two changes."""


class Pulse:
    """A server, its state, and the client; `port` is for the hostile ones."""

    def __init__(self, hub: Hub, port: int, client: WireClient) -> None:
        self.hub = hub
        self.port = port
        self.world = World()
        self.world.cds = {"a": "1", "b": "1"}
        self.world.eds = {"a": "1", "b": "1", "pulse": "0"}
        self.beats = 0
        self.slowest = 0.0
        self._client = client
        self._beat = asyncio.Condition()

    def publish(self) -> None:
        self.world.publish(self.hub.publish)

    async def begin(self) -> None:
        self.publish()
        await self._client.ask(ENDPOINT, "pulse")
        await self._answer("pulse=0")

    async def run(self) -> None:
        """Change, receive, acknowledge: for ever. Each time exactly the one change arrives."""
        while True:
            self.world.eds["pulse"] = str(self.beats + 1)
            begun = time.monotonic()
            self.publish()
            await self._answer(f"pulse={self.beats + 1}")
            self.slowest = max(self.slowest, time.monotonic() - begun)
            async with self._beat:
                self.beats += 1
                self._beat.notify_all()
            await asyncio.sleep(PAUSE)

    async def more(self, beats: int) -> None:
        """Wait until that many further changes have arrived."""
        goal = self.beats + beats
        async with asyncio.timeout(DELAY * beats), self._beat:
            await self._beat.wait_for(lambda: self.beats >= goal)

    async def _answer(self, body: str) -> None:
        response = await self._client.hear()
        assert bodies(response) == [body]
        names = () if self._client.variant is Variant.DELTA else ("pulse",)
        await self._client.ask(ENDPOINT, *names, nonce=response.nonce)


@asynccontextmanager
async def beating(
    variant: Variant, options: ServerOptions | None = None, *, answers: TakesAnswers | None = None
) -> AsyncIterator[Pulse]:
    """A pulse that goes on in the background. At the end no change may have taken longer than DELAY."""
    hub = Hub(time.monotonic)
    async with served(hub, options, answers=answers) as port, connected(port) as channel:
        client = WireClient(channel, variant, node="pulse")
        pulse = Pulse(hub, port, client)
        await pulse.begin()
        task = asyncio.create_task(pulse.run(), name="pulse")
        try:
            yield pulse
            await pulse.more(3)
            assert pulse.slowest < DELAY
        finally:
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
            client.call.cancel()
        assert isinstance(ended, asyncio.CancelledError), ended
