"""Loads and unloads through the runtime's own API, at the port that the pool's discovery names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.mesh.events import FailureKind
from xds_server.mesh.pools import OpenInference
from xds_server.moves.errors import NoRuntimeError, RuntimeRefusedError, RuntimeSilentError
from xds_server.sources.runtimes import open_inference
from xds_server.sources.runtimes.targets import runtime_url

if TYPE_CHECKING:
    from xds_server.mesh.model import Endpoint
    from xds_server.mesh.pools import Pool


class OpenInferenceRuntimes:
    """Opens a connection for each order: they are rare, and none is left to close when the server stops."""

    async def load(self, endpoint: Endpoint, pool: Pool, model: str, limit: float) -> None:
        """Ask for a load; returns when the runtime says that it did. Errors as in ports.Runtimes."""
        url = _url(endpoint, pool)
        async with open_inference.OpenInferenceClient() as client:
            try:
                await client.load(url, model, limit)
            except (open_inference.RuntimeRefusedError, open_inference.RuntimeUnreadableError) as error:
                raise _translated(error) from error

    async def unload(self, endpoint: Endpoint, pool: Pool, model: str, limit: float) -> None:
        """Ask for an unload; returns when the runtime says that it did. Errors as in ports.Runtimes."""
        url = _url(endpoint, pool)
        async with open_inference.OpenInferenceClient() as client:
            try:
                await client.unload(url, model, limit)
            except (open_inference.RuntimeRefusedError, open_inference.RuntimeUnreadableError) as error:
                raise _translated(error) from error


def _url(endpoint: Endpoint, pool: Pool) -> str:
    if not isinstance(pool.discovery, OpenInference):
        raise NoRuntimeError(f"ModelPool {pool.name} has no runtime API to load or unload through")
    return runtime_url(endpoint, pool.discovery)


def _translated(
    error: open_inference.RuntimeRefusedError | open_inference.RuntimeUnreadableError,
) -> RuntimeRefusedError | RuntimeSilentError:
    """A refusal is certain; after a silence nobody knows whether the runtime goes on with it."""
    if isinstance(error, open_inference.RuntimeRefusedError):
        return RuntimeRefusedError(str(error))
    if error.kind is FailureKind.TIMEOUT:
        return RuntimeSilentError(str(error))
    return RuntimeRefusedError(f"the runtime gives no usable answer: {error}")
