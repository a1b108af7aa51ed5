"""Make before break on an aggregated stream: what has to wait for which other type.

Streams of one type have nothing to wait for: what the client's other streams hold is not known there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.xds.ledger import ABSENT, UNKNOWN
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ORDER, ROUTE, Resource, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.xds.watch import Watch

HOLD_LIMIT = 5.0
"""Seconds after which a resource goes out though the client has not settled what it requires."""

_RANK = {type_url: rank for rank, type_url in enumerate(ORDER)}


def rank(type_url: str) -> int:
    """The place of a type in the order of sending; types that this server does not serve come last."""
    return _RANK.get(type_url, len(_RANK))


def waits_for_nothing(resource: Resource) -> bool:
    """Whether `resource` goes out whatever the client has of other types."""
    return resource.type_url == ENDPOINT or not resource.requires


def waits(watch: Watch, resource: Resource, watches: Mapping[str, Watch], snapshot: Snapshot) -> bool:
    """Whether `resource` should wait for what it requires. Assignments never wait: clusters warm on them."""
    if waits_for_nothing(resource):
        return False
    return any(
        rank(type_url) < rank(watch.type_url) and not _settled(type_url, name, watches, snapshot)
        for type_url, name in resource.requires
    )


def _settled(type_url: str, name: str, watches: Mapping[str, Watch], snapshot: Snapshot) -> bool:
    required = watches.get(type_url)
    if required is None:
        return True
    if required.subscription.covers(name):
        return required.settled(name, snapshot)
    return type_url != ENDPOINT or not _will_be_asked_for(name, watches)


def _will_be_asked_for(assignment: str, watches: Mapping[str, Watch]) -> bool:
    """Envoy asks for a new cluster's assignment just after it has accepted the cluster."""
    clusters = watches.get(CLUSTER)
    return clusters is not None and clusters.ledger.held.get(assignment, ABSENT) not in {ABSENT, UNKNOWN}


def removal_waits(watches: Mapping[str, Watch], snapshot: Snapshot) -> bool:
    """Whether a cluster that is gone must stay: routes that may lead to it are not yet replaced.

    A client that rejected the new routes still uses the old ones.
    """
    for type_url in (LISTENER, ROUTE):
        users = watches.get(type_url)
        if users is not None and (users.ledger.outstanding or users.ledger.rejected or users.owes(snapshot)):
            return True
    return False


def cluster_remains(assignment: str, watches: Mapping[str, Watch]) -> bool:
    """Whether the client still has the cluster whose assignment is gone. It asks no more once it has not."""
    clusters = watches.get(CLUSTER)
    return clusters is not None and clusters.ledger.has(assignment)


def routes_unknown(watch: Watch, name: str, watches: Mapping[str, Watch]) -> bool:
    """Whether a cluster from an earlier stream may have routes of which this stream has not yet heard."""
    return name in watch.inherited and ROUTE not in watches


def assignment_names(clusters: Mapping[str, Resource], changed: list[str]) -> frozenset[str]:
    """The EDS names of these clusters: what a cluster requires of that type, or else its own name."""
    names: set[str] = set()
    for cluster in changed:
        own = {name for type_url, name in clusters[cluster].requires if type_url == ENDPOINT}
        names |= own or {cluster}
    return frozenset(names)
