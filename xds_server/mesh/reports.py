"""What one source has said about one endpoint: facts only, no judgement (that is health.py's).

A record depends on nothing but its own events and their times, which is why the order of events of
different endpoints and sources cannot matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from xds_server.mesh.events import FailureKind, ModelsReported, ModelState, ReportFailed
from xds_server.mesh.status import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MEMORY = 3600.0
"""Seconds for which a name that is no longer READY is remembered: longer than any withdrawal lasts."""


@dataclass(slots=True)
class Record:
    """The reports of `source` about one endpoint. Times are epoch seconds.

    `gap` is the last completed stretch without a good answer: from its first failure (or from minus
    infinity, before the first answer ever) to the good report that ended it.
    `refused` says that the present run of failures contains a refusal; `first_at` is when it answered first.
    """

    source: str
    rows: tuple[ModelState, ...] = ()
    ready: tuple[str, ...] = ()
    reported_at: float | None = None
    first_at: float | None = None
    failure: Failure | None = None
    refused: bool = False
    gap: tuple[float, float] = (-inf, inf)
    _absent: Mapping[str, float] = field(default_factory=dict)
    _left: dict[str, float] = field(default_factory=dict)
    """Names that were READY and are not, with when they left; only of the last MEMORY seconds."""

    def report(self, event: ModelsReported) -> tuple[bool, bool]:
        """Take a good report; returns (turned, models changed).

        `turned`: the endpoint answers again, or for the first time.
        """
        turned = self.failure is not None or self.reported_at is None
        if turned:
            began = self.failure.since if self.failure and self.reported_at is not None else -inf
            self.gap = (began, event.at)
            self.failure, self.refused = None, False
        changed = self._take_rows(event)
        self.reported_at = event.at
        self.first_at = event.at if self.first_at is None else self.first_at
        return turned, changed

    def fail(self, event: ReportFailed) -> bool:
        """Take a failure; returns whether it began a run.

        A source out of reach says nothing of the replica, so that a failure after it begins a run anew.
        """
        before = self.failure
        turned = before is None or (before.kind is FailureKind.LOST and event.kind is not FailureKind.LOST)
        since = event.at if before is None or turned else before.since
        self.failure = Failure(event.kind, event.error, since, event.at, event.asked)
        self.refused = self.refused or event.kind is FailureKind.REFUSED
        return turned

    def last_absent(self, model: str) -> float:
        """When `model`, which was READY before, was last reported as not READY; else minus infinity.

        A source that never listed the model knows nothing of it: another one of the endpoint may.
        """
        if self.reported_at is None:
            return -inf
        return self._absent.get(model, self.reported_at if model in self._left else -inf)

    def _take_rows(self, event: ModelsReported) -> bool:
        """Take the rows; returns whether what counts may be another: versions and bases count, too."""
        rows = event.models
        if rows == self.rows:
            return False
        self.rows = rows
        ready = ready_names(rows)
        if ready == self.ready:
            return True
        before = -inf if self.reported_at is None else self.reported_at
        gone = self._absent.keys() - set(ready)
        self._absent = {
            name: self._absent.get(name, before if name in self._left else -inf) for name in ready
        }
        left = {name: at for name, at in self._left.items() if at > event.at - MEMORY}
        self._left = {name: at for name, at in left.items() if name not in self._absent}
        self._left |= dict.fromkeys(gone, event.at)
        self.ready = ready
        return True


def ready_names(rows: Iterable[ModelState]) -> tuple[str, ...]:
    """The names of which any version is READY, or will be by its age; sorted, each once."""
    return tuple(sorted({row.name for row in rows if row.ready or row.ready_at < inf}))


def leading(records: Iterable[Record]) -> Record | None:
    """The one who got an answer last. Equal times go by source name."""

    def freshness(record: Record) -> tuple[float, float, str]:
        answered = -inf if record.reported_at is None else record.reported_at
        failed = -inf if record.failure is None else record.failure.last
        return answered, failed, record.source

    return max(records, key=freshness, default=None)
