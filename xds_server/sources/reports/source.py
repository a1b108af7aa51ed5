"""Reports to events: joined to endpoints by pod or address, before or after those are known."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from xds_server.mesh.events import FailureKind, ModelsReported, ModelState, ReportFailed, ReportsForgotten
from xds_server.mesh.joins import way_of
from xds_server.mesh.origins import Origin
from xds_server.mesh.places import addresses, normalised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from xds_server.mesh.events import Event
    from xds_server.mesh.model import Endpoint, EndpointId, ServicePicture
    from xds_server.report_messages import ReportRequest

SOURCE = Origin.REPORT.value
"""The name under which the mesh keeps what is learnt here."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a report is about: a pod, or an address (HOST:PORT of any port); of one service or of all.

    A pod is NAMESPACE/NAME, or a NAME in any namespace: it is unique in each, no more.
    """

    pod: str
    endpoint: str
    service: str

    def covers(self, endpoint: Endpoint, namespace: str) -> bool:
        """Whether it is about this one, of a service in `namespace`."""
        if self.service and self.service != endpoint.id.service:
            return False
        if not self.pod:
            return normalised(self.endpoint) in addresses(endpoint)
        return bool(endpoint.pod) and self.pod in (endpoint.pod, f"{namespace}/{endpoint.pod}")


@dataclass(slots=True, eq=False)
class Reporter:
    """One reporter, also after its stream was lost. Times are epoch seconds."""

    subject: Subject
    rows: tuple[ModelState, ...] | None = None
    failure: tuple[FailureKind, str] | None = None
    heard_at: float = 0.0
    lost: str = ""
    lost_at: float | None = None
    endpoints: set[EndpointId] = field(default_factory=set)


class ReportSource:
    """Takes reports (transport/reports.py TakesReports) and tells the mesh, synchronously.

    Of several streams about one subject the newest counts: a reporter that comes back does so before the
    end of its former stream is noticed.
    """

    def __init__(self, emit: Callable[[Event], None], *, clock: Callable[[], float] = time.time) -> None:
        self._emit = emit
        self._clock = clock
        self._known: dict[EndpointId, tuple[Endpoint, str]] = {}
        """Whom reports count for, with the namespace of the service."""
        self._streams: dict[object, Reporter] = {}
        self._reporters: dict[Subject, Reporter] = {}
        self._log = structlog.get_logger("reports")

    @property
    def reporters(self) -> tuple[Reporter, ...]:
        """All that were heard, by subject; those without endpoints once they are lost are forgotten."""
        return tuple(self._reporters[key] for key in sorted(self._reporters, key=repr))

    def set_targets(self, services: Mapping[str, ServicePicture]) -> None:
        """The endpoints that may be reported on: those of the pools that reports count for."""
        self._known = {
            placed.endpoint.id: (placed.endpoint, picture.service.namespace)
            for picture in services.values()
            if picture.pool is not None and _counts(picture)
            for placed in picture.endpoints
        }
        for reporter in list(self._reporters.values()):
            self._join(reporter)

    def take(self, reporter: object, request: ReportRequest) -> Sequence[str]:
        """One request of a stream; returns the endpoints that it is about. ValueError where it cannot be."""
        known = self._streams.get(reporter)
        if known is None:
            subject = Subject(request.pod, request.endpoint, request.service)
            known = self._streams[reporter] = Reporter(subject)
            former = self._reporters.get(subject)
            if former is not None:
                known.endpoints = former.endpoints
            self._reporters[subject] = known
            self._log.info("reporter connected", pod=subject.pod, endpoint=subject.endpoint)
        elif self._reporters.get(known.subject) is not known:
            return []
        self._read(known, request)
        self._join(known)
        self._tell(known, known.endpoints)
        return sorted(f"{endpoint} of {endpoint.service}" for endpoint in known.endpoints)

    def lose(self, reporter: object, why: str) -> None:
        """The stream is gone: its freshness is lost, and nothing else."""
        known = self._streams.pop(reporter, None)
        if known is None or self._reporters.get(known.subject) is not known:
            return
        known.lost, known.lost_at = why, self._clock()
        self._log.warning("reporter lost", pod=known.subject.pod, endpoint=known.subject.endpoint, why=why)
        self._tell_lost(known, known.endpoints)
        self._forget_if_useless(known)

    def _read(self, reporter: Reporter, request: ReportRequest) -> None:
        reporter.heard_at = self._clock()
        if request.failure is not None:
            kind = next((k for k in FailureKind if k.value == request.failure.kind), None)
            if kind is None or kind is FailureKind.LOST:
                found = f"failure.kind: found {request.failure.kind!r}"
                raise ValueError(f"{found}; expected refused, timeout or bad-answer")
            reporter.failure = kind, request.failure.error
        elif request.listing is not None:
            rows = (ModelState(r.name, r.version, r.state.upper(), r.reason) for r in request.listing.rows)
            reporter.rows, reporter.failure = tuple(sorted(rows)), None

    def _join(self, reporter: Reporter) -> None:
        """Find the endpoints that it is about; those that are new are told, those no longer are forgotten."""
        found = {key for key, known in self._known.items() if reporter.subject.covers(*known)}
        before, reporter.endpoints = reporter.endpoints, found
        for endpoint in sorted(before - found):
            self._emit(ReportsForgotten(endpoint=endpoint, source=SOURCE))
        for endpoint in sorted(found - before):
            self._introduce(reporter, endpoint)
        self._forget_if_useless(reporter)

    def _introduce(self, reporter: Reporter, endpoint: EndpointId) -> None:
        """Tell of an endpoint that had not been known until now: what was said last, and what came of it."""
        if reporter.rows is not None:
            self._report(endpoint, reporter.rows, reporter.heard_at)
        if reporter.failure is not None:
            self._fail(endpoint, *reporter.failure, reporter.heard_at)
        self._tell_lost(reporter, (endpoint,))

    def _tell(self, reporter: Reporter, endpoints: Iterable[EndpointId]) -> None:
        """What it says now: the models, or why it cannot read them; also where that is as before."""
        for endpoint in sorted(endpoints):
            if reporter.failure is not None:
                self._fail(endpoint, *reporter.failure, reporter.heard_at)
            elif reporter.rows is not None:
                self._report(endpoint, reporter.rows, reporter.heard_at)

    def _tell_lost(self, reporter: Reporter, endpoints: Iterable[EndpointId]) -> None:
        for endpoint in sorted(endpoints) if reporter.lost_at is not None else ():
            self._fail(endpoint, FailureKind.LOST, f"its reporter: {reporter.lost}", reporter.lost_at or 0.0)

    def _report(self, endpoint: EndpointId, rows: tuple[ModelState, ...], at: float) -> None:
        self._emit(ModelsReported(endpoint=endpoint, source=SOURCE, models=rows, at=at))

    def _fail(self, endpoint: EndpointId, kind: FailureKind, error: str, at: float) -> None:
        self._emit(ReportFailed(endpoint=endpoint, source=SOURCE, kind=kind, error=error, at=at))

    def _forget_if_useless(self, reporter: Reporter) -> None:
        if reporter.lost_at is not None and not reporter.endpoints:
            self._reporters.pop(reporter.subject, None)


def _counts(picture: ServicePicture) -> bool:
    way = way_of(picture.pool.discovery) if picture.pool is not None else None
    return way is not None and Origin.REPORT in {way.lists, *way.confirms}
