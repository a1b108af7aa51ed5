"""What a source may tell the mesh. Each event is complete for its key, so order across keys is free.

All times `at` are seconds since the epoch (wall clock), passed in by the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xds_server.mesh.known import KnownModel
    from xds_server.mesh.model import Endpoint, EndpointId
    from xds_server.mesh.routing import Configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationReplaced:
    """`source` now declares exactly this configuration."""

    source: str
    configuration: Configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointsChanged:
    """`source` now declares these endpoints of `service` so, and the `removed` ones no more; all others stay.

    For sources whose endpoints come and go one by one: the cost is that of the endpoints named here.
    """

    source: str
    service: str
    declared: tuple[Endpoint, ...] = ()
    removed: tuple[EndpointId, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class ModelState:
    """One row of what a runtime lists: `state` as the runtime says it, normalised to upper case.

    `ready_at`: when (epoch seconds) a row that is not READY counts as such by its age; infinity: never.
    `runtime_name`: what the runtime calls the model, where clients call it by another name.
    `base`: the model that this one is an adapter of, where the runtime tells.
    """

    name: str
    version: str = ""
    state: str = "READY"
    reason: str = ""
    ready_at: float = inf
    runtime_name: str = ""
    base: str = ""

    @property
    def ready(self) -> bool:
        """Whether requests for the model may go to this replica."""
        return self.state == "READY"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsReported:
    """The runtime behind `endpoint` answered: these are all of its models, in any state."""

    endpoint: EndpointId
    source: str
    models: tuple[ModelState, ...]
    at: float


class FailureKind(StrEnum):
    """Why a runtime could not be read."""

    REFUSED = "refused"
    """The connection was refused or reset before any answer: nobody listens."""
    TIMEOUT = "timeout"
    BAD_ANSWER = "bad-answer"
    """An answer that is no repository index: status, body or shape."""
    LOST = "lost"
    """What told us is out of reach (a reporter's stream, etcd, the API server): nothing is said of the
    replica, so its models stay for as long as it takes, STALE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFailed:
    """The runtime behind `endpoint` could not be read. `error` says what was seen, in one line.

    `asked`: when it was asked, which for a timeout is long before `at`; None: at that time.
    """

    endpoint: EndpointId
    source: str
    kind: FailureKind
    error: str
    at: float
    asked: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportsForgotten:
    """`source` no longer watches `endpoint`: what it said is dropped."""

    endpoint: EndpointId
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsKnown:
    """`source` now says that these are the names that clients of `service` may ask for, loaded or not."""

    service: str
    source: str
    models: tuple[KnownModel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawalStarted:
    """`model` is to get no new requests on `endpoint` until the withdrawal ends.

    It ends by itself when the runtime reports the model gone, or by WithdrawalCancelled.
    """

    id: str
    endpoint: EndpointId
    model: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawalCancelled:
    """The withdrawal `id` no longer holds."""

    id: str


Event = (
    ConfigurationReplaced
    | EndpointsChanged
    | ModelsReported
    | ReportFailed
    | ReportsForgotten
    | ModelsKnown
    | WithdrawalStarted
    | WithdrawalCancelled
)
