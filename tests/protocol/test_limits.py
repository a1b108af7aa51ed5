"""Limits over real connections and by themselves: who waits, who is refused, and that each is counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.protocol.catalogs import Clock, World
from tests.protocol.wire_client import LIMIT, WireClient, bodies, connected, served
from xds_server.transport import limits
from xds_server.transport.access import RefusedError
from xds_server.transport.admission import Admission
from xds_server.transport.limits import PushGate, RequestMeter, Turn
from xds_server.transport.server import ServerOptions
from xds_server.xds.hub import Hub
from xds_server.xds.messages import Variant
from xds_server.xds.model import CLUSTER, ENDPOINT
from xds_server.xds.status import Delay, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable


def hub_of(**eds: str) -> tuple[Hub, World]:
    hub, world = Hub(time.monotonic), World()
    world.cds = {"a": "1"}
    world.eds = {"a": "1"} | eds
    world.publish(hub.publish)
    return hub, world


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def test_a_stream_above_the_total_is_refused_and_served_once_another_ended() -> None:
    hub, _ = hub_of()
    async with served(hub, ServerOptions(max_streams=2)) as port, connected(port) as channel:
        clients = [WireClient(channel, Variant.DELTA) for _ in range(2)]
        for client in clients:
            await client.ask(CLUSTER, "a")
            await client.hear()
        third = WireClient(channel, Variant.DELTA)
        code, text = await third.ended()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert text == "this server has 2 streams, and takes no more"
        assert hub.stats.refusals == {Refusal.TOO_MANY_STREAMS: 1}
        clients[0].call.cancel()
        await until(lambda: hub.stats.streams_open == 1)
        fourth = WireClient(channel, Variant.DELTA)
        await fourth.ask(CLUSTER, "a")
        assert bodies(await fourth.hear()) == ["a=1"]


async def test_new_streams_above_the_rate_are_counted_and_served() -> None:
    hub, _ = hub_of()
    async with served(hub, ServerOptions(streams_per_second=20)) as port, connected(port) as channel:
        clients = [WireClient(channel, Variant.DELTA) for _ in range(25)]
        for client in clients:
            await client.ask(CLUSTER, "a")
            assert bodies(await client.hear()) == ["a=1"]
    assert hub.stats.delays[Delay.STREAM] > 0
    assert not hub.stats.refusals


async def test_who_leaves_while_waiting_for_a_place_gives_it_back() -> None:
    """Else those who open and cancel would push everyone else's place further and further away."""
    now = 0.0
    admission = Admission(rate=1, burst=1, clock=lambda: now)
    assert admission.delay() == 0.0
    for _ in range(50):
        waiting = asyncio.create_task(admission.enter())
        await asyncio.sleep(0)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
    assert admission.delay() == pytest.approx(1.0)


@pytest.mark.parametrize(("size", "counted"), [(5_000, 1), (50_000, 0)])
async def test_a_request_that_is_too_large_ends_its_stream_alone(size: int, counted: int) -> None:
    """Far above the limit gRPC itself refuses, with the same code."""
    hub, _ = hub_of()
    async with served(hub, ServerOptions(max_request=4_000)) as port, connected(port) as channel:
        well, large = WireClient(channel, Variant.DELTA), WireClient(channel, Variant.DELTA)
        await well.ask(CLUSTER, "a")
        await well.hear()
        await large.ask(CLUSTER, "x" * size)
        code, text = await large.ended()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "at most 4000 are read" in text or "larger than max" in text
        assert hub.stats.refusals[Refusal.REQUEST_TOO_LARGE] == counted
        await well.ask(ENDPOINT, "a")
        assert bodies(await well.hear()) == ["a=1"]
        await until(lambda: hub.stats.streams_open == 1)


async def test_a_node_of_5_megabytes_is_refused_counted_and_delays_nobody() -> None:
    hub, _ = hub_of()
    async with served(hub) as port, connected(port) as channel:
        large = WireClient(channel, Variant.DELTA, node="n" * 5_000_000)
        well = WireClient(channel, Variant.DELTA)
        await large.ask(CLUSTER, "a")
        begun = time.monotonic()
        await well.ask(CLUSTER, "a")
        assert bodies(await well.hear()) == ["a=1"]
        assert time.monotonic() - begun < 2.0
        assert (await large.ended())[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert hub.stats.refusals == {Refusal.PROTOCOL: 1}


async def test_a_flood_of_requests_is_slowed_down_then_ended_and_delays_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "FLOOD", 0.5)
    hub, world = hub_of(b="1")
    async with served(hub, ServerOptions(requests_per_second=50)) as port, connected(port) as channel:
        well, wild = WireClient(channel, Variant.DELTA), WireClient(channel, Variant.DELTA)
        await well.ask(ENDPOINT, "b")
        first = await well.hear()

        for _ in range(400):
            await wild.ask(ENDPOINT, nonce="x")
        await until(lambda: hub.stats.delays[Delay.REQUEST] > 0)
        await well.ask(ENDPOINT, nonce=first.nonce)
        world.eds["b"] = "2"
        begun = time.monotonic()
        world.publish(hub.publish)
        assert bodies(await well.hear()) == ["b=2"]
        assert time.monotonic() - begun < 1.0
        assert await wild.ended() == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "more than 50 requests a second for 0.5 seconds on end",
        )
        assert hub.stats.refusals == {Refusal.TOO_MANY_REQUESTS: 1}


