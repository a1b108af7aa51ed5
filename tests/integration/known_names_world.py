"""Envoy before replicas that answer only to the names that they have, over REST and gRPC."""

from __future__ import annotations

import asyncio
import http.client
import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.inference_calls import call
from tests.integration.mlserver import free_ports
from tests.integration.stack import Stack, pool, service_entry, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.integration.named_replica import NamedReplica

LAYOUTS: dict[str, dict[str, Any]] = {
    "single": {"type": "single"},
    "sharded": {"type": "sharded", "shards": 4},
    "perModel": {"type": "perModel"},
}
EACH_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)
ASKED = {"port": "api", "interval": "100ms", "timeout": "2s"}


class World:
    """Envoy before some replicas, with a port for REST and one for gRPC."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.rest, self.grpc = free_ports(2)
        self.channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{self.grpc}", options=[("grpc.max_send_message_length", 1 << 25)]
        )

    def write(
        self,
        replicas: list[NamedReplica],
        models: dict[str, Any],
        layout: str = "single",
        **spec: Any,
    ) -> None:
        made = []
        for host, port in (("rest", self.rest), ("grpc", self.grpc)):
            endpoints = [each.endpoint(grpc_traffic=host == "grpc") for each in replicas]
            protocol = "GRPC" if host == "grpc" else "HTTP"
            made.append(service_entry(endpoints, host=host, port=port, protocol=protocol))
            document = pool(host=host, models=models)
            document["spec"] |= {"layout": LAYOUTS[layout], **spec}
            made.append(document)
        self.stack.write("documents.yaml", *made)

    async def post(self, path: str, body: Any = None, **headers: str) -> str:
        """`AS by REPLICA`, or the status and what was said."""
        text = body if isinstance(body, str) else json.dumps(body or {})
        try:
            status, said = await asyncio.to_thread(_post, self.rest, path, text, headers)
        except OSError as error:
            return repr(error)
        answer = json.loads(said)
        return f"{answer['as']} by {answer['by']}" if status == 200 else f"{status} {said}"

    async def infer(self, model: str, version: str = "", header: str = "", **fields: Any) -> str:
        """The same over gRPC."""
        metadata = (("model", header),) if header else ()
        try:
            answer = await call(
                self.channel, "ModelInfer", metadata, model_name=model, model_version=version, **fields
            )
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}"
        return f"{answer.model_name} by {answer.id}"

    async def says(self, wanted: str, ask: Any) -> None:
        seen = ""

        async def check() -> bool:
            nonlocal seen
            seen = await ask()
            return seen == wanted

        try:
            await until(check, wanted, 20)
        except AssertionError as error:
            raise AssertionError(f"{wanted}: {seen}") from error


def _post(port: int, path: str, body: str, headers: dict[str, str]) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, body.encode(), {"content-type": "application/json"} | headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@asynccontextmanager
async def worlds(tmp_path: Path, *replicas: NamedReplica) -> AsyncIterator[World]:
    async with AsyncExitStack() as opened:
        for each in replicas:
            await opened.enter_async_context(each)
        world = World(await opened.enter_async_context(Stack(tmp_path)))
        opened.push_async_callback(world.channel.close)
        yield world


CHAT = "/v1/chat/completions"
