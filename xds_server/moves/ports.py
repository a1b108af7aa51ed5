"""What a move needs of the other rooms, and the values that it answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from xds_server.mesh.model import Endpoint, EndpointId
    from xds_server.mesh.pools import Pool


class Publishes(Protocol):
    """The publisher, as far as moves need it."""

    def flush(self) -> int:
        """Publish all that is dirty now; the serial includes every event applied so far."""


class Polls(Protocol):
    """The poller, as far as moves need it."""

    async def poll_now(self, endpoint: EndpointId) -> None:
        """Ask the endpoint's runtime at once; return when the mesh has been told."""


class Runtimes(Protocol):
    """Runtimes that load and unload on demand. `limit`: the longest wait for an answer, in seconds.

    Both raise RuntimeRefusedError when the runtime refuses or nobody listens, and RuntimeSilentError
    when it is not known what it does.
    """

    async def load(self, endpoint: Endpoint, pool: Pool, model: str, limit: float) -> None:
        """Ask for a load; returns when the runtime says that it did."""

    async def unload(self, endpoint: Endpoint, pool: Pool, model: str, limit: float) -> None:
        """Ask for an unload; returns when the runtime says that it did, or has not got the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawSeconds:
    """How long each step took, in seconds from the request; None for a step that was not taken."""

    acknowledged: float
    total: float
    unloaded: float | None = None
    gone: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """A model that no connected Envoy sends to this endpoint any more.

    `acknowledged` names the clients that had to agree. `left` names those that went away before they
    did: such an Envoy may still be running on what it knew.
    """

    id: str
    model: str
    endpoint: str
    service: str
    acknowledged: tuple[str, ...]
    left: tuple[str, ...]
    seconds: WithdrawSeconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSeconds:
    """How long each step took, in seconds from the request."""

    loaded: float
    ready: float
    acknowledged: float
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model that is READY on this endpoint and that every connected Envoy may send there."""

    model: str
    endpoint: str
    service: str
    acknowledged: tuple[str, ...]
    left: tuple[str, ...]
    seconds: LoadSeconds
