"""What `/status` says, built from the rooms at the moment of the question. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server import __version__
from xds_server.admin import clients, implied, kubernetes, layouts, told
from xds_server.mesh.model import Health

if TYPE_CHECKING:
    from xds_server.admin.model import (
        ConfigRecord,
        EndpointRecord,
        FailureRecord,
        PlaceRecord,
        ProblemRecord,
        ServiceRecord,
        SourceRecord,
        Status,
        WithdrawalRecord,
    )
    from xds_server.admin.state import AdminState, Files
    from xds_server.config.problems import Problem
    from xds_server.mesh.mesh import Mesh
    from xds_server.mesh.status import EndpointStatus, Failure, SourceStatus, Withdrawal


def build(state: AdminState) -> Status:
    """The whole status."""
    now = state.clock()
    services = [service(state, host, now) for host in state.mesh.services()]
    return {
        "version": __version__,
        "started_at": state.readiness.started_at,
        "now": now,
        "ready": state.readiness.ready,
        "reason": state.readiness.reason,
        "config": _config(state.files),
        "registries": told.registries(state.registries(), now),
        "reporters": told.reporters(state.reporters(), now),
        "kubernetes": None if state.kubernetes is None else kubernetes.record(state.kubernetes.status(), now),
        "implied": implied.records(state.mesh.routing),
        "services": services,
        "models": _models(services),
        "withdrawals": [withdrawal(each) for each in state.mesh.withdrawals()],
        "clients": clients.records(state.hub),
    }


def service(state: AdminState, host: str, now: float) -> ServiceRecord:
    """One service with its endpoints; `now` in seconds since the epoch."""
    mesh = state.mesh
    picture = mesh.service(host)
    statuses = mesh.status(host)
    return {
        "host": host,
        "namespace": picture.service.namespace,
        "pool": picture.pool.name if picture.pool is not None else None,
        "subset_key": picture.pool.subset_key if picture.pool is not None else None,
        "layout": layouts.record(state.made_of(host)),
        "known": picture.known,
        "stale": is_stale(statuses),
        "known_models": [
            {"name": model.name, "state": model.state.value, "reason": model.reason}
            for model in mesh.known_models(host).values()
        ],
        "endpoints": [_endpoint(status, now) for status in statuses],
    }


def withdrawal(held: Withdrawal) -> WithdrawalRecord:
    """One withdrawal."""
    return {
        "id": held.id,
        "model": held.model,
        "endpoint": str(held.endpoint),
        "service": held.endpoint.service,
        "at": held.at,
    }


def stale_pools(mesh: Mesh) -> list[str]:
    """The services of which no replica can be read, so that the last picture stays in force."""
    return [host for host in mesh.services() if is_stale(mesh.status(host))]


def is_stale(statuses: tuple[EndpointStatus, ...]) -> bool:
    """Whether the last picture of a pool is in force because all of its replicas fail together.

    When one answers again, the others stay STALE until their next poll: the pool itself no longer is.
    """
    found = {status.health for status in statuses}
    return Health.STALE in found and Health.OK not in found


def _config(files: Files) -> ConfigRecord:
    return {
        "directory": str(files.directory),
        "loaded_at": files.loaded_at,
        "problems": [_problem(problem) for problem in files.problems],
    }


def _problem(problem: Problem) -> ProblemRecord:
    return {
        "file": problem.file,
        "document": problem.document,
        "subject": problem.subject,
        "field": problem.field,
        "found": problem.found,
        "expected": problem.expected,
        "text": str(problem),
    }


def _endpoint(status: EndpointStatus, now: float) -> EndpointRecord:
    endpoint, reported = status.endpoint, status.reported_at
    return {
        "endpoint": str(endpoint.id),
        "pod": endpoint.pod,
        "ports": dict(endpoint.ports),
        "labels": dict(endpoint.labels),
        "zone": endpoint.locality.zone,
        "health": status.health.value,
        "models": [
            {"name": row.name, "version": row.version, "state": row.state, "reason": row.reason}
            for row in status.models
        ],
        "routed": list(status.routed),
        "withdrawn": list(status.withdrawn),
        "source": status.source,
        "reported_at": reported,
        "age_seconds": _age(reported, now),
        "failure": None if status.failure is None else _failure(status.failure),
        "sources": [_source(each, now) for each in status.sources],
    }


def _source(status: SourceStatus, now: float) -> SourceRecord:
    failure = status.failure
    return {
        "source": status.source,
        "rows": status.rows,
        "reported_at": status.reported_at,
        "age_seconds": _age(status.reported_at, now),
        "stale_seconds": None if failure is None else _age(failure.since, now),
        "failure": None if failure is None else _failure(failure),
    }


def _age(at: float | None, now: float) -> float | None:
    return None if at is None else round(max(0.0, now - at), 3)


def _failure(failure: Failure) -> FailureRecord:
    return {
        "kind": failure.kind.value,
        "error": failure.error,
        "since": failure.since,
        "last": failure.last,
    }


def _models(services: list[ServiceRecord]) -> dict[str, list[PlaceRecord]]:
    models: dict[str, list[PlaceRecord]] = {}
    for each in services:
        for endpoint in each["endpoints"]:
            for model in endpoint["routed"]:
                place: PlaceRecord = {"service": each["host"], "endpoint": endpoint["endpoint"]}
                models.setdefault(model, []).append(place)
    return dict(sorted(models.items()))
