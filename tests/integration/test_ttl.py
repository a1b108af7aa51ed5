"""A time to live with a real Envoy: kept while the server is there, dropped once it is gone."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.integration.envoy import Envoy
from tests.integration.test_envoy_modes import Bench, applied, assignments, connect_timeouts, until
from tests.integration.throwaway import envoy_bootstrap
from xds_server.transport.server import XdsServer
from xds_server.xds.hub import Hub

TTL = 3.0


def listeners(envoy: Envoy) -> list[Any]:
    found: list[Any] = envoy.section("ListenersConfigDump").get("dynamic_listeners", [])
    return [each["name"] for each in found if "active_state" in each]


async def test_envoy_keeps_what_is_renewed_and_drops_it_without_its_server() -> None:
    mode = "AGGREGATED_DELTA_GRPC"
    made = Bench(mode)
    made.hub = Hub(time.monotonic, ttl=TTL)
    made.server = XdsServer(made.hub, "127.0.0.1:0")
    made.hub.publish(made.world.catalog())
    made.port = await made.server.start()
    try:
        made.envoy = await asyncio.to_thread(Envoy, envoy_bootstrap(mode, made.port))
        try:
            await made.see(assignments, {"a": {9001}, "b": {9002, 9003}})
            await made.answered()
            before = await asyncio.to_thread(applied, made.envoy)
            pushes = made.hub.stats.pushes.total()
            await asyncio.sleep(2.5 * TTL)
            assert made.hub.stats.pushes.total() >= pushes + 4 * 4
            assert not made.hub.stats.nacks
            assert await asyncio.to_thread(connect_timeouts, made.envoy) == {"a": "1s", "b": "1s"}
            assert await asyncio.to_thread(listeners, made.envoy) == ["gateway"]
            assert await asyncio.to_thread(applied, made.envoy) == before
            await made.healthy()

            await made.server.stop(1.0)
            await made.see(listeners, [])
            await made.see(connect_timeouts, {})

            made.hub = Hub(time.monotonic, ttl=TTL)
            made.hub.publish(made.world.catalog())
            made.server = XdsServer(made.hub, f"127.0.0.1:{made.port}")
            await made.server.start()
            await made.see(connect_timeouts, {"a": "1s", "b": "1s"})
            await made.see(listeners, ["gateway"])
            await until(lambda: not made.hub.stats.nacks, lambda: str(made.types()))
        finally:
            await asyncio.to_thread(made.envoy.stop)
    finally:
        await made.server.stop(2.0)
