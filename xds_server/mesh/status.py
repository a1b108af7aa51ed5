"""What the mesh tells about itself beside the pictures: dirty marks, endpoint status, withdrawals.

Values only; they are made by mesh.py and read by the publisher and by the admin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xds_server.mesh.events import FailureKind, ModelState
    from xds_server.mesh.model import Endpoint, EndpointId, Health


@dataclass(frozen=True, slots=True)
class Dirty:
    """What changed since it was last taken.

    `services` holds hosts whose ServicePicture is a new object; a removed service is not in it, but
    shows in `routing`, which says that Mesh.routing is a new object.
    """

    services: frozenset[str] = frozenset()
    routing: bool = False

    def __bool__(self) -> bool:
        return self.routing or bool(self.services)


@dataclass(frozen=True, slots=True)
class Failure:
    """A run of failures of one runtime: the latest kind and error, first and last time (epoch seconds).

    `asked`: when the question was put whose failure is the last one; None: at that time.
    """

    kind: FailureKind
    error: str
    since: float
    last: float
    asked: float | None = None


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One of the sources that count for an endpoint: how many rows it last gave, when, and what fails."""

    source: str
    reported_at: float | None
    rows: int
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """One endpoint with all that is known of it, and why.

    `models` are all rows of the last good report, in any state, also where they no longer count;
    `routed` is what goes to Envoy; `withdrawn` are names held back by a withdrawal. `reported_at` is
    the time of the last good report in epoch seconds. `source` is empty while nobody has reported.
    `sources` are all that count, `source`, `reported_at` and `failure` those of the one heard last.
    """

    endpoint: Endpoint
    health: Health
    models: tuple[ModelState, ...] = ()
    routed: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    source: str = ""
    reported_at: float | None = None
    failure: Failure | None = None
    sources: tuple[SourceStatus, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Withdrawal:
    """A model that gets no new requests on an endpoint, since `at` (epoch seconds)."""

    id: str
    endpoint: EndpointId
    model: str
    at: float
