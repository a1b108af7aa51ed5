"""Who may be a client, and which node it may claim to be. Values only: no certificate is read here.

What a node is sent depends on its id, cluster and labels, which are its own words. A client that has
proved an identity may say those only that its identity is bound to (istio PR 26450).
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds_server.xds.model import Node


@dataclass(frozen=True, slots=True)
class Grant:
    """What one identity may claim. Patterns are globs (`*`, `?`, `[...]`), matched with their case.

    An empty tuple of patterns leaves that part free. `labels` None leaves labels free; otherwise a node
    may have these labels only, each with a value that one of its patterns matches. `reports`: the pods, or
    endpoints, whose models it may report; none by itself, and whoever has only those is no node.
    """

    identity: str
    nodes: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] | None = None
    reports: tuple[str, ...] = ()

    @property
    def reports_only(self) -> bool:
        """Whether the identity may be no node at all."""
        return bool(self.reports) and not self.nodes and not self.clusters

    def covers(self, node: Node) -> bool:
        """Whether the identity may be this node."""
        return (
            not self.reports_only
            and _matches(node.id, self.nodes)
            and _matches(node.cluster, self.clusters)
            and (self.labels is None or all(self._has(*label) for label in node.labels.items()))
        )

    def may_report(self, subject: str) -> bool:
        """Whether the identity may report on this pod or endpoint."""
        return any(fnmatchcase(subject, pattern) for pattern in self.reports)

    def _has(self, key: str, value: str) -> bool:
        patterns = (self.labels or {}).get(key)
        return patterns is not None and any(fnmatchcase(value, pattern) for pattern in patterns)

    def __str__(self) -> str:
        """What may be claimed, in words."""
        parts = [f"{what} {' or '.join(given)}" for what, given in self._limits() if given]
        return ", ".join(parts) or "anything"

    def _limits(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        labels = tuple(f"{key}={'|'.join(each)}" for key, each in (self.labels or {}).items())
        none = ("none",) if self.labels is not None and not self.labels else ()
        return (
            ("node id", self.nodes),
            ("cluster", self.clusters),
            ("labels", labels or none),
            ("reporter of", self.reports),
        )


class AccessList:
    """Every identity that may connect. An identity may have several grants; any of them is enough."""

    def __init__(self, grants: Iterable[Grant]) -> None:
        self._grants: dict[str, list[Grant]] = {}
        for grant in grants:
            self._grants.setdefault(grant.identity, []).append(grant)

    def __len__(self) -> int:
        return len(self._grants)

    def grants(self, identities: Iterable[str]) -> tuple[Grant, ...]:
        """What the holder of these identities may claim; nothing: it may not connect."""
        return tuple(grant for each in identities for grant in self._grants.get(each, ()))


def may_be(grants: Iterable[Grant], node: Node) -> bool:
    """Whether any grant covers `node`."""
    return any(grant.covers(node) for grant in grants)


def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatchcase(text, pattern) for pattern in patterns)
