"""Route configurations: from virtual services to the routes of one listener.

Knows nothing of listeners but their port number. What a route needs of Envoy's clusters is told along
with it (`uses`), so that it is not sent before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.route.v3 as route_v3

from xds_server.mesh.layout import LayoutKind
from xds_server.mesh.request import MODEL_HEADER
from xds_server.resources import names
from xds_server.resources.actions import Hosts, RouteTimes, actions, added_header, header_mapping
from xds_server.resources.filters import FLAGS_HEADER, HEADER_TO_METADATA, LUA, RENAMES
from xds_server.resources.matches import route_match
from xds_server.resources.naming import variants
from xds_server.resources.shards import SINGLE, Sharding
from xds_server.wire import field, string

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from envoy_data_plane.google.protobuf import Any

    from xds_server.mesh.routing import Route, RouteMatch, VirtualService
    from xds_server.resources.actions import Taken
    from xds_server.resources.shards import Layout, Target
    from xds_server.resources.variant import RouteVariant

RouteKey = tuple[
    str, int, "Route", "RouteMatch | None", tuple[tuple["Layout", str | None, str | None], ...], int
]
"""What a route's bytes depend on: its virtual service's name, its place there, itself, the match, how each of
its destinations is laid out, by which subset key, and on which header it is hashed, and how often a retry
draws."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A virtual service's claim on some domains of one listener."""

    domains: tuple[str, ...]
    virtual_service: VirtualService


@dataclass(frozen=True, slots=True)
class EncodedRoutes:
    """A RouteConfiguration and where its routes may lead to."""

    name: str
    body: bytes
    uses: frozenset[Target]


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

    `zoned`: the hosts of which an Envoy takes the endpoints of its own zone first.

    The tests hold the joined bytes equal to the library's own.
    """

    def __init__(  # noqa: PLR0917 - all but the first have defaults
        self,
        times: RouteTimes,
        sharding: Sharding | None = None,
        known: Mapping[RouteKey, bytes] | None = None,
        keys: Mapping[str, str] | None = None,
        hashed: Mapping[str, str] | None = None,
        zoned: frozenset[str] = frozenset(),
    ) -> None:
        self._times = times
        self._hosts = Hosts(sharding or Sharding(), keys or {}, hashed or {}, zoned)
        self._known = known or {}
        self._encoded: dict[RouteKey, bytes] = {}

    def successor(
        self,
        sharding: Sharding | None = None,
        keys: Mapping[str, str] | None = None,
        hashed: Mapping[str, str] | None = None,
        zoned: frozenset[str] = frozenset(),
    ) -> RouteEncoder:
        """Begin anew for changed documents or layouts.

        Unchanged routes are not encoded again, others are forgotten.
        """
        chosen = sharding or self._hosts.sharding
        return RouteEncoder(self._times, chosen, self._encoded, keys, hashed, zoned)

    def encode(self, name: str, port: int, domains: Mapping[str, Sequence[VirtualService]]) -> EncodedRoutes:
        """Encode the routes of the listener on `port`. Domains with the same owners share a virtual host."""
        together: dict[tuple[str, ...], list[str]] = {}
        for domain in sorted(domains):
            together.setdefault(tuple(each.name for each in domains[domain]), []).append(domain)
        parts = [string(1, name)]
        uses: set[Target] = set()
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
                yield self._route(owner, route, match, index)

    def _route(self, owner: VirtualService, route: Route, match: RouteMatch | None, index: int) -> bytes:
        """Encode the routes that one becomes, as fields of their virtual host."""
        key = (owner.name, index, route, match, self._laid_out(route), self._hosts.attempts(route))
        encoded = self._encoded.get(key) or self._known.get(key)
        if encoded is None:
            messages = self._messages(names.route(owner.name, route.name, index), route, match)
            encoded = b"".join(field(3, bytes(message)) for message in messages)
        self._encoded[key] = encoded
        return encoded

    def _messages(self, name: str, route: Route, match: RouteMatch | None) -> Iterable[route_v3.Route]:
        """Make the Envoy routes of one match: one, or several for pools (naming.py) and for layouts."""
        found = route.naming.keys if route.naming is not None else ()
        others = [each for each in route.header_to_key if each.key not in found]
        # Where the model picks the cluster, Envoy looks for the route again once the model is known.
        layouts = [self._hosts.sharding.layout(each.host) for each in route.destinations]
        reroute = any(each != SINGLE for each in layouts)
        direct = all(each.kind is not LayoutKind.PER_MODEL for each in layouts)
        for variant in variants(route.naming, reroute=reroute, direct=direct):
            mapping = header_mapping(others, found, variant)
            mapped = {} if mapping is None else {HEADER_TO_METADATA: mapping}
            for taken in actions(route, self._times, self._hosts, variant.named):
                asked = route_match(match, taken.share)
                asked.headers = [*asked.headers, *variant.headers, *taken.headers]
                renames = _renamed_by_host(taken, variant.renames)
                yield route_v3.Route(
                    name=name + variant.suffix,
                    match=asked,
                    route=taken.action,
                    typed_per_filter_config={**mapped, **variant.filters, **renames},
                    request_headers_to_add=[added_header(*each) for each in route.upstream_headers],
                    request_headers_to_remove=self._internal(variant),
                    # Envoy adds its own afterwards: what comes with a replica's answer means nothing.
                    response_headers_to_remove=[FLAGS_HEADER] if LUA in variant.filters else [],
                    request_body_buffer_limit=variant.max_body,
                )

    @staticmethod
    def _internal(variant: RouteVariant) -> list[str]:
        """The headers that the script has made for the sake of the route, which are nobody else's concern."""
        return [MODEL_HEADER] if LUA in variant.filters and variant.named is None else []

    def _laid_out(self, route: Route) -> tuple[tuple[Layout, str | None, str | None], ...]:
        layouts = {each.host: self._hosts.sharding.layout(each.host) for each in route.destinations}
        return tuple(
            (each, None if each == SINGLE else self._hosts.keys[host], self._hosts.hashed.get(host))
            for host, each in layouts.items()
        )

    @staticmethod
    def _uses(owner: VirtualService, port: int) -> set[Target]:
        return {
            (each.host, each.port) for route, _, _ in _matching(owner, port) for each in route.destinations
        }


def _renamed_by_host(taken: Taken, renames: Mapping[str, Any]) -> dict[str, Any]:
    """Give each host's clusters its settings of the script that renames.

    Returns them where all clusters are of one host, and so their route can have them.
    """
    if len(taken.hosts) == 1:
        (host,) = taken.hosts
        return {RENAMES: renames[host]} if host in renames else {}
    clusters = taken.action.weighted_clusters.clusters if taken.action.weighted_clusters is not None else []
    for cluster, host in zip(clusters, taken.hosts, strict=True):
        if host in renames:
            cluster.typed_per_filter_config = {RENAMES: renames[host]}
    return {}


def _matching(owner: VirtualService, port: int) -> Iterable[tuple[Route, RouteMatch | None, int]]:
    """Go through the routes that are on this port, each with one of its matches (None: takes all)."""
    for index, route in enumerate(owner.routes):
        if not route.matches:
            yield route, None, index
        for match in route.matches:
            if match.port in (None, port):
                yield route, match, index
