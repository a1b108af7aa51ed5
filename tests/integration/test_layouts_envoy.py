"""What a real Envoy makes of each layout: the same answers, whatever the layout, and none lost on the way."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.integration.scale_world import ScaleWorld
from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.policies import Fallback
from xds_server.resources.shards import shard_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANY, NO, DEFAULT = Fallback.ANY_ENDPOINT, Fallback.NO_FALLBACK, Fallback.DEFAULT_SUBSET
LAYOUTS = {
    "single": PoolLayout(LayoutKind.SINGLE),
    "sharded": PoolLayout(LayoutKind.SHARDED, 4),
    "perModel": PoolLayout(LayoutKind.PER_MODEL),
}
MOVES_SECONDS = float(os.environ.get("MOVES_SECONDS", "6"))
"""How long models move under load in each layout; the full run of the benchmark takes 60 s."""

CONNECTIONS = 16
"""Of the traffic: each with one request at a time."""

EVERYONE = {"r0", "r1", "r2"}
REFUSED: set[str] = set()

MISSES = {
    "refused": ({"fallback": NO}, REFUSED, REFUSED),
    "any": ({"fallback": ANY}, EVERYONE, EVERYONE),
    "default": ({"fallback": DEFAULT, "labels": {"n": "1"}}, {"r1"}, {"r1"}),
    "any-without-a-model": ({"fallback": NO, "no_model": ANY}, EVERYONE, REFUSED),
    "any-when-not-loaded": ({"fallback": ANY, "no_model": NO}, REFUSED, EVERYONE),
}
"""A pool's policies, and who answers a request without a model, and one whose model nobody has."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def misses() -> AsyncIterator[ScaleWorld]:
    async with ScaleWorld() as world:
        for replica in world.replicas:
            replica.answer_any = True
        for layout, (name, (policies, _, _)) in itertools.product(LAYOUTS, MISSES.items()):
            world.add(f"{layout}-{name}", LAYOUTS[layout], **policies)
        world.configure()
        for name in world.port:
            for number, models in enumerate((("a", "both"), ("b", "both", "gone"), ())):
                world.report(name, number, models)
        await world.start()
        for name in world.port:
            world.report(name, 1, ("b", "both"))
            await world.published(name, "gone")
        yield world


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MISSES)
async def test_every_miss_policy_in_every_layout(misses: ScaleWorld, layout: str, name: str) -> None:
    pool = f"{layout}-{name}"
    _, without, unknown = MISSES[name]
    for model, holders in (("a", {"r0"}), ("b", {"r1"}), ("both", {"r0", "r1"})):
        await answered_by(misses, pool, model, holders)
    for model, wanted in ((None, without), ("nobody's", unknown), ("never", unknown), ("gone", unknown)):
        await answered_by(misses, pool, model, wanted or {"503"})


async def answered_by(world: ScaleWorld, pool: str, model: str | None, wanted: set[str]) -> None:
    """Nobody else ever, and all of them in the end: on a busy machine one may be left out for a while."""
    found: set[str] = set()

    async def all_of_them() -> bool:
        found.update(await world.spread(pool, model))
        assert found <= wanted, (model, found)
        return found == wanted

    await world.until(all_of_them, f"{pool}: {model} answered by {wanted}")


async def test_clusters_made_on_demand_serve_from_the_first_request_on() -> None:
    """With the bootstrap meant for them: no cluster of a model until it is asked for, and few stats."""
    async with ScaleWorld(per_model=True) as world:
        world.add("pool", LAYOUTS["perModel"], NO)
        world.configure()
        for number, replica in enumerate(world.replicas):
            replica.models = {f"m{number}/{each}" for each in range(100)}
            world.report("pool", number, replica.models)
        await world.start()
        for number in range(3):
            assert set(await world.spread("pool", f"m{number}/7", 5)) == {f"r{number}"}
        assert set(await world.spread("pool", "m3/1", 5)) == {"503"}
        stats = await asyncio.to_thread(world.envoy.stats, "^cluster")
        requested = {name for name in stats if name.endswith("~m0/7.upstream_rq_total")}
        assert len(requested) == 1
        assert not any("~" in name and "upstream_cx_connect" in name for name in stats)
        world.report("pool", 0, world.replicas[0].models - {"m0/7"})
        await world.published("pool", "m0/7")
        assert set(await world.spread("pool", "m0/7", 5)) == {"503"}


async def test_the_memory_of_envoy_after_a_thousand_changes() -> None:
    """Of a sharded pool; what the process takes at rest may not grow with the number of changes."""
    async with ScaleWorld() as world:
        world.add("pool", LAYOUTS["sharded"], NO)
        world.configure()
        models = [f"m{number}" for number in range(100)]
        for number in range(3):
            world.report("pool", number, models)
        await world.start()

        async def change(count: int) -> int:
            for number in range(count):
                world.report("pool", number % 3, [m for m in models if m != models[number % 100]])
                await world.published("pool", models[number % 100])
            return await asyncio.to_thread(world.memory)

        before = await change(200)
        assert await change(1000) < before + 4 * 2**20


def names_of_every_kind(count: int) -> list[str]:
    made = random.Random(7)
    kinds = (
        lambda n: f"model-{n}",
        lambda n: f"team/{n % 7}/model-{n}",
        lambda n: f"a%2F{n}%20b",
        lambda n: f"naïve-☃-{n}-模型",
        lambda n: f"{'x' * (100 + n % 900)}{n}",
        lambda n: "".join(chr(made.randrange(33, 127)) for _ in range(12)) + str(n),
    )
    return [kinds[n % len(kinds)](n) for n in range(count)]


