"""The access log service over real connections: what is taken, from whom, and what hostile senders get."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from envoy_data_plane.envoy.config.core.v3 import Address, Node, SocketAddress
from envoy_data_plane.envoy.data.accesslog.v3 import (
    AccessLogCommon,
    HttpAccessLogEntry,
    HttpRequestProperties,
    HttpResponseProperties,
)
from envoy_data_plane.envoy.service.accesslog.v3 import (
    StreamAccessLogsMessage,
    StreamAccessLogsMessageHttpAccessLogEntries,
    StreamAccessLogsMessageIdentifier,
)

from tests.certificates import Authority
from tests.protocol.hostile_requests import NODES
from tests.protocol.pulse import beating
from tests.protocol.test_security import SPIFFE
from tests.protocol.wire_client import LIMIT, connected, served
from xds_server import wire
from xds_server.transport import not_found
from xds_server.transport.codec import MAX_NODE
from xds_server.transport.not_found import MAX_ENTRIES, MAX_MESSAGE, parse_answers
from xds_server.transport.server import XdsServer
from xds_server.transport.tls import Certificates
from xds_server.xds.access import AccessList, Grant
from xds_server.xds.hub import Hub
from xds_server.xds.messages import ProtocolError, Variant
from xds_server.xds.model import NOT_FOUND_LOG
from xds_server.xds.status import Delay, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
NODE = Node(id="envoy-1", cluster="gateway")


def entry(
    address: str = "10.0.0.1", port: int = 8080, path: str = "/v2/models/m/infer"
) -> HttpAccessLogEntry:
    """As Envoy writes it, with neighbours of the field that counts."""

    def at(host: str, number: int) -> Address:
        return Address(socket_address=SocketAddress(address=host, port_value=number))

    return HttpAccessLogEntry(
        common_properties=AccessLogCommon(
            downstream_remote_address=at("192.0.2.1", 50000),
            upstream_remote_address=at(address, port),
            upstream_local_address=at("192.0.2.9", 40000),
            upstream_cluster="pool",
        ),
        request=HttpRequestProperties(path=path),
        response=HttpResponseProperties(response_code=404),
    )


def message(*entries: HttpAccessLogEntry, node: Node | None = None, log: str = NOT_FOUND_LOG) -> bytes:
    return bytes(
        StreamAccessLogsMessage(
            identifier=None if node is None else StreamAccessLogsMessageIdentifier(node=node, log_name=log),
            http_logs=StreamAccessLogsMessageHttpAccessLogEntries(log_entry=list(entries)),
        )
    )


class Taker:
    """Who is told."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self._grown = asyncio.Event()

    def take(self, answers: Mapping[str, int], /) -> None:
        self.answers.update(answers)
        self._grown.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(LIMIT):
            while self.answers.total() < count:
                self._grown.clear()
                await self._grown.wait()


class World:
    def __init__(self, server: XdsServer, hub: Hub, taker: Taker) -> None:
        self.server = server
        self.hub = hub
        self.taker = taker
        self.port = 0


@asynccontextmanager
async def serving(certificates: Certificates | None = None) -> AsyncIterator[World]:
    hub, taker = Hub(time.monotonic), Taker()
    server = XdsServer(hub, "127.0.0.1:0", certificates=certificates, answers=taker)
    world = World(server, hub, taker)
    world.port = await server.start()
    try:
        yield world
    finally:
        await server.stop(1.0)


async def ended(call: grpc.aio.StreamUnaryCall[bytes, bytes]) -> tuple[grpc.StatusCode, str]:
    async with asyncio.timeout(LIMIT):
        return await call.code(), await call.details() or ""


async def send(call: grpc.aio.StreamUnaryCall[bytes, bytes], data: bytes) -> None:
    async with asyncio.timeout(LIMIT):
        await call.write(data)


def test_addresses_are_read_as_envoy_writes_them() -> None:
    found = parse_answers(message(entry(), entry(port=65535), entry(), entry("2001:db8::1"), node=NODE))
    assert found == {"10.0.0.1:8080": 2, "10.0.0.1:65535": 1, "[2001:db8::1]:8080": 1}


