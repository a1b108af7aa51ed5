"""The values that the protocol core works with: resources, snapshots, nodes, requests, responses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PREFIX = "type.googleapis.com/"
CLUSTER = PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINT = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = PREFIX + "envoy.config.route.v3.RouteConfiguration"

ORDER = (CLUSTER, ENDPOINT, LISTENER, ROUTE)
"""Make before break on one stream: a type is sent after those that it may refer to."""

NOT_FOUND_LOG = "xds-server.not-found"
"""The name of the log in which Envoys tell of replicas that answered that a model is not there."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Bytes that are not joined yet: `size` is that of all `parts`, which nobody changes any more."""

    parts: Sequence[bytes]
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """One Envoy object, serialised. Equal content has the same `version` everywhere and always.

    `content` is the serialised message itself (not yet wrapped in Any), in one piece or in the pieces that
    it was made of: a large one is joined in the response alone. `version` is a hash of it.
    `requires` lists (type URL, name) that a client must have settled before it is sent this one;
    only types earlier in ORDER are waited for. A Cluster names its assignment there
    (ENDPOINT, EDS name) when that is not called as the cluster itself.
    """

    type_url: str
    name: str
    content: bytes | Pieces
    version: str
    requires: frozenset[tuple[str, str]] = frozenset()

    @property
    def pieces(self) -> Pieces:
        """The serialised message in pieces, to be joined once with what comes around it."""
        content = self.content
        return Pieces((content,), len(content)) if isinstance(content, bytes) else content

    @property
    def body(self) -> bytes:
        """The serialised message; joined anew for each call where it is in pieces."""
        return self.content if isinstance(self.content, bytes) else b"".join(self.content.parts)


@dataclass(frozen=True, slots=True)
class TypeSnapshot:
    """All resources of one type that a node is entitled to.

    `version` is a hash over names and versions. A name in `withheld` exists, but is not known well
    enough to be sent: a subscription to it gets no answer, neither content nor absence. `changed` are
    the names whose content differs from that of the snapshot whose version is `base`, where that is known.
    """

    resources: Mapping[str, Resource] = field(default_factory=dict)
    version: str = ""
    withheld: frozenset[str] = frozenset()
    base: str = field(default="", compare=False)
    changed: frozenset[str] = field(default=frozenset(), compare=False)


EMPTY_TYPE = TypeSnapshot()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one kind of node should have, at one moment.

    `serial` grows by publication within this process. It is never part of a version or a nonce
    that must survive a restart: it only orders acknowledgements.
    """

    serial: int
    types: Mapping[str, TypeSnapshot] = field(default_factory=dict)

    def of(self, type_url: str) -> TypeSnapshot:
        """The snapshot of one type; empty for a type that this server does not serve."""
        return self.types.get(type_url, EMPTY_TYPE)


EMPTY_SNAPSHOT = Snapshot(serial=0)


@dataclass(frozen=True, slots=True)
class Node:
    """Who a client says it is (first request of a stream). `labels` from its metadata."""

    id: str
    cluster: str
    labels: Mapping[str, str] = field(default_factory=dict)


class Catalog(Protocol):
    """Every node's snapshot. Nodes with equal entitlement share one Snapshot object."""

    @property
    def serial(self) -> int:
        """The publication this catalog came with."""

    def snapshot_for(self, node: Node) -> Snapshot:
        """What `node` is entitled to."""

    def follows(self, earlier: Catalog) -> bool:
        """Whether all nodes that shared a snapshot of `earlier` share one of this catalog."""
