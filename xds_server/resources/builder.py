"""The builder: from the mesh's picture to the catalog of all views. Remembers, so that only change costs.

It owns all that is remembered between publications; the functions that it calls are pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

from xds_server.mesh.routing import MESH_GATEWAY
from xds_server.resources.actions import RouteTimes
from xds_server.resources.clusters import ClusterEncoder
from xds_server.resources.fronts import Front, gateway_fronts, sidecar_fronts
from xds_server.resources.parts import kept, resource
from xds_server.resources.routes import RouteEncoder
from xds_server.resources.service_state import ServiceState
from xds_server.resources.shards import SINGLE, Sharding
from xds_server.resources.views import Entitlements, FrontResources, KnownViews, ViewCatalog
from xds_server.xds.model import LISTENER, ROUTE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds_server.mesh.model import ServicePicture
    from xds_server.mesh.routing import Routing
    from xds_server.resources.laid import Laid
    from xds_server.resources.pacing import Pace
    from xds_server.resources.shards import Layout, Shard, Target
    from xds_server.resources.views import Changes, ShardResources


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What the operator decides for all Envoys. `access_log`: a JSON line a request on standard output.

    `model_stats`: how many counters by model an Envoy may have; 0: none.
    """

    access_log: bool = True
    model_stats: int = 0
    times: RouteTimes = field(default_factory=RouteTimes)
    sharding: Sharding = field(default_factory=Sharding)


@dataclass(slots=True)
class BuildStats:
    """Counters since the process started: endpoints whose bytes were made, and those that were kept.

    `looked_at`: services that a build had a look at; `assignments`: those made, whether or not they differ.
    """

    encoded: int = 0
    kept: int = 0
    looked_at: int = 0
    assignments: int = 0


