"""The gRPC health service (grpc.health.v1) of the xDS port: its two methods, on bytes.

SERVING from the first sync of the sources until the stop; NOT_SERVING before and after.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

from xds_server import wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from typing import TypeAlias

    Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]

SERVICE = "grpc.health.v1.Health"
SERVING = 1
NOT_SERVING = 2
SERVICE_UNKNOWN = 3


class Health:
    """Tells how this server is. `services`: their names; the empty one stands for the whole server.

    `met` is told of each call.
    """

    def __init__(self, services: Iterable[str], met: Callable[[Context], None]) -> None:
        self._met = met
        self._services = frozenset({"", SERVICE, *services})
        self._serving = False
        self._closed = False
        self._watchers: set[asyncio.Event] = set()

    def set(self, *, serving: bool) -> None:
        """Say from now on whether clients are answered."""
        self._serving = serving
        for changed in self._watchers:
            changed.set()

    def close(self) -> None:
        """Say for the last time that nobody is answered, and end every `Watch`."""
        self._closed = True
        self.set(serving=False)

    async def check(self, request: bytes, context: Context) -> bytes:
        """`Check`: the status now; NOT_FOUND for a service that is not here."""
        self._met(context)
        service = await _service(request, context)
        if service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {service!r} on this port")
        return wire.uint(1, self._status(service))

    async def watch(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """`Watch`: the status now and whenever it changes. It ends with the server."""
        self._met(context)
        service = await _service(request, context)
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            told = None
            while not self._closed or told != self._status(service):
                changed.clear()
                if (status := self._status(service)) != told:
                    told = status
                    yield wire.uint(1, status)
                else:
                    await changed.wait()
        finally:
            self._watchers.discard(changed)

    def _status(self, service: str) -> int:
        if service not in self._services:
            return SERVICE_UNKNOWN
        return SERVING if self._serving else NOT_SERVING


async def _service(request: bytes, context: Context) -> str:
    """The service asked for."""
    try:
        names = [payload.decode() for number, _, payload in wire.fields(request) if number == 1]
    except ValueError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no HealthCheckRequest: {error}")
    return names[-1] if names else ""
