"""A replica that drops a model behind the server's back: Envoy's first "not found" from it brings a poll.

The runtimes say what the test wants them to; polls are a minute apart, so that none comes by itself.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.inference_calls import SERVICE, call, message
from tests.integration.stack import pool, service_entry, until
from tests.scripted_runtime import Request, rows, scripted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.integration.stack import Stack

INTERVAL = "60s"
SOON = 5.0
"""Seconds. The next poll is ten times as far away."""
NOT_FOUND = "access_logs.grpc_access_log.logs_written"


class RestReplica:
    """Answers for the models that it has, and with 404 for others."""

    def __init__(self, name: str, *models: str) -> None:
        self.name = name
        self.models = set(models)
        self.polls = self.misses = 0
        self.port = 0

    async def start(self, stack: AsyncExitStack) -> None:
        runtime = await stack.enter_async_context(scripted(self._answer))
        self.port = int(runtime.url.rpartition(":")[2])

    async def _answer(self, request: Request) -> None:
        path = request.line.split()[1]
        if path == "/v2/repository/index":
            self.polls += 1
            await request.answer(rows(*self.models))
        elif path.split("/")[3] in self.models:
            output = {"name": "replica", "shape": [1], "datatype": "BYTES", "data": [self.name]}
            body = json.dumps({"outputs": [output]})
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            await request.raw((head + body).encode())
        else:
            self.misses += 1
            await request.answer(b"{}", "404 Not Found")


class GrpcReplica(RestReplica):
    """The same over gRPC. `late`: headers come before the status, as where a stream had begun."""

    late = False

    async def start(self, stack: AsyncExitStack) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers = {
            "RepositoryIndex": grpc.unary_unary_rpc_method_handler(self._index),
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, None)

    async def _index(self, _request: bytes, _context: object) -> bytes:
        self.polls += 1
        index = message("RepositoryIndexResponse")()
        for name in sorted(self.models):
            index.models.add(name=name, version="1", state="READY")
        made: bytes = index.SerializeToString()
        return made

    async def _infer(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if message("ModelInferRequest").FromString(request).model_name not in self.models:
            self.misses += 1
            if self.late:
                await context.send_initial_metadata(())
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        made: bytes = message("ModelInferResponse")(id=self.name).SerializeToString()
        return made


class World:
    """Two replicas with model m behind the server and an Envoy."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.replicas: list[RestReplica] = []
        self.parts = AsyncExitStack()

    async def start(self, kind: type[RestReplica], protocol: str) -> None:
        self.replicas = [kind("r1", "m", "n"), kind("r2", "m", "n")]
        for each in self.replicas:
            await each.start(self.parts)
        endpoints = [{"address": "127.0.0.1", "ports": {"http": each.port}} for each in self.replicas]
        asked = {"openInference": {"interval": INTERVAL, "protocol": protocol}}
        spoken = "GRPC" if protocol == "GRPC" else "HTTP"
        entry = service_entry(endpoints, port=self.stack.port, protocol=spoken)
        self.stack.write("documents.yaml", entry, pool(models=asked))
        await self.stack.start()
        await until(self._both, "both replicas to be routed to")

    async def _both(self) -> bool:
        try:
            return {await self.ask() for _ in range(6)} == {"r1", "r2"}
        except OSError:
            return False

    async def ask(self) -> str:
        """Who answered a request for m, or why nobody did."""
        if isinstance(self.replicas[0], GrpcReplica):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{self.stack.port}") as channel:
                try:
                    answer = await call(channel, "ModelInfer", model_name="m")
                except grpc.aio.AioRpcError as error:
                    return error.code().name
                return str(answer.id)
        status, text = await self.stack.infer("m")
        return text if status == 200 else str(status)

    async def told(self) -> int:
        """How many attempts Envoy has had an entry for."""
        assert self.stack.envoy is not None
        stats = await asyncio.to_thread(self.stack.envoy.stats, NOT_FOUND)
        return int(stats[NOT_FOUND])

    async def holders(self) -> set[str]:
        """The ports at which m is routed."""
        models = (await self.stack.status())["models"]
        return {each["endpoint"].rpartition(":")[2] for each in models.get("m", ())}

    async def metrics(self) -> dict[str, float]:
        assert self.stack.http is not None
        async with self.stack.http.get(f"http://{self.stack.admin}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name.removeprefix("xds_server_"): float(value) for name, _, value in pairs}


@pytest.fixture
def delta() -> bool:
    return True


@pytest.fixture
async def world(stack: Stack) -> AsyncIterator[World]:
    made = World(stack)
    async with made.parts:
        yield made


async def drops_it_silently(world: World, late: bool = False) -> None:
    first, second = world.replicas
    assert [each.polls for each in world.replicas] == [1, 1]
    assert await world.told() == 0
    if isinstance(first, GrpcReplica):
        first.late = late
    first.models.discard("m")

    async def missed() -> bool:
        return await world.ask() in {"r2", "NOT_FOUND"} and first.misses > 0

    await until(missed, "a request to meet the replica without the model")

    async def lost() -> bool:
        return await world.holders() == {str(second.port)}

    await until(lost, "the model to be taken off that replica", SOON)
    assert await world.told() == first.misses
    met = first.misses

    async def settled() -> bool:
        """Envoy's workers have followed."""
        nonlocal met
        before, met = met, first.misses
        return {await world.ask() for _ in range(10)} == {"r2"} and first.misses == before

    await until(settled, "requests to keep away from that replica", SOON)
    metrics = await world.metrics()
    assert metrics['not_found_answers_total{replica="polled"}'] >= 1
    assert metrics['not_found_answers_total{replica="other"}'] == 0
    assert metrics["second_looks_total"] == first.polls - 1
    assert 2 <= first.polls <= 4
    assert second.polls == 1


async def test_a_404_over_rest(world: World) -> None:
    await world.start(RestReplica, "REST")
    assert {await world.ask() for _ in range(30)} == {"r1", "r2"}
    await drops_it_silently(world)


@pytest.mark.parametrize("late", [False, True], ids=["nothing but a status", "after headers"])
async def test_not_found_over_grpc(world: World, late: bool) -> None:
    await world.start(GrpcReplica, "GRPC")
    await drops_it_silently(world, late)
