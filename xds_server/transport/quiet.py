"""A limit on log lines that others can cause: a client that is refused tries again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL = 1.0
"""Seconds between two lines of one kind."""


class Quieter:
    """Says when a line of some kind may be written. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def may_say(self, kind: str) -> int | None:
        """Whether to write a line now, and how many were left out since the last; None: leave it out."""
        now = self._clock()
        if now < self._next.get(kind, now):
            self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
            return None
        self._next[kind] = now + INTERVAL
        return self._unsaid.pop(kind, 0)
