"""State of the world: 24 scenarios on each type's own service, the same and 2 more on the aggregated one.

They cover what the public conformance suite for xDS servers (ii/xds-test-harness) covers, and hold the
server to more: each response has exactly what is expected, and no other response comes.
"""

from __future__ import annotations

from functools import partial

import pytest

from tests.conformance.scene import either_stream, scene
from xds_server.xds.messages import Variant

whole_types = pytest.mark.parametrize("kind", ["CDS", "LDS"])
"""A response of these types carries everything that is asked for."""

partial_types = pytest.mark.parametrize("kind", ["RDS", "EDS"])
"""A response of these types carries what changed."""

begin = partial(scene, Variant.SOTW)


@either_stream
@whole_types
async def test_a_wildcard_gets_everything_in_one_response(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east north west")
        await on.client.subscribe_to_everything(kind)
        await on.gets(kind, "east north west")
        await on.gets_nothing()


@either_stream
@whole_types
async def test_a_wildcard_gets_everything_again_when_one_changes(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east north west")
        await on.client.subscribe_to_everything(kind)
        await on.gets(kind, "east north west")
        on.state.put(kind, "north", "2")
        await on.gets(kind, "east north=2 west")
        await on.gets_nothing()


@either_stream
@whole_types
async def test_a_wildcard_gets_what_is_added(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east north west")
        await on.client.subscribe_to_everything(kind)
        await on.gets(kind, "east north west")
        on.state.put(kind, "south", "2")
        await on.gets(kind, "east north south=2 west")
        await on.gets_nothing()


@either_stream
@pytest.mark.parametrize("kind", ["LDS", "RDS"])
async def test_only_what_is_named_is_sent(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east north south west")
        await on.client.subscribe(kind, "south east")
        await on.gets(kind, "east south")
        await on.gets_nothing()


@either_stream
@whole_types
async def test_all_that_is_named_is_sent_again_when_one_changes(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east north south west")
        await on.client.subscribe(kind, "north west")
        await on.gets(kind, "north west")
        on.state.put(kind, "north", "2")
        await on.gets(kind, "north=2 west")
        await on.gets_nothing()


@either_stream
@partial_types
async def test_of_what_is_named_the_changed_is_sent(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east north south west")
        await on.client.subscribe(kind, "north west")
        await on.gets(kind, "north west")
        on.state.put(kind, "north", "2")
        await on.gets(kind, "north=2")
        await on.gets_nothing()


@either_stream
@whole_types
async def test_what_did_not_exist_is_sent_with_the_rest_once_it_does(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east north west")
        await on.client.subscribe(kind, "east zenith")
        await on.gets(kind, "east")
        on.state.put(kind, "zenith", "2")
        await on.gets(kind, "east zenith=2")
        await on.gets_nothing()


@either_stream
@partial_types
async def test_what_did_not_exist_is_sent_once_it_does(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east north west")
        await on.client.subscribe(kind, "east zenith")
        await on.gets(kind, "east")
        on.state.put(kind, "zenith", "2")
        await on.gets(kind, "zenith=2")
        await on.gets_nothing()


@either_stream
@whole_types
async def test_what_stays_named_is_sent_on_after_others_were_dropped(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east north south west")
        await on.client.subscribe(kind, "east north south")
        await on.gets(kind, "east north south")
        await on.client.keep_only(kind, "east")
        on.state.put(kind, "east", "2")
        await on.gets(kind, "east=2")
        await on.gets_nothing()


@either_stream
@partial_types
async def test_nothing_but_what_stays_named_is_sent_after_others_were_dropped(
    kind: str, aggregated: bool
) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east north south west")
        await on.client.subscribe(kind, "north west")
        await on.gets(kind, "north west")
        await on.client.keep_only(kind, "north")
        on.state.put(kind, "west", "2")
        on.state.put(kind, "north", "2")
        await on.gets(kind, "north=2")
        await on.gets_nothing()


@either_stream
@pytest.mark.parametrize("kind", ["CDS", "RDS", "LDS", "EDS"])
async def test_nothing_is_sent_after_everything_was_dropped(kind: str, aggregated: bool) -> None:
    async with begin(kind, aggregated) as on:
        on.state.set_up(kind, names="east north south west")
        await on.client.subscribe(kind, "east north")
        await on.gets(kind, "east north")
        await on.client.keep_only(kind, "")
        on.state.put(kind, "north", "2")
        await on.gets_nothing()


@pytest.mark.parametrize(("first", "second"), [("CDS", "LDS"), ("RDS", "EDS")])
async def test_one_stream_carries_two_types(first: str, second: str) -> None:
    async with begin(first, aggregated=True) as on:
        on.state.set_up(first, second, names="east north west")
        await on.client.subscribe(first, "north")
        await on.gets(first, "north")
        await on.client.subscribe(second, "north")
        await on.gets(second, "north")
        on.state.put(first, "north", "2")
        await on.gets(first, "north=2")
        await on.gets_nothing()
