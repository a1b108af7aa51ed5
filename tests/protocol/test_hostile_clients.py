"""Clients that do not read, flood, talk nonsense, are huge, or leave: nobody else notices, nothing stays."""

from __future__ import annotations

import asyncio
import gc
import random
import resource
import sys
from typing import TYPE_CHECKING

import grpc
import pytest
from envoy_data_plane.envoy.config.core.v3 import Extension, Node
from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryRequest, DiscoveryRequest
from envoy_data_plane.google.protobuf import Struct

from tests.protocol.pulse import Pulse, beating
from tests.protocol.wire_client import LIMIT, WireClient, connected
from xds_server.transport.server import ServerOptions
from xds_server.transport.stream import Stream
from xds_server.xds.messages import Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER
from xds_server.xds.session import MAX_TYPES, Session
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


def request(variant: Variant, node: Node | None = None, type_url: str = ENDPOINT, *names: str) -> bytes:
    if variant is Variant.DELTA:
        return bytes(
            DeltaDiscoveryRequest(node=node, type_url=type_url, resource_names_subscribe=list(names))
        )
    return bytes(DiscoveryRequest(node=node, type_url=type_url, resource_names=list(names)))


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
        (number,) = [each.id.partition("/")[2] for each in pulse.hub.clients() if each.node is None] or ["2"]
        for round_ in range(40):
            pulse.world.eds["a"] = f"{round_} " * MEGABYTE
            names = () if variant is Variant.DELTA else ("a",)
            await stuck.ask(ENDPOINT, *names, nonce=f"{number}.{round_ + 1}")
            await pulse.more(2)
        assert pulse.hub.stats.bytes[ENDPOINT] < 12 * MEGABYTE
        stuck.call.cancel()
        await alone(pulse)


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
        for client in clients:
            client.call.cancel()
        await alone(pulse)


# Those that talk nonsense


def nonsense(variant: Variant) -> list[bytes]:
    """What is no request: random bytes, a good one cut anywhere, and good fields with bad contents."""
    chance = random.Random(1)
    good = request(variant, Node(id="n", cluster="c"), ENDPOINT, "a", "b")
    cut = [good[:length] for length in range(1, len(good))]
    shuffled = [chance.randbytes(chance.randrange(1, 200)) for _ in range(60)]
    not_utf8 = b"\x22\x02\xff\xfe" if variant is Variant.SOTW else b"\x12\x02\xff\xfe"
    endless = b"\xff" * 64
    group = b"\x0b\x0c"
    return [b"", *cut, *shuffled, not_utf8, endless, group]


async def test_nonsense_ends_its_own_stream_and_no_other(variant: Variant) -> None:
    async with beating(variant, UNHINDERED) as pulse, connected(pulse.port) as channel:
        for data in nonsense(variant):
            client = WireClient(channel, variant)
            await client.send(data)
            await client.call.done_writing()
            code, text = await outcome(client)
            assert code in {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}, (data, code, text)
            assert (code is grpc.StatusCode.OK) == (text == "")
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


def _labels() -> Node:
    labels = {f"label-number-{number}": "some value" for number in range(140_000)}
    return Node(id="huge", metadata=Struct.from_dict({"labels": labels}))


HUGE: dict[str, Callable[[], Node]] = {
    "one text": lambda: Node(id="huge", metadata=Struct.from_dict({"text": "x" * 5 * MEGABYTE})),
    "id": lambda: Node(id="x" * 5 * MEGABYTE),
    "labels": _labels,
    "numbers": lambda: Node(id="huge", metadata=Struct.from_dict({"list": [1.0] * 450_000})),
    "extensions": lambda: Node(id="huge", extensions=[Extension(name="x" * 40)] * 120_000),
}


@pytest.mark.parametrize("shape", HUGE)
async def test_a_node_of_5_megabytes_delays_nobody(variant: Variant, shape: str) -> None:
    data = request(variant, HUGE[shape](), ENDPOINT, "a")
    assert len(data) > 4.8 * MEGABYTE
    async with beating(variant) as pulse, connected(pulse.port) as channel:
        client = WireClient(channel, variant)
        await client.send(data)
        assert await served_or_refused(client) in {"served", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
        client.call.cancel()
        await alone(pulse)


async def test_a_request_with_100_000_names_delays_nobody(variant: Variant) -> None:
    data = request(variant, Node(id="huge"), ENDPOINT, "a", *(f"name-{number}" for number in range(100_000)))
    async with beating(variant) as pulse, connected(pulse.port) as channel:
        client = WireClient(channel, variant)
        await client.send(data)
        assert await served_or_refused(client) in {"served", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
        client.call.cancel()
        await alone(pulse)


async def test_a_refusal_does_not_repeat_megabytes(variant: Variant) -> None:
    async with beating(variant) as pulse, connected(pulse.port) as channel:
        service = ("envoy.service.endpoint.v3.EndpointDiscoveryService", "Endpoints")
        client = WireClient(channel, variant, service)
        await client.send(request(variant, None, "x" * MEGABYTE))
        code, text = await outcome(client)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "this stream serves" in text
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
    await client.ended()


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
        for _ in range(4):
            for moment in MOMENTS:
                await open_and_drop(pulse, variant, moment)
            await alone(pulse)
            peaks.append(peak_megabytes())
        assert pulse.hub.stats.streams_total > 4 * len(MOMENTS) * AT_A_TIME * 0.9
        assert pulse.hub.stats.nacks[CLUSTER] > 0
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert left_over() <= base
        assert peaks[-1] - peaks[0] < 16
