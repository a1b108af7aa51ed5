"""How many new streams a second are taken on. Those above the rate wait, they do not fail (istio 35263)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Admission:
    """Hands out places at `rate` a second; up to `burst` at once after a quiet time.

    Args:
        rate: places a second, above 0.
        burst: places that need not wait, at least 1.
        clock: monotonic seconds.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._interval = 1.0 / rate
        self._slack = self._interval * (burst - 1)
        self._clock = clock
        self._next = clock()

    def delay(self) -> float:
        """Take the next place. Returns the seconds to wait for it."""
        now = self._clock()
        place = max(self._next, now)
        self._next = place + self._interval
        return max(0.0, place - self._slack - now)

    def take(self) -> bool:
        """Take a place if there is one now; returns whether there was."""
        now = self._clock()
        place = max(self._next, now)
        if place - self._slack > now:
            return False
        self._next = place + self._interval
        return True

    async def enter(self) -> bool:
        """Wait for a place; returns whether there was a wait. Who leaves meanwhile gives the place back."""
        seconds = self.delay()
        if seconds <= 0.0:
            return False
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self._next -= self._interval
            raise
        return True
