"""gRPC's own xDS client as a second foreign client: it asks for everything by name, on one SotW stream."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.integration.grpc_world import LIMIT, NAME, ROUTES, Caller, World, caller, echo
from tests.protocol.wire_client import served
from xds_server.transport.server import XdsServer
from xds_server.xds.hub import Hub
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from xds_server.xds.status import TypeStatus


class Bench:
    """Server, world, client, and two places to send calls to."""

    def __init__(self, hub: Hub, world: World, client: Caller, one: int, two: int) -> None:
        self.hub = hub
        self.world = world
        self.client = client
        self.one = one
        self.two = two

    async def answers(self, name: str) -> None:
        """Calls get to be answered by `name`."""
        await self.client.until(lambda answers: answers == {name})

    def types(self) -> dict[str, TypeStatus]:
        (client,) = self.hub.clients()
        return {each.type_url: each for each in client.types}

    async def settled(self, check: Callable[[dict[str, TypeStatus]], bool]) -> dict[str, TypeStatus]:
        """Wait for what the client has answered: each ACK and NACK is an event."""
        answered = asyncio.Event()
        remove = self.hub.add_listener(answered.set)
        try:
            async with asyncio.timeout(LIMIT):
                while not check(self.types()):
                    await answered.wait()
                    answered.clear()
        finally:
            remove()
        return self.types()


@asynccontextmanager
async def bench(*, inline: bool = False) -> AsyncIterator[Bench]:
    hub = Hub(time.monotonic)
    world = World(hub, inline=inline)
    async with served(hub) as port, echo("one") as one, echo("two") as two, caller(port) as client:
        world.ports = (one,)
        world.publish()
        made = Bench(hub, world, client, one, two)
        await made.answers("one")
        yield made


def synced(types: dict[str, TypeStatus]) -> bool:
    return all(each.state == "SYNCED" for each in types.values())


@pytest.mark.parametrize("inline", [False, True], ids=["RDS", "inline routes"])
async def test_calls_follow_the_endpoint(inline: bool) -> None:
    async with bench(inline=inline) as on:
        on.world.ports = (on.two,)
        on.world.publish()
        await on.answers("two")
        types = await on.settled(synced)
        subscribed = {url: each.subscribed for url, each in types.items()}
        routes = {} if inline else {ROUTE: (ROUTES,)}
        assert subscribed == {LISTENER: (NAME,), CLUSTER: ("one",), ENDPOINT: ("one-endpoints",), **routes}
        assert on.hub.stats.nacks.total() == 0
        assert on.hub.stats.pushes == {LISTENER: 1, CLUSTER: 1, ENDPOINT: 2, **dict.fromkeys(routes, 1)}


async def test_calls_are_spread_over_two_endpoints() -> None:
    async with bench() as on:
        on.world.ports = (on.one, on.two)
        on.world.publish()
        await on.client.until(lambda answers: answers == {"one", "two"}, calls=4)


async def test_calls_follow_the_route_to_another_cluster() -> None:
    async with bench() as on:
        on.world.cluster, on.world.ports = "two", (on.two,)
        on.world.publish()
        await on.answers("two")
        types = await on.settled(lambda types: types[CLUSTER].subscribed == ("two",) and synced(types))
        assert types[ENDPOINT].subscribed == ("two-endpoints",)
        assert on.hub.stats.nacks.total() == 0


async def test_an_empty_assignment_takes_the_endpoint_away() -> None:
    async with bench() as on:
        on.world.ports = ()
        on.world.publish()
        await on.answers("UNAVAILABLE")
        on.world.ports = (on.two,)
        on.world.publish()
        await on.answers("two")


async def test_a_rejection_is_shown_in_grpcs_words_and_calls_go_on() -> None:
    async with bench() as on:
        on.world.policy = "MAGLEV"
        on.world.publish()
        types = await on.settled(lambda types: types[CLUSTER].state == "ERROR")
        assert types[CLUSTER].rejected_names == ("one",)
        assert "LB policy" in types[CLUSTER].error
        on.world.ports = (on.two,)
        on.world.publish()
        await on.answers("two")
        assert on.hub.stats.nacks == {CLUSTER: 1}
        on.world.policy = "ROUND_ROBIN"
        on.world.publish()
        await on.settled(synced)
        await on.answers("two")


async def test_calls_go_on_without_the_server_and_follow_its_successor() -> None:
    hub = Hub(time.monotonic)
    world = World(hub)
    first = XdsServer(hub, "127.0.0.1:0")
    port = await first.start()
    async with echo("one") as one, echo("two") as two, caller(port) as client:
        world.ports = (one,)
        world.publish()
        await client.until(lambda answers: answers == {"one"})
        await first.stop(1.0)
        assert await client.who() == "one"
        world.ports = (two,)
        world.publish()
        second = XdsServer(hub, f"127.0.0.1:{port}")
        assert await second.start() == port
        try:
            await client.until(lambda answers: answers == {"two"})
        finally:
            await second.stop(1.0)
