"""Views: what a node is entitled to, and the catalog that answers with it.

An entitlement is a set of gateways, and `mesh` for a sidecar. All nodes with equal entitlement share one
Snapshot object. Clusters and assignments are the same Resource objects in all views, but a view has those
only that its own routes use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds_server.mesh.routing import MESH_GATEWAY
from xds_server.resources.parts import CountedType, type_snapshot
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE, Snapshot, TypeSnapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds_server.mesh.routing import Gateway, Routing
    from xds_server.resources.fronts import Front
    from xds_server.resources.shards import Shard
    from xds_server.xds.model import Catalog, Node, Resource

SIDECAR_CLUSTER = "sidecar"
"""The node cluster of Envoys that stand beside a program and serve it on loopback."""

Entitlement = frozenset[str]
"""Names of gateways, and `mesh`."""

KnownTypes = dict[tuple[Entitlement, str], CountedType]
"""The type snapshots of the last catalog, so that an unchanged type stays the same object."""


@dataclass(frozen=True, slots=True)
class FrontResources:
    """The listener and the route configuration of a front, as resources."""

    front: Front
    listener: Resource
    routes: Resource

    @property
    def port(self) -> int:
        """The listener's port."""
        return self.front.port

    @property
    def uses(self) -> frozenset[Shard]:
        """The shards that the routes send to."""
        return self.front.routes.uses


@dataclass(frozen=True, slots=True)
class ShardResources:
    """A shard's cluster and assignment; no assignment while its pool is not known well enough."""

    cluster: Resource
    assignment: Resource | None


def entitlement(node: Node, gateways: Iterable[Gateway]) -> Entitlement:
    """Find what a node may have: the gateways that select it, and the mesh for a sidecar.

    A selector's entry is met by a label of the node, or by its cluster's name as the value; no selector
    selects every node.
    """
    names = {gateway.name for gateway in gateways if _selects(gateway, node)}
    if node.cluster == SIDECAR_CLUSTER:
        names.add(MESH_GATEWAY)
    return frozenset(names)


def _selects(gateway: Gateway, node: Node) -> bool:
    return all(
        value in (node.labels.get(key), node.cluster) for key, value in (gateway.selector or {}).items()
    )


class Entitlements:
    """Entitlements under one set of gateways, found once for all nodes that no gateway tells apart.

    What is remembered is bounded by the gateways, whatever clients call themselves.
    """

    def __init__(self, gateways: Iterable[Gateway]) -> None:
        self._gateways = tuple(gateways)
        self._clusters = {SIDECAR_CLUSTER}
        self._labels: dict[str, set[str]] = {}
        for gateway in self._gateways:
            for key, value in (gateway.selector or {}).items():
                self._clusters.add(value)
                self._labels.setdefault(key, set()).add(value)
        self._found: dict[tuple[str | None, ...], Entitlement] = {}

    def of(self, node: Node) -> Entitlement:
        """Find what a node may have."""
        told_apart = (
            node.cluster if node.cluster in self._clusters else None,
            *(
                label if (label := node.labels.get(key)) in values else None
                for key, values in self._labels.items()
            ),
        )
        found = self._found.get(told_apart)
        if found is None:
            found = self._found[told_apart] = entitlement(node, self._gateways)
        return found


class ViewCatalog:
    """Every node's snapshot at one publication. Views are made when the first of their nodes asks."""

    def __init__(
        self,
        serial: int,
        routing: Routing,
        fronts: Mapping[str, tuple[FrontResources, ...]],
        shards: Mapping[Shard, ShardResources],
        known_types: KnownTypes,
        *,
        entitlements: Entitlements,
    ) -> None:
        self.entitlements = entitlements
        self._serial = serial
        self._routing = routing
        self._fronts = fronts
        self._shards = shards
        self._known_types = known_types
        self._views: dict[Entitlement, Snapshot] = {}

    @property
    def serial(self) -> int:
        """The publication this catalog came with."""
        return self._serial

    @property
    def routing(self) -> Routing:
        """The routing that all views are made from."""
        return self._routing

    def snapshot_for(self, node: Node) -> Snapshot:
        """What `node` is entitled to."""
        entitled = self.entitlements.of(node)
        view = self._views.get(entitled)
        if view is None:
            view = self._views[entitled] = self._make(entitled)
        return view

    def follows(self, earlier: Catalog) -> bool:
        """Whether all nodes that shared a snapshot of `earlier` share one of this catalog."""
        return isinstance(earlier, ViewCatalog) and earlier.entitlements is self.entitlements

    def _make(self, entitled: Entitlement) -> Snapshot:
        fronts = self._chosen(entitled)
        used = {shard for front in fronts for shard in front.uses}
        shards = {shard: self._shards[shard] for shard in sorted(used) if shard in self._shards}
        assignments = [each.assignment for each in shards.values() if each.assignment is not None]
        withheld = frozenset(shard.name for shard, each in shards.items() if each.assignment is None)
        types = {
            CLUSTER: self._type(entitled, CLUSTER, (each.cluster for each in shards.values())),
            ENDPOINT: self._type(entitled, ENDPOINT, assignments, withheld),
            LISTENER: self._type(entitled, LISTENER, (front.listener for front in fronts)),
            ROUTE: self._type(entitled, ROUTE, (front.routes for front in fronts)),
        }
        return Snapshot(self._serial, types)

    def _chosen(self, entitled: Entitlement) -> list[FrontResources]:
        """Choose the fronts; where two gateways have one port, the first by name has it at this node."""
        by_port: dict[int, FrontResources] = {}
        for name in sorted(entitled - {MESH_GATEWAY}):
            for front in self._fronts.get(name, ()):
                by_port.setdefault(front.port, front)
        loopback = self._fronts.get(MESH_GATEWAY, ()) if MESH_GATEWAY in entitled else ()
        return [*by_port.values(), *loopback]

    def _type(
        self,
        entitled: Entitlement,
        type_url: str,
        resources: Iterable[Resource],
        withheld: frozenset[str] = frozenset(),
    ) -> TypeSnapshot:
        key = (entitled, type_url)
        counted = type_snapshot(resources, withheld, self._known_types.get(key))
        self._known_types[key] = counted
        return counted.snapshot
