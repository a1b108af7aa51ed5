"""Whom to ask and what each runtime's file has to offer: the protocols that join them to the poller."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from xds_server.mesh.pools import OpenInference
from xds_server.sources.runtimes.http import NO_HEADERS, Question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from xds_server.mesh.events import ModelState
    from xds_server.mesh.pools import Asked
    from xds_server.sources.runtimes.grpc_calls import GrpcCalls
    from xds_server.sources.runtimes.http import HttpClient


@dataclass(frozen=True, slots=True)
class Target:
    """A runtime to be asked: its base URL; how often and how long at most, in seconds; what it speaks."""

    url: str
    interval: float
    timeout: float
    discovery: Asked = field(default_factory=OpenInference)


@dataclass(frozen=True, slots=True)
class Call:
    """One conversation with a runtime: the clients, its base URL, what it speaks, headers of each."""

    http: HttpClient
    grpc: GrpcCalls
    url: str
    discovery: Asked
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)

    def question(self, path: str, body: bytes | None = None, method: str = "") -> Question:
        """A request to this runtime; `path` is encoded already."""
        return Question(self.url, path, body, self.headers, method)


class Runtime(Protocol):
    """What each runtime's file has. Time limits are the caller's."""

    async def fetch(self, call: Call, /) -> bytes:
        """What the runtime answers, as bytes that are equal while nothing changed; RuntimeUnreadableError."""

    def parse(self, body: bytes, /) -> tuple[ModelState, ...]:
        """All models, in any state, sorted; RuntimeUnreadableError where the answer is none."""


class Orders(Protocol):
    """What the file of a runtime has that loads and unloads on demand."""

    async def load(self, call: Call, model: str, /) -> None:
        """Return when the runtime says that it did or began; RuntimeRefusedError, RuntimeUnreadableError."""

    async def unload(self, call: Call, model: str, /) -> None:
        """Return when the runtime says that it did, or has not got it; errors as for load."""


class Follows(Protocol):
    """What the file of a runtime has that tells of changes by itself."""

    def changes(self, call: Call, /) -> AsyncIterator[None]:
        """One item for each change, until the runtime ends it; RuntimeUnreadableError."""