class Builder:
    """Builds one catalog after another; an unchanged input keeps its Resource objects."""

    def __init__(self, options: BuildOptions) -> None:
        self._options = options
        self.stats = BuildStats()
        self.since = inf
        """When the first of the changes happened that the last build encoded, as `build` was told it."""
        self._former: list[tuple[str, Laid]] = []
        self._states: dict[str, ServiceState] = {}
        self._waiting: set[str] = set()
        """Hosts with something that is not encoded yet, or not gone yet."""
        self._targets: dict[Target, dict[Shard, ShardResources]] = {}
        self._requires: dict[Target, frozenset[tuple[str, str]]] = {}
        """What the routes to a target wait for; one that is withheld is not waited for."""
        self._changes: dict[Target, Changes] = {}
        """What the build under way has made or ended."""
        self._routing: Routing | None = None
        self._unfinished = False
        """The last build failed: what it had made by then it told nobody of."""
        self._layouts: dict[str, Layout] = {}
        """Those that are not single."""
        self._relaid = False
        """The routes were made for other layouts."""
        self._encoded_fronts: dict[str, tuple[Front, ...]] = {}
        self._fronts: dict[str, tuple[FrontResources, ...]] = {}
        self._known_views: KnownViews = {}
        self._entitlements = Entitlements(())
        self._clusters = ClusterEncoder()
        self._routes = RouteEncoder(options.times, options.sharding)

    def build(
        self,
        routing: Routing,
        services: Mapping[str, ServicePicture],
        serial: int,
        *,
        dirty: Iterable[str] | None = None,
        pace: Pace | None = None,
        urgent: bool = True,
        since: float = inf,
    ) -> ViewCatalog:
        """Build the catalog of publication `serial`. The cost is that of what changed since the last.

        Args:
            routing: the documents joined; the same object while nothing of them changed.
            services: all pictures.
            serial: of this publication.
            dirty: the hosts whose pictures may be other objects; None: look at all of them.
            pace: which clusters may be pushed now; None: all.
            urgent: whatever `pace` says, all go, because somebody waits for them.
            since: when the first change of `dirty` happened.
        """
        if pace is not None:
            pace.begin()
        if self._unfinished:
            self._routing = None  # as if the documents were others: everything is put together anew
        self._unfinished = True
        whole = dirty is None or routing is not self._routing
        hosts = sorted(services if dirty is None or whole else dirty)
        for host in hosts:
            if host in services:
                self._show(host, services[host], pace, since)
        if whole:
            self._forget(services)
        others = self._refresh_routing(routing)
        others |= self._encode(pace, urgent=urgent or whole)
        if whole:
            self._gather()
        if others or whole:
            self._refresh_fronts()
        changes, self._changes = self._changes, {}
        self._unfinished = False
        return ViewCatalog(
            serial,
            routing,
            self._fronts,
            self._targets,
            self._known_views,
            entitlements=self._entitlements,
            changes=changes,
        )

    def assignments(self, host: str, model: str | None = None) -> tuple[str, ...]:
        """Name the assignments of a service, or those that `model` would be in, as of the last build.

        None for a service that it had not.
        """
        state = self._states.get(host)
        return () if state is None else state.names(model)

    def lag(self, host: str) -> float:
        """Predict how many seconds an Envoy's workers may need for a change of a service."""
        state = self._states.get(host)
        return 0.0 if state is None else state.rebuild_seconds()

    def state(self, host: str) -> ServiceState | None:
        """What was made of a service; None for one that the last build had not."""
        return self._states.get(host)

    def take_former(self) -> list[tuple[str, Laid]]:
        """Hand over the layouts that routes left since the last call; who takes one ends it by `drop`."""
        former, self._former = self._former, []
        return former

    def drop(self, host: str, laid: Laid) -> bool:
        """Forget a layout that routes have left. Returns whether the next build has less to send for it."""
        state = self._states.get(host)
        if state is None or laid not in state.former:
            return False
        state.drop(laid)
        self._waiting.add(host)
        return True

    def _show(self, host: str, picture: ServicePicture, pace: Pace | None, since: float) -> None:
        self.stats.looked_at += 1
        state = self._states.get(host)
        if state is None:
            state = self._states[host] = ServiceState(picture, self._options.sharding)
        elif state.picture is picture:
            return
        elif state.show(picture, pace, since):
            self._former.append((host, state.former[-1]))
        self._waiting.add(host)
        if state.layout != self._layouts.get(host, SINGLE):
            self._layouts[host] = state.layout
            self._relaid = True

    def _forget(self, services: Mapping[str, ServicePicture]) -> None:
        """Drop the services that are no more."""
        for host in self._states.keys() - services.keys():
            del self._states[host]
            self._layouts.pop(host, None)
            self._waiting.discard(host)

    def _encode(self, pace: Pace | None, *, urgent: bool) -> bool:
        """Encode what waits and may go; returns whether any routes have other things to wait for."""
        others = False
        self.since = inf
        for host in sorted(self._waiting):
            state = self._states[host]
            work = state.encode(self._clusters, pace, urgent=urgent)
            self.stats.encoded += work.encoded
            self.stats.kept += work.kept
            self.stats.assignments += work.assignments
            self.since = min(self.since, work.since)
            for shard, made in work.changed.items():
                self._changes.setdefault((shard.host, shard.port), {})[shard] = made
            self._targets.update(state.targets)
            for target, requires in state.requires.items():
                if self._requires.get(target) is not requires:
                    self._requires[target] = requires
                    others = True
            if not state.stale:
                self._waiting.discard(host)
        return others

    def _gather(self) -> None:
        """Put the targets together anew: documents may have taken services or ports away."""
        self._targets = {}
        self._requires = {}
        for host in sorted(self._states):
            state = self._states[host]
            state.collect()
            self._targets |= state.targets
            self._requires |= state.requires

    def _refresh_routing(self, routing: Routing) -> bool:
        """Encode listeners and routes again if documents or layouts changed; returns whether they did.

        What only the old ones needed is forgotten.
        """
        documents = self._routing is not routing and self._routing != routing
        self._routing = routing
        if not documents and not self._relaid:
            return False
        self._relaid = False
        layouts = {host: each for host, each in sorted(self._layouts.items()) if each != SINGLE}
        keys = {host: pool.subset_key for host, pool in routing.pools.items()}
        hashed = {
            host: policy.consistent_hash.header
            for host, policy in routing.policies.items()
            if policy.consistent_hash is not None
        }
        zoned = frozenset(host for host, policy in routing.policies.items() if policy.own_zone_first)
        self._routes = self._routes.successor(
            replace(self._options.sharding, layouts=layouts), keys, hashed, zoned
        )
        self._encoded_fronts = self._encode_fronts(routing)
        self._known_views.clear()
        if documents:
            self._clusters = ClusterEncoder()
            self._entitlements = Entitlements(routing.gateways)
        return True

    def _refresh_fronts(self) -> None:
        before = self._fronts
        self._fronts = {}
        for name, fronts in self._encoded_fronts.items():
            known = {each.port: each for each in before.get(name, ())}
            self._fronts[name] = tuple(_front(each, self._requires, known.get(each.port)) for each in fronts)

    def _encode_fronts(self, routing: Routing) -> dict[str, tuple[Front, ...]]:
        routes, access_log = self._routes, self._options.access_log
        model_stats = self._options.model_stats
        fronts = {
            gateway.name: gateway_fronts(
                gateway, routing, routes, access_log=access_log, model_stats=model_stats
            )
            for gateway in routing.gateways
        }
        fronts[MESH_GATEWAY] = sidecar_fronts(routing, routes, access_log=access_log, model_stats=model_stats)
        return fronts


def _front(
    front: Front, every: Mapping[Target, frozenset[tuple[str, str]]], before: FrontResources | None
) -> FrontResources:
    """Make a front's resources. The routes wait for the clusters and assignments that exist and are sent.

    One that is withheld is not waited for: it would hold up the routes to every other service.
    """
    requires = tuple(every[target] for target in sorted(front.routes.uses) if target in every)
    if before is not None and before.front is front and before.waits_for == requires:
        return before
    listener = resource(LISTENER, front.name, front.listener)
    routes = resource(ROUTE, front.routes.name, front.routes.body, frozenset().union(*requires))
    return FrontResources(
        front,
        kept(listener, before.listener if before is not None else None),
        kept(routes, before.routes if before is not None else None),
        requires,
    )
