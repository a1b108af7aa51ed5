"""Clients that do not read, flood, talk nonsense, are huge, or leave: nobody else notices, nothing stays."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from envoy_data_plane.envoy.config.core.v3 import Node

from tests.protocol.catalogs import World
from tests.protocol.hostile_requests import NODES, nonsense, request, with_node
from tests.protocol.pulse import Pulse, beating
from tests.protocol.wire_client import LIMIT, WireClient, connected, served
from xds_server.transport.codec import MAX_NODE
from xds_server.transport.server import ServerOptions
from xds_server.transport.stream import Stream
from xds_server.xds.hub import Hub
from xds_server.xds.messages import Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ORDER
from xds_server.xds.session import MAX_TYPES, Session
from xds_server.xds.status import Refusal
from xds_server.xds.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.parametrize("variant", list(Variant), ids=str)

MEGABYTE = 1_000_000
UNHINDERED = ServerOptions(streams_per_second=1_000_000)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def alone(pulse: Pulse) -> None:
    """Every hostile stream is gone; what is left is the well-behaved client's one subscription."""
    await until(lambda: pulse.hub.stats.streams_open == 1)
    assert len(pulse.hub.index) == 1


async def outcome(client: WireClient) -> tuple[grpc.StatusCode, str]:
    """How the server ends the stream, after whatever it says."""
    async with asyncio.timeout(LIMIT):
        try:
            while await client.call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return await client.ended()


async def served_or_refused(client: WireClient) -> str:
    """Whether the first request is answered, or else the status that it is refused with."""
    async with asyncio.timeout(3 * LIMIT):
        try:
            data = await client.call.read()
        except grpc.aio.AioRpcError as error:
            return error.code().name
    assert data is not grpc.aio.EOF
    return "served"


# Those that do not read


async def test_those_that_never_read_cost_one_response_each(variant: Variant) -> None:
    async with beating(variant) as pulse, connected(pulse.port) as channel:
        pulse.world.eds["a"] = "0" * 2 * MEGABYTE
        stuck = [WireClient(channel, variant, node=f"stuck-{number}") for number in range(10)]
        for client in stuck:
            await client.ask(ENDPOINT, "a")
        for round_ in range(10):
            pulse.world.eds["a"] = str(round_) * 2 * MEGABYTE
            await pulse.more(2)
        waiting = [each for each in pulse.hub.clients() if each.id.startswith("stuck")]
        assert len(waiting) == len(stuck)
        assert {each.types[0].state for each in waiting} == {"STALE"}
        assert pulse.hub.stats.bytes[ENDPOINT] < (len(stuck) + 1) * 2 * MEGABYTE
        for client in stuck:
            client.call.cancel()
        await alone(pulse)


async def test_one_that_acknowledges_what_it_has_not_read_is_written_no_more_than_it_takes(
    variant: Variant,
) -> None:
    async with beating(variant) as pulse, connected(pulse.port) as channel:
        stuck = WireClient(channel, variant, node="stuck")
        await stuck.ask(ENDPOINT, "a")
        for round_ in range(20):
            pulse.world.eds["a"] = f"{round_} " * MEGABYTE
            names = () if variant is Variant.DELTA else ("a",)
            for serial in range(pulse.hub.serial - 4, pulse.hub.serial + 1):
                await stuck.ask(ENDPOINT, *names, nonce=f"{serial}.{ORDER.index(ENDPOINT)}.0")
            await pulse.more(2)
        assert pulse.hub.stats.acks[ENDPOINT] > pulse.beats  # it guessed the nonces
        assert pulse.hub.stats.bytes[ENDPOINT] < 12 * MEGABYTE
        stuck.call.cancel()
        await alone(pulse)


@pytest.mark.parametrize("reason", ["its lifetime is over", "it talks nonsense"])
async def test_one_that_reads_late_is_still_told_of_the_end(variant: Variant, reason: str) -> None:
    options = ServerOptions(lifetime=0.5) if "lifetime" in reason else None
    async with served(hub := Hub(time.monotonic), options) as port, connected(port) as channel:
        world = World()
        world.eds["a"] = "x" * 20 * MEGABYTE
        world.publish(hub.publish)
        client = WireClient(channel, variant)
        await client.ask(ENDPOINT, "a")
        await until(lambda: hub.stats.bytes[ENDPOINT] > 20 * MEGABYTE)
        if options is None:
            await client.send(b"\xff" * 20)
        await until(lambda: hub.stats.streams_open == 0)
        code, _ = await outcome(client)
        assert code is (grpc.StatusCode.OK if options else grpc.StatusCode.INVALID_ARGUMENT)


