"""From dirty marks to published catalogs: mesh -> resources -> hub, on the leading edge.

The first change goes out at once, those that follow within the window are merged into one more
publication. Nothing is published before `start`: an Envoy that reconnects to a server that has just
begun must not be told of an empty world (istio 25100).

A cluster that Envoy has just been busied with rests (resources/pacing.py); what changed of it is merged
until its rest is over. After a change of layout the clusters that routes have left stay for LINGER.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING

import structlog

from xds_server.resources.law import SHARE
from xds_server.resources.pacing import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds_server.mesh.mesh import Mesh
    from xds_server.resources.builder import Builder
    from xds_server.resources.laid import Laid
    from xds_server.xds.hub import Hub

DEFAULT_WINDOW = 0.05
"""Seconds within which changes that follow a publication are merged."""

LINGER = 10.0
"""Seconds that clusters stay which routes no longer lead to: a request whose cluster was chosen before may
still be on its way there, such as one whose body is being read. The protocol core waits, on top of that,
until each client has acknowledged the routes."""


class NotSyncedError(RuntimeError):
    """Something was to be published before the sources had been heard once."""


class Publisher:
    """Owns the only path by which Envoy learns of a change.

    Args:
        mesh: what is known; its dirty marks are taken here and nowhere else.
        builder: makes resources from it.
        hub: the clients' sessions.
        window: seconds in which later changes are merged after one has been published.
        share: of an Envoy worker's time that rebuilds of one cluster may take.
        linger: seconds, see LINGER.
        clock: monotonic seconds, for the durations in logs and statistics.
    """

    def __init__(
        self,
        mesh: Mesh,
        builder: Builder,
        hub: Hub,
        *,
        window: float = DEFAULT_WINDOW,
        share: float = SHARE,
        linger: float = LINGER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mesh = mesh
        self._builder = builder
        self._hub = hub
        self._window = window
        self._clock = clock
        self.pace = Pace(clock, share)
        self._linger = linger
        self._former: deque[tuple[float, str, Laid]] = deque()
        """Layouts that routes have left, with the time at which they may go."""
        self._dirty: set[str] = set()
        """Hosts that were taken from the mesh and not built yet."""
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

    @property
    def spaced(self) -> int:
        """How often a changed cluster was left out of a publication because it rests."""
        return self.pace.spaced

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
        self._take()
        return self._publish() if self._owed or self.pace.next_at is not None else self._hub.serial

    async def run(self) -> None:
        """Publish changes until cancelled."""
        merging_until = -inf
        while True:
            await self._wait()
            if (rest := merging_until - self._clock()) > 0:
                await asyncio.sleep(rest)
            self._changed.clear()
            if self._started:
                self._take()
                if self._drop() or self._owed or self._due() <= self._clock():
                    self._publish(urgent=False)
                    merging_until = self._clock() + self._window

    async def _wait(self) -> None:
        """Return at the next change, or when a cluster's rest or a former layout's time is over."""
        timeout = min(self._due(), self._former[0][0] if self._former else inf) - self._clock()
        try:
            async with asyncio.timeout(None if timeout == inf else max(0.0, timeout)):
                await self._changed.wait()
        except TimeoutError:
            return

    def _due(self) -> float:
        """When the first cluster that rests may be pushed, by the clock."""
        return inf if self.pace.next_at is None else self.pace.next_at

    def _take(self) -> None:
        dirty = self._mesh.take_dirty()
        self._owed = self._owed or bool(dirty)
        self._dirty |= dirty.services
        if not self._owed:
            self._changed_at = None  # what was announced has made no difference: the next change is the first

    def _drop(self) -> bool:
        """Let go of the former layouts whose time is over; returns whether that is something to publish."""
        dropped = False
        while self._former and self._former[0][0] <= self._clock():
            _, host, laid = self._former.popleft()
            dropped |= self._builder.drop(host, laid)
        self._owed = self._owed or dropped
        return dropped

    def _publish(self, *, urgent: bool = True) -> int:
        begun = self._clock()
        self._take()
        self._owed = True
        serial = self._hub.serial + 1
        changed_at = self._hub.clock() if self._changed_at is None else self._changed_at
        catalog = self._builder.build(
            self._mesh.routing,
            self._mesh.services(),
            serial,
            dirty=self._dirty,
            pace=self.pace,
            urgent=urgent,
            since=changed_at,
        )
        self._dirty = set()
        for host, laid in self._builder.take_former():
            # One that routes came back to and have left again lingers from now on.
            kept = (each for each in self._former if each[2] is not laid)
            self._former = deque([*kept, (begun + self._linger, host, laid)])
        self._changed_at = None
        # A cluster that rested has waited since a change that an earlier publication had to leave out.
        self._hub.publish(catalog, min(changed_at, self._builder.since))
        self._owed = False
        self.publications += 1
        self.last_duration = self._clock() - begun
        self._log.debug("published", serial=serial, milliseconds=round(self.last_duration * 1000, 2))
        return serial
