"""Which runtimes are to be asked, and where: the endpoints of the pools whose runtimes tell their models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.mesh.model import Condition, join_host_port
from xds_server.mesh.pools import Asked, ModelMesh
from xds_server.sources.runtimes.asking import Target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.mesh.model import Endpoint, EndpointId, ServicePicture
    from xds_server.mesh.pools import Discovery, Pool
    from xds_server.mesh.routing import Routing

__all__ = ["Target", "runtime_url", "target_of", "targets"]


def targets(routing: Routing, services: Mapping[str, ServicePicture]) -> dict[EndpointId, Target]:
    """One target for each endpoint of every pool with runtime discovery that `target_of` has one for."""
    found: dict[EndpointId, Target] = {}
    for host, pool in routing.pools.items():
        asked = asked_of(pool.discovery)
        if host in services and asked is not None:
            for placed in services[host].endpoints:
                target = target_of(placed.endpoint, pool)
                if target is not None:
                    found[placed.endpoint.id] = target
    return found


def target_of(endpoint: Endpoint, pool: Pool | None) -> Target | None:
    """Where the runtime behind `endpoint` is asked; None where it is not.

    One that is terminating is not: it gets no requests, and its end is no failure. Nor is one without the
    port that the pool names: loaders refuse such documents, and a cluster's source has it in its status.
    """
    asked = asked_of(pool.discovery) if pool is not None else None
    if asked is None or endpoint.condition is Condition.TERMINATING:
        return None
    try:
        url = runtime_url(endpoint, asked)
    except LookupError:
        return None
    return Target(url, asked.interval, asked.timeout, asked)


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
