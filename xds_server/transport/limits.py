"""What one stream, and all streams together, may take: requests a second, pushes at a time.

Whoever is over a limit waits; only a flood that does not end is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from xds_server.transport.access import RefusedError
from xds_server.transport.admission import Admission
from xds_server.xds.status import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

FLOOD = 10.0
"""Seconds without a pause over its rate of requests after which a stream is ended."""

BURST = 4.0
"""Seconds' worth of requests that a stream may send at once after a quiet time."""

SLOW_PUSH = 0.25
"""Seconds after which a push that its client does not take up gives its place to others."""


class RequestMeter:
    """One stream's requests.

    Args:
        rate: requests a second, above 0.
        clock: monotonic seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._places = Admission(rate, max(1, int(rate * BURST)), clock)
        self._rate = rate
        self._clock = clock
        self._over_since: float | None = None

    def delay(self) -> float:
        """Count a request. Returns the seconds to wait before it is looked at.

        Raises:
            RefusedError: the stream has been over its rate for FLOOD seconds on end.
        """
        seconds = self._places.delay()
        if seconds <= 0.0:
            self._over_since = None
            return 0.0
        now = self._clock()
        if self._over_since is None:
            self._over_since = now
        elif now - self._over_since >= FLOOD:
            text = f"more than {self._rate:g} requests a second for {FLOOD:g} seconds on end"
            raise RefusedError(Refusal.TOO_MANY_REQUESTS, text)
        return seconds


class PushGate:
    """At most `limit` pushes at a time. The others wait, in order; what they are owed is merged meanwhile."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._writing: set[Place] = set()

    @property
    def full(self) -> bool:
        """Whether who comes now has to wait."""
        return not self._free

    def take(self) -> Place:
        """Take a free place. Leave it on every way out. RuntimeError where there is none."""
        if not self._free:
            raise RuntimeError("a push took a place while none was free")
        self._free -= 1
        return Place(self)

    async def enter(self) -> Place:
        """Wait for a place, in order. Leave it on every way out."""
        if self._free:
            return self.take()
        for place in self._writing:
            place.hurry()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()  # it was this one's turn already
            raise
        return Place(self)

    def began(self, place: Place) -> None:
        """Called by a place: its push is being written."""
        self._writing.add(place)
        if self.full:
            place.hurry()

    def ended(self, place: Place) -> None:
        """Called by a place that is free again."""
        self._writing.discard(place)
        self._pass_on()

    def _pass_on(self) -> None:
        """A place is free: whoever has waited longest has it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Place:
    """One push's place. A client that does not read loses it after SLOW_PUSH seconds, if anyone waits."""

    __slots__ = ("_begun", "_gate", "_left", "_timer")

    def __init__(self, gate: PushGate) -> None:
        self._gate = gate
        self._begun = 0.0
        self._left = False
        self._timer: asyncio.TimerHandle | None = None

    def write(self) -> None:
        """Writing begins."""
        self._begun = time.monotonic()
        self._gate.began(self)

    def hurry(self) -> None:
        """Others wait, or soon will: the time that writing may take counts."""
        if self._timer is None:
            rest = self._begun + SLOW_PUSH - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, rest), self.leave)

    def leave(self) -> None:
        """Let the next one in. May be called again."""
        if not self._left:
            self._left = True
            if self._timer is not None:
                self._timer.cancel()
            self._gate.ended(self)
