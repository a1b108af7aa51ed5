"""A small world of real Envoy messages, and bootstraps that ask for it in each of the four ways."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import yaml
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager
from envoy_data_plane.google.protobuf import Any as AnyMessage

from tests.protocol.catalogs import OneCatalog, types
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resource, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

AGGREGATED = ("AGGREGATED_GRPC", "AGGREGATED_DELTA_GRPC")
MODES = ("GRPC", "DELTA_GRPC", *AGGREGATED)
LISTENER_NAME = "gateway"
ROUTES = "routes"


def source(mode: str) -> dict[str, Any]:
    """Where a resource of ours tells Envoy to get what it refers to."""
    if mode in AGGREGATED:
        return {"ads": {}, "resource_api_version": "V3"}
    return {"api_config_source": api(mode), "resource_api_version": "V3"}


def api(mode: str) -> dict[str, Any]:
    services = [{"envoy_grpc": {"cluster_name": "xds"}}]
    return {
        "api_type": mode,
        "transport_api_version": "V3",
        "grpc_services": services,
        "set_node_on_first_message_only": True,
    }


def envoy_bootstrap(mode: str, xds_port: int) -> str:
    """The bootstrap of an Envoy that asks 127.0.0.1:`xds_port` in `mode`."""
    upstream = {"endpoint": {"address": address(xds_port)}}
    xds = {
        "name": "xds",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [upstream]}]},
    }
    dynamic: dict[str, Any] = {"cds_config": source(mode), "lds_config": source(mode)}
    if mode in AGGREGATED:
        dynamic["ads_config"] = api(mode.removeprefix("AGGREGATED_"))
    return yaml.safe_dump(
        {
            "node": {"id": "envoy-1", "cluster": "gateway", "metadata": {"labels": {"zone": "a"}}},
            "admin": {"address": address(0)},
            "dynamic_resources": dynamic,
            "static_resources": {"clusters": [xds]},
        }
    )


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


class RealWorld:
    """Clusters with their endpoints' ports; one listener that routes the path of a cluster's name to it."""

    def __init__(self, mode: str, clusters: Mapping[str, tuple[int, ...]]) -> None:
        self.mode = mode
        self.clusters = dict(clusters)
        self.timeouts = dict.fromkeys(clusters, 1)
        self.serial = 0

    def catalog(self) -> OneCatalog:
        self.serial += 1
        made = {
            CLUSTER: [self._cluster(name) for name in self.clusters],
            ENDPOINT: [assignment(name, ports) for name, ports in self.clusters.items()],
            LISTENER: [self._listener()],
            ROUTE: [self._routes()],
        }
        return OneCatalog(Snapshot(self.serial, {url: types(url, each) for url, each in made.items()}))

    def _cluster(self, name: str) -> Resource:
        message = Cluster.from_dict(
            {
                "name": name,
                "type": "EDS",
                "connect_timeout": f"{self.timeouts.get(name, 1)}s",
                "eds_cluster_config": {"eds_config": source(self.mode)},
            }
        )
        return packed(CLUSTER, name, bytes(message))

    def _routes(self) -> Resource:
        routes = [{"match": {"prefix": f"/{name}"}, "route": {"cluster": name}} for name in self.clusters]
        hosts = [{"name": "all", "domains": ["*"], "routes": routes}]
        message = RouteConfiguration.from_dict({"name": ROUTES, "virtual_hosts": hosts})
        requires = [(url, name) for name in self.clusters for url in (CLUSTER, ENDPOINT)]
        return packed(ROUTE, ROUTES, bytes(message), frozenset(requires))

    def _listener(self) -> Resource:
        router = {"name": "envoy.filters.http.router", "typed_config": AnyMessage.pack(Router()).to_dict()}
        manager = HttpConnectionManager.from_dict(
            {
                "stat_prefix": "gateway",
                "rds": {"config_source": source(self.mode), "route_config_name": ROUTES},
                "http_filters": [router],
            }
        )
        filters = [{"name": "http", "typed_config": AnyMessage.pack(manager).to_dict()}]
        message = Listener.from_dict(
            {"name": LISTENER_NAME, "address": address(0), "filter_chains": [{"filters": filters}]}
        )
        return packed(LISTENER, LISTENER_NAME, bytes(message))


def assignment(name: str, ports: tuple[int, ...]) -> Resource:
    endpoints = [{"endpoint": {"address": address(port)}} for port in ports]
    document = {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}] if endpoints else []}
    return packed(ENDPOINT, name, bytes(ClusterLoadAssignment.from_dict(document)))


def packed(url: str, name: str, body: bytes, requires: frozenset[tuple[str, str]] = frozenset()) -> Resource:
    return Resource(url, name, body, sha256(body).hexdigest()[:16], requires)
