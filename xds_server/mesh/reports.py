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

    def report(self, event: ModelsReported) -> tuple[bool, bool]:
        """Take a good report; returns (turned, models changed).

        `turned`: the endpoint answers again, or for the first time.
        """
        turned = self.failure is not None or self.reported_at is None
        if turned:
            began = self.failure.since if self.failure and self.reported_at is not None else -inf
            self.gap = (began, event.at)
            self.failure, self.refused = None, False
        changed = self._take_rows(event.models)
        self.reported_at = event.at
        self.first_at = event.at if self.first_at is None else self.first_at
        return turned, changed

    def fail(self, event: ReportFailed) -> bool:
        """Take a failure; returns whether it began a run."""
        turned = self.failure is None
        since = event.at if self.failure is None else self.failure.since
        self.failure = Failure(event.kind, event.error, since, event.at, event.asked)
        self.refused = self.refused or event.kind is FailureKind.REFUSED
        return turned

    def last_absent(self, model: str) -> float:
        """When `model` was last reported as not READY; minus infinity if it never was."""
        if self.reported_at is None:
            return -inf
        return self._absent.get(model, self.reported_at)

    def _take_rows(self, rows: tuple[ModelState, ...]) -> bool:
        if rows == self.rows:
            return False
        self.rows = rows
        ready = ready_names(rows)
        if ready == self.ready:
            return False
        before = -inf if self.reported_at is None else self.reported_at
        self._absent = {name: self._absent.get(name, before) for name in ready}
        self.ready = ready
        return True


def ready_names(rows: Iterable[ModelState]) -> tuple[str, ...]:
    """The names of which any version is READY, sorted, each once."""
    return tuple(sorted({row.name for row in rows if row.ready}))


def leading(records: Iterable[Record]) -> Record | None:
    """The record that counts where several sources report on one endpoint: who got an answer last.

    Each report claims to be complete, so the newest one is right; equal times go by source name.
    """

    def freshness(record: Record) -> tuple[float, float, str]:
        answered = -inf if record.reported_at is None else record.reported_at
        failed = -inf if record.failure is None else record.failure.last
        return answered, failed, record.source

    return max(records, key=freshness, default=None)
