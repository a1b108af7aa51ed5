"""Route configurations: from virtual services to the routes of one listener.

Knows nothing of listeners but their port number. What a route needs of Envoy's clusters is told along
with it (`uses`), so that it is not sent before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.route.v3 as route_v3

from xds_server.resources import names
from xds_server.resources.actions import RouteTimes, action, header_mapping
from xds_server.resources.matches import route_match
from xds_server.resources.shards import Shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds_server.mesh.model import Route, RouteMatch, VirtualService

HEADER_TO_METADATA = "envoy.filters.http.header_to_metadata"
"""The filter's name in the chain; a route's own rules are given under it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A virtual service's claim on some domains of one listener."""

    domains: tuple[str, ...]
    virtual_service: VirtualService


@dataclass(frozen=True, slots=True)
class EncodedRoutes:
    """A RouteConfiguration and the shards that its routes may send to."""

    name: str
    body: bytes
    uses: frozenset[Shard]


def claimed(claims: Iterable[Claim], port: int) -> dict[str, tuple[VirtualService, ...]]:
    """Find who has which domain on a listener's port; a virtual service without a route there has none.

    A domain claimed more than once goes to all who claim it, their routes in order of their names.
    """
    by_domain: dict[str, list[VirtualService]] = {}
    for claim in sorted(claims, key=lambda each: each.virtual_service.name):
        if any(True for _ in _matching(claim.virtual_service, port)):
            for domain in claim.domains:
                by_domain.setdefault(domain, []).append(claim.virtual_service)
    return {domain: tuple(by_domain[domain]) for domain in sorted(by_domain)}


def encode_routes(
    name: str, port: int, domains: Mapping[str, Sequence[VirtualService]], times: RouteTimes
) -> EncodedRoutes:
    """Encode the route configuration of the listener on `port`. Equal owners share a virtual host."""
    together: dict[tuple[str, ...], list[str]] = {}
    for domain in sorted(domains):
        together.setdefault(tuple(each.name for each in domains[domain]), []).append(domain)
    virtual_hosts = []
    uses: set[Shard] = set()
    for hosts in sorted(together.values()):
        owners = domains[hosts[0]]
        virtual_hosts.append(
            route_v3.VirtualHost(
                # Unique in the configuration, because each domain is in one virtual host.
                name=hosts[0],
                domains=hosts,
                routes=[made for owner in owners for made in _routes(owner, port, times)],
            )
        )
        for owner in owners:
            for route, _, _ in _matching(owner, port):
                uses.update(_uses(route))
    message = route_v3.RouteConfiguration(
        name=name, virtual_hosts=virtual_hosts, ignore_port_in_host_matching=True
    )
    return EncodedRoutes(name, bytes(message), frozenset(uses))


def _matching(owner: VirtualService, port: int) -> Iterable[tuple[Route, RouteMatch | None, int]]:
    """Go through the routes that are on this port, each with one of its matches (None: takes all)."""
    for index, route in enumerate(owner.routes):
        if not route.matches:
            yield route, None, index
        for match in route.matches:
            if match.port in (None, port):
                yield route, match, index


def _routes(owner: VirtualService, port: int, times: RouteTimes) -> Iterable[route_v3.Route]:
    for route, match, index in _matching(owner, port):
        mapping = header_mapping(route.header_to_key)
        yield route_v3.Route(
            name=names.route(owner.name, route.name, index),
            match=route_match(match),
            route=action(route, times),
            typed_per_filter_config={} if mapping is None else {HEADER_TO_METADATA: mapping},
        )


def _uses(route: Route) -> set[Shard]:
    return {Shard(each.host, each.port) for each in route.destinations}
