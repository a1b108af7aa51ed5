"""Short ways to say what the mesh is told: one service `models`, endpoints by a letter, times in seconds."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from xds_server.mesh.events import (
    ConfigurationReplaced,
    FailureKind,
    ModelsReported,
    ModelState,
    ReportFailed,
    WithdrawalStarted,
)
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.model import Endpoint, EndpointId, Service, ServicePort
from xds_server.mesh.pools import OpenInference, Pool
from xds_server.mesh.routing import Configuration

if TYPE_CHECKING:
    from xds_server.mesh.mesh import EndpointStatus
    from xds_server.mesh.model import Health, PlacedEndpoint
    from xds_server.mesh.pools import Discovery

HOST = "models"
SOURCE = "open-inference"
DISCOVERY = OpenInference(interval=1, timeout=2, grace=10)


def eid(letter: str, host: str = HOST) -> EndpointId:
    return EndpointId(host, f"10.0.0.{ord(letter) - ord('a') + 1}", 8080)


def endpoint(letter: str, host: str = HOST, **fields: object) -> Endpoint:
    return Endpoint(eid(letter, host), {"http": 8080, "rest": 9090}, **fields)


def configuration(
    letters: str = "ab", *, discovery: Discovery | None = DISCOVERY, host: str = HOST
) -> Configuration:
    return Configuration(
        services=(Service(host, "ns", (ServicePort(80, "http"),)),),
        endpoints=tuple(endpoint(letter, host) for letter in letters),
        pools=(Pool("ns/pool", host, discovery),) if discovery is not None else (),
    )


def configured(
    letters: str = "ab", *, discovery: Discovery | None = DISCOVERY, source: str = "files"
) -> ConfigurationReplaced:
    return ConfigurationReplaced(source=source, configuration=configuration(letters, discovery=discovery))


def reported(
    letter: str, models: str | tuple[ModelState, ...], at: float = 1.0, source: str = SOURCE
) -> ModelsReported:
    """`models` as words: READY ones plain, others as `name=STATE`; `name@7` is loading and READY at 7.

    `client:runtime` before those says that the runtime has another name for it.
    """
    rows = tuple(_row(word) for word in models.split()) if isinstance(models, str) else models
    return ModelsReported(endpoint=eid(letter), source=source, models=rows, at=at)


def _row(word: str) -> ModelState:
    named, _, state = word.partition("=")
    names, _, ready_at = named.partition("@")
    name, _, runtime_name = names.partition(":")
    at = float(ready_at) if ready_at else inf
    return ModelState(name, "1", state or ("LOADING" if ready_at else "READY"), "", at, runtime_name)


def refused(letter: str, at: float, source: str = SOURCE) -> ReportFailed:
    return ReportFailed(endpoint=eid(letter), source=source, kind=FailureKind.REFUSED, error="refused", at=at)


def lost(letter: str, at: float, source: str = SOURCE) -> ReportFailed:
    return ReportFailed(endpoint=eid(letter), source=source, kind=FailureKind.LOST, error="lost", at=at)


def timed_out(letter: str, at: float, asked: float | None = None, source: str = SOURCE) -> ReportFailed:
    return ReportFailed(
        endpoint=eid(letter), source=source, kind=FailureKind.TIMEOUT, error="late", at=at, asked=asked
    )


def withdrawn(letter: str, model: str, at: float = 2.0, name: str = "w") -> WithdrawalStarted:
    return WithdrawalStarted(id=name, endpoint=eid(letter), model=model, at=at)


def told(*events: object) -> Mesh:
    mesh = Mesh()
    for event in events:
        mesh.apply(event)
    return mesh


def placed(mesh: Mesh, letter: str) -> PlacedEndpoint:
    return next(p for p in mesh.service(HOST).endpoints if p.endpoint.id == eid(letter))


def status(mesh: Mesh, letter: str) -> EndpointStatus:
    return next(s for s in mesh.status(HOST) if s.endpoint.id == eid(letter))


def seen(mesh: Mesh, letter: str) -> tuple[Health, str, bool]:
    """How an endpoint stands: health, what is routed to it, whether Envoy may use it."""
    place = placed(mesh, letter)
    return status(mesh, letter).health, " ".join(place.models), place.healthy
