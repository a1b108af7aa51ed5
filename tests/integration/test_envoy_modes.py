"""The server against a real Envoy in its four modes: SotW and delta, one stream or one for each type."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.envoy import Envoy
from tests.integration.throwaway import AGGREGATED, MODES, RealWorld, envoy_bootstrap
from xds_server.transport.server import XdsServer
from xds_server.xds.hub import Hub
from xds_server.xds.model import CLUSTER, ENDPOINT, Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from xds_server.xds.status import TypeStatus

LIMIT = 10.0
"""Below Envoy's 15 s: a cluster that warms until its fetch timeout fails a test."""

QUIET = 0.3
"""Seconds without a message that are taken for silence."""


class Bench:
    """A server in this process and an Envoy beside it."""

    def __init__(self, mode: str) -> None:
        self.world = RealWorld(mode, {"a": (9001,), "b": (9002, 9003)})
        self.hub = Hub(time.monotonic)
        self.server = XdsServer(self.hub, "127.0.0.1:0")
        self.port = 0
        self.envoy: Envoy

    async def publish(self) -> None:
        """Show the world to Envoy, and wait until it has answered everything."""
        self.hub.publish(self.world.catalog())
        await self.answered()

    async def answered(self) -> None:
        """Wait until no response is outstanding or owed."""

        def check() -> bool:
            types = self.types()
            return bool(types) and all(each.state in {"SYNCED", "ERROR"} for each in types)

        await until(check, lambda: str(self.types()))

    def types(self, type_url: str = "") -> list[TypeStatus]:
        statuses = [each for client in self.hub.clients() for each in client.types]
        return [each for each in statuses if type_url in {"", each.type_url}]

    async def see(self, look: Callable[[Envoy], Any], wanted: Any) -> None:
        """Wait until Envoy shows `wanted`."""
        deadline = time.monotonic() + LIMIT
        while (seen := await asyncio.to_thread(look, self.envoy)) != wanted:
            assert time.monotonic() < deadline, f"{seen}; wanted {wanted}\n{self.envoy.log}"
            await asyncio.sleep(0.02)

    async def healthy(self) -> None:
        """Nothing warms, nothing was rejected, nothing timed out."""
        stats = await asyncio.to_thread(self.envoy.stats)
        ends = ("update_rejected", "init_fetch_timeout", "warming_clusters", "total_listeners_warming")
        assert not {name: value for name, value in stats.items() if name.endswith(ends) and value}

    async def restart(self) -> None:
        """Another server with another hub, on the same port, from the same state."""
        await self.server.stop(2.0)
        self.hub = Hub(time.monotonic)
        self.server = XdsServer(self.hub, f"127.0.0.1:{self.port}")
        self.hub.publish(self.world.catalog())
        await self.server.start()


async def until(check: Callable[[], bool], shown: Callable[[], str]) -> None:
    deadline = time.monotonic() + LIMIT
    while not check():
        assert time.monotonic() < deadline, shown()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def bench(mode: str) -> AsyncIterator[Bench]:
    made = Bench(mode)
    made.hub.publish(made.world.catalog())
    made.port = await made.server.start()
    try:
        made.envoy = await asyncio.to_thread(Envoy, envoy_bootstrap(mode, made.port))
        try:
            yield made
        finally:
            await asyncio.to_thread(made.envoy.stop)
    finally:
        await made.server.stop(2.0)


def assignments(envoy: Envoy) -> dict[str, set[int]]:
    return envoy.assignments()


def connect_timeouts(envoy: Envoy) -> dict[str, str]:
    """Of the clusters that are in use, not of those that warm."""
    active = envoy.section("ClustersConfigDump").get("dynamic_active_clusters", [])
    return {each["cluster"]["name"]: each["cluster"]["connect_timeout"] for each in active}


def routed(envoy: Envoy) -> list[str]:
    """The clusters that the routes in use lead to."""
    (dynamic,) = envoy.section("RoutesConfigDump")["dynamic_route_configs"]
    (host,) = dynamic["route_config"]["virtual_hosts"]
    return [route["route"]["cluster"] for route in host["routes"]]


def applied(envoy: Envoy) -> dict[str, int | str]:
    """Everything that counts an update which changed something, and the versions in force."""
    counted = ("membership_change", "config_reload", ".rds.version", "update_rejected")
    wanted = {
        "cluster_manager.cluster_added",
        "cluster_manager.cluster_modified",
        "cluster_manager.cluster_removed",
        "cluster_manager.cds.version",
        "listener_manager.listener_added",
        "listener_manager.listener_modified",
        "listener_manager.lds.version",
    }
    stats = envoy.stats()
    return {name: value for name, value in stats.items() if name in wanted or name.endswith(counted)}


