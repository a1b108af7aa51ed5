"""The builder: from the mesh's picture to the catalog of all views. Remembers, so that only change costs.

It owns all that is remembered between publications; the functions that it calls are pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xds_server.mesh.routing import MESH_GATEWAY
from xds_server.resources.actions import RouteTimes
from xds_server.resources.clusters import ClusterEncoder
from xds_server.resources.endpoints import AssignmentEncoder
from xds_server.resources.fronts import Front, gateway_fronts, sidecar_fronts
from xds_server.resources.parts import resource
from xds_server.resources.routes import RouteEncoder
from xds_server.resources.shards import Shard, Sharding
from xds_server.resources.views import Entitlements, FrontResources, KnownTypes, ShardResources, ViewCatalog
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.mesh.model import ServicePicture
    from xds_server.mesh.routing import Routing
    from xds_server.xds.model import Resource


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What the operator decides for all Envoys. `access_log`: a JSON line a request on standard output."""

    access_log: bool = True
    times: RouteTimes = field(default_factory=RouteTimes)
    sharding: Sharding = field(default_factory=Sharding)


@dataclass(slots=True)
class BuildStats:
    """Counters since the process started: endpoints whose bytes were made, and those that were kept."""

    encoded: int = 0
    kept: int = 0


@dataclass(slots=True)
class _ServiceState:
    """A service's resources, and what they were made from."""

    picture: ServicePicture
    encoders: dict[Shard, AssignmentEncoder]
    resources: dict[Shard, ShardResources]


class Builder:
    """Builds one catalog after another; an unchanged input keeps its Resource objects."""

    def __init__(self, options: BuildOptions) -> None:
        self._options = options
        self.stats = BuildStats()
        self._services: dict[str, _ServiceState] = {}
        self._routing: Routing | None = None
        self._encoded_fronts: dict[str, tuple[Front, ...]] = {}
        self._fronts: dict[str, tuple[FrontResources, ...]] = {}
        self._known_types: KnownTypes = {}
        self._entitlements = Entitlements(())
        self._clusters = ClusterEncoder()
        self._routes = RouteEncoder(options.times, options.sharding)

    def build(self, routing: Routing, services: Mapping[str, ServicePicture], serial: int) -> ViewCatalog:
        """Build the catalog of publication `serial`. The cost is that of what changed since the last."""
        self._refresh_routing(routing)
        self._services = {host: self._service(host, services[host]) for host in sorted(services)}
        shards = {shard: made for state in self._services.values() for shard, made in state.resources.items()}
        self._refresh_fronts(shards)
        return ViewCatalog(
            serial, routing, self._fronts, shards, self._known_types, entitlements=self._entitlements
        )

    def assignments(self, host: str) -> tuple[str, ...]:
        """Name the assignments of a service, as of the last build; none for a service that it had not."""
        state = self._services.get(host)
        return () if state is None else tuple(shard.name for shard in state.resources)

    def _service(self, host: str, picture: ServicePicture) -> _ServiceState:
        last = self._services.get(host)
        if last is not None and last.picture is picture:
            return last
        encoders, resources = {}, {}
        for shard in self._options.sharding.of(picture.service):
            before = last.resources.get(shard) if last is not None else None
            encoder = last.encoders.get(shard) if last is not None else None
            encoders[shard] = encoder or AssignmentEncoder(shard)
            resources[shard] = ShardResources(
                self._cluster(shard, picture, last),
                self._assignment(encoders[shard], picture, before),
            )
        return _ServiceState(picture, encoders, resources)

    def _cluster(self, shard: Shard, picture: ServicePicture, last: _ServiceState | None) -> Resource:
        before = last.resources.get(shard) if last is not None else None
        if last is not None and before is not None and _same_cluster(last.picture, picture):
            return before.cluster
        port = picture.service.port(shard.port)
        if port is None:
            raise ValueError(f"{shard.name}: {picture.service.host} has no port {shard.port}")
        body = self._clusters.encode(shard, port, picture.policy, picture.pool)
        return _kept(resource(CLUSTER, shard.name, body), before.cluster if before is not None else None)

    def _assignment(
        self, encoder: AssignmentEncoder, picture: ServicePicture, before: ShardResources | None
    ) -> Resource | None:
        if not picture.known:
            return None
        made = encoder.encode(picture)
        self.stats.encoded += encoder.encoded
        self.stats.kept += len(picture.endpoints) - encoder.encoded
        return _kept(made, before.assignment if before is not None else None)

    def _refresh_routing(self, routing: Routing) -> None:
        """Encode listeners and routes again if the documents changed, and forget what the old ones needed."""
        if self._routing is routing or self._routing == routing:
            return
        self._routing = routing
        self._clusters = ClusterEncoder()
        self._routes = self._routes.successor()
        self._encoded_fronts = self._encode_fronts(routing)
        self._known_types = {}
        self._entitlements = Entitlements(routing.gateways)

    def _refresh_fronts(self, shards: Mapping[Shard, ShardResources]) -> None:
        before = self._fronts
        self._fronts = {}
        for name, fronts in self._encoded_fronts.items():
            known = {each.port: each for each in before.get(name, ())}
            self._fronts[name] = tuple(_front(each, shards, known.get(each.port)) for each in fronts)

    def _encode_fronts(self, routing: Routing) -> dict[str, tuple[Front, ...]]:
        routes, access_log = self._routes, self._options.access_log
        fronts = {
            gateway.name: gateway_fronts(gateway, routing, routes, access_log=access_log)
            for gateway in routing.gateways
        }
        fronts[MESH_GATEWAY] = sidecar_fronts(routing, routes, access_log=access_log)
        return fronts


def _front(
    front: Front, shards: Mapping[Shard, ShardResources], before: FrontResources | None
) -> FrontResources:
    """Make a front's resources. The routes wait for the clusters and assignments that exist and are sent.

    One that is withheld is not waited for: it would hold up the routes to every other service.
    """
    required: set[tuple[str, str]] = set()
    for shard in front.routes.uses:
        made = shards.get(shard)
        if made is not None:
            required.add((CLUSTER, shard.name))
            if made.assignment is not None:
                required.add((ENDPOINT, shard.name))
    requires = frozenset(required)
    if before is not None and before.front is front and before.routes.requires == requires:
        return before
    listener = resource(LISTENER, front.name, front.listener)
    routes = resource(ROUTE, front.routes.name, front.routes.body, requires)
    return FrontResources(
        front,
        _kept(listener, before.listener if before is not None else None),
        _kept(routes, before.routes if before is not None else None),
    )


def _kept(made: Resource, before: Resource | None) -> Resource:
    """Keep the object that clients' states may already refer to, where the content is the same."""
    if before is not None and (before.version, before.requires) == (made.version, made.requires):
        return before
    return made


def _same_cluster(one: ServicePicture, other: ServicePicture) -> bool:
    return (one.service, one.policy, one.pool) == (other.service, other.policy, other.pool)
