"""What one stream, and all streams together, may take: requests a second, pushes at a time.

Whoever is over a limit waits; only a flood that does not end is refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING

from xds_server.transport.access import RefusedError
from xds_server.transport.admission import Admission
from xds_server.xds.status import Delay, Refusal

if TYPE_CHECKING:
    from collections import Counter
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
    """At most `limit` pushes at a time. The others wait, in order; what they are owed is merged meanwhile.

    Nobody is woken only to wait: a stream that is owed something asks, and hears when it is its turn.
    Who has to wait is counted in `delays`. `clock`: monotonic seconds.
    """

    def __init__(self, limit: int, delays: Counter[Delay], clock: Callable[[], float]) -> None:
        self._free = limit
        self._delays = delays
        self._clock = clock
        self._waiting: deque[Turn] = deque()
        self.writing: dict[Turn, float] = {}
        """Since when each push is being written, by the clock; the longest first. Kept by the turns."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def full(self) -> bool:
        """Whether who comes now has to wait."""
        return not self._free

    def take(self) -> bool:
        """Take a free place, if there is one."""
        if not self._free:
            return False
        self._free -= 1
        return True

    def queue(self, turn: Turn) -> None:
        """Let `turn` wait for a place."""
        self._waiting.append(turn)
        self._delays[Delay.PUSH] += 1
        if self._timer is None:
            self._watch()

    def unqueue(self, turn: Turn) -> None:
        """Let `turn` wait no longer."""
        self._waiting.remove(turn)

    def pass_on(self) -> None:
        """A place is free: whoever has waited longest has it."""
        if self._waiting:
            self._waiting.popleft().come()
        else:
            self._free += 1

    def _watch(self) -> None:
        """Look again when the push that is written longest has become slow."""
        now = self._clock()
        since = next(iter(self.writing.values()), now)
        rest = max(0.0, since + SLOW_PUSH - now)
        self._timer = asyncio.get_running_loop().call_later(rest, self._hurry)

    def _hurry(self) -> None:
        """Give the places of slow pushes to those who wait."""
        self._timer = None
        slow_since = self._clock() - SLOW_PUSH
        while self._waiting and self.writing:
            turn, since = next(iter(self.writing.items()))
            if since > slow_since:
                break
            del self.writing[turn]
            turn.lose_place()
            self.pass_on()
        if self._waiting:
            self._watch()


class _At(Enum):
    """Where a stream stands with its gate."""

    REST = auto()
    WAITING = auto()
    INSIDE = auto()
    SLOW = auto()
    """Still writing, but without a place."""


class Turn:
    """One stream's turns at a gate. `come` is called, within `ask` or later, when it has one.

    A client that does not read loses its place after SLOW_PUSH seconds, if anyone waits. Whoever had a
    turn has to `leave`; `close` it on every way out.
    """

    __slots__ = ("_again", "_at", "_come", "_gate")

    def __init__(self, gate: PushGate, come: Callable[[], None]) -> None:
        self._gate = gate
        self._come = come
        self._at = _At.REST
        self._again = False

    def ask(self) -> None:
        """Want a turn: one more, where one is under way."""
        if self._at is not _At.REST:
            self._again = self._at is not _At.WAITING
        elif self._gate.take():
            self.come()
        else:
            self._at = _At.WAITING
            self._gate.queue(self)

    def come(self) -> None:
        """It has a place. Called by the gate."""
        self._at = _At.INSIDE
        self._come()

    def begin(self, now: float) -> None:
        """Whatever was asked for until `now`, by the gate's clock, is seen to in this turn."""
        self._again = False
        self._gate.writing[self] = now

    def lose_place(self) -> None:
        """It takes too long. Called by the gate."""
        self._at = _At.SLOW

    def leave(self) -> None:
        """The turn is over; another one follows, where it was asked for meanwhile."""
        self._give_back()
        if self._again:
            self._again = False
            self.ask()

    def close(self) -> None:
        """Want no turn any more, wherever it stands."""
        self._again = False
        if self._at is _At.WAITING:
            self._gate.unqueue(self)
        self._give_back()

    def _give_back(self) -> None:
        at, self._at = self._at, _At.REST
        self._gate.writing.pop(self, None)
        if at is _At.INSIDE:
            self._gate.pass_on()
