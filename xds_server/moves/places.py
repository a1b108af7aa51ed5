"""Where a model is now: finding the endpoint that is meant, and what speaks against moving a model there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.mesh.names import version_name
from xds_server.mesh.pools import Annotations, Asked, ModelMesh, Push
from xds_server.moves.errors import (
    AmbiguousEndpointError,
    CancelledMoveError,
    HeldElsewhereError,
    LastHolderError,
    NoRuntimeError,
    NotHeldError,
    UnknownEndpointError,
)
from xds_server.sources.runtimes.client import loads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds_server.mesh.events import ModelState
    from xds_server.mesh.mesh import EndpointStatus, Mesh, Withdrawal
    from xds_server.mesh.model import Endpoint
    from xds_server.mesh.pools import Pool

_SHOWN = 8
"""How many names an error text lists at most."""


def find(mesh: Mesh, host_port: str, service: str | None) -> Endpoint:
    """Return the one endpoint that has this HOST:PORT among its ports.

    Raises:
        UnknownEndpointError: there is none, or no such service; the text lists what there is.
        AmbiguousEndpointError: several services have it; the text names them.
    """
    if service is not None and service not in mesh.services():
        raise UnknownEndpointError(f"no service {service!r}; there is: {listed(mesh.services())}")
    found = mesh.find_endpoints(host_port, service)
    if not found:
        where = "" if service is None else f" in service {service}"
        hosts = [service] if service is not None else list(mesh.services())
        there = [str(placed.endpoint.id) for host in hosts for placed in mesh.service(host).endpoints]
        raise UnknownEndpointError(f"no endpoint {host_port}{where}; there is: {listed(there)}")
    if len(found) > 1:
        each = listed(f"{endpoint.id.service} ({endpoint.id})" for endpoint in found)
        raise AmbiguousEndpointError(f"{host_port} is an endpoint of several services: {each}; say which one")
    return found[0]


def check_removable(mesh: Mesh, endpoint: Endpoint, model: str, *, force: bool) -> None:
    """Make sure that the model is routed to the endpoint and that, unless forced, another one has it.

    Raises:
        NotHeldError: the model is not routed there.
        LastHolderError: it is routed nowhere else in the service.
    """
    picture = mesh.service(endpoint.id.service)
    here = next((p for p in picture.endpoints if p.endpoint.id == endpoint.id), None)
    if here is None or model not in here.models:
        raise NotHeldError(_not_held(mesh, endpoint, model))
    if not force:
        _check_not_last(mesh, endpoint, model)


def check_still_safe(mesh: Mesh, endpoint: Endpoint, model: str, *, force: bool) -> None:
    """Make sure, when a withdrawal has drained, that nothing happened meanwhile that speaks against it.

    Where the endpoint itself was removed from the documents, nothing can.

    Raises:
        CancelledMoveError: the runtime dropped the model by itself, which ended the withdrawal, and has
            loaded it again.
        LastHolderError: the other endpoints lost it while this one drained.
    """
    status = status_of(mesh, endpoint)
    if status is None:
        return
    if model in status.routed:
        raise CancelledMoveError(
            f"{endpoint.id} dropped {model} by itself and has loaded it again meanwhile, so it is routed "
            "there: withdraw it again"
        )
    if not force and any(row.ready for row in rows_of(mesh, endpoint, model)):
        _check_not_last(mesh, endpoint, model)


def _check_not_last(mesh: Mesh, endpoint: Endpoint, model: str) -> None:
    placed = mesh.service(endpoint.id.service).endpoints
    if not any(p.healthy and model in p.models and p.endpoint.id != endpoint.id for p in placed):
        raise LastHolderError(
            f"{endpoint.id} is the last endpoint of {endpoint.id.service} that has {model}: without it, "
            "requests for the model find no replica; load it elsewhere first, or force it"
        )


def check_not_held_elsewhere(mesh: Mesh, endpoint: Endpoint, model: str) -> None:
    """Make sure that no other service sends requests for the model to the same runtime.

    Raises:
        HeldElsewhereError: it does; the text names the services.
    """
    address, ports = endpoint.id.address, set(endpoint.ports.values())
    others = sorted(
        host
        for host, picture in mesh.services().items()
        if host != endpoint.id.service
        for placed in picture.endpoints
        if placed.endpoint.id.address == address
        and not ports.isdisjoint(placed.endpoint.ports.values())
        and model in placed.models
    )
    if others:
        raise HeldElsewhereError(
            f"the runtime at {endpoint.id} gets requests for {model} also through {listed(others)}: "
            "withdraw it there first"
        )


def runtime_pool(mesh: Mesh, endpoint: Endpoint) -> Pool:
    """Return the pool whose runtime API serves the endpoint.

    Raises:
        NoRuntimeError: the service has no pool, the pool's models are a fixed list, or its runtimes have
            no call that loads or unloads.
    """
    pool = mesh.service(endpoint.id.service).pool
    if pool is None:
        raise NoRuntimeError(
            f"service {endpoint.id.service} has no ModelPool: nothing is known of a runtime at {endpoint.id}"
        )
    if isinstance(pool.discovery, ModelMesh):
        raise NoRuntimeError(
            f"ModelPool {pool.name} is ModelMesh's (models.modelMesh): it alone decides which pod loads what"
        )
    if isinstance(pool.discovery, Annotations | Push):
        raise NoRuntimeError(
            f"ModelPool {pool.name} is told of its models: there is no runtime API to load or unload through"
        )
    if not isinstance(pool.discovery, Asked):
        raise NoRuntimeError(
            f"ModelPool {pool.name} lists its models itself (models.static): there is no runtime API to "
            "load or unload through; change the document instead"
        )
    if not loads(pool.discovery):
        raise NoRuntimeError(
            f"ModelPool {pool.name}: {pool.discovery.source} has no call that loads or unloads a model"
        )
    return pool


def status_of(mesh: Mesh, endpoint: Endpoint) -> EndpointStatus | None:
    """Return the endpoint's status, or None when a reload has removed the endpoint meanwhile."""
    if endpoint.id.service not in mesh.services():
        return None
    return next((s for s in mesh.status(endpoint.id.service) if s.endpoint.id == endpoint.id), None)


