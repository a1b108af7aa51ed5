"""The four services, and a server's state as a scenario writes it: names and revisions of real messages."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import Locality
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, LocalityLbEndpoints
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration

from tests.protocol.catalogs import OneCatalog
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resource, Snapshot, TypeSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds_server.xds.hub import Hub


@dataclass(frozen=True)
class Service:
    """One type: its URL, its own gRPC service, how a resource is made and read again."""

    type_url: str
    rpc: tuple[str, str]
    make: Callable[[str, str], Any]
    read: Callable[[bytes], tuple[str, str]]


def _cluster(name: str, revision: str) -> Cluster:
    return Cluster(name=name, alt_stat_name=revision)


def _read_cluster(data: bytes) -> tuple[str, str]:
    message = Cluster.parse(data)
    return message.name, message.alt_stat_name


def _assignment(name: str, revision: str) -> ClusterLoadAssignment:
    group = LocalityLbEndpoints(locality=Locality(zone=revision))
    return ClusterLoadAssignment(cluster_name=name, endpoints=[group])


def _read_assignment(data: bytes) -> tuple[str, str]:
    message = ClusterLoadAssignment.parse(data)
    locality = message.endpoints[0].locality
    assert locality is not None
    return message.cluster_name, locality.zone


def _listener(name: str, revision: str) -> Listener:
    return Listener(name=name, stat_prefix=revision)


def _read_listener(data: bytes) -> tuple[str, str]:
    message = Listener.parse(data)
    return message.name, message.stat_prefix


def _routes(name: str, revision: str) -> RouteConfiguration:
    return RouteConfiguration(name=name, internal_only_headers=[revision])


def _read_routes(data: bytes) -> tuple[str, str]:
    message = RouteConfiguration.parse(data)
    return message.name, message.internal_only_headers[0]


ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService", "AggregatedResources"
_SERVICE = "envoy.service.{0}.v3.{1}DiscoveryService"
SERVICES = {
    "CDS": Service(CLUSTER, (_SERVICE.format("cluster", "Cluster"), "Clusters"), _cluster, _read_cluster),
    "EDS": Service(
        ENDPOINT, (_SERVICE.format("endpoint", "Endpoint"), "Endpoints"), _assignment, _read_assignment
    ),
    "LDS": Service(
        LISTENER, (_SERVICE.format("listener", "Listener"), "Listeners"), _listener, _read_listener
    ),
    "RDS": Service(ROUTE, (_SERVICE.format("route", "Route"), "Routes"), _routes, _read_routes),
}


class State:
    """What the server has: each change is published at once."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._contents: dict[str, dict[str, str]] = {kind: {} for kind in SERVICES}

    def set_up(self, *kinds: str, names: str) -> None:
        """Each of `names` exists in every one of these services, at revision 1."""
        for kind in kinds:
            self._contents[kind] = dict.fromkeys(names.split(), "1")
        self._publish()

    def put(self, kind: str, name: str, revision: str) -> None:
        """Add a resource, or replace it."""
        self._contents[kind][name] = revision
        self._publish()

    def remove(self, kind: str, name: str) -> None:
        del self._contents[kind][name]
        self._publish()

    def version(self, kind: str) -> str:
        """The version of the whole type."""
        return _digest(f"{kind} {sorted(self._contents[kind].items())}")

    def version_of(self, kind: str, name: str) -> str:
        """The version of one resource."""
        return _digest(f"{kind} {name} {self._contents[kind][name]}")

    def _publish(self) -> None:
        types = {
            service.type_url: TypeSnapshot(
                {name: self._resource(kind, name) for name in self._contents[kind]}, self.version(kind)
            )
            for kind, service in SERVICES.items()
        }
        self._hub.publish(OneCatalog(Snapshot(self._hub.serial + 1, types)))

    def _resource(self, kind: str, name: str) -> Resource:
        service = SERVICES[kind]
        body = bytes(service.make(name, self._contents[kind][name]))
        return Resource(service.type_url, name, body, self.version_of(kind, name))


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12]