def test_an_entry_without_the_replica_is_nobodys() -> None:
    assert (
        parse_answers(message(HttpAccessLogEntry(), HttpAccessLogEntry(common_properties=AccessLogCommon())))
        == {}
    )
    assert parse_answers(b"") == {}


def test_no_message_is_more_work_than_a_good_one() -> None:
    many = message(*(entry(port=number + 1) for number in range(10 * MAX_ENTRIES)))
    assert parse_answers(many).total() == MAX_ENTRIES
    begun = time.process_time()
    deep = wire.field(1, wire.field(13, wire.field(1, b"\x18\x01" * 100_000)))
    for each in (
        wire.field(2, wire.field(1, b"") * 100_000),
        wire.field(2, wire.field(1, wire.field(1, b"\x08\x01" * 100_000))),
        wire.field(2, wire.field(1, deep)),
        b"\x08\x01" * 100_000,
        wire.field(2, b"") * 100_000,
    ):
        parse_answers(each)
    assert time.process_time() - begun < 0.2  # walking through one of them takes as long


def test_bytes_that_are_no_message() -> None:
    good = message(entry(), node=NODE)
    for bad in (b"\xff" * 64, good[:-1], wire.field(2, b"\xff"), wire.field(2, wire.field(1, b"\x0a\x05"))):
        with pytest.raises(ProtocolError, match="StreamAccessLogsMessage"):
            parse_answers(bad)


async def test_answers_are_handed_on_for_as_long_as_the_stream_lasts() -> None:
    async with serving() as world, connected(world.port) as channel:
        call = channel.stream_unary(METHOD)()
        await send(call, message(entry(), node=NODE))
        await send(call, message(entry(port=1), entry()))
        await world.taker.until(3)
        assert world.taker.answers == {"10.0.0.1:8080": 2, "10.0.0.1:1": 1}
        await call.done_writing()
        assert (await ended(call))[0] is grpc.StatusCode.OK
        assert world.hub.stats.streams_open == 0


async def test_a_server_that_stops_ends_the_stream() -> None:
    async with serving() as world, connected(world.port) as channel:
        call = channel.stream_unary(METHOD)()
        await send(call, message(entry(), node=NODE))
        await world.taker.until(1)
        begun = time.monotonic()
        await world.server.stop(LIMIT)
        assert time.monotonic() - begun < LIMIT / 2
        assert (await ended(call))[0] is grpc.StatusCode.OK


async def test_a_silent_stream_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(not_found, "SILENCE", 0.1)
    async with serving() as world, connected(world.port) as channel:
        call = channel.stream_unary(METHOD)()
        await send(call, message(entry(), node=NODE))
        assert (await ended(call))[0] is grpc.StatusCode.OK
        assert world.taker.answers.total() == 1