@pytest.mark.parametrize("mode", MODES)
async def test_a_world_arrives_changes_and_survives_the_server(mode: str) -> None:
    async with bench(mode) as made:
        await made.see(assignments, {"a": {9001}, "b": {9002, 9003}})
        assert await asyncio.to_thread(routed, made.envoy) == ["a", "b"]
        node = made.hub.clients()[0].node
        assert node == Node("envoy-1", "gateway", {"zone": "a"})
        await made.answered()
        await made.healthy()

        made.world.clusters["a"] = (9001, 9009)
        made.world.clusters["b"] = ()
        await made.publish()
        await made.see(assignments, {"a": {9001, 9009}, "b": set()})

        made.world.timeouts["a"] = 7
        await made.publish()
        await made.see(connect_timeouts, {"a": "7s", "b": "1s"})
        await made.see(assignments, {"a": {9001, 9009}, "b": set()})

        made.world.clusters["c"] = (9005,)
        del made.world.clusters["b"]
        await made.publish()
        await made.see(assignments, {"a": {9001, 9009}, "c": {9005}})
        await made.see(routed, ["a", "c"])
        await made.healthy()

        before = await asyncio.to_thread(applied, made.envoy)
        await made.restart()
        streams = 1 if mode in AGGREGATED else 5
        await until(lambda: len(made.hub.clients()) == streams, lambda: str(made.hub.clients()))
        await until(lambda: len(made.types()) == (4 if mode in AGGREGATED else 5), lambda: str(made.types()))
        await made.answered()
        assert await asyncio.to_thread(applied, made.envoy) == before
        if "DELTA" in mode:
            assert not made.hub.stats.resources
        await made.healthy()
    await until(lambda: len(made.hub.index) == 0, lambda: str(made.hub.clients()))


@pytest.mark.parametrize("mode", MODES)
async def test_a_rejected_cluster_is_not_sent_again_and_is_replaced(mode: str) -> None:
    async with bench(mode) as made:
        await made.answered()
        made.world.timeouts["a"] = 0
        await made.publish()
        (status,) = made.types(CLUSTER)
        assert (status.state, status.rejected_at is not None) == ("ERROR", True)
        assert "connect_timeout" in status.error or "ConnectTimeout" in status.error
        assert status.blamed == ("a",)
        pushes = made.hub.stats.pushes[CLUSTER]
        made.world.clusters["b"] = (9099,)
        await made.publish()
        await made.see(assignments, {"a": {9001}, "b": {9099}})
        await asyncio.sleep(QUIET)
        assert (made.hub.stats.pushes[CLUSTER], made.hub.stats.nacks[CLUSTER]) == (pushes, 1)
        made.world.timeouts["a"] = 3
        await made.publish()
        await until(lambda: made.types(CLUSTER)[0].state == "SYNCED", lambda: str(made.types(CLUSTER)))
        await made.see(connect_timeouts, {"a": "3s", "b": "1s"})


@pytest.mark.parametrize("mode", AGGREGATED)
async def test_assignments_rejected_beside_a_bad_one_arrive_once_it_is_mended(mode: str) -> None:
    async with bench(mode) as made:
        made.world.clusters |= {"c": (9005,), "d": (9006,)}
        await made.publish()
        made.world.clusters |= {"a": (9011,), "b": (99999,), "c": (9015,), "d": (9016,)}
        await made.publish()
        (status,) = made.types(ENDPOINT)
        assert status.state == "ERROR"
        assert set(status.rejected_names) == {"a", "b", "c", "d"}
        assert status.blamed == ("b",)
        made.world.clusters["b"] = (9012,)
        await made.publish()
        await made.see(assignments, {"a": {9011}, "b": {9012}, "c": {9015}, "d": {9016}})
        await until(lambda: made.types(ENDPOINT)[0].state == "SYNCED", lambda: str(made.types(ENDPOINT)))


@pytest.mark.parametrize("mode", AGGREGATED)
async def test_an_envoy_that_comes_before_the_first_catalog_is_told_nothing_until_then(mode: str) -> None:
    made = Bench(mode)
    made.port = await made.server.start()
    try:
        starting = asyncio.create_task(asyncio.to_thread(Envoy, envoy_bootstrap(mode, made.port)))
        await until(lambda: bool(made.types(CLUSTER)), lambda: str(made.hub.clients()))
        await asyncio.sleep(QUIET)
        assert not made.hub.stats.pushes
        made.hub.publish(made.world.catalog())
        made.envoy = await starting
        try:
            await made.see(assignments, {"a": {9001}, "b": {9002, 9003}})
        finally:
            await asyncio.to_thread(made.envoy.stop)
    finally:
        await made.server.stop(2.0)


@pytest.mark.parametrize("mode", AGGREGATED)
async def test_a_withheld_assignment_leaves_the_last_one_in_force(mode: str) -> None:
    async with bench(mode) as made:
        await made.answered()
        await made.server.stop(2.0)
        catalog = made.world.catalog()
        types = dict(catalog.snapshot.types)
        known = dict(types[ENDPOINT].resources)
        del known["a"]
        types[ENDPOINT] = replace(
            types[ENDPOINT], resources=known, version="other", withheld=frozenset({"a"})
        )
        made.hub = Hub(time.monotonic)
        made.hub.publish(replace(catalog, snapshot=replace(catalog.snapshot, types=types)))
        made.server = XdsServer(made.hub, f"127.0.0.1:{made.port}")
        await made.server.start()
        await until(lambda: len(made.types()) == 4, lambda: str(made.types()))
        await asyncio.sleep(QUIET)
        assert await asyncio.to_thread(assignments, made.envoy) == {"a": {9001}, "b": {9002, 9003}}
