"""What is attached, by listener port and host: one virtual service each, its routes in the API's order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.config.gateway_api.hosts import covering
from xds_server.config.gateway_api.matches import precedence, translate
from xds_server.mesh.routing import Retries, Route, VirtualService

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xds_server.config.gateway_api.attach import Attachment
    from xds_server.config.gateway_api.documents import HttpRouteMatchPart, TimeoutsPart
    from xds_server.config.gateway_api.listeners import ListenerPlace

_RETRIES = 2
"""As often as a route that says nothing of it is tried again; the API has a time for each try, no number."""


def merged(places: Sequence[ListenerPlace], attachments: Sequence[Attachment]) -> tuple[VirtualService, ...]:
    """The virtual services, sorted by name."""
    attached: dict[ListenerPlace, dict[str, list[Attachment]]] = {}
    for each in attachments:
        for host in each.hosts:
            attached.setdefault(each.place, {}).setdefault(host, []).append(each)
    listening: dict[tuple[str, int], dict[str, ListenerPlace]] = {}
    for place in places:
        listening.setdefault((place.gateway, place.port), {})[place.host] = place
    made = []
    for (gateway, port), by_host in listening.items():
        for host in {host for place in by_host.values() for host in attached.get(place, ())}:
            nearest = next(by_host[each] for each in covering(host) if each in by_host)
            routes = tuple(_routes(host, nearest, attached.get(nearest, {})))
            made.append(VirtualService(f"{gateway}:{port}/{host}", (host,), (gateway,), routes))
    return tuple(sorted(made, key=lambda each: each.name))


def _routes(host: str, place: ListenerPlace, attached: Mapping[str, Sequence[Attachment]]) -> list[Route]:
    """The routes for a host: the nearer hosts' first, then by what they match, then the older routes'."""
    entries = []
    seen: set[tuple[str, int]] = set()
    for near, mine in enumerate(covering(host)):
        for each in attached.get(mine, ()):
            if (each.route, each.index) in seen:
                continue  # a nearer host of the same route has brought it
            for position, match in enumerate(each.rule.matches):
                entries.append(((near, precedence(match), each.order, position), each, match))
        seen |= {(each.route, each.index) for each in attached.get(mine, ())}
    entries.sort(key=lambda entry: entry[0])
    return [_route(each, match, place.port) for _, each, match in entries]


def _route(attachment: Attachment, match: HttpRouteMatchPart, port: int) -> Route:
    rule = attachment.rule
    return Route(
        name=f"{attachment.route}/{rule.name or attachment.index}",
        matches=translate(match, port),
        destinations=attachment.destinations,
        timeout=rule.timeouts.request,
        retries=_retries(rule.timeouts),
    )


def _retries(timeouts: TimeoutsPart) -> Retries | None:
    """A limit of one try matters to Envoy as that of each try; 0 is no limit."""
    return Retries(_RETRIES, timeouts.backend_request) if timeouts.backend_request else None
