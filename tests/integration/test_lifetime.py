"""What a request sees when the server, Envoy or a runtime goes away and comes back."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

from tests.integration.stack import LIMIT, Stack, until
from tests.integration.test_routing import place, started

if TYPE_CHECKING:
    from tests.integration.conftest import Replica

RATE = 100.0
"""Requests a second, started on a schedule that does not wait for answers."""


class Load:
    """A constant rate of requests over models that must all succeed."""

    def __init__(self, stack: Stack, placed: dict[str, set[str]]) -> None:
        self._stack = stack
        self._placed = placed
        self._done = asyncio.Event()
        self.answers = 0
        self.wrong: list[str] = []

    async def run(self) -> None:
        begun = time.monotonic()
        models = sorted(self._placed)
        async with asyncio.TaskGroup() as group:
            number = 0
            while not self._done.is_set():
                group.create_task(self._one(models[number % len(models)]))
                number += 1
                await asyncio.sleep(max(0.0, begun + number / RATE - time.monotonic()))

    async def _one(self, model: str) -> None:
        status, replica = await self._stack.infer(model)
        self.answers += 1
        if status != 200 or replica not in self._placed[model]:
            self.wrong.append(f"{model}: {status} {replica}")

    async def beyond(self, count: int) -> None:
        """Wait for `count` more answers."""
        wanted = self.answers + count

        async def reached() -> bool:
            return self.answers >= wanted

        await until(reached, f"{count} more answers", LIMIT + count / RATE)

    def stop(self) -> None:
        self._done.set()


def updates(stack: Stack) -> dict[str, int]:
    """How often Envoy has applied something, by kind. `update_no_rebuild` counts equal assignments."""
    assert stack.envoy is not None
    stats = stack.envoy.stats()
    wanted = (
        "cluster_manager.cluster_added",
        "cluster_manager.cluster_modified",
        "cluster_manager.cluster_removed",
        "listener_manager.listener_added",
        "listener_manager.listener_modified",
        "cluster_manager.cds.version",
        "listener_manager.lds.version",
    )
    found = {name: int(stats[name]) for name in wanted}
    ends = ("membership_change", ".config_reload", ".rds.version", "lb_subsets_created", "lb_subsets_removed")
    return found | {
        name: int(value) for name, value in stats.items() if name.endswith(ends) and "xds" not in name
    }


async def connected(stack: Stack) -> bool:
    """Whether Envoy's stream is up and everything that it was sent is acknowledged."""
    clients = (await stack.status())["clients"]
    return bool(clients) and all(kind["state"] == "SYNCED" for c in clients for kind in c["types"])


async def test_killing_the_server_under_traffic_fails_no_request(
    stack: Stack, replicas: list[Replica]
) -> None:
    await place(replicas, {"r1": ["m1", "m2"], "r2": ["m2", "m3"], "r3": ["m3"]})
    await started(stack, replicas)
    placed = {"m1": {"r1"}, "m2": {"r1", "r2"}, "m3": {"r2", "r3"}}
    for model, holders in placed.items():
        await stack.routed(model, holders)
    await until(lambda: connected(stack), "everything acknowledged")
    before = updates(stack)

    load = Load(stack, placed)
    running = asyncio.create_task(load.run())
    await load.beyond(100)
    assert await stack.stop_server(signal.SIGKILL) == -signal.SIGKILL
    await load.beyond(200)
    await stack.start_server()
    await until(lambda: connected(stack), "Envoy to be connected again")
    await load.beyond(100)
    load.stop()
    await running

    assert load.wrong == []
    assert updates(stack) == before, "unchanged sources must give unchanged versions"
    await replicas[2].load("m1")
    await stack.routed("m1", ["r1", "r3"])


async def test_an_envoy_that_restarts_gets_everything_again(stack: Stack, replicas: list[Replica]) -> None:
    await place(replicas, {"r1": ["m1"], "r2": ["m2"]})
    await started(stack, replicas)
    await stack.routed("m1", ["r1"])
    assert stack.envoy is not None
    await asyncio.to_thread(stack.envoy.stop)

    async def forgotten() -> bool:
        return not (await stack.status())["clients"]

    await until(forgotten, "the client to be forgotten")
    await stack.start_envoy()
    await stack.routed("m1", ["r1"])
    await stack.routed("m2", ["r2"])


async def test_a_graceful_stop_exits_zero_and_leaves_envoy_serving(
    stack: Stack, replicas: list[Replica]
) -> None:
    await place(replicas, {"r1": ["m1"]})
    await started(stack, replicas)
    await stack.routed("m1", ["r1"])
    assert await stack.stop_server() == 0
    assert await stack.infer("m1") == (200, "r1")


async def test_a_runtime_that_dies_gets_no_more_requests(
    stack: Stack, replicas: list[Replica], mortal: Replica
) -> None:
    await place(replicas, {"r1": ["m1"]})
    await mortal.hold(["m1"])
    await started(stack, [replicas[0], mortal])
    await stack.routed("m1", ["r1", "r9"])
    await asyncio.to_thread(mortal.server.kill)
    await stack.routed("m1", ["r1"])

    async def down() -> bool:
        rows = (await stack.status())["services"][0]["endpoints"]
        return {row["health"] for row in rows} == {"OK", "DOWN"}

    await until(down, "the dead replica to be shown as DOWN")


async def test_all_runtimes_lost_together_leave_the_last_picture(
    stack: Stack, replicas: list[Replica]
) -> None:
    await place(replicas, {"r1": ["m1"], "r2": ["m2"]})
    await started(stack, replicas[:2])
    await stack.routed("m1", ["r1"])
    for replica in replicas[:2]:
        replica.server.pause()
    try:

        async def stale() -> bool:
            rows = (await stack.status())["services"][0]["endpoints"]
            return {row["health"] for row in rows} == {"STALE"}

        await until(stale, "both replicas to be shown as STALE")
        rows = (await stack.status())["services"][0]["endpoints"]
        assert sorted(model for row in rows for model in row["routed"]) == ["m1", "m2"]
    finally:
        for replica in replicas[:2]:
            replica.server.resume()
    await stack.routed("m1", ["r1"])
    await stack.routed("m2", ["r2"])
