"""What a real Envoy makes of a rule's ways to pick one of several holders."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.scale_world import ScaleWorld
from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.policies import Balancer, Fallback, Warmup

if TYPE_CHECKING:
    from collections import Counter

WARMUP = 6.0
"""Seconds; a new holder begins with a tenth of a share, Envoy's default."""
PICKS = 200


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
