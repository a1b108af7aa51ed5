"""The server over real connections: services, errors, ends of streams, slow clients."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

from tests.protocol.catalogs import World
from tests.protocol.wire_client import LIMIT, WireClient, bodies, connected, served
from xds_server.transport.admission import Admission
from xds_server.transport.server import ServerOptions, XdsServer
from xds_server.xds import order
from xds_server.xds.hub import Hub
from xds_server.xds.messages import Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.parametrize("variant", list(Variant), ids=str)

SERVICES = (
    (CLUSTER, "cds", ("envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters")),
    (ENDPOINT, "eds", ("envoy.service.endpoint.v3.EndpointDiscoveryService", "Endpoints")),
    (LISTENER, "lds", ("envoy.service.listener.v3.ListenerDiscoveryService", "Listeners")),
    (ROUTE, "rds", ("envoy.service.route.v3.RouteDiscoveryService", "Routes")),
)


def world(hub: Hub) -> World:
    """Two clusters with assignments, published."""
    made = World()
    made.cds = {"a": "1", "b": "1"}
    made.eds = {"a": "1", "b": "1"}
    made.lds = {"a": "1"}
    made.rds = {"a": "1"}
    made.publish(hub.publish)
    return made


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def test_an_aggregated_stream_carries_every_type(variant: Variant) -> None:
    hub = Hub(time.monotonic)
    made = world(hub)
    async with served(hub) as port, connected(port) as channel:
        client = WireClient(channel, variant)
        for type_url, _, _ in SERVICES:
            await client.ask(type_url, "a")
            response = await client.hear()
            assert (response.type_url, bodies(response)) == (type_url, ["a=1"])
            await client.ask(type_url, *(() if variant is Variant.DELTA else ("a",)), nonce=response.nonce)
        made.eds["a"] = "2"
        made.publish(hub.publish)
        assert bodies(await client.hear()) == ["a=2"]
        assert hub.stats.bytes[ENDPOINT] > 0
        (status,) = hub.clients()
        assert status.node is not None
        assert (status.node.id, status.node.cluster) == ("envoy-1", "gateway")


@pytest.mark.parametrize(("type_url", "kind", "service"), SERVICES)
async def test_each_type_has_a_service_of_its_own(
    variant: Variant, type_url: str, kind: str, service: tuple[str, str]
) -> None:
    hub = Hub(time.monotonic)
    world(hub)
    async with served(hub) as port, connected(port) as channel:
        client = WireClient(channel, variant, service)
        await client.ask("", "a")
        response = await client.hear()
        assert (response.type_url, bodies(response)) == (type_url, ["a=1"])
        other = WireClient(channel, variant, service)
        await other.ask("type.googleapis.com/other", "a")
        code, text = await other.ended()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert f"this stream serves '{type_url}' only" in text


async def test_bytes_that_are_no_request_end_their_stream_alone(variant: Variant) -> None:
    hub = Hub(time.monotonic)
    made = world(hub)
    async with served(hub) as port, connected(port) as channel:
        well, sick = WireClient(channel, variant), WireClient(channel, variant)
        await well.ask(CLUSTER, "a")
        await well.hear()
        await sick.send(b"\xff\xff\xff")
        code, text = await sick.ended()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "the request is not a" in text
        await well.ask(ENDPOINT, "a")
        assert bodies(await well.hear()) == ["a=1"]
        await until(lambda: hub.stats.streams_open == 1)
        made.publish(hub.publish)


async def test_a_rejection_is_logged_with_client_type_and_words(variant: Variant) -> None:
    hub = Hub(time.monotonic)
    world(hub)
    with capture_logs() as logs:
        async with served(hub) as port, connected(port) as channel:
            client = WireClient(channel, variant, node="gateway-7")
            await client.ask(ENDPOINT, "a")
            response = await client.hear()
            await client.ask(ENDPOINT, nonce="stale", error="not this one")
            await client.ask(ENDPOINT, nonce=response.nonce, error="malformed address")
            await until(lambda: hub.stats.nacks[ENDPOINT] == 1)
            client.call.cancel()
            await until(lambda: hub.stats.streams_open == 0)
    (event,) = [each for each in logs if each["event"] == "configuration rejected"]
    assert event["client"].startswith("gateway-7/")
    assert (event["type"], event["error"], event["names"]) == (ENDPOINT, "malformed address", ["a"])
    events = [each["event"] for each in logs]
    assert "client connected" in events
    assert "client disconnected" in events


async def test_streams_end_when_the_server_stops(variant: Variant) -> None:
    hub = Hub(time.monotonic)
    world(hub)
    server = XdsServer(hub, "127.0.0.1:0")
    port = await server.start()
    async with connected(port) as channel:
        clients = [WireClient(channel, variant) for _ in range(5)]
        for client in clients:
            await client.ask(CLUSTER, "a")
            await client.hear()
        begun = time.monotonic()
        await server.stop(5.0)
        assert time.monotonic() - begun < 2.0
        for client in clients:
            assert (await client.ended())[0] in {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert (hub.stats.streams_open, len(hub.index)) == (0, 0)
    await server.stop(1.0)


async def test_a_client_that_goes_leaves_nothing(variant: Variant) -> None:
    hub = Hub(time.monotonic)
    made = world(hub)
    async with served(hub) as port, connected(port) as channel:
        for number in range(300):
            client = WireClient(channel, variant)
            await client.ask(CLUSTER, "a")
            if number % 3 == 0:
                await client.hear()
            if number % 3 == 1:
                await client.call.done_writing()
                await client.hear()
            else:
                client.call.cancel()
        await until(lambda: hub.stats.streams_open == 0)
        made.publish(hub.publish)
    assert len(hub.index) == 0


async def test_a_client_that_does_not_read_delays_nobody(variant: Variant) -> None:
    hub = Hub(time.monotonic)
    made = world(hub)
    async with served(hub) as port, connected(port) as slow, connected(port) as quick:
        stuck = WireClient(slow, variant, node="stuck")
        made.eds["a"] = "x" * 30_000_000
        made.publish(hub.publish)
        await stuck.ask(ENDPOINT, "a")
        await until(lambda: hub.stats.bytes[ENDPOINT] > 30_000_000)
        reader = WireClient(quick, variant, node="reader")
        await reader.ask(ENDPOINT, "b")
        response = await reader.hear()
        for number in range(20):
            await reader.ask(ENDPOINT, *(() if variant is Variant.DELTA else ("b",)), nonce=response.nonce)
            made.eds["b"] = str(number)
            made.publish(hub.publish)
            response = await reader.hear()
            while bodies(response) != [f"b={number}"]:
                await reader.ask(
                    ENDPOINT, *(() if variant is Variant.DELTA else ("b",)), nonce=response.nonce
                )
                response = await reader.hear()
        assert len(bodies(await stuck.hear())[0]) > 30_000_000


async def test_what_waits_too_long_goes_out_by_itself(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "HOLD_LIMIT", 0.1)
    hub = Hub(time.monotonic)
    made = World()
    made.cds["a"] = made.rds["r"] = "1"
    made.requires[ROUTE, "r"] = [(CLUSTER, "a")]
    made.publish(hub.publish)
    async with served(hub) as port, connected(port) as channel:
        client = WireClient(channel, variant)
        await client.ask(CLUSTER, "a")
        await client.ask(ROUTE, "r")
        assert [(await client.hear()).type_url for _ in range(2)] == [CLUSTER, ROUTE]


async def test_a_stream_ends_after_its_lifetime(variant: Variant) -> None:
    hub = Hub(time.monotonic)
    world(hub)
    async with served(hub, ServerOptions(lifetime=0.5)) as port, connected(port) as channel:
        client = WireClient(channel, variant)
        await client.ask(CLUSTER, "a")
        await client.hear()
        assert (await client.ended())[0] is grpc.StatusCode.OK
        await until(lambda: hub.stats.streams_open == 0)


async def test_streams_above_the_rate_wait_and_do_not_fail(variant: Variant) -> None:
    hub = Hub(time.monotonic)
    world(hub)
    async with served(hub, ServerOptions(streams_per_second=20)) as port, connected(port) as channel:
        begun = time.monotonic()
        clients = [WireClient(channel, variant) for _ in range(25)]
        for client in clients:
            await client.ask(CLUSTER, "a")
        for client in clients:
            assert bodies(await client.hear()) == ["a=1"]
        assert time.monotonic() - begun > 0.2


def test_places_are_spaced_after_a_burst(variant: Variant) -> None:
    now = 0.0
    admission = Admission(rate=10, burst=3, clock=lambda: now)
    assert [admission.delay() for _ in range(5)] == pytest.approx([0, 0, 0, 0.1, 0.2])
    now = 10.0
    assert [admission.delay() for _ in range(4)] == pytest.approx([0, 0, 0, 0.1])


def test_a_place_is_taken_only_where_there_is_one(variant: Variant) -> None:
    now = 0.0
    admission = Admission(rate=10, burst=3, clock=lambda: now)
    assert [admission.take() for _ in range(5)] == [True, True, True, False, False]
    now = 0.125
    assert [admission.take() for _ in range(2)] == [True, False]


async def test_an_address_in_use_is_said_plainly(variant: Variant) -> None:
    hub = Hub(time.monotonic)
    async with served(hub) as port:
        with pytest.raises(OSError, match=rf"xds: cannot listen on 127\.0\.0\.1:{port}: .*in use"):
            await XdsServer(hub, f"127.0.0.1:{port}").start()


async def test_an_address_that_is_none_is_said_plainly(variant: Variant) -> None:
    with pytest.raises(OSError, match=r"xds: cannot listen on 203\.0\.113\.1:1: "):
        await XdsServer(Hub(time.monotonic), "203.0.113.1:1").start()


async def test_a_response_that_some_clients_would_drop_is_logged_and_counted(variant: Variant) -> None:
    """gRPC's clients drop what is over 4 MiB, and say nothing to the server (kuma 16355)."""
    hub = Hub(time.monotonic)
    made = world(hub)
    made.eds["a"] = "x" * 5_000_000
    made.publish(hub.publish)
    with capture_logs() as logs:
        async with served(hub) as port, connected(port) as channel:
            client = WireClient(channel, variant)
            await client.ask(ENDPOINT, "a", "b")
            await client.hear()
    (event,) = [each for each in logs if each["event"] == "large response"]
    assert (event["type"], event["bytes"] > 5_000_000) == (ENDPOINT, True)
    assert hub.stats.sizes[ENDPOINT].cumulative()[-3:] == [("16000000.0", 1), ("64000000.0", 1), ("+Inf", 1)]
    assert hub.stats.sizes[ENDPOINT].cumulative()[6] == ("4194304.0", 0)