async def test_a_server_that_takes_none_says_so() -> None:
    async with served(Hub(time.monotonic)) as port, connected(port) as channel:
        call = channel.stream_unary(METHOD)()
        assert (await ended(call))[0] is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "first",
    [
        message(entry()),
        message(entry(), node=NODE, log="somebody-elses"),
        b"\xff\xff",
        wire.field(1, b"\x0a\x05"),
        wire.field(1, wire.string(2, NOT_FOUND_LOG) + wire.field(1, wire.field(3, b"\x0a\xff"))),
        message(node=Node(id="x" * 10_000)),
    ],
    ids=["nobody", "another log", "nonsense", "cut", "a broken node", "a long id"],
)
async def test_a_stream_begins_with_who_and_which_log(first: bytes) -> None:
    async with serving() as world, connected(world.port) as channel:
        call = channel.stream_unary(METHOD)()
        await send(call, first)
        assert (await ended(call))[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert world.taker.answers.total() == 0
        assert world.hub.stats.refusals == {Refusal.PROTOCOL: 1}


@pytest.mark.parametrize("node", [NODE, None], ids=["first", "later"])
async def test_a_huge_message_ends_the_stream(node: Node | None) -> None:
    size = MAX_MESSAGE + (0 if node is None else MAX_NODE)
    huge = message(entry(path="/" + "x" * size), node=node)
    async with serving() as world, connected(world.port) as channel:
        call = channel.stream_unary(METHOD)()
        if node is None:
            await send(call, message(node=NODE))
        await send(call, huge)
        code, text = await ended(call)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"at most {size} are read" in text
        assert world.hub.stats.refusals == {Refusal.REQUEST_TOO_LARGE: 1}


async def test_there_are_places_for_so_many_and_a_place_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(not_found, "MAX_STREAMS", 2)
    async with serving() as world, connected(world.port) as channel:
        calls = [channel.stream_unary(METHOD)() for _ in range(2)]
        for each in calls:
            await send(each, message(entry(), node=NODE))
        await world.taker.until(2)
        refused = channel.stream_unary(METHOD)()
        assert (await ended(refused))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert world.hub.stats.refusals == {Refusal.TOO_MANY_STREAMS: 1}
        await calls[0].done_writing()
        await ended(calls[0])
        again = channel.stream_unary(METHOD)()
        await send(again, message(entry(), node=NODE))
        await world.taker.until(3)


async def test_a_flood_is_passed_over_and_nobody_else_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endless senders are read at the server's pace, while another client's changes arrive as ever."""
    monkeypatch.setattr(not_found, "MESSAGES_LOOKED_AT", 20)
    taker = Taker()
    flood = message(*(entry(port=number + 1) for number in range(MAX_ENTRIES)))

    async def pour(port: int) -> None:
        async with connected(port) as channel:
            call = channel.stream_unary(METHOD)()
            await call.write(message(node=NODE))
            while True:
                await call.write(flood)

    async with beating(Variant.DELTA, answers=taker) as pulse:
        pouring = [asyncio.create_task(pour(pulse.port)) for _ in range(4)]
        begun = time.monotonic()
        await taker.until(MAX_ENTRIES * 40)
        await pulse.more(50)
        took = time.monotonic() - begun
        for each in pouring:
            each.cancel()
        await asyncio.gather(*pouring, return_exceptions=True)
        assert taker.answers.total() / MAX_ENTRIES <= 20 * (took + 1) + 4
        assert pulse.hub.stats.delays[Delay.REQUEST] > 0


@pytest.mark.parametrize("shape", NODES)
async def test_a_huge_node_holds_up_nobody(shape: str) -> None:
    body = NODES[shape](MAX_NODE - 100)
    first = wire.field(1, wire.field(1, body) + wire.string(2, NOT_FOUND_LOG))
    async with beating(Variant.DELTA, answers=Taker()) as pulse, connected(pulse.port) as channel:
        for _ in range(3):
            call = channel.stream_unary(METHOD)()
            await send(call, first)
            await call.done_writing()
            await ended(call)


async def test_the_list_of_clients_counts_here_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificates = Certificates(authority.issue("server", "DNS:localhost", "IP:127.0.0.1"))
    await certificates.load()
    gateway = authority.issue("gateway", f"URI:{SPIFFE}")
    credentials = grpc.ssl_channel_credentials(
        authority.ca.read_bytes(), gateway.key.read_bytes(), gateway.certificate.read_bytes()
    )
    async with (
        serving(certificates) as world,
        grpc.aio.secure_channel(f"localhost:{world.port}", credentials) as channel,
    ):
        world.server.allow(AccessList((Grant(SPIFFE, clusters=("gateway",)),)))
        call = channel.stream_unary(METHOD)()
        await send(call, message(entry(), node=NODE))
        await world.taker.until(1)
        foreign = channel.stream_unary(METHOD)()
        await send(foreign, message(entry(), node=Node(id="envoy-1", cluster="edge")))
        assert (await ended(foreign))[0] is grpc.StatusCode.PERMISSION_DENIED
        world.server.allow(AccessList(()))
        await send(call, message(entry()))
        assert (await ended(call))[0] is grpc.StatusCode.PERMISSION_DENIED
        assert world.taker.answers.total() == 1
        assert world.hub.stats.refusals == {Refusal.FOREIGN_NODE: 1, Refusal.UNKNOWN_IDENTITY: 1}
