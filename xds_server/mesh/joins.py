"""Which sources count for a pool, and how what they say of one endpoint is joined. Pure functions.

The rules, by the way in which a pool learns its models:

- Asked (`openInference` and the like): every answer is complete, so the newest is right. Others do not count.
- Annotations and reports (`push`): the union of what their sources call READY. Each is complete for its
  own source only, so what one calls failed and another READY is READY: take the annotation away to take
  it back. A source that has gone silent loses its freshness, not its models: STALE.
- ModelMesh: the registry says who is to have a model, and since when. It counts once it has aged
  (`ready_at`), unless a confirming source (the runtime asked, or its reporter) is fresh: then it counts
  exactly if that one calls it READY, earlier or not at all. A confirming source that was never heard says
  nothing; one that falls silent leaves what it last said, and the age rule, in force. One that finds the
  runtime gone takes the models at once. What the registry does not list never counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from xds_server.mesh.events import FailureKind
from xds_server.mesh.health import (
    DOWN,
    NO_COMMON_FAILURE,
    PATIENCE,
    PENDING,
    CommonFailure,
    Tolerance,
    Verdict,
    judge,
)
from xds_server.mesh.model import Health
from xds_server.mesh.origins import Origin, origin_of
from xds_server.mesh.pools import Annotations, Asked, ModelMesh, Push
from xds_server.mesh.reports import Record, leading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from xds_server.mesh.events import ModelState
    from xds_server.mesh.pools import Discovery

_TOLD = Tolerance(inf, 0.0, PATIENCE)
"""What is only told never fails by itself."""

_WORST = (Health.STALE, Health.SUSPECT, Health.PENDING, Health.OK)


@dataclass(frozen=True, slots=True)
class Way:
    """How a pool learns its models: whose rows count, and who confirms them.

    `limits`: of what is asked, else of what lists; `reports`: of reporters that confirm.
    """

    lists: Origin
    limits: Tolerance
    confirms: frozenset[Origin] = frozenset()
    reports: Tolerance | None = None

    @property
    def asks(self) -> bool:
        """Whether the runtimes are asked, so that their silence means something."""
        return self.lists is Origin.ASKED or Origin.ASKED in self.confirms


def way_of(discovery: Discovery | None) -> Way | None:
    """The way of a pool that learns its models; None where there is nothing to learn."""
    match discovery:
        case Asked():
            return Way(Origin.ASKED, Tolerance.of(discovery))
        case Annotations():
            return Way(Origin.ANNOTATION, _TOLD)
        case Push():
            return Way(Origin.REPORT, _reports(discovery))
        case ModelMesh():
            confirms = {Origin.ASKED} if discovery.confirm else set()
            confirms |= {Origin.REPORT} if discovery.push else set()
            limits = Tolerance.of(discovery.confirm) if discovery.confirm else _TOLD
            reports = _reports(discovery.push) if discovery.push else None
            return Way(Origin.REGISTRY, limits, frozenset(confirms), reports)
        case _:
            return None


def _reports(push: Push) -> Tolerance:
    return Tolerance(push.grace, 0.0, min(push.grace, PATIENCE))


class Joined:
    """The records of one endpoint that count for a way. Made for one look; holds no state of its own."""

    __slots__ = ("_confirming", "_listing", "_way")

    def __init__(self, way: Way, records: Mapping[str, Record]) -> None:
        self._way = way
        self._listing: list[Record] = []
        self._confirming: list[Record] = []
        for source in sorted(records):
            origin = origin_of(source)
            if origin is way.lists:
                self._listing.append(records[source])
            elif origin in way.confirms:
                self._confirming.append(records[source])
        if way.lists is Origin.ASKED and len(self._listing) > 1:
            newest = leading(self._listing)
            self._listing = [newest] if newest is not None else []

    @property
    def asked(self) -> Record | None:
        """What the runtime answered to our own questions."""
        asked = self._listing if self._way.lists is Origin.ASKED else self._confirming
        return leading(record for record in asked if origin_of(record.source) is Origin.ASKED)

    @property
    def leading(self) -> Record | None:
        """The listing record that was heard last."""
        return leading(self._listing)

    @property
    def all(self) -> list[Record]:
        """Every record that counts, those that list first."""
        return self._listing + self._confirming

    @property
    def first_at(self) -> float | None:
        """When the endpoint's models were first told; None while they never were."""
        return min((r.first_at for r in self._listing if r.first_at is not None), default=None)

    @property
    def heard(self) -> bool:
        """Whether all was said that a first picture of the endpoint waits for."""
        origins = {origin_of(r.source) for r in self.all if r.first_at is not None or r.refused}
        return {self._way.lists, *self._way.confirms} <= origins

    def judge(self, common: CommonFailure, now: float) -> Verdict:
        """What counts for the endpoint at `now` (epoch seconds). `common`: of the pool's asked runtimes."""
        if self._way.lists is Origin.ASKED:
            return judge(self._listing[0] if self._listing else None, common, self._way.limits, now)
        if self._way.lists is Origin.REGISTRY:
            return self._judge_registry(common, now)
        return _union([judge(record, NO_COMMON_FAILURE, self._way.limits, now) for record in self._listing])

    def rows(self, common: CommonFailure, now: float) -> tuple[ModelState, ...]:
        """All rows that are known of the endpoint; those that count by age or confirmation are READY."""
        if self._way.lists is not Origin.REGISTRY:
            rows = [record.rows for record in self._listing]
            return rows[0] if len(rows) == 1 else tuple(sorted({row for each in rows for row in each}))
        return tuple(
            replace(row, state="READY", reason=reason) if reason else row
            for row, reason in self._counted(common, now)
        )

    def deadline(self, now: float) -> float:
        """When the verdict next changes by time alone, after `now`; infinity if it does not."""
        ends = (
            r.failure.since + self._limits(r).grace
            for r in self.all
            if r.failure and r.failure.kind is not FailureKind.LOST
        )
        times = [at for at in ends if at > now]
        for record in self._listing:
            told = _at(record, now)
            times += [row.ready_at for row in record.rows if told < row.ready_at < inf]
        return min(times, default=inf)

    def _judge_registry(self, common: CommonFailure, now: float) -> Verdict:
        if not self._listing:
            return PENDING
        verdicts = [verdict for _, verdict in self._confirmations(common, now)]
        if verdicts and all(verdict.health is Health.DOWN for verdict in verdicts):
            return DOWN
        names = {row.name for row, reason in self._counted(common, now) if reason}
        stale = any(record.failure is not None for record in self._listing)
        return Verdict(Health.STALE if stale else Health.OK, tuple(sorted(names)))

    def _confirmations(self, common: CommonFailure, now: float) -> list[tuple[Record, Verdict]]:
        """Who confirms, with how that one stands by itself. One that was never heard says nothing."""
        found = []
        for record in self._confirming:
            if record.reported_at is not None:
                shared = common if origin_of(record.source) is Origin.ASKED else NO_COMMON_FAILURE
                found.append((record, judge(record, shared, self._limits(record), now)))
        return found

    def _limits(self, record: Record) -> Tolerance:
        """How long what this source cannot read keeps its models."""
        reports = self._way.reports
        return (
            reports if reports is not None and origin_of(record.source) is Origin.REPORT else self._way.limits
        )

    def _counted(self, common: CommonFailure, now: float) -> Iterator[tuple[ModelState, str]]:
        """Each row of the registry with why it counts; the reason is empty where it does not."""
        confirmations = self._confirmations(common, now)
        exact = {name for r, verdict in confirmations if verdict.health is Health.OK for name in r.ready}
        fresh = any(verdict.health is Health.OK for _, verdict in confirmations)
        said = {name for r, verdict in confirmations if verdict.health is not Health.DOWN for name in r.ready}
        for record in self._listing:
            at = _at(record, now)
            for row in record.rows:
                name = row.runtime_name or row.name
                if not row.ready and row.ready_at == inf:
                    yield row, ""
                elif name in (exact if fresh else said):
                    yield row, "confirmed"
                else:
                    yield row, "by age" if not fresh and (row.ready or row.ready_at <= at) else ""


def _at(record: Record, now: float) -> float:
    """The time that ages are told by: the mesh's, or that of the report where it is ahead."""
    return now if record.reported_at is None else max(now, record.reported_at)


def waits_until(first: Iterable[Joined], every: Iterable[Joined], patience: float) -> float:
    """Until when (epoch seconds) those of `first` that were not heard yet are waited for.

    Minus infinity if all were heard; infinity while none of `every` endpoint was told.
    """
    if all(joined.heard for joined in first):
        return -inf
    answers = (joined.first_at for joined in every if joined.first_at is not None)
    return min(answers, default=inf) + patience


def _union(verdicts: list[Verdict]) -> Verdict:
    """What several independent sources say: every name of any, the health of the worst that still counts."""
    counting = [verdict for verdict in verdicts if verdict.health is not Health.DOWN]
    if not counting:
        return DOWN if verdicts else PENDING
    found = {verdict.health for verdict in counting}
    names = {name for verdict in counting for name in verdict.models}
    return Verdict(next(h for h in _WORST if h in found), tuple(sorted(names)))
