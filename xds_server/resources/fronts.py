"""Fronts: a listener together with its routes.

Made once for each port of a gateway, and for each port that sidecars listen on; a view is a choice of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds_server.mesh.naming import with_names
from xds_server.mesh.routing import MESH_GATEWAY, Destination, Route, VirtualService
from xds_server.resources import domains, names
from xds_server.resources.listeners import encode_gateway, encode_sidecar
from xds_server.resources.routes import Claim, EncodedRoutes, RouteEncoder, claimed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds_server.mesh.model import Service
    from xds_server.mesh.routing import Gateway, GatewayServer, Routing


@dataclass(frozen=True, slots=True)
class Front:
    """One listener, encoded, and what it routes."""

    port: int
    name: str
    listener: bytes
    routes: EncodedRoutes


def gateway_fronts(
    gateway: Gateway, routing: Routing, encoder: RouteEncoder, *, access_log: bool, model_stats: int = 0
) -> tuple[Front, ...]:
    """Make a gateway's fronts, sorted by port."""
    attached = [each for each in routing.virtual_services if gateway.name in each.gateways]
    by_port: dict[int, GatewayServer] = {}
    for server in gateway.servers:
        by_port.setdefault(server.port, server)
    fronts = []
    for port, server in sorted(by_port.items()):
        name = names.gateway_listener(port)
        claims = (Claim(domains.intersection(each.hosts, server.hosts), each) for each in attached)
        routes = encoder.encode(name, port, claimed(claims, port))
        listener = encode_gateway(
            name,
            port,
            server.tls,
            access_log=access_log,
            model_stats=model_stats,
            pools=_lead_to_pools(routes, routing),
        )
        fronts.append(Front(port, name, listener, routes))
    return tuple(fronts)


def sidecar_fronts(
    routing: Routing, encoder: RouteEncoder, *, access_log: bool, model_stats: int = 0
) -> tuple[Front, ...]:
    """Make a sidecar's fronts: one for each port number that any service has, sorted."""
    attached = [each for each in routing.virtual_services if MESH_GATEWAY in each.gateways]
    by_port: dict[int, list[Service]] = {}
    for service in routing.services.values():
        for port in {each.number for each in service.ports}:
            by_port.setdefault(port, []).append(service)
    fronts = []
    for port, services in sorted(by_port.items()):
        name = names.sidecar_listener(port)
        routes = encoder.encode(name, port, _sidecar_domains(port, services, attached, routing))
        pools = _lead_to_pools(routes, routing)
        listener = encode_sidecar(name, port, access_log=access_log, model_stats=model_stats, pools=pools)
        fronts.append(Front(port, name, listener, routes))
    return tuple(fronts)


def _lead_to_pools(routes: EncodedRoutes, routing: Routing) -> bool:
    return any(host in routing.pools for host, _ in routes.uses)


def _sidecar_domains(
    port: int, services: Iterable[Service], attached: Iterable[VirtualService], routing: Routing
) -> dict[str, tuple[VirtualService, ...]]:
    """Give every service on the port a domain: its virtual service's, or a plain route to it.

    A lone service also takes the requests for any other host, unless someone claims those: a program that
    calls its sidecar by address need not know the service's name.
    """
    services = sorted(services, key=lambda each: each.host)
    here = {each.host for each in services}
    elsewhere = {host.lower() for host in routing.services if host not in here}
    claims = (
        Claim(tuple(sorted({host.lower() for host in each.hosts} - elsewhere)), each) for each in attached
    )
    taken = claimed(claims, port)
    plain = {
        each.host.lower(): (_plain(each, port, routing),)
        for each in services
        if not any(domains.matches(domain, each.host) for domain in taken)
    }
    if len(services) == 1 and plain and domains.ANY not in taken:
        plain[domains.ANY] = next(iter(plain.values()))
    return {**taken, **plain}


def _plain(service: Service, port: int, routing: Routing) -> VirtualService:
    """Route everything to the service; where it holds models, its pool's defaults say where names are."""
    plain = Route(name="default", matches=(), destinations=(Destination(service.host, port),))
    route = with_names(plain, routing.pools, routing.services)
    return VirtualService(name=service.host, hosts=(service.host,), gateways=(MESH_GATEWAY,), routes=(route,))
