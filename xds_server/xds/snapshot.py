"""What differs between two snapshots: names only, found once for all clients that share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds_server.xds.model import CLUSTER, ENDPOINT, Snapshot, TypeSnapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.xds.model import Node


class Audience:
    """The sessions that see one snapshot: what is published reaches all of them by one assignment."""

    __slots__ = ("node", "sessions", "snapshot")

    def __init__(self, node: Node | None, snapshot: Snapshot) -> None:
        self.node = node
        """Of any of them; None: of those that have not said who they are."""
        self.snapshot = snapshot
        self.sessions: set[int] = set()
        """Their numbers."""


@dataclass(frozen=True, slots=True)
class Move:
    """What sessions see from one publication to the next: their snapshots, and the names that differ."""

    before: Snapshot
    after: Snapshot
    changes: Mapping[str, frozenset[str]]
    sessions: set[int]
    """Their numbers."""


def changed_names(old: Snapshot, new: Snapshot) -> Mapping[str, frozenset[str]]:
    """Each type's names that were added, removed, given other content, withheld or released.

    A vanished cluster touches the assignment of its name too: whether that may be told absent
    depends on the cluster.
    """
    changes = {
        type_url: _changed(old.of(type_url), new.of(type_url))
        for type_url in old.types.keys() | new.types.keys()
    }
    if vanished := _vanished(old.of(CLUSTER), new.of(CLUSTER)):
        changes[ENDPOINT] = changes.get(ENDPOINT, frozenset()) | vanished
    return {type_url: names for type_url, names in changes.items() if names}


def _vanished(old: TypeSnapshot, new: TypeSnapshot) -> frozenset[str]:
    if old is new:
        return frozenset()
    if new.base and new.base == old.version:
        return new.changed - new.resources.keys()
    return frozenset(old.resources.keys() - new.resources.keys())


def _changed(old: TypeSnapshot, new: TypeSnapshot) -> frozenset[str]:
    if old is new or (old.version and old.version == new.version and old.withheld == new.withheld):
        return frozenset()
    if new.base and new.base == old.version:
        return new.changed | (old.withheld ^ new.withheld)
    changed = old.resources.keys() ^ new.resources.keys()
    changed |= old.withheld ^ new.withheld
    for name, resource in new.resources.items():
        before = old.resources.get(name)
        if before is not None and before is not resource and before.version != resource.version:
            changed.add(name)
    return frozenset(changed)
