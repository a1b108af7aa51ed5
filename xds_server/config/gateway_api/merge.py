"""What is attached, by listener port and host: one virtual service each, its routes in the API's order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.config.gateway_api.hosts import covers, nearness
from xds_server.config.gateway_api.matches import precedence, translate
from xds_server.mesh.routing import Retries, Route, VirtualService

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xds_server.config.gateway_api.attach import Attachment
    from xds_server.config.gateway_api.documents import HttpRouteMatchPart, TimeoutsPart
    from xds_server.config.gateway_api.listeners import ListenerPlace

_RETRIES = 2
"""As often as a route that says nothing of it is tried again; the API has a time for each try, no number."""


def merged(places: Sequence[ListenerPlace], attachments: Sequence[Attachment]) -> tuple[VirtualService, ...]:
    """The virtual services, sorted by name."""
    made = []
    for gateway, port in sorted({(each.gateway, each.port) for each in places}):
        here = [each for each in attachments if (each.place.gateway, each.place.port) == (gateway, port)]
        listening = [each for each in places if (each.gateway, each.port) == (gateway, port)]
        for host in sorted({host for each in here for host in each.hosts}):
            routes = _routes(host, _nearest(host, listening), here)
            made.append(VirtualService(f"{gateway}:{port}/{host}", (host,), (gateway,), tuple(routes)))
    return tuple(sorted(made, key=lambda each: each.name))


def _nearest(host: str, listening: Iterable[ListenerPlace]) -> ListenerPlace:
    """The listener that a host's requests belong to: of those that take it, the nearest."""
    return max((each for each in listening if covers(each.host, host)), key=lambda each: nearness(each.host))


def _routes(host: str, place: ListenerPlace, attachments: Iterable[Attachment]) -> list[Route]:
    """The routes for a host: the nearer hosts' first, then by what they match, then the older routes'."""
    entries = []
    for each in attachments:
        taking = [nearness(mine) for mine in each.hosts if covers(mine, host)]
        if each.place == place and taking:
            for position, match in enumerate(each.rule.matches):
                near = max(taking)
                order = ((-near[0], -near[1]), precedence(match), each.order, position)
                entries.append((order, each, match))
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
