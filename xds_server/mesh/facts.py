"""The facts of the mesh, each kept under its key: reports by endpoint and source, withdrawals by id.

No judgement and no pictures here: service_view.py makes those from what it finds here.
"""

from __future__ import annotations

from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING

from xds_server.mesh.listed import Listed
from xds_server.mesh.origins import Origin, origin_of
from xds_server.mesh.reports import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.mesh.events import (
        ModelsReported,
        ReportFailed,
        ReportsForgotten,
        WithdrawalStarted,
    )
    from xds_server.mesh.model import EndpointId

_NOTHING: Mapping[str, Record] = MappingProxyType({})


class Facts:
    """All that the sources have reported, whether or not the endpoint is configured (yet)."""

    def __init__(self) -> None:
        self.now = -inf
        """The latest time that was passed to Mesh.expire."""
        self.listed = Listed()
        """The names in the latest reports of all sources, by service."""
        self._records: dict[EndpointId, dict[str, Record]] = {}
        self._worked: dict[tuple[str, Origin], float] = {}
        self._withdrawals: dict[str, WithdrawalStarted] = {}
        self._held: dict[EndpointId, dict[str, WithdrawalStarted]] = {}

    def records(self, endpoint: EndpointId) -> Mapping[str, Record]:
        """What each source said about `endpoint`, whichever of them count (joins.py)."""
        return self._records.get(endpoint, _NOTHING)

    def worked(self, host: str, origin: Origin) -> float:
        """When sources of this kind last told of any endpoint of the service; minus infinity: never."""
        return self._worked.get((host, origin), -inf)

    def report(self, event: ModelsReported) -> tuple[bool, bool]:
        """Take a good report; returns (turned, models changed), see Record.report."""
        host, origin = event.endpoint.service, origin_of(event.source)
        self._worked[host, origin] = max(self.worked(host, origin), event.at)
        record = self._own(event)
        before = record.rows
        turned, changed = record.report(event)
        if record.rows is not before:
            self.listed.replace(host, before, record.rows)
        return turned or self._rivalled(event), changed

    def fail(self, event: ReportFailed) -> bool:
        """Take a failure; returns whether the endpoint's standing among its pool may have turned."""
        return self._own(event).fail(event) or self._rivalled(event)

    def forget(self, event: ReportsForgotten) -> bool:
        """Drop what a source said about an endpoint; returns whether there was anything."""
        records = self._records.get(event.endpoint, {})
        record = records.pop(event.source, None)
        if record is not None:
            self.listed.replace(event.endpoint.service, record.rows, ())
        if not records:
            self._records.pop(event.endpoint, None)
        return record is not None

    def withdraw(self, event: WithdrawalStarted) -> bool:
        """Take a withdrawal; returns whether it holds (a later report may already have ended it)."""
        if self._ended(event):
            return False
        self._withdrawals[event.id] = event
        self._held.setdefault(event.endpoint, {})[event.id] = event
        return True

    def cancel(self, withdrawal: str) -> EndpointId | None:
        """End a withdrawal by its id; returns its endpoint, None if it does not hold."""
        event = self._withdrawals.pop(withdrawal, None)
        if event is None:
            return None
        held = self._held[event.endpoint]
        del held[withdrawal]
        if not held:
            del self._held[event.endpoint]
        return event.endpoint

    def end_withdrawals(self, endpoint: EndpointId, *, gone: bool = False) -> bool:
        """End those of `endpoint` whose model was reported gone, or all (`gone`); returns if any did."""
        held = self._held.get(endpoint)
        if not held:
            return False
        ended = [event.id for event in held.values() if gone or self._ended(event)]
        for withdrawal in ended:
            self.cancel(withdrawal)
        return bool(ended)

    def withdrawn(self, endpoint: EndpointId) -> frozenset[str]:
        """The models that get no new requests on `endpoint`."""
        held = self._held.get(endpoint)
        return frozenset(event.model for event in held.values()) if held else frozenset()

    @property
    def withdrawals(self) -> Mapping[str, WithdrawalStarted]:
        """All withdrawals that hold, by id."""
        return self._withdrawals

    def _own(self, event: ModelsReported | ReportFailed) -> Record:
        records = self._records.setdefault(event.endpoint, {})
        return records.setdefault(event.source, Record(event.source))

    def _rivalled(self, event: ModelsReported | ReportFailed) -> bool:
        """With several sources that ask one runtime, any event may change which of them counts."""
        if origin_of(event.source) is not Origin.ASKED:
            return False
        others = (source for source in self._records[event.endpoint] if source != event.source)
        return any(origin_of(source) is Origin.ASKED for source in others)

    def _ended(self, event: WithdrawalStarted) -> bool:
        """Whether any source that had called the model READY has since reported it gone."""
        records = self.records(event.endpoint).values()
        return any(record.last_absent(event.model) > event.at for record in records)
