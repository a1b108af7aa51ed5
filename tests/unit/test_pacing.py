"""Pacing: the first change at once, then a set share of a worker's time; withdrawals before additions."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from moves_world import HOST, FakeEnvoy, World, configuration

from tests.resources_pictures import HOST as POOL_HOST
from tests.resources_pictures import picture, placed, policy, pool
from xds_server.mesh.layout import AUTO, LayoutKind, PoolLayout
from xds_server.publisher import Publisher
from xds_server.resources.pacing import PERIOD, RESERVE, Pace
from xds_server.resources.service_state import ServiceState
from xds_server.resources.shards import Sharding
from xds_server.xds.hub import Hub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from xds_server.mesh.model import ServicePicture

COST, SHARE = 0.005, 0.05
REST = COST / SHARE


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    return Pace(clock, SHARE)


def may(pace: Pace, name: str = "a", *, withdrawal: bool = False, urgent: bool = False) -> bool:
    return pace.may((name,), COST, withdrawal=withdrawal, urgent=urgent)


def test_the_first_goes_at_once_and_the_next_after_its_rest(pace: Pace, clock: Clock) -> None:
    pace.begin()
    assert may(pace)
    assert not may(pace)
    assert pace.next_at == pytest.approx(clock.now + REST)
    clock.now += REST + 1e-9
    pace.begin()
    assert pace.next_at is None
    assert may(pace)


def test_each_cluster_rests_for_itself(pace: Pace) -> None:
    assert may(pace, "busy")
    assert not may(pace, "busy")
    assert may(pace, "quiet")


def test_rebuilds_take_the_share_over_time_however_many_changes_there_are(pace: Pace, clock: Clock) -> None:
    pushed, begun = 0, clock.now
    while clock.now < begun + 60:
        pushed += may(pace)
        clock.now += 0.01
    assert pushed * COST / 60 == pytest.approx(SHARE, rel=0.15)


def test_a_withdrawal_goes_before_additions_and_they_wait_for_it(pace: Pace, clock: Clock) -> None:
    assert may(pace)
    assert not may(pace)
    assert may(pace, withdrawal=True)
    clock.now += REST + 1e-9
    assert not may(pace), "the withdrawal's cost is added to the rest"
    clock.now += REST
    assert may(pace)


def test_withdrawals_keep_the_share_too_when_there_are_many(pace: Pace, clock: Clock) -> None:
    pushed, begun = 0, clock.now
    assert RESERVE <= sum(may(pace, withdrawal=True) for _ in range(3 * RESERVE)) <= RESERVE + 1
    while clock.now < begun + 60:
        pushed += may(pace, withdrawal=True)
        clock.now += 0.01
    assert pushed * COST / 60 == pytest.approx(SHARE, rel=0.15)


def test_what_somebody_waits_for_goes_and_is_accounted_for(pace: Pace, clock: Clock) -> None:
    assert [may(pace, urgent=True) for _ in range(3)] == [True] * 3
    clock.now += 2 * REST
    assert not may(pace)
    clock.now += REST + 1e-9
    assert may(pace)


def test_many_moves_keep_no_later_change_back_for_long(pace: Pace, clock: Clock) -> None:
    for _ in range(1000):
        assert may(pace, urgent=True)
    clock.now += REST + 1e-9
    assert may(pace, withdrawal=True), "a replica that died must not wait for what moves have cost"
    clock.now += (RESERVE + 1) * REST + 1e-9
    assert may(pace)


def test_rests_that_are_over_are_forgotten(pace: Pace, clock: Clock) -> None:
    for number in range(1000):
        may(pace, f"{number}")
        clock.now += REST
        pace.begin()
    assert len(pace._rests) < 200


def test_services_that_change_no_more_are_forgotten(pace: Pace, clock: Clock) -> None:
    for number in range(1000):
        pace.begin()
        pace.changed(f"host-{number}", 1)
        clock.now += 1
    assert len(pace._changes) < 200
    assert pace.rate("host-999") == 1 / PERIOD


def test_the_rate_of_changes_is_that_of_the_last_minute(pace: Pace, clock: Clock) -> None:
    assert pace.rate("h") == 0
    for _ in range(int(PERIOD) * 4):
        pace.changed("h", 2)
        clock.now += 0.5
    assert pace.rate("h") == pytest.approx(4, rel=0.05)
    clock.now += PERIOD + 1
    assert pace.rate("h") == 0


@contextlib.asynccontextmanager
async def running(publisher: Publisher) -> AsyncIterator[None]:
    task = asyncio.create_task(publisher.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def report(world: World, number: int, *models: str) -> None:
    world.loaded[world.id(number)] = set(models)
    world.report(world.id(number))
    world.publisher.notify()


def routed(world: World) -> list[tuple[str, ...]]:
    """The models of each endpoint, as the last catalog has them in bytes."""
    state = world.builder.state(HOST)
    assert state is not None
    ((_, shards),) = state.targets.items()
    ((_, made),) = shards.items()
    assert made.assignment is not None
    return [tuple(sorted(name for name in "abcdefm" if b"\x1a\x01" + name.encode() in made.assignment.body))]


async def test_additions_are_merged_while_a_cluster_rests_and_a_withdrawal_is_not() -> None:
    world = World().start(m="1,2")
    # A share so small that the first push's rest outlasts the test.
    publisher = world.publisher = Publisher(world.mesh, world.builder, world.hub, window=0.0, share=1e-6)
    publisher.start()
    async with running(publisher):
        report(world, 1, "m", "a")
        await _turns()
        assert routed(world) == [("a", "m")]
        for names in ("ab", "abc", "abcd"):
            report(world, 1, "m", *names)
            await _turns()
        assert routed(world) == [("a", "m")], "they wait"
        assert publisher.pace.next_at is not None
        report(world, 1, "m", "b", "c", "d")
        await _turns()
        assert routed(world) == [("b", "c", "d", "m")], "a goes at once, and takes what waited along"
        report(world, 1, "m", "b", "c", "d", "e")
        await _turns()
        assert routed(world) == [("b", "c", "d", "m")]
        publisher.flush()
        assert routed(world) == [("b", "c", "d", "e", "m")], "a move waits for nothing"
        assert publisher.pace.next_at is None


async def test_convergence_counts_the_rest_that_a_change_waited_for(clock: Clock) -> None:
    world = World()
    hub = world.hub = Hub(clock)
    publisher = world.publisher = Publisher(
        world.mesh, world.builder, hub, window=0.0, share=1e-6, clock=clock
    )
    world.start(m="1,2")
    envoy = FakeEnvoy(world, "a")
    clock.now += 100
    took = []
    # The first goes at once; the second waits for the rest of its cluster, and with it the third.
    for models in ("a", "ab", "abc"):
        world.loaded[world.id(1)] = {"m", *models}
        world.report(world.id(1))
        publisher.notify()
        publisher._publish(urgent=False)
        envoy.pump()
        took.append(hub.stats.convergence.total)
        clock.now += 1
    assert publisher.pace.next_at is not None
    assert (took[1] - took[0], took[2] - took[0]) == (0, 0), "they have not been sent"
    begun = clock.now - 2
    clock.now = publisher.pace.next_at + 1e-6
    publisher._publish(urgent=False)
    envoy.pump()
    assert hub.stats.convergence.total - took[0] == pytest.approx(clock.now - begun)


async def test_what_waits_goes_when_the_rest_is_over() -> None:
    world = World().start(m="1,2")
    publisher = world.publisher = Publisher(world.mesh, world.builder, world.hub, window=0.0, share=1e-4)
    publisher.start()
    async with running(publisher):
        report(world, 1, "m", "a")
        await _turns()
        report(world, 1, "m", "a", "b")
        await _turns()
        assert routed(world) == [("a", "m")]
        assert publisher.pace.next_at is not None
        async with asyncio.timeout(10):
            while routed(world) != [("a", "b", "m")]:  # noqa: ASYNC110 - nobody is told of a publication
                await asyncio.sleep(0.01)
        assert publisher.pace.next_at is None


def test_a_rate_that_swings_about_a_step_changes_no_layout(pace: Pace, clock: Clock) -> None:
    def shown(moment: int) -> ServicePicture:
        models = [[f"m{(5 * port + n) % 500}" for n in range(20)] for port in range(2, 101)]
        endpoints = (placed(port, sorted(each)) for port, each in enumerate(models, start=2))
        return picture(placed(1, [f"m{moment}"]), *endpoints, policy=policy(), pool=pool(layout=AUTO))

    state = ServiceState(shown(0), Sharding())
    counts = []
    for moment, rate in enumerate((10, 17, 10, 17, 10, 5), start=1):
        clock.now += PERIOD + 1
        pace.changed(POOL_HOST, int(rate * PERIOD))
        state.show(shown(moment), pace)
        counts.append(state.layout.count)
    few, many = counts[0], counts[1]
    assert few < many
    assert counts == [few, many, many, many, many, few]


async def test_a_layout_that_was_left_twice_lingers_from_the_second_time(clock: Clock) -> None:
    world = World().start(m="1,2")
    publisher = Publisher(world.mesh, world.builder, world.hub, linger=10.0, clock=clock)
    publisher.start()
    documents = configuration(*world.ports)
    for count in (2, 1, 2):
        clock.now += 4
        kind = LayoutKind.SINGLE if count == 1 else LayoutKind.SHARDED
        pool = replace(documents.pools[0], layout=PoolLayout(kind, None if count == 1 else count))
        world.configure(replace(documents, pools=(pool, *documents.pools[1:])))
        publisher.flush()
    single = f"{HOST}|8033"
    async with running(publisher):
        clock.now += 3  # 11 s after it was left first, 3 s after the second time
        publisher.notify()
        await _turns()
        assert single in world.assignments()
        clock.now += 8
        publisher.notify()
        await _turns()
        assert single not in world.assignments()


async def _turns(number: int = 8) -> None:
    for _ in range(number):
        await asyncio.sleep(0)
