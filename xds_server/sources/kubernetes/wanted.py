"""Which services the configurations of the other sources refer to and do not declare. Values only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.config.problems import join_or
from xds_server.mesh.pools import Asked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds_server.mesh.events import ConfigurationReplaced
    from xds_server.mesh.model import Service
    from xds_server.mesh.pools import Pool
    from xds_server.mesh.routing import Configuration, Destination


class Wanted:
    """The configurations by source, as last told."""

    def __init__(self) -> None:
        self._configurations: dict[str, Configuration] = {}

    def take(self, event: ConfigurationReplaced) -> None:
        """Take the configuration of one source."""
        self._configurations[event.source] = event.configuration

    def hosts(self) -> set[str]:
        """The hosts that are referred to and that none of the sources declares."""
        declared = {service.host for each in self._configurations.values() for service in each.services}
        referred = {pool.host for pool in self._pools()}
        referred |= {destination.host for _, destination in self._destinations()}
        referred |= {policy.host for each in self._configurations.values() for policy in each.policies}
        return referred - declared

    def problems(self, services: Mapping[str, Service]) -> list[str]:
        """Ports that are referred to and that the service does not have, in words."""
        found, wanted = [], self.hosts()
        for name, destination in self._destinations():
            service = services.get(destination.host)
            if service is None or destination.host not in wanted:
                continue
            ports = join_or([str(port.number) for port in service.ports])
            if destination.port == 0 and len(service.ports) > 1:
                found.append(f"VirtualService {name}: no port for {service.host}; expected {ports}")
            elif destination.port and service.port(destination.port) is None:
                found.append(
                    f"VirtualService {name}: port {destination.port} of {service.host}; expected {ports}"
                )
        for pool in self._pools():
            service, port = services.get(pool.host), _port_name(pool)
            names = [each.name for each in service.ports] if service is not None else [port]
            if port and port not in names:
                expected = f"{join_or(names)}, or a number"
                found.append(f'ModelPool {pool.name}: port "{port}" of {pool.host}; expected {expected}')
        return found

    def _pools(self) -> Iterable[Pool]:
        return (pool for each in self._configurations.values() for pool in each.pools)

    def _destinations(self) -> Iterable[tuple[str, Destination]]:
        for each in self._configurations.values():
            for virtual_service in each.virtual_services:
                for route in virtual_service.routes:
                    for destination in route.destinations:
                        yield virtual_service.name, destination


def _port_name(pool: Pool) -> str:
    """The port that the pool's runtimes are asked on, where it is given by its name."""
    port = pool.discovery.port if isinstance(pool.discovery, Asked) else None
    return port if isinstance(port, str) else ""
