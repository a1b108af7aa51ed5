"""The name of a model in every place of a request: any characters, on real Envoy and real MLServer."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import grpc
import pytest
import pytest_asyncio

from tests.inference_calls import call, tensor
from tests.integration.mlserver import MLServer, free_ports, write_model
from tests.integration.stack import Stack, pool, service_entry, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

NAMES = (
    "m",
    "tf-mnist",
    "sklearn_mnist.v2",
    "Upper",
    "0",
    "a b",
    "a  b",
    " leading",
    "trailing ",
    "a/b",
    "org/name/deep",
    "/slash-first",
    "slash-last/",
    "a//b",
    "a%2Fb",
    "100%",
    "%41",
    "a+b",
    "a:b",
    "llama3:8b",
    "m:predict",
    "base:adapter",
    "a?b",
    "a#b",
    "a&b=c",
    "a;b,c",
    'a"b',
    '"quoted"',
    '["m"]',
    "a'b",
    "a\\b",
    'a\\"b',
    "{model}",
    "$(id)",
    "a|b<c>d",
    "naïve",
    "模型",
    "модель-☃",
    "🦙",
    "é" * 128 + "x" * 128,
    "n" * 256,
    "..",
    "-",
)
assert len(NAMES) >= 40


def _latin(name: str) -> bool:
    return all(ord(each) < 256 for each in name)


# What a place cannot carry, whoever asks: HTTP trims a header's ends, and a path's dots are steps.
NOT_IN_A_HEADER = {" leading", "trailing "}
NOT_IN_A_PATH = {".."}
# What MLServer cannot take in a path: it takes `%2F` for a slash between segments.
NOT_IN_MLSERVERS_PATH = {name for name in NAMES if "/" in name}
# What MLServer holds but cannot answer for, asked directly too: it puts the name into a header of its answer.
MLSERVER_REST_BREAKS = {name for name in NAMES if name != name.strip() or not _latin(name)}
MLSERVER_GRPC_BREAKS = {name for name in NAMES if not name.isascii()}
BODY = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}


def holder(name: str) -> int:
    """Which of the two replicas has the model."""
    return NAMES.index(name) % 2


@pytest.fixture(scope="module")
def holders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[MLServer]]:
    """Two replicas: each has every other of the names, and both have `chat`."""
    servers = []
    for number in range(2):
        repository = tmp_path_factory.mktemp(f"names-{number}")
        write_model(repository, "chat")
        for index, name in enumerate(NAMES):
            if holder(name) == number:
                write_model(repository, name, folder=f"model-{index}")
        work = tmp_path_factory.mktemp(f"r{number}")
        servers.append(MLServer(repository, work, f"r{number}", at_startup=True))
    try:
        for server in servers:
            server.ready()
        yield servers
    finally:
        for server in servers:
            server.stop()


class World:
    """Envoy before the replicas, with a port for each way: REST, bodies that name the model, and gRPC."""

    def __init__(self, stack: Stack, rest: int, bodies: int, grpc_port: int) -> None:
        self.stack = stack
        self.rest = rest
        self.bodies = bodies
        self.grpc = grpc_port
        self.last: Any = None
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}")

    def documents(self, holders: list[MLServer]) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for host, port in (("rest", self.rest), ("bodies", self.bodies), ("grpc", self.grpc)):
            endpoints = [
                {
                    "address": r.address,
                    "ports": {"http": r.grpc_port if host == "grpc" else r.port, "api": r.port},
                }
                for r in holders
            ]
            protocol = "GRPC" if host == "grpc" else "HTTP"
            made.append(service_entry(endpoints, host=host, port=port, protocol=protocol))
            made.append(
                pool(host=host, models={"openInference": {"port": "api", "interval": "2s", "timeout": "20s"}})
            )
        made[3]["spec"]["request"] = {"headers": [], "paths": [], "jsonBody": {"paths": [CHAT]}}
        return made

    async def settled(self) -> bool:
        """Whether all names are routed on one port, and one on the others: all ports have equal pictures."""
        try:
            for name in NAMES:
                if name not in NOT_IN_A_HEADER:
                    self.last = await self.post(self.rest, CHAT, BODY, {"model": name})
                    if self.last[0] != 200:
                        return False
            for port, body in ((self.bodies, BODY | {"model": "chat"}), (self.grpc, GRPC_BODY)):
                self.last = await self.post(port, CHAT, body)
                if self.last[0] != 200:
                    return False
        except OSError:
            return False  # the listener is not there yet
        return True

    async def post(
        self, port: int, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send the path and the headers as they are, byte by byte; the status and the JSON of the answer."""
        return await asyncio.to_thread(_post, port, path, json.dumps(body), headers or {})

    def hits(self, host: str, server: MLServer) -> int:
        """Requests that a replica has got from Envoy, as Envoy counts them."""
        assert self.stack.envoy is not None
        total = 0
        for name, cluster in self.stack.envoy.clusters().items():
            for each in cluster.get("host_statuses", []) if name.startswith(f"{host}|") else []:
                if each["address"]["socket_address"]["port_value"] in {server.port, server.grpc_port}:
                    total += sum(int(s.get("value", 0)) for s in each["stats"] if s["name"] == "rq_total")
        return total


