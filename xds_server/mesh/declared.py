"""The endpoints that sources declare: all at once with a configuration, or as they come and go."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds_server.mesh.events import EndpointsChanged
    from xds_server.mesh.model import Endpoint, EndpointId


class Declared:
    """By source, service and id. Where two sources declare the same one, the first source by name is right.

    So is, within a source, what came with its configuration.
    """

    def __init__(self) -> None:
        self._configured: dict[str, dict[str, dict[EndpointId, Endpoint]]] = {}
        self._changing: dict[str, dict[str, dict[EndpointId, Endpoint]]] = {}

    def replace(self, source: str, endpoints: Iterable[Endpoint]) -> None:
        """Take the endpoints of a source's configuration."""
        by_service: dict[str, dict[EndpointId, Endpoint]] = {}
        for endpoint in endpoints:
            by_service.setdefault(endpoint.id.service, {}).setdefault(endpoint.id, endpoint)
        self._configured[source] = by_service

    def change(self, event: EndpointsChanged) -> Iterable[EndpointId]:
        """Take changes; returns the ids that they are about."""
        services = self._changing.setdefault(event.source, {})
        held = services.setdefault(event.service, {})
        for key in event.removed:
            held.pop(key, None)
        for endpoint in event.declared:
            held[endpoint.id] = endpoint
        if not held:
            del services[event.service]
        return dict.fromkeys((*event.removed, *(endpoint.id for endpoint in event.declared)))

    def endpoint(self, key: EndpointId) -> Endpoint | None:
        """The endpoint of this id; None if nobody declares it."""
        for held in self._of(key.service):
            if key in held:
                return held[key]
        return None

    def endpoints(self, service: str) -> Iterable[Endpoint]:
        """All endpoints of a service, in no order."""
        joined: dict[EndpointId, Endpoint] = {}
        for held in self._of(service):
            for key, endpoint in held.items():
                joined.setdefault(key, endpoint)
        return joined.values()

    def _of(self, service: str) -> Iterable[dict[EndpointId, Endpoint]]:
        for source in sorted({*self._configured, *self._changing}):
            for kind in (self._configured, self._changing):
                held = kind.get(source, {}).get(service)
                if held is not None:
                    yield held
