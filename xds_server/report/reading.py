"""The runtime beside the reporter: asked again and again; what it said last, for whoever tells it on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from xds_server.sources.runtimes.answers import RuntimeUnreadableError
from xds_server.sources.runtimes.client import RuntimeClient

if TYPE_CHECKING:
    from xds_server.mesh.events import FailureKind, ModelState
    from xds_server.sources.runtimes.answers import Index
    from xds_server.sources.runtimes.asking import Target


@dataclass(frozen=True, slots=True)
class Heard:
    """What the runtime said last: all of its models, or why it could not be read."""

    rows: tuple[ModelState, ...] = ()
    failure: tuple[FailureKind, str] | None = None


class Reading:
    """Asks the target once an interval. `heard` is None until the first answer, or failure."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._changed: asyncio.Event = asyncio.Event()
        self._log = structlog.get_logger("report")
        self.heard: Heard | None = None

    async def run(self) -> None:
        """Ask until cancelled."""
        index: Index | None = None
        loop = asyncio.get_running_loop()
        async with RuntimeClient() as client:
            while True:
                due = loop.time() + self._target.interval
                try:
                    index = await client.read(self._target, index)
                except RuntimeUnreadableError as error:
                    index = None
                    self._take(Heard(failure=(error.kind, str(error))))
                else:
                    self._take(Heard(index.rows))
                await asyncio.sleep(max(0.0, due - loop.time()))

    async def other_than(self, told: Heard | None) -> Heard:
        """What is heard, as soon as it is another than `told`."""
        while self.heard is None or self.heard == told:
            await self._changed.wait()
        return self.heard

    def _take(self, heard: Heard) -> None:
        if heard == self.heard:
            return
        self.heard = heard
        ready = sum(row.ready for row in heard.rows)
        self._log.info(
            "runtime", models=len(heard.rows), ready=ready, error=heard.failure and heard.failure[1]
        )
        self._changed.set()
        self._changed = asyncio.Event()