def rows_of(mesh: Mesh, endpoint: Endpoint, model: str) -> tuple[ModelState, ...]:
    """Return what the runtime last said about the model: a row for each version."""
    status = status_of(mesh, endpoint)
    return () if status is None else tuple(row for row in status.models if row.name == model)


def withdrawal_of(mesh: Mesh, endpoint: Endpoint, model: str) -> Withdrawal | None:
    """Return the withdrawal that keeps the model off the endpoint, if one does."""
    return next((w for w in mesh.withdrawals() if w.endpoint == endpoint.id and w.model == model), None)


def gone_with(mesh: Mesh, endpoint: Endpoint, model: str) -> tuple[str, ...]:
    """Return the model and all names that an endpoint gains or loses with it.

    In a split pool each of them may be in an assignment of its own.
    """
    pool = mesh.service(endpoint.id.service).pool if endpoint.id.service in mesh.services() else None
    if pool is None:
        return (model,)
    found, names = {model}, pool.names
    if names.versions is not None:
        rows = rows_of(mesh, endpoint, model)
        found |= {version_name(model, row.version) for row in rows if row.version}
    for further in (names.aliases, names.fallbacks):
        found |= {name for name, means in further.items() if not found.isdisjoint(means)}
    return tuple(sorted(found))


def described(rows: Iterable[ModelState]) -> str:
    """Say in words what a runtime reported of a model."""
    parts = [
        f"{row.state or 'no state'}{f' in version {row.version}' if row.version else ''}"
        f"{f' ({row.reason})' if row.reason else ''}"
        for row in rows
    ]
    return "the runtime reports it " + " and ".join(parts) if parts else "the runtime does not list it"


def listed(names: Iterable[str]) -> str:
    """Join names for an error text; a long list is cut and counted."""
    every = list(names)
    if not every:
        return "none"
    more = len(every) - _SHOWN
    return ", ".join(every[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _not_held(mesh: Mesh, endpoint: Endpoint, model: str) -> str:
    withdrawal = withdrawal_of(mesh, endpoint, model)
    if withdrawal is not None:
        return f"{model} is already withdrawn from {endpoint.id}, by withdrawal {withdrawal.id}"
    status = status_of(mesh, endpoint)
    routed = listed(status.routed) if status is not None else "none"
    about = described(rows_of(mesh, endpoint, model))
    return f"{model} is not routed to {endpoint.id}: {about}; routed there: {routed}"
