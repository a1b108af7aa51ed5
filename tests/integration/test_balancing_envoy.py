"""What a real Envoy makes of a rule's ways to pick one of several holders."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.scale_world import ScaleWorld
from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.policies import Balancer, ConsistentHash, Fallback, HashTable, Warmup

if TYPE_CHECKING:
    from collections import Counter

WARMUP = 6.0
"""Seconds; a new holder begins with a tenth of a share, Envoy's default."""
PICKS = 200
SESSIONS = [f"session-{number}" for number in range(160)]


@pytest.mark.parametrize("balancer", [Balancer.LEAST_REQUEST, Balancer.ROUND_ROBIN])
async def test_a_holder_warms_up_where_it_is_new_to_the_cluster(balancer: Balancer) -> None:
    """A model's second holder: new to the model's own cluster, and in a pool's one cluster just a holder."""
    async with ScaleWorld(2) as world:
        for layout in (LayoutKind.PER_MODEL, LayoutKind.SINGLE):
            world.add(
                layout, PoolLayout(layout), Fallback.NO_FALLBACK, balancer=balancer, warmup=Warmup(WARMUP)
            )
        for replica in world.replicas:
            replica.models = {"m", "other"}
        world.configure()
        for name in world.port:
            world.report(name, 0, ("m",))
            world.report(name, 1, ("other",))
        await world.start()
        for name in world.port:
            assert set(await world.spread(name, "m", 10)) == {"r0"}
        warm_at = time.monotonic() + WARMUP

        async def first_holder_is_warm() -> bool:
            await asyncio.gather(*(world.spread(name, "m", 1) for name in world.port))
            return time.monotonic() > warm_at

        await world.until(first_holder_is_warm, "the first holder to be warm")
        shares: dict[str, Counter[str]] = {}
        for name in world.port:
            world.report(name, 1, ("m", "other"))
            await world.published(name, "m")
            shares[name] = await world.spread(name, "m", PICKS)
        assert 0 < shares[LayoutKind.PER_MODEL]["r1"] < PICKS / 3, shares
        assert PICKS / 3 < shares[LayoutKind.SINGLE]["r1"] < PICKS * 2 / 3, shares


@pytest.mark.parametrize("layout", [LayoutKind.PER_MODEL, LayoutKind.SINGLE])
@pytest.mark.parametrize("table", HashTable)
async def test_a_session_stays_with_one_holder_of_its_model(layout: LayoutKind, table: HashTable) -> None:
    """Never with a replica without it; most sessions of the others stay where they are when a holder goes."""
    async with ScaleWorld(4) as world:
        world.add(
            "pool",
            PoolLayout(layout),
            Fallback.NO_FALLBACK,
            consistent_hash=ConsistentHash("x-session", table, 1021),
        )
        world.configure()
        holders = {"m": (0, 1, 2), "n": (1, 3)}
        for number, replica in enumerate(world.replicas):
            replica.models = {model for model, having in holders.items() if number in having}
            world.report("pool", number, replica.models)
        await world.start()
        connection = world.connection("pool")

        async def homes(model: str) -> dict[str, str]:
            found = {session: await connection.get(model, session=session) for session in SESSIONS}
            for session in SESSIONS:
                assert await connection.get(model, session=session) == found[session]
            assert {status for status, _ in found.values()} == {200}
            return {session: name for session, (_, name) in found.items()}

        await world.until(lambda: answers(world, "m", {"r0", "r1", "r2"}), "m on all of its holders")
        before = await homes("m")
        assert set(before.values()) == {"r0", "r1", "r2"}
        assert set((await homes("n")).values()) == {"r1", "r3"}
        world.report("pool", 2, ())
        await world.published("pool", "m")
        after = await homes("m")
        assert set(after.values()) == {"r0", "r1"}
        moved = [session for session in SESSIONS if before[session] != after[session]]
        stayed = [session for session in SESSIONS if before[session] != "r2"]
        # Both tables move some more than they have to, with as many entries for fewer; chance moves half.
        assert len(set(moved) & set(stayed)) < len(stayed) / 3


async def answers(world: ScaleWorld, model: str, wanted: set[str]) -> bool:
    """Without the header a request goes to any holder."""
    return set(await world.spread("pool", model)) == wanted
