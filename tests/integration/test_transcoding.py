"""The seed's commands against replicas that are reached over gRPC only: REST in on 8008, gRPC out to 8033."""

from __future__ import annotations

import asyncio
import http.client
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.integration.stack import HOST, Stack, pool, service_entry, until
from xds_server.resources.filters import TRANSLATED_BYTES
from xds_server.wire import field

if TYPE_CHECKING:
    from tests.integration.conftest import Replica

SEED = Path(__file__).parents[1] / "data" / "seed"
PAYLOAD = (SEED / "infer-payload.json").read_text()


@pytest.fixture
def delta() -> bool:
    return True


def ask(
    method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", 8008, timeout=20)
    try:
        connection.request(method, path, body, {"content-type": "application/json"} | (headers or {}))
        response = connection.getresponse()
        text = response.read().decode()
        assert "grpc-status" not in response.headers or response.status == 200
        return response.status, json.loads(text)
    finally:
        connection.close()


async def test_the_seeds_commands_on_grpc_only_replicas(stack: Stack, replicas: list[Replica]) -> None:
    placement = {"r1": ["m1"], "r2": ["m2"], "r3": ["m2"]}
    await asyncio.gather(*(each.hold(placement[each.name]) for each in replicas))
    endpoints = [{"address": each.address, "ports": {"http": each.server.grpc_port}} for each in replicas]
    models = {"openInference": {"protocol": "GRPC", "interval": "200ms"}}
    entry = service_entry(endpoints, protocol="GRPC")
    stack.write("services.yaml", entry, pool(models=models))
    for name in ("destination-rule.yaml", "virtual-service.yaml"):
        (stack.directory / name).write_bytes((SEED / name).read_bytes())
    await stack.start()

    async def post(model: str, headers: dict[str, str]) -> tuple[int, Any]:
        return await asyncio.to_thread(ask, "POST", f"/v2/models/{model}/infer", PAYLOAD, headers)

    async def up() -> bool:
        try:
            return (await post("m1", {"model": "m1"}))[0] == 200
        except OSError:
            return False

    await until(up, f"{HOST} to be reached by REST")
    # Steps 2 and 4 of the document send the header, others the path alone; both find the holder each time.
    for headers in ({"model": "m1"}, {}):
        answers = [await post("m1", headers) for _ in range(6)]
        assert {status for status, _ in answers} == {200}
        assert {answer["model_name"] for _, answer in answers} == {"m1"}

    status, answer = await asyncio.to_thread(ask, "GET", "/v2/models/m2/ready")
    assert (status, answer) == (200, {"ready": True})
    status, answer = await asyncio.to_thread(ask, "GET", "/v2/health/live")
    assert (status, answer) == (200, {"live": True})

    # ANY_ENDPOINT, as the seed's rule says: a replica answers, over gRPC, and the caller reads REST.
    status, answer = await post("m9", {})
    assert status == 404
    assert list(answer) == ["error"]
    assert "m9" in answer["error"]


async def test_what_would_be_lost_is_refused(stack: Stack, replicas: list[Replica]) -> None:
    await asyncio.gather(*(each.hold(["m1"]) for each in replicas))
    endpoints = [{"address": each.address, "ports": {"http": each.server.grpc_port}} for each in replicas]
    models = {"openInference": {"protocol": "GRPC", "interval": "200ms"}}
    stack.write("services.yaml", service_entry(endpoints, port=8008, protocol="GRPC"), pool(models=models))
    await stack.start()

    async def infer(body: Any) -> tuple[int, Any]:
        return await asyncio.to_thread(ask, "POST", "/v2/models/m1/infer", json.dumps(body))

    async def up() -> bool:
        try:
            return (await infer({"inputs": []}))[0] in (200, 500)
        except OSError:
            return False

    await until(up, f"{HOST} to be reached by REST")
    tensor = {"name": "x", "shape": [1], "datatype": "FP32"}
    status, answer = await infer({"inputs": [tensor | {"data": [1.0]}]})
    assert status == 400
    assert answer["error"].startswith('the replicas speak gRPC: an input\'s values go into "contents"')
    # "data" elsewhere is nobody's loss: the name of an input, a parameter, a text.
    harmless = tensor | {"name": "data", "contents": {"fp32_contents": [1.0]}}
    status, answer = await infer(
        {"parameters": {"data": {"string_param": '"data": ['}}, "inputs": [harmless]}
    )
    assert status == 200, answer
    # The path says which model; a body that names another would be answered by that one's replica, if at all.
    status, answer = await infer({"model_name": "m2", "inputs": [harmless]})
    assert status == 400
    assert "model_name" in answer["error"]
    status, answer = await asyncio.to_thread(ask, "POST", "/v2/models/m1/infer", "{")
    assert status == 400
    assert answer["error"]


async def test_bodies_of_some_megabytes_are_translated_both_ways(stack: Stack) -> None:
    """A stand-in replica: it answers with as long an id as it is asked to."""

    async def infer(request: bytes, _: Any) -> bytes:
        return field(3, b"x" * len(request))

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    handler = grpc.unary_unary_rpc_method_handler(infer)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    entry = service_entry([{"address": "127.0.0.1", "ports": {"http": port}}], port=8008, protocol="GRPC")
    stack.write("services.yaml", entry, pool(models={"static": {f"127.0.0.1:{port}": ["m1"]}}))

    async def post(size: int) -> tuple[int, Any]:
        body = json.dumps({"id": "x" * size})
        return await asyncio.to_thread(ask, "POST", "/v2/models/m1/infer", body)

    async def up() -> bool:
        try:
            return (await post(1))[0] == 200
        except OSError:
            return False

    try:
        await stack.start()
        await until(up, f"{HOST} to be reached by REST")
        status, answer = await post(3 << 20)
        assert (status, len(answer.get("id", "")) > 3 << 20) == (200, True), answer
        status, answer = await post(TRANSLATED_BYTES + 1000)
        assert status == 413
        assert answer == {"error": "the body is larger than the 16777216 bytes that are held to translate it"}
    finally:
        await server.stop(None)
