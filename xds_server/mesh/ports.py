"""Destinations without a port, of services that were not known when their documents were read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.mesh.model import Service
    from xds_server.mesh.routing import Destination, VirtualService

ANY_PORT = 0
"""Stands for the only port that the service has."""


def with_ports(service: VirtualService, services: Mapping[str, Service]) -> VirtualService:
    """The same with the only port of each destination's service filled in, where it has exactly one."""
    if not any(each.port == ANY_PORT for route in service.routes for each in route.destinations):
        return service
    return replace(
        service,
        routes=tuple(
            replace(route, destinations=tuple(_with_port(each, services) for each in route.destinations))
            for route in service.routes
        ),
    )


def _with_port(destination: Destination, services: Mapping[str, Service]) -> Destination:
    service = services.get(destination.host)
    if destination.port != ANY_PORT or service is None or len(service.ports) != 1:
        return destination
    return replace(destination, port=service.ports[0].number)
