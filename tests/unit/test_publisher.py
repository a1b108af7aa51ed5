"""The publisher: at once, merged within the window, never before the first sync, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from moves_world import FakeEnvoy, World

from xds_server.publisher import NotSyncedError, Publisher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from xds_server.resources.views import ViewCatalog


@pytest.fixture
async def world() -> World:
    return World().start(m="1,2")


@contextlib.asynccontextmanager
async def running(publisher: Publisher) -> AsyncIterator[None]:
    task = asyncio.create_task(publisher.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def load(world: World, number: int, model: str) -> None:
    world.loaded[world.id(number)].add(model)
    world.report(world.id(number))
    world.publisher.notify()


async def test_nothing_is_published_before_the_first_sync() -> None:
    world = World()
    async with running(world.publisher):
        world.publisher.notify()
        await turns()
        with pytest.raises(NotSyncedError, match="readyz"):
            world.publisher.flush()
        assert (world.publisher.publications, world.hub.serial) == (0, 0)
        assert world.publisher.start() == 1
    assert world.hub.serial == 1


async def test_a_flush_publishes_what_is_dirty_and_only_that(world: World) -> None:
    assert world.publisher.flush() == 1
    load(world, 3, "m")
    assert world.publisher.flush() == 2
    assert world.publisher.flush() == 2
    assert world.publisher.publications == 2
    assert world.publisher.last_duration > 0


async def test_the_first_change_goes_out_at_once_and_those_that_follow_together(world: World) -> None:
    publisher = world.publisher = Publisher(world.mesh, world.builder, world.hub, window=0.1)
    publisher.start()
    published = asyncio.Event()
    async with running(publisher):
        begun = asyncio.get_running_loop().time()
        load(world, 1, "a")
        await turns()
        assert publisher.publications == 2
        FakeEnvoy(world, "a").session.take()
        world.hub.add_listener(published.set)
        for model in "bcd":
            load(world, 1, model)
            await turns()
        assert publisher.publications == 2
        async with asyncio.timeout(5):
            await published.wait()
        assert asyncio.get_running_loop().time() - begun >= 0.1
        await turns()
        assert publisher.publications == 3
    assert world.routed(1) == ("a", "b", "c", "d", "m")


async def test_a_change_is_not_as_old_as_one_before_it_that_made_no_difference(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    told: list[float | None] = []
    publish = world.hub.publish

    def noting(catalog: ViewCatalog, since: float | None = None) -> None:
        told.append(since)
        publish(catalog, since)

    monkeypatch.setattr(world.hub, "publish", noting)
    monkeypatch.setattr(world.hub, "clock", lambda: now)
    async with running(world.publisher):
        world.publisher.notify()
        await turns()
        assert told == []
        now = 3700.0
        load(world, 1, "a")
        await turns()
    assert told == [3700.0]


async def test_a_change_whose_build_failed_is_still_owed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who asks next would be told of a serial that does not have it."""

    def broken(*_: object, **__: object) -> ViewCatalog:
        raise RuntimeError("a defect")

    load(world, 3, "m")
    with monkeypatch.context() as patched:
        patched.setattr(world.builder, "build", broken)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="a defect"):
                world.publisher.flush()
    assert world.publisher.flush() == 2
