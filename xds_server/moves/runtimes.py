"""Loads and unloads through the runtime's own API, at the port that the pool's discovery names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.mesh.events import FailureKind
from xds_server.mesh.pools import Asked
from xds_server.moves.errors import NoRuntimeError, RuntimeRefusedError, RuntimeSilentError
from xds_server.sources.runtimes import answers
from xds_server.sources.runtimes.client import NoOrdersError, RuntimeClient
from xds_server.sources.runtimes.targets import Target, runtime_url

if TYPE_CHECKING:
    from xds_server.mesh.model import Endpoint
    from xds_server.mesh.pools import Pool


class AskedRuntimes:
    """Opens a connection for each order: they are rare, and none is left to close when the server stops."""

    async def load(self, endpoint: Endpoint, pool: Pool, model: str, limit: float) -> None:
        """Ask for a load; returns when the runtime says that it did. Errors as in ports.Runtimes."""
        target = _target(endpoint, pool)
        async with RuntimeClient() as client:
            try:
                await client.load(target, model, limit)
            except (NoOrdersError, answers.RuntimeRefusedError, answers.RuntimeUnreadableError) as error:
                raise _translated(error, pool) from error

    async def unload(self, endpoint: Endpoint, pool: Pool, model: str, limit: float) -> None:
        """Ask for an unload; returns when the runtime says that it did. Errors as in ports.Runtimes."""
        target = _target(endpoint, pool)
        async with RuntimeClient() as client:
            try:
                await client.unload(target, model, limit)
            except (NoOrdersError, answers.RuntimeRefusedError, answers.RuntimeUnreadableError) as error:
                raise _translated(error, pool) from error


def _target(endpoint: Endpoint, pool: Pool) -> Target:
    discovery = pool.discovery
    if not isinstance(discovery, Asked):
        raise NoRuntimeError(f"ModelPool {pool.name} has no runtime API to load or unload through")
    return Target(runtime_url(endpoint, discovery), discovery.interval, discovery.timeout, discovery)


def _translated(
    error: NoOrdersError | answers.RuntimeRefusedError | answers.RuntimeUnreadableError, pool: Pool
) -> NoRuntimeError | RuntimeRefusedError | RuntimeSilentError:
    """A refusal is certain; after a silence nobody knows whether the runtime goes on with it."""
    if isinstance(error, NoOrdersError):
        return NoRuntimeError(f"ModelPool {pool.name}: {error}")
    if isinstance(error, answers.RuntimeRefusedError):
        return RuntimeRefusedError(str(error))
    if error.kind is FailureKind.TIMEOUT:
        return RuntimeSilentError(str(error))
    return RuntimeRefusedError(f"the runtime gives no usable answer: {error}")
