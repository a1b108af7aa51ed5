"""The real parts that tests share: three MLServer replicas for the whole session, a stack for each test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.integration.mlserver import MLServer, write_model
from tests.integration.stack import Stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

MODELS = ("m1", "m2", "m3", "m4")
NAMES = ("r1", "r2", "r3")


class Replica:
    """One MLServer, without blocking the event loop."""

    def __init__(self, server: MLServer) -> None:
        self.server = server
        self.name = server.name
        self.address = server.address
        self.port = server.port

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"

    async def hold(self, models: Iterable[str]) -> None:
        await asyncio.to_thread(self.server.hold, models)

    async def load(self, model: str) -> None:
        await self._tell(model, "load")

    async def unload(self, model: str) -> None:
        await self._tell(model, "unload")

    async def _tell(self, model: str, verb: str) -> None:
        path = f"/v2/repository/models/{model}/{verb}"
        status, answer = await asyncio.to_thread(self.server.call, path)
        assert status == 200, answer


@pytest.fixture(scope="session")
def model_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository")
    for name in MODELS:
        write_model(repository, name)
    return repository


@pytest.fixture(scope="session")
def mlservers(model_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[MLServer]]:
    servers = [MLServer(model_repository, tmp_path_factory.mktemp(name), name) for name in NAMES]
    try:
        for server in servers:
            server.ready()
        yield servers
    finally:
        for server in servers:
            server.stop()


@pytest.fixture
def replicas(mlservers: list[MLServer]) -> list[Replica]:
    """r1, r2, r3. What they have loaded is left from the test before: place it first."""
    return [Replica(server) for server in mlservers]


@pytest.fixture
def mortal(model_repository: Path, tmp_path: Path) -> Iterator[Replica]:
    """A replica of the test's own, named r9, that may be killed."""
    with MLServer(model_repository, tmp_path / "r9", "r9") as server:
        yield Replica(server)


@pytest.fixture(params=[True, False], ids=["delta", "sotw"])
def delta(request: pytest.FixtureRequest) -> bool:
    """Every test with a stack runs in both variants of xDS."""
    return bool(request.param)


@pytest.fixture
async def stack(tmp_path: Path, delta: bool) -> AsyncIterator[Stack]:
    async with Stack(tmp_path, delta=delta) as made:
        yield made


@pytest.fixture
async def sidecar(tmp_path: Path, delta: bool) -> AsyncIterator[Stack]:
    async with Stack(tmp_path, delta=delta, cluster="sidecar") as made:
        yield made
