"""What the documents imply: policies, header mappings, gateways and routes that nobody wrote.

Joins the configurations of all sources into one routing. A pure function of the set of
configurations: their order never matters, and the result is sorted by name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from xds_server.mesh.model import Protocol, Service
from xds_server.mesh.naming import with_names
from xds_server.mesh.policies import Fallback, Policy, Selector
from xds_server.mesh.pools import ModelMesh, Pool
from xds_server.mesh.ports import with_ports
from xds_server.mesh.routing import (
    MESH_GATEWAY,
    Configuration,
    Destination,
    Gateway,
    GatewayServer,
    Route,
    RouteMatch,
    Routing,
    VirtualService,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

T = TypeVar("T")

BALANCED = (("mm-balanced", "true"), ("grpc-metadata-mm-balanced", "true"))
"""Request headers by which ModelMesh keeps a request on the pod that it comes to, if that can serve it."""


def complete(configurations: Iterable[Configuration]) -> Routing:
    """The configurations of all sources joined, with what they imply filled in.

    Where two sources declare the same thing, one of the two is taken by comparing their
    contents, so that every replica of this server takes the same one.
    """
    parts = list(configurations)
    services = _joined((s for part in parts for s in part.services), lambda s: s.host)
    pools = _joined((p for part in parts for p in part.pools), lambda p: p.host)
    policies = _joined((p for part in parts for p in part.policies), lambda p: p.host)
    gateways = _joined((g for part in parts for g in part.gateways), lambda g: g.name)
    virtual_services = _joined((v for part in parts for v in part.virtual_services), lambda v: v.name)
    for gateway in implied_gateways(gateways.values(), virtual_services.values()):
        gateways[gateway.name] = gateway
    more_gateways, more_services = _for_pools(services, pools, gateways, virtual_services)
    return Routing(
        services=services,
        policies=_sorted(policies | {pool.host: _policy(pool, policies) for pool in pools.values()}),
        pools=pools,
        gateways=tuple(_sorted(gateways | more_gateways).values()),
        virtual_services=tuple(
            _for_upstreams(_with_names(with_ports(service, services), pools, services), pools)
            for service in _sorted(virtual_services | more_services).values()
        ),
        declared=tuple(sorted({each for part in parts for each in part.declared})),
    )


def _joined(values: Iterable[T], name: Callable[[T], str]) -> dict[str, T]:
    """One value for each name, sorted by name; of several, the one whose text comes first."""
    joined: dict[str, T] = {}
    for value in values:
        present = joined.get(name(value))
        if present is None or repr(value) < repr(present):
            joined[name(value)] = value
    return _sorted(joined)


def _sorted(values: Mapping[str, T]) -> dict[str, T]:
    return dict(sorted(values.items()))


def may_share_a_node(one: Gateway, other: Gateway) -> bool:
    """Whether an Envoy can match both gateways: not where their selectors give one key different values."""
    ours, theirs = one.selector or {}, other.selector or {}
    return all(theirs.get(key, value) == value for key, value in ours.items())


def implied_gateways(
    gateways: Iterable[Gateway], virtual_services: Iterable[VirtualService]
) -> list[Gateway]:
    """A gateway for each reference that no gateway answers, with the ports of the matches that use it.

    It listens for HTTP, takes all hosts and is given to every gateway node. References whose
    matches name no port imply nothing. Sorted by name.
    """
    defined = {gateway.name for gateway in gateways}
    users: dict[str, dict[str, set[int]]] = {}
    for service in virtual_services:
        ports = {match.port for route in service.routes for match in route.matches if match.port is not None}
        for name in service.gateways:
            if ports and name != MESH_GATEWAY and name not in defined:
                users.setdefault(name, {})[service.name] = ports
    return [
        Gateway(
            name=name,
            servers=tuple(_server(port) for port in sorted(set().union(*by.values()))),
            implied_by=", ".join(sorted(by)),
        )
        for name, by in sorted(users.items())
    ]


def _server(port: int, protocol: Protocol = Protocol.HTTP) -> GatewayServer:
    return GatewayServer(port=port, name=f"{protocol.value.lower()}-{port}", protocol=protocol)


def _policy(pool: Pool, written: Mapping[str, Policy]) -> Policy:
    """The rule of the pool's host. Where nobody wrote selectors, it gets one on the pool's key.

    That one has no fallback unless the pool says so: no endpoint without the model. Any pod of a
    ModelMesh can load it, or knows who has it.
    """
    rule = written.get(pool.host, Policy(name=pool.name, host=pool.host))
    if rule.selectors:
        return rule
    missed = Fallback.ANY_ENDPOINT if isinstance(pool.discovery, ModelMesh) else Fallback.NO_FALLBACK
    selector = Selector((pool.subset_key,), pool.not_loaded or missed)
    return replace(rule, selectors=(selector,), implied_by=pool.name)


def _with_names(
    service: VirtualService, pools: Mapping[str, Pool], services: Mapping[str, Service]
) -> VirtualService:
    """Where requests name their model, on routes to pools: the header `model`, and what the pools say."""
    return replace(service, routes=tuple(with_names(route, pools, services) for route in service.routes))


def _for_upstreams(service: VirtualService, pools: Mapping[str, Pool]) -> VirtualService:
    """What ModelMesh is to be told on routes to its pools: that the request has been placed already.

    Without it a pod that has the model may still hand the request on. Its REST proxy passes on what
    begins with `Grpc-Metadata-`.
    """

    def of(route: Route) -> Route:
        used = [pools[each.host] for each in route.destinations if each.host in pools]
        placed = any(isinstance(pool.discovery, ModelMesh) for pool in used)
        return replace(route, upstream_headers=BALANCED) if placed else route

    return replace(service, routes=tuple(of(route) for route in service.routes))


def _for_pools(
    services: Mapping[str, Service],
    pools: Mapping[str, Pool],
    gateways: Mapping[str, Gateway],
    virtual_services: Mapping[str, VirtualService],
) -> tuple[dict[str, Gateway], dict[str, VirtualService]]:
    """Gateways and routes for the pools that no VirtualService routes to."""
    routed = {d.host for v in virtual_services.values() for r in v.routes for d in r.destinations}
    new_gateways: dict[str, Gateway] = {}
    new_services: dict[str, VirtualService] = {}
    gateway_ports = {server.port for gateway in gateways.values() for server in gateway.servers}
    mesh_ports = _mesh_ports_for_all_hosts(services, virtual_services.values())
    for pool in sorted(pools.values(), key=lambda pool: pool.name):
        if pool.host in routed or pool.host not in services:
            continue
        service = services[pool.host]
        free = [port for port in service.ports if port.number not in gateway_ports]
        gateway_ports |= {port.number for port in free}
        if free:
            name = _free_name(pool.name, {**gateways, **new_gateways})
            servers = tuple(_server(port.number, port.protocol) for port in sorted(free))
            new_gateways[name] = Gateway(name=name, servers=servers, implied_by=pool.name)
            routes = _routes_by_port(service, {port.number for port in free})
            implied = VirtualService("", ("*",), (name,), routes, pool.name)
            _add(implied, pool.name, virtual_services, new_services)
        numbers = {port.number for port in service.ports}
        hosts = (service.host,) if numbers & mesh_ports else ("*",)
        mesh_ports |= numbers
        implied = VirtualService("", hosts, (MESH_GATEWAY,), _routes_by_port(service, numbers), pool.name)
        _add(implied, pool.name, virtual_services, new_services)
    return new_gateways, new_services


def _mesh_ports_for_all_hosts(
    services: Mapping[str, Service], virtual_services: Iterable[VirtualService]
) -> set[int]:
    """Ports of the sidecars' listeners on which somebody's routes take every host already."""
    return {
        port.number
        for v in virtual_services
        if MESH_GATEWAY in v.gateways and "*" in v.hosts
        for route in v.routes
        for destination in route.destinations
        if destination.host in services
        for port in services[destination.host].ports
    }


def _routes_by_port(service: Service, numbers: set[int]) -> tuple[Route, ...]:
    """One route a port: what comes in on a port of the service goes to that port of it."""
    return tuple(
        Route(
            name=port.name,
            matches=(RouteMatch(port=port.number),),
            destinations=(Destination(service.host, port.number),),
        )
        for port in sorted(service.ports)
        if port.number in numbers
    )


def _add(
    implied: VirtualService,
    base: str,
    present: Mapping[str, VirtualService],
    new: dict[str, VirtualService],
) -> None:
    """Adds it under a name that is free; to the one before it, where only the gateways differ."""
    for name, other in new.items():
        if replace(implied, name=name, gateways=other.gateways) == other:
            new[name] = replace(other, gateways=other.gateways + implied.gateways)
            return
    name = _free_name(base, {**present, **new})
    new[name] = replace(implied, name=name)


def _free_name(base: str, taken: Mapping[str, object]) -> str:
    """`base`, or the first of `base-2`, `base-3` and so on that nothing is called by."""
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name
