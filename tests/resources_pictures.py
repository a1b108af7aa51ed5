"""Hand-made pictures and routings for the tests of resources: no mesh, no documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xds_server.mesh.model import Endpoint, EndpointId, PlacedEndpoint, Service, ServicePicture, ServicePort
from xds_server.mesh.policies import Fallback, Policy, Selector
from xds_server.mesh.pools import DEFAULT_SUBSET_KEY, OpenInference, Pool
from xds_server.mesh.routing import (
    Destination,
    Gateway,
    GatewayServer,
    HeaderToKey,
    Route,
    Routing,
    VirtualService,
)
from xds_server.resources.rendered import as_dict
from xds_server.xds.model import CLUSTER, LISTENER, ROUTE, Node

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds_server.resources.views import ViewCatalog

HOST = "modelmesh-serving"
KEY = DEFAULT_SUBSET_KEY
GATEWAY = Node(id="g", cluster="gateway")
SIDECAR = Node(id="s", cluster="sidecar")


def service(host: str = HOST, *ports: ServicePort) -> Service:
    return Service(host, "ns", ports or (ServicePort(8033, "http"),))


def placed(
    port: int,
    models: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    *,
    host: str = HOST,
    healthy: bool = True,
    **more: Any,
) -> PlacedEndpoint:
    endpoint = Endpoint(
        EndpointId(host, "127.0.0.1", port), more.pop("ports", {"http": port}), labels or {}, **more
    )
    return PlacedEndpoint(endpoint, tuple(models), healthy)


def policy(*selectors: Selector, host: str = HOST, **more: Any) -> Policy:
    return Policy(
        f"ns/{host}", host, selectors=selectors or (Selector((KEY,), Fallback.NO_FALLBACK),), **more
    )


def pool(host: str = HOST, **more: Any) -> Pool:
    return Pool(f"ns/{host}", host, OpenInference(), **more)


def picture(
    *endpoints: PlacedEndpoint,
    of: Service | None = None,
    policy: Policy | None = None,
    pool: Pool | None = None,
    known: bool = True,
) -> ServicePicture:
    return ServicePicture(of or service(), endpoints, policy, pool, known)


def gateway(name: str = "ns/gateway", port: int = 8008, **more: Any) -> Gateway:
    return Gateway(name, (GatewayServer(port, "http"),), **more)


def route(*destinations: Destination, **more: Any) -> Route:
    more.setdefault("header_to_key", (HeaderToKey("model", KEY),))
    more.setdefault("matches", ())
    return Route(
        more.pop("name", "default"), more.pop("matches"), destinations or (Destination(HOST, 8033),), **more
    )


def virtual_service(
    *routes: Route,
    name: str = "ns/vs",
    hosts: tuple[str, ...] = ("*",),
    gateways: tuple[str, ...] = ("ns/gateway",),
) -> VirtualService:
    return VirtualService(name, hosts, gateways, routes or (route(),))


def routing(
    pictures: Iterable[ServicePicture],
    virtual_services: Iterable[VirtualService] = (),
    gateways: Iterable[Gateway] = (),
) -> Routing:
    pictures = sorted(pictures, key=lambda each: each.service.host)
    return Routing(
        {each.service.host: each.service for each in pictures},
        {each.service.host: each.policy for each in pictures if each.policy},
        {each.service.host: each.pool for each in pictures if each.pool},
        tuple(sorted(gateways, key=lambda each: each.name)),
        tuple(sorted(virtual_services, key=lambda each: each.name)),
    )


def services(*pictures: ServicePicture) -> dict[str, ServicePicture]:
    return {each.service.host: each for each in pictures}


def one(catalog: ViewCatalog, type_url: str, name: str, node: Node = GATEWAY) -> dict[str, Any]:
    """A resource of a node's view, decoded."""
    return as_dict(catalog.snapshot_for(node).of(type_url).resources[name])


def the_cluster(catalog: ViewCatalog, node: Node = GATEWAY) -> dict[str, Any]:
    return one(catalog, CLUSTER, f"{HOST}|8033", node)


def the_listener(catalog: ViewCatalog, port: int = 8008) -> dict[str, Any]:
    return one(catalog, LISTENER, f"gateway|{port}")


def the_routes(catalog: ViewCatalog, port: int = 8008) -> dict[str, list[dict[str, Any]]]:
    """The routes of a gateway's port, by virtual host."""
    configuration = one(catalog, ROUTE, f"gateway|{port}")
    return {each["name"]: each["routes"] for each in configuration.get("virtual_hosts", [])}
