"""The client of runtimes, asked by URL: for tests of one runtime, where nothing else of a target matters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.mesh.pools import Asked, OpenInference
from xds_server.sources.runtimes.client import RuntimeClient
from xds_server.sources.runtimes.targets import Target

if TYPE_CHECKING:
    from typing import Self

    from xds_server.mesh.events import ModelState
    from xds_server.sources.runtimes.answers import Index


class Calls:
    """One kind of runtime, wherever it is."""

    def __init__(self, discovery: Asked | None = None) -> None:
        self._discovery = discovery or OpenInference()
        self._client = RuntimeClient()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    def target(self, url: str, limit: float) -> Target:
        return Target(url, 1.0, limit, self._discovery)

    async def read(self, url: str, limit: float, previous: Index | None = None) -> Index:
        return await self._client.read(self.target(url, limit), previous)

    async def index(self, url: str, limit: float) -> tuple[ModelState, ...]:
        return (await self.read(url, limit)).rows

    async def load(self, url: str, model: str, limit: float) -> None:
        await self._client.load(self.target(url, limit), model, limit)

    async def unload(self, url: str, model: str, limit: float) -> None:
        await self._client.unload(self.target(url, limit), model, limit)