# Those that flood


async def flood(client: WireClient, variant: Variant, sent: list[int]) -> None:
    """Other names in every request, each with an answer to nothing, as fast as the server reads."""
    while True:
        number = len(sent)
        names = ("a", f"name-{number}", f"other-{number}")
        if variant is Variant.SOTW or number % 100:
            await client.ask(ENDPOINT, *names, nonce="none")
        else:
            await client.ask(CLUSTER, *names, error="no", nonce=str(number))
        sent.append(number)


async def test_those_that_flood_delay_nobody_and_are_counted(variant: Variant) -> None:
    async with beating(variant) as pulse, connected(pulse.port) as channel:
        sent: list[int] = []
        clients = [WireClient(channel, variant, node="flood") for _ in range(4)]
        tasks = [asyncio.create_task(flood(client, variant, sent)) for client in clients]
        await pulse.more(30)
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert len(sent) > 200
        await until(lambda: pulse.hub.stats.stale[ENDPOINT] > len(sent) // 2)
        assert pulse.hub.stats.requests[ENDPOINT] > len(sent) // 2
        for client in clients:
            client.call.cancel()
        await alone(pulse)


# Those that talk nonsense


async def test_nonsense_ends_its_own_stream_and_no_other(variant: Variant) -> None:
    async with beating(variant, UNHINDERED) as pulse, connected(pulse.port) as channel:
        refused = 0
        for data in nonsense(variant):
            client = WireClient(channel, variant)
            await client.send(data)
            await client.call.done_writing()
            code, text = await outcome(client)
            assert code in {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}, (data, code, text)
            assert (code is grpc.StatusCode.OK) == (text == "")
            refused += code is grpc.StatusCode.INVALID_ARGUMENT
        assert pulse.hub.stats.refusals[Refusal.PROTOCOL] == refused > 0
        await alone(pulse)


async def test_nonsense_after_a_good_beginning_leaves_nothing(variant: Variant) -> None:
    async with beating(variant, UNHINDERED) as pulse, connected(pulse.port) as channel:
        for data in (b"\xff" * 64, b"\x0b\x0c", request(variant, None, "")):
            client = WireClient(channel, variant)
            await client.ask(ENDPOINT, "a", "b")
            await client.hear()
            await client.send(data)
            assert (await outcome(client))[0] is grpc.StatusCode.INVALID_ARGUMENT
        await alone(pulse)


async def test_those_that_speak_no_grpc_are_nobody(variant: Variant) -> None:
    async with beating(variant) as pulse:
        writers = []
        for data in (
            b"",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 999,
        ):
            _, writer = await asyncio.open_connection("127.0.0.1", pulse.port)
            writer.write(data)
            await writer.drain()
            writers.append(writer)
        await pulse.more(10)
        assert pulse.hub.stats.streams_total == 1
        for writer in writers:
            writer.close()


# Those that are huge


@pytest.mark.parametrize("shape", NODES)
async def test_a_node_of_5_megabytes_is_refused_and_delays_nobody(variant: Variant, shape: str) -> None:
    async with beating(variant) as pulse, connected(pulse.port) as channel:
        client = WireClient(channel, variant)
        await client.send(with_node(variant, NODES[shape](5 * MEGABYTE)))
        code, text = await outcome(client)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "node: found 5" in text or "node: found 49" in text
        assert pulse.hub.stats.refusals[Refusal.PROTOCOL] == 1
        await alone(pulse)


@pytest.mark.parametrize("shape", NODES)
async def test_the_largest_nodes_that_are_read_delay_nobody(variant: Variant, shape: str) -> None:
    async with beating(variant) as pulse, connected(pulse.port) as channel:
        client = WireClient(channel, variant)
        await client.send(with_node(variant, NODES[shape](MAX_NODE - 1000)))
        refused = shape in {"id", "labels"}
        assert await served_or_refused(client) == ("INVALID_ARGUMENT" if refused else "served")
        client.call.cancel()
        await alone(pulse)


async def test_a_request_with_50_000_names_delays_nobody(variant: Variant) -> None:
    data = request(variant, Node(id="huge"), ENDPOINT, "a", *(f"name-{number}" for number in range(50_000)))
    async with beating(variant) as pulse, connected(pulse.port) as channel:
        client = WireClient(channel, variant)
        await client.send(data)
        assert await served_or_refused(client) == "served"
        client.call.cancel()
        await alone(pulse)


async def test_a_refusal_does_not_repeat_megabytes(variant: Variant) -> None:
    async with beating(variant) as pulse, connected(pulse.port) as channel:
        service = ("envoy.service.endpoint.v3.EndpointDiscoveryService", "Endpoints")
        client = WireClient(channel, variant, service)
        await client.send(request(variant, None, "x" * MEGABYTE))
        code, text = await outcome(client)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "type_url: found 1000000 bytes" in text
        assert len(text) < 1_000
        await alone(pulse)


async def test_types_are_limited_and_leave_no_counters(variant: Variant) -> None:
    async with beating(variant) as pulse, connected(pulse.port) as channel:
        for round_ in range(20):
            client = WireClient(channel, variant)
            for number in range(MAX_TYPES):
                await client.ask(f"type-{round_}-{number}", "a", nonce="none")
            await client.ask("one-more", "a")
            code, text = await outcome(client)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert "one type too many" in text
        await alone(pulse)
        stats = pulse.hub.stats
        for counter in (stats.stale, stats.pushes, stats.resources, stats.bytes, stats.acks, stats.nacks):
            assert len(counter) < 20


# Those that leave

Leave = "Callable[[WireClient, Pulse], Awaitable[None]]"


async def at_once(client: WireClient, pulse: Pulse) -> None:
    await client.call.wait_for_connection()


async def having_asked(client: WireClient, pulse: Pulse) -> None:
    await client.ask(ENDPOINT, "a", "b", "absent")


async def having_heard(client: WireClient, pulse: Pulse) -> None:
    await client.ask(ENDPOINT, "a", "b")
    await client.hear()


async def having_accepted(client: WireClient, pulse: Pulse) -> None:
    await client.ask(CLUSTER)
    response = await client.hear()
    await client.ask(CLUSTER, nonce=response.nonce)


async def having_rejected(client: WireClient, pulse: Pulse) -> None:
    await client.ask(CLUSTER, "a")
    response = await client.hear()
    await client.ask(CLUSTER, "a", nonce=response.nonce, error="no")


async def with_a_push_under_way(client: WireClient, pulse: Pulse) -> None:
    await having_accepted(client, pulse)
    pulse.world.cds["a"] = str(pulse.world.serial)
    pulse.publish()


async def with_one_type_held_back(client: WireClient, pulse: Pulse) -> None:
    await client.ask(CLUSTER)
    await client.hear()
    await client.ask(LISTENER)


async def having_said_so(client: WireClient, pulse: Pulse) -> None:
    await client.ask(ENDPOINT, "a")
    await client.call.done_writing()
    await outcome(client)


MOMENTS = (
    at_once,
    having_asked,
    having_heard,
    having_accepted,
    having_rejected,
    with_a_push_under_way,
    with_one_type_held_back,
    having_said_so,
)
"""Every point of the exchange."""

AT_A_TIME = 60
WAVES = 3


async def open_and_drop(pulse: Pulse, variant: Variant, moment: Callable[..., Awaitable[None]]) -> None:
    """Some streams, each to this moment; half of them cancelled, the others lose their connection."""
    async with connected(pulse.port) as channel:
        clients = [WireClient(channel, variant, node=f"brief-{number}") for number in range(AT_A_TIME)]
        await asyncio.gather(*(moment(client, pulse) for client in clients))
        for client in clients[::2]:
            client.call.cancel()


def left_over() -> int:
    """How many objects of streams there are."""
    gc.collect()
    return sum(type(each) in {Session, Stream, Watch} for each in gc.get_objects())


def peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MEGABYTE if sys.platform == "darwin" else 1000)


async def test_thousands_that_leave_at_any_moment_leave_nothing(variant: Variant) -> None:
    async with beating(variant, UNHINDERED) as pulse:
        pulse.world.requires[LISTENER, "l"] = [(CLUSTER, "a")]
        pulse.world.lds["l"] = "1"
        pulse.publish()
        base, tasks = left_over(), len(asyncio.all_tasks())
        peaks = []
        for _ in range(WAVES):
            for moment in MOMENTS:
                await open_and_drop(pulse, variant, moment)
            await alone(pulse)
            peaks.append(peak_megabytes())
        assert pulse.hub.stats.streams_total > WAVES * len(MOMENTS) * AT_A_TIME * 0.9
        assert pulse.hub.stats.nacks[CLUSTER] > 0
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert left_over() <= base
        assert peaks[-1] - peaks[0] < 16
