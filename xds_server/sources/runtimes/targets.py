"""Which runtimes are to be asked, and where: the endpoints of the pools whose runtimes tell their models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.mesh.model import join_host_port
from xds_server.mesh.pools import Asked, ModelMesh
from xds_server.sources.runtimes.asking import Target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.mesh.model import Endpoint, EndpointId, ServicePicture
    from xds_server.mesh.pools import Discovery
    from xds_server.mesh.routing import Routing

__all__ = ["Target", "runtime_url", "targets"]


def targets(routing: Routing, services: Mapping[str, ServicePicture]) -> dict[EndpointId, Target]:
    """One target for each endpoint of every pool with runtime discovery.

    Raises:
        LookupError: a pool names a port that an endpoint does not have. Loaders refuse such documents.
    """
    found: dict[EndpointId, Target] = {}
    for host, pool in routing.pools.items():
        asked = asked_of(pool.discovery)
        if host in services and asked is not None:
            for placed in services[host].endpoints:
                url = runtime_url(placed.endpoint, asked)
                found[placed.endpoint.id] = Target(url, asked.interval, asked.timeout, asked)
    return found


def asked_of(discovery: Discovery) -> Asked | None:
    """How the runtimes of a pool are asked, also if only to confirm; None where they are not."""
    if isinstance(discovery, ModelMesh):
        return discovery.confirm
    return discovery if isinstance(discovery, Asked) else None


def runtime_url(endpoint: Endpoint, discovery: Asked) -> str:
    """The base URL of the runtime behind `endpoint`.

    Raises:
        LookupError: the discovery's port is a name that the endpoint does not have.
    """
    port = discovery.port
    if port is None:
        number = endpoint.id.port
    elif isinstance(port, int):
        number = port
    elif port in endpoint.ports:
        number = endpoint.ports[port]
    else:
        raise LookupError(
            f"endpoint {endpoint.id} of {endpoint.id.service} has no port named {port!r}; "
            f"it has {', '.join(sorted(endpoint.ports)) or 'none'}"
        )
    return f"{discovery.scheme}://{join_host_port(endpoint.id.address, number)}"
