"""Health and client status (CSDS) over real connections."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from envoy_data_plane.envoy.admin.v3 import ClientResourceStatus
from envoy_data_plane.envoy.service.status.v3 import (
    ClientConfig,
    ClientStatusRequest,
    ClientStatusResponse,
    ConfigStatus,
)
from envoy_data_plane.envoy.type.matcher.v3 import NodeMatcher, StringMatcher, StructMatcher

from tests.certificates import Authority
from tests.protocol.catalogs import World
from tests.protocol.test_security import secured
from tests.protocol.wire_client import LIMIT, WireClient, connected, served
from xds_server import wire
from xds_server.transport.server import ServerOptions, XdsServer
from xds_server.xds.access import AccessList, Grant
from xds_server.xds.hub import Hub
from xds_server.xds.messages import Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER

if TYPE_CHECKING:
    from pathlib import Path

HEALTH = "/grpc.health.v1.Health/"
CSDS = "/envoy.service.status.v3.ClientStatusDiscoveryService/"
ADS = wire.string(1, "envoy.service.discovery.v3.AggregatedDiscoveryService")
"""A HealthCheckRequest for the aggregated service."""


def hub_of() -> tuple[Hub, World]:
    hub, world = Hub(time.monotonic), World()
    world.cds = {"a": "1", "b": "1"}
    world.eds = {"a": "1", "b": "1"}
    world.publish(hub.publish)
    return hub, world


async def test_health_says_when_clients_are_answered() -> None:
    server = XdsServer(hub_of()[0], "127.0.0.1:0")
    port = await server.start()
    async with connected(port) as channel, asyncio.timeout(LIMIT):
        check = channel.unary_unary(HEALTH + "Check")
        assert [await check(b""), await check(ADS)] == [b"\x08\x02", b"\x08\x02"]
        watch = channel.unary_stream(HEALTH + "Watch")(b"")
        unknown = channel.unary_stream(HEALTH + "Watch")(b"\x0a\x01x")
        assert [await watch.read(), await unknown.read()] == [b"\x08\x02", b"\x08\x03"]
        server.serving(ready=True)
        assert await check(ADS) == b"\x08\x01"
        assert await watch.read() == b"\x08\x01"
        begun = time.monotonic()
        await server.stop(5.0)
        assert time.monotonic() - begun < 2.0
        assert await watch.read() == b"\x08\x02"
        assert await watch.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [(b"\x0a\x01x", grpc.StatusCode.NOT_FOUND), (b"\xff", grpc.StatusCode.INVALID_ARGUMENT)],
)
async def test_health_of_what_is_not_here(request_bytes: bytes, code: grpc.StatusCode) -> None:
    async with served(hub_of()[0]) as port, connected(port) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(HEALTH + "Check")(request_bytes)
    assert caught.value.code() is code


async def fetch(channel: grpc.aio.Channel, *matchers: NodeMatcher) -> list[ClientConfig]:
    call = channel.unary_unary(CSDS + "FetchClientStatus")
    return ClientStatusResponse.parse(
        await call(bytes(ClientStatusRequest(node_matchers=list(matchers))))
    ).config


def by_id(**matcher: str) -> NodeMatcher:
    return NodeMatcher(node_id=StringMatcher(**matcher))


async def test_each_client_has_its_state_for_each_type_and_what_it_rejected() -> None:
    hub, world = hub_of()
    async with served(hub) as port, connected(port) as channel:
        client = WireClient(channel, Variant.DELTA, node="gateway-7")
        await client.ask(CLUSTER, "a")
        await client.ask(CLUSTER, nonce=(await client.hear()).nonce)
        await client.ask(ENDPOINT, "a", "b")
        await client.ask(ENDPOINT, nonce=(await client.hear()).nonce)
        await client.ask(LISTENER, "none")
        await client.hear()
        world.eds = {"a": "2", "b": "2"}
        world.publish(hub.publish)
        await client.ask(ENDPOINT, nonce=(await client.hear()).nonce, error='cluster "b" is no good')
        async with asyncio.timeout(LIMIT):
            while not hub.stats.nacks[ENDPOINT]:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)
        (config,) = await fetch(channel)
    assert config.node is not None
    assert (config.node.id, config.node.cluster, config.client_scope) == (
        "gateway-7",
        "gateway",
        "gateway-7/1",
    )
    found = {
        (each.type_url, each.name): (each.config_status, each.client_status)
        for each in config.generic_xds_configs
    }
    assert found == {
        (CLUSTER, ""): (ConfigStatus.SYNCED, ClientResourceStatus.ACKED),
        (ENDPOINT, ""): (ConfigStatus.ERROR, ClientResourceStatus.NACKED),
        (ENDPOINT, "b"): (ConfigStatus.ERROR, ClientResourceStatus.NACKED),
        (LISTENER, ""): (ConfigStatus.STALE, ClientResourceStatus.REQUESTED),
    }
    rejected = next(each for each in config.generic_xds_configs if each.name == "b")
    assert rejected.error_state is not None
    assert rejected.error_state.details == 'cluster "b" is no good'
    accepted = next(each for each in config.generic_xds_configs if each.type_url == CLUSTER)
    assert accepted.last_updated is not None
    assert abs(accepted.last_updated.timestamp() - time.time()) < 60
    assert accepted.version_info


@pytest.mark.parametrize(
    ("matchers", "seen"),
    [
        ([], ["edge-1", "gateway-1"]),
        ([by_id(exact="edge-1")], ["edge-1"]),
        ([by_id(exact="edge")], []),
        ([by_id(prefix="GATE", ignore_case=True), by_id(suffix="e-1")], ["edge-1", "gateway-1"]),
        ([by_id(contains="way")], ["gateway-1"]),
        ([NodeMatcher()], ["edge-1", "gateway-1"]),
    ],
)
async def test_clients_are_matched_by_their_node_id(matchers: list[NodeMatcher], seen: list[str]) -> None:
    hub, _ = hub_of()
    async with served(hub) as port, connected(port) as channel:
        for node in ("gateway-1", "edge-1"):
            client = WireClient(channel, Variant.SOTW, node=node)
            await client.ask(CLUSTER, "a")
            await client.hear()
        assert sorted(each.node.id for each in await fetch(channel, *matchers) if each.node) == seen


@pytest.mark.parametrize(
    ("request_bytes", "text"),
    [
        (
            bytes(ClientStatusRequest(node_matchers=[NodeMatcher(node_metadatas=[StructMatcher()])])),
            "not supported",
        ),
        (bytes(ClientStatusRequest(node_matchers=[by_id()])), "expected exact, prefix, suffix or contains"),
        (b"\x0a\x05a", "the request is not a ClientStatusRequest"),
    ],
)
async def test_what_cannot_be_matched_is_said_so(request_bytes: bytes, text: str) -> None:
    async with served(hub_of()[0]) as port, connected(port) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(CSDS + "FetchClientStatus")(request_bytes)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in str(caught.value.details())


async def test_a_stream_of_questions_has_an_answer_each_and_ends_with_the_server() -> None:
    hub, _ = hub_of()
    server = XdsServer(hub, "127.0.0.1:0", ServerOptions(max_streams=1))
    port = await server.start()
    async with connected(port) as channel, asyncio.timeout(LIMIT):
        call = channel.stream_stream(CSDS + "StreamClientStatus")()
        for _ in range(2):
            await call.write(b"")
            assert await call.read() == b""
        code, _ = await WireClient(channel, Variant.DELTA).ended()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        begun = time.monotonic()
        await server.stop(5.0)
        assert time.monotonic() - begun < 2.0


async def test_whoever_asks_sees_the_nodes_that_it_may_be(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("server", "DNS:localhost")
    gateway, operator, stranger = (
        authority.issue(name, f"DNS:{name}") for name in ("gateway", "operator", "stranger")
    )
    grants = [Grant("gateway", nodes=("gateway-*",)), Grant("operator", nodes=("*",))]
    async with secured(files) as made:
        made.server.allow(AccessList([*grants, Grant("edge", nodes=("edge-*",))]))
        async with (
            made.channel(authority.ca, gateway) as own,
            made.channel(authority.ca, operator) as all_of_them,
            made.channel(authority.ca, stranger) as nobody,
        ):
            one, other = (
                WireClient(own, Variant.DELTA, node="gateway-1"),
                WireClient(all_of_them, Variant.DELTA, node="edge-1"),
            )
            for client in (one, other):
                await client.ask(CLUSTER, "a")
                await client.hear()
            assert [each.node.id for each in await fetch(own) if each.node] == ["gateway-1"]
            assert len(await fetch(all_of_them)) == 2
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await fetch(nobody)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