@pytest.mark.parametrize("place", ["header", "path"])
async def test_the_shard_that_envoy_picks_is_ours(place: str) -> None:
    """Each replica has the models of one shard alone: in any other there is no subset of them."""
    count = 16
    names = names_of_every_kind(5000)
    async with ScaleWorld(count) as world:
        for replica in world.replicas:
            replica.answer_any = True
        world.add("pool", PoolLayout(LayoutKind.SHARDED, count), NO)
        world.configure()
        for number in range(count):
            world.report("pool", number, [name for name in names if shard_of(name, count) == number])
        await world.start()
        connections = [world.connection("pool") for _ in range(8)]

        async def ask(number: int) -> list[tuple[str, tuple[int, str]]]:
            asked = names[number::8]
            if place == "header":
                answers = [(name, await connections[number].get(name)) for name in asked]
            else:
                paths = [(name, f"/v2/models/{quote(name, safe='')}/infer") for name in asked]
                answers = [(name, await connections[number].get(path=path)) for name, path in paths]
            return [each for each in answers if each[1] != (200, f"r{shard_of(each[0], count)}")]

        assert await asyncio.gather(*map(ask, range(8))) == [[]] * 8


class Traffic:
    """Requests at a steady rate for models that are always loaded somewhere; `failures` by what came back."""

    def __init__(self, world: ScaleWorld, pool: str, models: list[str], rate: float) -> None:
        self._connections = [world.connection(pool) for _ in range(CONNECTIONS)]
        self._models = models
        self._rate = rate / CONNECTIONS
        self.count = 0
        self.failures: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(CONNECTIONS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _run(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        begun, made = loop.time(), 0
        while not self._stop.is_set():
            if (early := begun + made / self._rate - loop.time()) > 0:
                await asyncio.sleep(early)
            model = self._models[(made * CONNECTIONS + number) % len(self._models)]
            made += 1
            try:
                status, text = await self._connections[number].get(model)
            except (OSError, asyncio.IncompleteReadError) as error:
                self._connections[number].close()
                status, text = 0, repr(error)
            self.count += 1
            if status != 200:
                self.failures[f"{status} {text}"] += 1


async def test_a_change_of_layout_under_traffic_loses_no_request() -> None:
    models = [f"m{number}" for number in range(60)]
    layouts = [
        PoolLayout(LayoutKind.SINGLE),
        PoolLayout(LayoutKind.SHARDED, 4),
        PoolLayout(LayoutKind.SHARDED, 16),
        PoolLayout(LayoutKind.PER_MODEL),
        PoolLayout(LayoutKind.SHARDED, 8),
        PoolLayout(LayoutKind.SINGLE),
    ]
    async with ScaleWorld(4, linger=0.5) as world:
        world.add("pool", layouts[0], NO)
        world.configure()
        for number, replica in enumerate(world.replicas):
            replica.models = {
                model for place, model in enumerate(models) if number in {place % 4, (place + 1) % 4}
            }
            world.report("pool", number, replica.models)
        await world.start()
        seen = []
        async with Traffic(world, "pool", models, 500.0) as traffic:
            for layout in layouts[1:]:
                world.add("pool", layout, NO)
                world.configure()
                world.publisher.flush()
                wanted = {name.removeprefix("pool|") for name in world.builder.assignments("pool")}

                async def only_these() -> bool:
                    state = world.builder.state("pool")
                    assert state is not None
                    if state.former:
                        return False
                    there = set(await asyncio.to_thread(world.envoy.clusters)) - {"xds"}
                    return there == set(world.builder.assignments("pool"))

                await world.until(only_these, f"Envoy to have {layout} alone")
                seen.append(len(wanted))
                await asyncio.sleep(0.5)
        assert traffic.failures == Counter()
        assert traffic.count > 500
        assert seen == [6, 21, 77, 69, 10]
        stats = await asyncio.to_thread(world.envoy.stats, "update_rejected")
        assert not any(stats.values())


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_models_that_move_ten_times_a_second_under_load_lose_no_request(layout: str) -> None:
    """Each has one holder; a move makes the new one before it breaks the old one, as load and unload do."""
    models = [f"m{number}" for number in range(40)]
    place = {model: number % 4 for number, model in enumerate(models)}
    async with ScaleWorld(4) as world:
        world.add("pool", LAYOUTS[layout], NO)
        world.configure()
        for number, replica in enumerate(world.replicas):
            replica.models = {model for model in models if place[model] == number}
            world.report("pool", number, replica.models)
        await world.start()
        loop, moved = asyncio.get_running_loop(), 0

        async def move(model: str) -> None:
            before, after = place[model], (place[model] + 1) % 4
            place[model] = after
            world.replicas[after].models.add(model)
            world.report("pool", after, world.replicas[after].models)
            await world.published("pool", model)
            await world.withdraw("pool", before, model)
            await asyncio.sleep(0.3)  # settle and drain
            world.replicas[before].models.discard(model)
            world.report("pool", before, world.replicas[before].models)

        async with Traffic(world, "pool", models, 300.0) as traffic, asyncio.TaskGroup() as group:
            begun = loop.time()
            while loop.time() - begun < MOVES_SECONDS:
                group.create_task(move(models[moved % len(models)]))
                moved += 1
                await asyncio.sleep(max(0.0, begun + moved / 10 - loop.time()))
        assert traffic.failures == Counter()
        assert traffic.count > 30 * MOVES_SECONDS
        assert moved >= 9 * MOVES_SECONDS
