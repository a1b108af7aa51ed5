"""The repository API of a real MLServer, through the client and through the poller into the mesh."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.integration.mlserver import MLServer, write_model
from tests.runtime_calls import Calls
from xds_server.mesh.events import ConfigurationReplaced, FailureKind, ModelState
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.model import Endpoint, EndpointId, Health, Service, ServicePort
from xds_server.mesh.pools import OpenInference, Pool
from xds_server.mesh.routing import Configuration
from xds_server.sources.runtimes.answers import RuntimeRefusedError, RuntimeUnreadableError
from xds_server.sources.runtimes.poller import Poller
from xds_server.sources.runtimes.targets import targets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from xds_server.mesh.events import Event

LIMIT = 20.0
ODD = "mnist ü 100%.v1#beta"
"""A name that must be quoted. (One with a slash cannot be addressed in MLServer's API.)"""


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, gate: Path) -> Path:
    directory = tmp_path_factory.mktemp("repository")
    for name in ("m1", "m2"):
        write_model(directory, name)
    write_model(directory, ODD, folder="odd")
    write_model(directory, "gated", "Gated", gate=str(gate))
    write_model(directory, "broken", "Broken")
    return directory


@pytest.fixture(scope="module")
def replica(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLServer]:
    with MLServer(repository, tmp_path_factory.mktemp("mlserver")) as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[Calls]:
    async with Calls() as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_loaded(replica: MLServer) -> None:
    replica.hold([])


async def states(client: Calls, replica: MLServer) -> dict[str, str]:
    return {row.name: row.state for row in await client.index(replica.url, LIMIT)}


async def test_the_index_lists_the_whole_repository(client, replica):
    rows = await client.index(replica.url, LIMIT)
    assert [row.name for row in rows] == sorted(["m1", "m2", ODD, "gated", "broken"])
    assert rows[-1] == ModelState(ODD, "v1", "UNAVAILABLE")


async def test_load_and_unload_show_in_the_index(client, replica):
    await client.load(replica.url, "m1", LIMIT)
    await client.load(replica.url, ODD, LIMIT)
    found = await states(client, replica)
    assert {name for name, state in found.items() if state == "READY"} == {"m1", ODD}
    await client.unload(replica.url, ODD, LIMIT)
    assert (await states(client, replica))[ODD] == "UNAVAILABLE"


async def test_a_second_unload_is_done(client, replica):
    await client.load(replica.url, "m1", LIMIT)
    await client.unload(replica.url, "m1", LIMIT)
    assert replica.call("/v2/repository/models/m1/unload")[0] == 404
    await client.unload(replica.url, "m1", LIMIT)


async def test_a_load_that_fails_says_so(client, replica):
    with pytest.raises(RuntimeRefusedError, match="HTTP 404") as unknown:
        await client.load(replica.url, "nobody", LIMIT)
    assert "not found" in unknown.value.body
    with pytest.raises(RuntimeRefusedError, match="refused to load 'broken'"):
        await client.load(replica.url, "broken", LIMIT)
    assert (await states(client, replica))["broken"] != "READY"


async def test_a_model_being_loaded_is_not_ready(client, replica, gate):
    loading = asyncio.create_task(client.load(replica.url, "gated", LIMIT))
    try:
        async with asyncio.timeout(LIMIT):
            while (await states(client, replica))["gated"] == "UNAVAILABLE":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await states(client, replica))["gated"] == "UNKNOWN"
    finally:
        gate.touch()
        await loading
    assert (await states(client, replica))["gated"] == "READY"


async def test_a_paused_runtime_times_out_and_a_resumed_one_answers(client, replica):
    await client.index(replica.url, LIMIT)
    replica.pause()
    try:
        with pytest.raises(RuntimeUnreadableError) as caught:
            await client.index(replica.url, 0.2)
    finally:
        replica.resume()
    assert caught.value.kind is FailureKind.TIMEOUT
    assert await client.index(replica.url, LIMIT)


class World:
    """A mesh that is fed by a poller, and that a test can wait for."""

    def __init__(self, replicas: list[MLServer], **discovery: float) -> None:
        host = "models"
        self.mesh = Mesh()
        self.ids = [EndpointId(host, replica.address, replica.port) for replica in replicas]
        self._heard = asyncio.Condition()
        self._told: set[asyncio.Task[None]] = set()
        self.defects: list[BaseException] = []
        self.poller = Poller(self.take, on_error=self.defects.append)
        configuration = Configuration(
            services=(Service(host, "ns", (ServicePort(80, "http"),)),),
            endpoints=tuple(Endpoint(key, {"http": key.port}) for key in self.ids),
            pools=(Pool("ns/pool", host, OpenInference(**discovery)),),
        )
        self.take(ConfigurationReplaced(source="files", configuration=configuration))
        self.poller.set_targets(targets(self.mesh.routing, self.mesh.services()))

    def take(self, event: Event) -> None:
        self.mesh.apply(event)
        task = asyncio.create_task(self._tell())
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    async def _tell(self) -> None:
        async with self._heard:
            self._heard.notify_all()

    def stands(self) -> list[tuple[Health, tuple[str, ...]]]:
        found = {status.endpoint.id: status for status in self.mesh.status("models")}
        return [(found[key].health, found[key].routed) for key in self.ids]

    async def until(self, *stands: tuple[Health, tuple[str, ...]]) -> None:
        """Wait until each endpoint stands so."""
        async with asyncio.timeout(LIMIT), self._heard:
            await self._heard.wait_for(lambda: self.stands() == list(stands))

    async def close(self) -> None:
        await self.poller.close()
        assert not self.defects


async def test_loads_unloads_and_the_end_of_a_replica_are_followed(client, replica, repository, tmp_path):
    with MLServer(repository, tmp_path, "r2") as other:
        world = World([replica, other], interval=0.1, timeout=2.0, grace=0.5)
        try:
            assert await world.poller.first_round(LIMIT)
            await world.until((Health.OK, ()), (Health.OK, ()))
            await client.load(replica.url, "m1", LIMIT)
            await client.load(other.url, "m2", LIMIT)
            await world.until((Health.OK, ("m1",)), (Health.OK, ("m2",)))
            await client.unload(replica.url, "m1", LIMIT)
            await world.poller.poll_now(world.ids[0])
            assert world.stands()[0] == (Health.OK, ())
            other.kill()
            await world.until((Health.OK, ()), (Health.DOWN, ()))
            # Sorted by port: either of the two may come first.
            placed = {each.endpoint.id: each.healthy for each in world.mesh.service("models").endpoints}
            assert placed == {world.ids[0]: True, world.ids[1]: False}
        finally:
            await world.close()


async def test_a_replica_that_hangs_keeps_its_models_for_the_grace(client, replica, repository, tmp_path):
    with MLServer(repository, tmp_path, "r2") as other:
        world = World([replica, other], interval=0.1, timeout=0.3, grace=1.0)
        try:
            await client.load(replica.url, "m1", LIMIT)
            await client.load(other.url, "m2", LIMIT)
            await world.until((Health.OK, ("m1",)), (Health.OK, ("m2",)))
            other.pause()
            await world.until((Health.OK, ("m1",)), (Health.SUSPECT, ("m2",)))
            await world.until((Health.OK, ("m1",)), (Health.DOWN, ()))
            replica.pause()
            await world.until((Health.STALE, ("m1",)), (Health.DOWN, ()))
            replica.resume()
            other.resume()
            await world.until((Health.OK, ("m1",)), (Health.OK, ("m2",)))
        finally:
            replica.resume()
            await world.close()
