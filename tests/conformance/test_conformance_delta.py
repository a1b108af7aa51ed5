"""Incremental xDS: 22 scenarios on each type's own service, the same and 4 more on the aggregated one.

They cover what the public conformance suite for xDS servers (ii/xds-test-harness) covers, and hold the
server to more: each response has exactly what is expected, and no other response comes.
"""

from __future__ import annotations

from functools import partial

import pytest

from tests.conformance.scene import either_stream, scene
from xds_server.xds.messages import Variant

every_type = pytest.mark.parametrize("kind", ["CDS", "LDS", "RDS", "EDS"])

begin = partial(scene, Variant.DELTA)


@either_stream
@pytest.mark.parametrize("kind", ["LDS", "RDS"])
async def test_only_what_is_named_is_sent(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east north south west")
        await on.client.subscribe(kind, "south east")
        await on.gets(kind, "east south")
        await on.gets_nothing()


@either_stream
@every_type
async def test_what_is_named_later_comes_alone(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east north west")
        await on.client.subscribe(kind, "east")
        await on.gets(kind, "east")
        await on.client.subscribe(kind, "west")
        await on.gets(kind, "west")
        await on.gets_nothing()


@either_stream
@every_type
async def test_what_changes_comes_alone(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east north west")
        await on.client.subscribe(kind, "east north west")
        before = await on.gets(kind, "east north west")
        on.state.put(kind, "north", "2")
        after = await on.gets(kind, "north=2")
        assert after.versions["north"] not in before.versions.values()
        await on.gets_nothing()


@either_stream
@every_type
async def test_what_does_not_exist_is_said_and_is_sent_once_it_does(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east")
        await on.client.subscribe(kind, "east west")
        await on.gets(kind, "east", absent="west")
        await on.gets_nothing()
        on.state.put(kind, "west", "1")
        await on.gets(kind, "west")
        await on.gets_nothing()


@either_stream
@every_type
async def test_what_is_removed_is_said_and_is_sent_once_it_is_back(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east west")
        await on.client.subscribe(kind, "east west")
        await on.gets(kind, "east west")
        on.state.remove(kind, "west")
        await on.gets(kind, "", absent="west")
        on.state.put(kind, "west", "2")
        await on.gets(kind, "west=2")
        await on.gets_nothing()


@either_stream
@every_type
async def test_what_is_dropped_is_sent_no_more_one_after_the_other(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east west")
        await on.client.subscribe(kind, "east west")
        await on.gets(kind, "east west")
        await on.client.keep_only(kind, "east")
        on.state.put(kind, "west", "2")
        await on.gets_nothing()
        await on.client.keep_only(kind, "")
        on.state.put(kind, "east", "2")
        await on.gets_nothing()


@pytest.mark.parametrize(
    ("first", "second"), [("CDS", "LDS"), ("LDS", "CDS"), ("RDS", "EDS"), ("EDS", "RDS")]
)
async def test_one_stream_carries_two_types(first: str, second: str) -> None:
    async with begin(first, aggregated=True) as on:
        on.state.set_up(first, second, names="east north west")
        await on.client.subscribe(first, "north")
        await on.client.subscribe(second, "north")
        await on.gets(first, "north")
        await on.gets(second, "north")
        for kind in (first, second):
            on.state.put(kind, "north", "2")
            await on.gets(kind, "north=2")
        await on.gets_nothing()
