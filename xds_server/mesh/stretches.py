"""When the endpoints of a pool failed last, kept so that one that changes costs no look at the others."""

from __future__ import annotations

import heapq
from math import inf
from typing import TYPE_CHECKING

from xds_server.mesh.health import NO_COMMON_FAILURE, CommonFailure

if TYPE_CHECKING:
    from xds_server.mesh.model import EndpointId
    from xds_server.mesh.reports import Record

Stretch = tuple[float, float]


class Stretches:
    """Each endpoint's latest stretch without answers: from when, until when; infinity while it lasts.

    Endpoints that never answered have nothing to lose and are none.
    """

    def __init__(self) -> None:
        self._of: dict[EndpointId, Stretch] = {}
        self._begins: list[tuple[float, EndpointId]] = []
        """The latest first: minus the beginning. Here and below some are of stretches that are no more."""
        self._ends: list[tuple[float, EndpointId]] = []

    def __len__(self) -> int:
        """How many are held at most, those that are no more included."""
        return max(len(self._begins), len(self._ends))

    def put(self, endpoint: EndpointId, record: Record | None) -> None:
        """Take an endpoint's record as it is now; None: it has left, or has none."""
        if record is None or record.reported_at is None:
            self._of.pop(endpoint, None)
            return
        begin, end = record.gap if record.failure is None else (record.failure.since, inf)
        if self._of.get(endpoint) == (begin, end):
            return
        self._of[endpoint] = begin, end
        if len(self) > 2 * len(self._of) + 16:
            self._begins = [(-begin, key) for key, (begin, _) in self._of.items()]
            self._ends = [(end, key) for key, (_, end) in self._of.items()]
            heapq.heapify(self._begins)
            heapq.heapify(self._ends)
        else:
            heapq.heappush(self._begins, (-begin, endpoint))
            heapq.heappush(self._ends, (end, endpoint))

    def common(self, worked: float) -> CommonFailure:
        """Find the stretch that is part of every endpoint's. `worked`: when any of the pool last answered."""
        while self._begins and self._of.get(self._begins[0][1], (inf, inf))[0] != -self._begins[0][0]:
            heapq.heappop(self._begins)
        while self._ends and self._of.get(self._ends[0][1], (inf, -inf))[1] != self._ends[0][0]:
            heapq.heappop(self._ends)
        begin = -self._begins[0][0] if self._begins else -inf
        end = self._ends[0][0] if self._ends else inf
        if begin >= end:
            return NO_COMMON_FAILURE
        return CommonFailure(begin, end, worked if end == inf else -inf)
