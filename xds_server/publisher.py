"""From dirty marks to published catalogs: mesh -> resources -> hub, on the leading edge.

The first change goes out at once, those that follow within the window are merged into one more
publication. Nothing is published before `start`: an Envoy that reconnects to a server that has just
begun must not be told of an empty world (istio 25100).
"""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds_server.mesh.mesh import Mesh
    from xds_server.resources.builder import Builder
    from xds_server.xds.hub import Hub

DEFAULT_WINDOW = 0.05
"""Seconds within which changes that follow a publication are merged."""


class NotSyncedError(RuntimeError):
    """Something was to be published before the sources had been heard once."""


class Publisher:
    """Owns the only path by which Envoy learns of a change.

    Args:
        mesh: what is known; its dirty marks are taken here and nowhere else.
        builder: makes resources from it.
        hub: the clients' sessions.
        window: seconds in which later changes are merged after one has been published.
        clock: monotonic seconds, for the durations in logs and statistics.
    """

    def __init__(
        self,
        mesh: Mesh,
        builder: Builder,
        hub: Hub,
        *,
        window: float = DEFAULT_WINDOW,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mesh = mesh
        self._builder = builder
        self._hub = hub
        self._window = window
        self._clock = clock
        self._changed = asyncio.Event()
        self._changed_at: float | None = None
        """When the first change that is not published yet happened, by the hub's clock."""
        self._started = False
        self._owed = False
        """What was dirty has been taken, but not been published yet: also after a build that failed."""
        self._log = structlog.get_logger("publisher")
        self.publications = 0
        self.last_duration = 0.0
        """Seconds that the last publication took, building included."""

    def notify(self) -> None:
        """The mesh has something new; called on the event loop."""
        if self._changed_at is None:
            self._changed_at = self._hub.clock()
        self._changed.set()

    def start(self) -> int:
        """Publish for the first time; returns the serial."""
        self._started = True
        return self._publish()

    def flush(self) -> int:
        """Publish all that is dirty now; returns the serial that includes every event applied so far.

        Raises:
            NotSyncedError: before `start`.
        """
        if not self._started:
            raise NotSyncedError("the sources have not been heard yet; try again when /readyz says ready")
        self._owed = bool(self._mesh.take_dirty()) or self._owed
        return self._publish() if self._owed else self._hub.serial

    async def run(self) -> None:
        """Publish changes until cancelled."""
        merging_until = -inf
        while True:
            await self._changed.wait()
            if (rest := merging_until - self._clock()) > 0:
                await asyncio.sleep(rest)
            self._changed.clear()
            if self._started:
                self.flush()
                merging_until = self._clock() + self._window

    def _publish(self) -> int:
        begun = self._clock()
        self._owed = True
        self._mesh.take_dirty()
        serial = self._hub.serial + 1
        catalog = self._builder.build(self._mesh.routing, self._mesh.services(), serial)
        since, self._changed_at = self._changed_at, None
        self._hub.publish(catalog, since)
        self._owed = False
        self.publications += 1
        self.last_duration = self._clock() - begun
        self._log.debug("published", serial=serial, milliseconds=round(self.last_duration * 1000, 2))
        return serial
