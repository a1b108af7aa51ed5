"""How long a change takes to be accepted by every client it concerns.

A round is one publication. It is over once each watch that it marked has answered content of that
publication or a later one, or has nothing to be sent, or is gone. A rejection is an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds_server.xds.histogram import Histogram

MAX_ROUNDS = 64
"""Rounds that one watch is waited for: a client that never answers must not cost more with each change."""


class Round:
    """One publication on its way. `since`: when its first change happened, by the hub's clock."""

    __slots__ = ("_done", "remaining", "serial", "since")

    def __init__(self, serial: int, since: float, done: Callable[[Round], None]) -> None:
        self.serial = serial
        self.since = since
        self.remaining = 0
        self._done = done

    def answer(self) -> None:
        """One of the watches is no longer waited for."""
        self.remaining -= 1
        if not self.remaining:
            self._done(self)


class Unanswered(list[Round]):
    """The rounds that one watch still has to answer, oldest first."""

    __slots__ = ()

    def expect(self, made: Round) -> None:
        """`made` concerns this watch; it may be said more than once."""
        if self and self[-1] is made:
            return
        made.remaining += 1
        self.append(made)
        if len(self) > MAX_ROUNDS:
            self.pop(0).answer()

    def answered(self, serial: int) -> None:
        """Content of publication `serial` was answered, or there was nothing to send of it."""
        while self and self[0].serial <= serial:
            self.pop(0).answer()

    def leave(self) -> None:
        """The watch is gone."""
        rounds = self.copy()
        self.clear()
        for each in rounds:
            each.answer()


class Convergence:
    """Makes rounds, and observes how long they took, in seconds of `clock`."""

    def __init__(self, clock: Callable[[], float], histogram: Histogram) -> None:
        self._clock = clock
        self._histogram = histogram
        self.open = 0
        """Rounds under way."""

    def begin(self, serial: int, since: float | None) -> Round:
        """A round for the publication that is made now; `since` None: its changes happened just now."""
        return Round(serial, self._clock() if since is None else since, self._over)

    def started(self, made: Round) -> None:
        """Every watch that it concerns is known. A round that concerns nobody is none."""
        if made.remaining:
            self.open += 1

    def _over(self, made: Round) -> None:
        self.open -= 1
        self._histogram.observe(max(0.0, self._clock() - made.since))