CHAT = "/v2/models/chat/infer"
GRPC_BODY = {"inputs": [tensor()]}


def _post(port: int, path: str, body: str, headers: dict[str, str]) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest("POST", path, skip_accept_encoding=True)
        for name, value in ({"content-type": "application/json; charset=utf-8"} | headers).items():
            connection.putheader(name, value.encode())
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body.encode())
        response = connection.getresponse()
        text = response.read().decode()
        return response.status, json.loads(text) if text.startswith(("{", "[")) else text
    finally:
        connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(holders: list[MLServer], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with Stack(tmp_path_factory.mktemp("stack")) as stack:
        made = World(stack, *free_ports(3))
        stack.write("documents.yaml", *made.documents(holders))
        await stack.start()
        try:
            await until(made.settled, "every name to be routed")
            yield made
        finally:
            await made.channel.close()


def said(answer: Any) -> tuple[str, str]:
    """The model and the replica that an answer is from: V2 in REST, or translated from gRPC."""

    def value(row: dict[str, Any]) -> str:
        if "data" in row:
            return str(row["data"][0])
        return base64.b64decode(row["contents"]["bytes_contents"][0]).decode()

    values = {row["name"]: value(row) for row in answer["outputs"]}
    return values["model"], values["replica"]


def nowhere(name: str) -> dict[str, str]:
    return {"error": f"model {name} is loaded on no replica"}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("name", NAMES)
async def test_by_header(world: World, name: str) -> None:
    status, answer = await world.post(world.rest, CHAT, BODY, {"model": name})
    if name in NOT_IN_A_HEADER:
        assert (status, answer) == (503, nowhere(name.strip()))
    else:
        assert status == 200, answer
        assert said(answer) == ("chat", f"r{holder(name)}")


@pytest.mark.parametrize("name", NAMES)
async def test_by_path(world: World, holders: list[MLServer], name: str) -> None:
    before = world.hits("rest", holders[holder(name)])
    status, answer = await world.post(world.rest, f"/v2/models/{quote(name, safe='')}/infer", BODY)
    if name in NOT_IN_A_PATH:
        assert (status, answer) == (503, {"error": "the request names no model"})
    elif name in NOT_IN_MLSERVERS_PATH | MLSERVER_REST_BREAKS:
        assert status == (404 if name in NOT_IN_MLSERVERS_PATH else 500 if name == name.strip() else 503), (
            answer
        )
        assert world.hits("rest", holders[holder(name)]) > before  # a 404 is tried again
    else:
        assert status == 200, answer
        assert said(answer) == (name, f"r{holder(name)}")


@pytest.mark.parametrize("name", NAMES)
async def test_by_json_body(world: World, name: str) -> None:
    status, answer = await world.post(world.bodies, CHAT, BODY | {"model": name})
    assert status == 200, answer
    assert said(answer) == ("chat", f"r{holder(name)}")


@pytest.mark.parametrize("name", NAMES)
async def test_by_grpc_message(world: World, holders: list[MLServer], name: str) -> None:
    before = world.hits("grpc", holders[holder(name)])
    if name in MLSERVER_GRPC_BREAKS:
        with pytest.raises(grpc.aio.AioRpcError, match="Invalid metadata"):
            await call(world.channel, "ModelInfer", model_name=name, inputs=[tensor()])
        assert world.hits("grpc", holders[holder(name)]) > before  # a 404 is tried again
        return
    answer = await call(world.channel, "ModelInfer", model_name=name, inputs=[tensor()])
    values = {row.name: row.contents.bytes_contents[0].decode() for row in answer.outputs}
    assert values == {"model": name, "replica": f"r{holder(name)}"}


@pytest.mark.parametrize("name", NAMES)
async def test_by_path_to_grpc(world: World, holders: list[MLServer], name: str) -> None:
    """Translated: even names that MLServer's own REST cannot take."""
    before = world.hits("grpc", holders[holder(name)])
    status, answer = await world.post(world.grpc, f"/v2/models/{quote(name, safe='')}/infer", GRPC_BODY)
    if name in NOT_IN_A_PATH:
        assert (status, answer) == (503, {"error": "the request names no model"})
    elif name in MLSERVER_GRPC_BREAKS:
        assert (status, answer) == (500, {"error": "Invalid metadata"})
        assert world.hits("grpc", holders[holder(name)]) > before  # a 404 is tried again
    else:
        assert status == 200, answer
        assert said(answer) == (name, f"r{holder(name)}")
