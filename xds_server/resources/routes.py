"""Route configurations: from virtual services to the routes of one listener.

Knows nothing of listeners but their port number. What a route needs of Envoy's clusters is told along
with it (`uses`), so that it is not sent before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.route.v3 as route_v3

from xds_server.resources import names
from xds_server.resources.actions import RouteTimes, action, added_header, header_mapping
from xds_server.resources.matches import route_match
from xds_server.resources.shards import Shard, Sharding
from xds_server.wire import field, string

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds_server.mesh.routing import Route, RouteMatch, VirtualService

HEADER_TO_METADATA = "envoy.filters.http.header_to_metadata"
"""The filter's name in the chain; a route's own rules are given under it."""


RouteKey = tuple[str, int, "Route", "RouteMatch | None"]
"""What a route's bytes depend on: its virtual service's name, its place there, itself and the match."""


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


class RouteEncoder:
    """Encodes route configurations; `known` holds what an earlier encoder has encoded already.

    The tests hold the joined bytes equal to the library's own.
    """

    def __init__(
        self,
        times: RouteTimes,
        sharding: Sharding | None = None,
        known: Mapping[RouteKey, bytes] | None = None,
    ) -> None:
        self._times = times
        self._sharding = sharding or Sharding()
        self._known = known or {}
        self._encoded: dict[RouteKey, bytes] = {}

    def successor(self) -> RouteEncoder:
        """Begin anew for changed documents: unchanged routes are not encoded again, others are forgotten."""
        return RouteEncoder(self._times, self._sharding, self._encoded)

    def encode(self, name: str, port: int, domains: Mapping[str, Sequence[VirtualService]]) -> EncodedRoutes:
        """Encode the routes of the listener on `port`. Domains with the same owners share a virtual host."""
        together: dict[tuple[str, ...], list[str]] = {}
        for domain in sorted(domains):
            together.setdefault(tuple(each.name for each in domains[domain]), []).append(domain)
        parts = [string(1, name)]
        uses: set[Shard] = set()
        for hosts in sorted(together.values()):
            owners = domains[hosts[0]]
            # Its name is unique in the configuration, because each domain is in one virtual host.
            virtual_host = bytes(route_v3.VirtualHost(name=hosts[0], domains=hosts))
            parts.append(field(2, virtual_host + b"".join(self._routes(owners, port))))
            uses.update(*(self._uses(owner, port) for owner in owners))
        parts.append(bytes(route_v3.RouteConfiguration(ignore_port_in_host_matching=True)))
        return EncodedRoutes(name, b"".join(parts), frozenset(uses))

    def _routes(self, owners: Sequence[VirtualService], port: int) -> Iterable[bytes]:
        for owner in owners:
            for route, match, index in _matching(owner, port):
                yield field(3, self._route(owner, route, match, index))

    def _route(self, owner: VirtualService, route: Route, match: RouteMatch | None, index: int) -> bytes:
        key = (owner.name, index, route, match)
        encoded = self._encoded.get(key) or self._known.get(key)
        if encoded is None:
            mapping = header_mapping(route.header_to_key)
            message = route_v3.Route(
                name=names.route(owner.name, route.name, index),
                match=route_match(match),
                route=action(route, self._times, self._sharding),
                typed_per_filter_config={} if mapping is None else {HEADER_TO_METADATA: mapping},
                request_headers_to_add=[added_header(*each) for each in route.upstream_headers],
            )
            encoded = bytes(message)
        self._encoded[key] = encoded
        return encoded

    def _uses(self, owner: VirtualService, port: int) -> set[Shard]:
        return {
            self._sharding.shard(each.host, each.port)
            for route, _, _ in _matching(owner, port)
            for each in route.destinations
        }


def _matching(owner: VirtualService, port: int) -> Iterable[tuple[Route, RouteMatch | None, int]]:
    """Go through the routes that are on this port, each with one of its matches (None: takes all)."""
    for index, route in enumerate(owner.routes):
        if not route.matches:
            yield route, None, index
        for match in route.matches:
            if match.port in (None, port):
                yield route, match, index
