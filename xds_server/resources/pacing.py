"""When a changed cluster may be pushed: rebuilds are to take a set share of a worker's time, no more.

Envoy 1.40 merges no metadata changes itself: each push is a rebuild. The first change of a cluster goes
at once; after it the cluster rests for its rebuild's time divided by the share, and what changes
meanwhile is merged. Each cluster rests for itself: a busy pool delays no quiet one.

Something that requests must not reach any more does not wait for that: it goes at once, and what it
costs is added to the rest that follows. So additions wait for withdrawals, and the share holds over time.
Pushes that somebody waits for go at once, too, and are added up to RESERVE rests only.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from xds_server.resources.law import SHARE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESERVE = 4
"""Rests that withdrawals may be ahead of: with more of them than that, they are spaced too."""

_ROOM = 64
"""Rests, and services with their changes, that are remembered before those that are over are looked for."""

PERIOD = 60.0
"""Seconds over which the rate of changes is taken."""


class Pace:
    """What has been pushed of late.

    Args:
        clock: monotonic seconds.
        share: of a worker's time; rebuilds take that much at most.
    """

    def __init__(self, clock: Callable[[], float], share: float = SHARE) -> None:
        self._clock = clock
        self._share = share
        self._rests: dict[str, float] = {}
        self._room = _ROOM
        self._changes: dict[str, _Counted] = {}
        self.next_at: float | None = None
        """When the first of the clusters that were told to wait may go, by the clock; None: none waits."""
        self.spaced = 0
        """How often a cluster was told to wait."""

    def begin(self) -> None:
        """A publication begins: who has to wait is asked anew."""
        self.next_at = None
        if len(self._rests) + len(self._changes) > self._room:
            now = self._clock()
            self._rests = {name: until for name, until in self._rests.items() if until > now}
            recent = self._changes.items()
            self._changes = {host: each for host, each in recent if each.since(now - PERIOD)}
            self._room = max(_ROOM, 2 * (len(self._rests) + len(self._changes)))

    def may(self, names: Sequence[str], cost: float, *, withdrawal: bool, urgent: bool) -> bool:
        """Whether clusters may be pushed now, each of which costs Envoy `cost` seconds; notes that they are.

        `urgent`: whatever they rest for, somebody waits for this very push.
        """
        now = self._clock()
        rest = cost / self._share
        until = max((self._rests.get(name, now) for name in names), default=now)
        ahead = RESERVE * rest if withdrawal else 0.0
        if not urgent and until - ahead > now:
            self.spaced += 1
            at = until - ahead
            self.next_at = at if self.next_at is None else min(self.next_at, at)
            return False
        # However many went because somebody waited for them: what must be withdrawn later never waits longer
        # than after withdrawals alone, and neither do the changes that wait behind it.
        longest = now + (RESERVE + 1) * rest
        for name in names:
            self._rests[name] = min(max(self._rests.get(name, now), now) + rest, longest)
        return True

    def changed(self, host: str, count: int) -> None:
        """Note that `count` endpoints of a service changed."""
        counted = self._changes.get(host)
        if counted is None:
            counted = self._changes[host] = _Counted()
        counted.add(self._clock(), count)

    def rate(self, host: str) -> float:
        """Changes a second of a service, over the last PERIOD."""
        counted = self._changes.get(host)
        return 0.0 if counted is None else counted.since(self._clock() - PERIOD) / PERIOD


class _Counted:
    """What happened of late, with its total: however much it was, a look costs what has become too old."""

    __slots__ = ("_noted", "_total")

    def __init__(self) -> None:
        self._noted: deque[tuple[float, int]] = deque()
        self._total = 0

    def add(self, at: float, count: int) -> None:
        self._noted.append((at, count))
        self._total += count
        self.since(at - PERIOD)

    def since(self, begin: float) -> int:
        """How many were noted at `begin` or later; what is older is forgotten."""
        while self._noted and self._noted[0][0] < begin:
            self._total -= self._noted.popleft()[1]
        return self._total
