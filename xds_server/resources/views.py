"""Views: what a node is entitled to, and the catalog that answers with it.

An entitlement is a set of gateways, and `mesh` for a sidecar. All nodes with equal entitlement share one
Snapshot object. Clusters and assignments are the same Resource objects in all views, but a view has those
only that its own routes use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xds_server.mesh.routing import MESH_GATEWAY
from xds_server.resources.parts import CountedType, carried_on, type_snapshot
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds_server.mesh.routing import Gateway, Routing
    from xds_server.resources.fronts import Front
    from xds_server.resources.shards import Shard, Target
    from xds_server.xds.model import Catalog, Node, Resource

SIDECAR_CLUSTER = "sidecar"
"""The node cluster of Envoys that stand beside a program and serve it on loopback."""

Entitlement = frozenset[str]
"""Names of gateways, and `mesh`."""

Targets = Mapping["Target", Mapping["Shard", "ShardResources"]]
"""The shards of every service's port: those that routes lead to, and those that they have just left."""

Changes = dict["Shard", "ShardResources | None"]
"""Shards that one publication made anew, or (None) ended."""


@dataclass(frozen=True, slots=True)
class FrontResources:
    """The listener and the route configuration of a front, as resources."""

    front: Front
    listener: Resource
    routes: Resource
    waits_for: tuple[frozenset[tuple[str, str]], ...]
    """What the routes require, target by target."""

    @property
    def port(self) -> int:
        """The listener's port."""
        return self.front.port

    @property
    def uses(self) -> frozenset[Target]:
        """Where the routes lead to."""
        return self.front.routes.uses


@dataclass(frozen=True, slots=True)
class ShardResources:
    """A shard's cluster and assignment; no assignment while its pool is not known well enough."""

    cluster: Resource
    assignment: Resource | None


@dataclass(frozen=True, slots=True)
class KnownView:
    """A view of the last publication: an unchanged type stays the same object, another is carried on."""

    serial: int
    fronts: tuple[FrontResources, ...]
    uses: frozenset[Target]
    types: Mapping[str, CountedType]


KnownViews = dict[Entitlement, KnownView]


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
        targets: Targets,
        known_views: KnownViews,
        *,
        entitlements: Entitlements,
        changes: Mapping[Target, Changes],
    ) -> None:
        self.entitlements = entitlements
        self._serial = serial
        self._routing = routing
        self._fronts = fronts
        self._targets = targets
        self._known_views = known_views
        self._changes = changes
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
        fronts = tuple(self._chosen(entitled))
        known = self._known_views.get(entitled)
        if known is not None and known.fronts == fronts and known.serial == self._serial - 1:
            made = self._carried_on(known)
        else:
            made = self._made_anew(fronts, known)
        if known is None or known.serial < made.serial:
            self._known_views[entitled] = made
        return Snapshot(self._serial, {url: each.snapshot for url, each in made.types.items()})

    def _carried_on(self, known: KnownView) -> KnownView:
        """Apply what this publication changed to the view of the one before it."""
        changes: Changes = {}
        for target in self._changes:
            if target in known.uses:
                changes.update(self._changes[target])
        if not changes:
            return replace(known, serial=self._serial)
        clusters: dict[str, Resource | None] = {}
        assignments: dict[str, Resource | None] = {}
        withheld = set(known.types[ENDPOINT].snapshot.withheld)
        for shard, made in changes.items():
            clusters[shard.name] = None if made is None else made.cluster
            assignments[shard.name] = None if made is None else made.assignment
            held_back = made is not None and made.assignment is None
            (withheld.add if held_back else withheld.discard)(shard.name)
        types = {
            **known.types,
            CLUSTER: carried_on(known.types[CLUSTER], clusters, frozenset()),
            ENDPOINT: carried_on(known.types[ENDPOINT], assignments, frozenset(withheld)),
        }
        return KnownView(self._serial, known.fronts, known.uses, types)

    def _made_anew(self, fronts: tuple[FrontResources, ...], known: KnownView | None) -> KnownView:
        uses = frozenset(target for front in fronts for target in front.uses)
        shards = {
            shard: made
            for target in sorted(uses)
            if target in self._targets
            for shard, made in self._targets[target].items()
        }
        found: dict[str, list[Resource]] = {
            CLUSTER: [each.cluster for each in shards.values()],
            ENDPOINT: [each.assignment for each in shards.values() if each.assignment is not None],
            LISTENER: [front.listener for front in fronts],
            ROUTE: [front.routes for front in fronts],
        }
        withheld = {ENDPOINT: frozenset(shard.name for shard, each in shards.items() if not each.assignment)}
        types = {
            url: type_snapshot(each, withheld.get(url, frozenset()), known.types[url] if known else None)
            for url, each in found.items()
        }
        return KnownView(self._serial, fronts, uses, types)

    def _chosen(self, entitled: Entitlement) -> list[FrontResources]:
        """Choose the fronts; where two gateways have one port, the first by name has it at this node."""
        by_port: dict[int, FrontResources] = {}
        for name in sorted(entitled - {MESH_GATEWAY}):
            for front in self._fronts.get(name, ()):
                by_port.setdefault(front.port, front)
        loopback = self._fronts.get(MESH_GATEWAY, ()) if MESH_GATEWAY in entitled else ()
        return [*by_port.values(), *loopback]