def test_a_burst_of_requests_needs_not_wait_and_a_pause_ends_a_flood() -> None:
    clock = Clock()
    meter = RequestMeter(10, clock)
    assert [meter.delay() for _ in range(41)] == pytest.approx([0.0] * 40 + [0.1])
    clock.advance(limits.FLOOD - 1)
    assert meter.delay() == 0.0
    clock.advance(2)
    assert meter.delay() == 0.0
    for _ in range(200):
        meter.delay()
    clock.advance(limits.FLOOD)
    with pytest.raises(RefusedError, match="more than 10 requests a second for 10 seconds on end"):
        meter.delay()


def gate_of(limit: int, *names: str) -> tuple[PushGate, list[str], list[Turn], Counter[Delay]]:
    """A gate, a list that fills with the names of those whose turn it is, their turns, and who waited."""
    turns: list[str] = []
    delays: Counter[Delay] = Counter()
    gate = PushGate(limit, delays, time.monotonic)
    return gate, turns, [Turn(gate, partial(turns.append, name)) for name in names], delays


async def test_pushes_above_the_limit_wait_in_order_and_all_go_out() -> None:
    gate, turns, (first, second, third, fourth), delays = gate_of(2, "1", "2", "3", "4")
    for turn in (first, second, third, fourth):
        turn.ask()
    assert turns == ["1", "2"]
    assert delays == {Delay.PUSH: 2}
    second.leave()
    second.leave()
    assert turns == ["1", "2", "3"]
    for turn in (third, first, fourth):
        turn.leave()
    assert turns == ["1", "2", "3", "4"]
    assert not gate.full


async def test_what_is_asked_for_during_a_turn_is_one_more_behind_the_others() -> None:
    gate, turns, (first, second), _ = gate_of(1, "1", "2")
    first.ask()
    first.ask()
    first.begin(time.monotonic())  # sees to both
    second.ask()
    first.ask()
    first.ask()
    first.leave()
    assert turns == ["1", "2"]
    second.leave()
    assert turns == ["1", "2", "1"]
    first.leave()
    assert turns == ["1", "2", "1"]
    assert not gate.full


async def test_who_leaves_for_good_gives_back_its_place_wherever_it_stands() -> None:
    gate, turns, (first, second, third), _ = gate_of(1, "1", "2", "3")
    for turn in (first, second, third):
        turn.ask()
    second.close()  # while it waits
    first.ask()
    first.close()  # with a place, and one more turn asked for
    assert turns == ["1", "3"]
    third.close()
    third.close()
    assert turns == ["1", "3"]
    assert not gate.full
    first.ask()
    assert turns == ["1", "3", "1"]
    assert gate.full


async def test_a_push_that_is_not_taken_up_gives_its_place_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SLOW_PUSH", 0.01)
    gate, turns, (stuck, other, third), _ = gate_of(1, "stuck", "other", "third")
    stuck.ask()
    stuck.begin(time.monotonic())
    other.ask()
    await until(lambda: turns == ["stuck", "other"])
    stuck.ask()
    stuck.leave()  # it has no place to give back, and waits for its next one
    third.ask()
    assert turns == ["stuck", "other"]
    other.leave()
    stuck.leave()
    assert turns == ["stuck", "other", "stuck", "third"]
    third.leave()
    assert not gate.full


async def test_one_push_at_a_time_serves_everyone_with_a_stuck_client_among_them() -> None:
    hub, world = hub_of(b="1")
    async with (
        served(hub, ServerOptions(max_pushes=1)) as port,
        connected(port) as slow,
        connected(port) as quick,
    ):
        world.eds["a"] = "x" * 30_000_000
        world.publish(hub.publish)
        stuck = WireClient(slow, Variant.DELTA, node="stuck")
        await stuck.ask(ENDPOINT, "a")
        await until(lambda: hub.stats.bytes[ENDPOINT] > 30_000_000)
        clients = [WireClient(quick, Variant.DELTA) for _ in range(10)]
        for client in clients:
            await client.ask(ENDPOINT, "b")
        for client in clients:
            assert bodies(await client.hear()) == ["b=1"]
        assert hub.stats.delays[Delay.PUSH] > 0
        assert not hub.stats.refusals
        assert hub.stats.queue_time.cumulative()[-1][1] >= 11
        assert hub.stats.sizes[ENDPOINT].counts[-2] == 1


async def test_a_lifetime_is_spread_and_its_end_is_counted() -> None:
    hub, _ = hub_of()
    async with served(hub, ServerOptions(lifetime=0.5)) as port, connected(port) as channel:
        begun = time.monotonic()
        clients = [WireClient(channel, Variant.DELTA) for _ in range(8)]
        for client in clients:
            await client.ask(CLUSTER, "a")
            await client.hear()
        ends = []
        for client in clients:
            assert (await client.ended())[0] is grpc.StatusCode.OK
            ends.append(time.monotonic() - begun)
        assert max(ends) >= 0.4
        await until(lambda: hub.stats.streams_open == 0)
    assert hub.stats.streams_expired == 8
