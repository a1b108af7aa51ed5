"""The names that the replicas of each service list, in whatever state (an index)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds_server.mesh.events import ModelState


class Listed:
    """By service and name: how many reports list it. Kept by whoever keeps the reports."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def replace(self, service: str, before: Iterable[ModelState], after: Iterable[ModelState]) -> None:
        """A report of a replica of `service` had the rows `before`, and has those `after` now."""
        old, new = {row.name for row in before}, {row.name for row in after}
        counts = self._counts.setdefault(service, Counter())
        counts.update(new - old)
        for name in old - new:
            counts[name] -= 1
            if not counts[name]:
                del counts[name]
        if not counts:
            del self._counts[service]

    def has(self, service: str, name: str) -> bool:
        """Whether any report lists the name."""
        return name in self._counts.get(service, ())
