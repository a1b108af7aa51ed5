"""A model that nobody knows is told from one that is known and loaded nowhere, on a real Envoy.

The runtime is a stand-in that lists what a test wants it to, in the states that a test wants.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import yaml
from aiohttp import web

from tests.inference_calls import call
from tests.integration.envoy import Envoy
from tests.integration.scale_world import ScaleWorld
from tests.integration.stack import HOST, Stack, pool, service_entry, until
from tests.integration.test_mtls import Secured
from tests.static_envoy import free_ports
from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.misses import NO_MISSES, Choice, Misses
from xds_server.mesh.policies import Fallback
from xds_server.resources.bootstrap import XDS_CLUSTER, bootstrap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

V2, OPENAI = "/v2/models/{}/infer", "/v1/chat/completions"
APART = {"notLoaded": "UNAVAILABLE", "unknown": "NOT_FOUND", "retryAfter": "7s"}
LAYOUTS: dict[str, dict[str, Any]] = {
    "single": {"type": "single"},
    "sharded": {"type": "sharded", "shards": 4},
    "perModel": {"type": "perModel"},
}
ROWS = {"up": "READY", "idle": "UNAVAILABLE"}
UNKNOWN, NOT_LOADED = "model {} is not known here", "model {} is loaded on no replica"


@pytest.fixture
def delta() -> bool:
    return True


@asynccontextmanager
async def runtime(rows: dict[str, str]) -> AsyncIterator[int]:
    """A replica that lists these models, read anew for each question; the value is its port."""

    async def index(_: web.Request) -> web.Response:
        return web.json_response([{"name": name, "state": state} for name, state in rows.items()])

    async def said(_: web.Request) -> web.Response:
        return web.json_response({"here": True})

    application = web.Application()
    application.router.add_post("/v2/repository/index", index)
    application.router.add_route("*", "/{rest:.*}", said)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture
async def rows() -> dict[str, str]:
    return dict(ROWS)


@pytest.fixture
async def port(rows: dict[str, str]) -> AsyncIterator[int]:
    async with runtime(rows) as port:
        yield port


def write(stack: Stack, port: int, on_miss: dict[str, str], **more: Any) -> None:
    models = {
        "openInference": {"interval": "100ms", "timeout": "2s"},
        "aliases": {"nickname": "idle"},
        "fallbacks": {"written": ["elsewhere"]},
        "versions": {},
    }
    document = pool(models=models, on_miss=on_miss)
    document["spec"] |= more
    endpoint = {"address": "127.0.0.1", "ports": {"http": port}}
    stack.write("documents.yaml", service_entry([endpoint], port=stack.port), document)


async def v2(
    stack: Stack, model: str, path: str = V2, body: dict[str, Any] | None = None
) -> tuple[int, Any, str | None]:
    """The status, the body and what it says of a later attempt."""
    assert stack.http is not None
    url = f"http://127.0.0.1:{stack.port}{path.format(model)}"
    async with stack.http.post(url, json=body or {}) as answer:
        text = await answer.text()
        assert "x-xds-flags" not in answer.headers
        assert answer.content_type == "application/json", text
        return answer.status, json.loads(text), answer.headers.get("retry-after")


async def openai(stack: Stack, model: str) -> tuple[int, Any, str | None]:
    return await v2(stack, model, OPENAI, {"model": model})


async def over_grpc(stack: Stack, model: str) -> tuple[str, str]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(channel, "ModelInfer", model_name=model)
        return raised.value.code().name, raised.value.details() or ""


async def routed(stack: Stack) -> None:
    """Wait until Envoy answers as it is to."""

    async def up() -> bool:
        with contextlib.suppress(OSError, AssertionError):
            return (await v2(stack, "up"))[0] == 200
        return False

    await until(up, "the model that is loaded to be answered")


def logged(stack: Stack) -> list[dict[str, Any]]:
    assert stack.envoy is not None
    return [json.loads(line) for line in stack.envoy.log.splitlines() if line.startswith('{"')]


def openai_error(message: str, code: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_an_unknown_model_is_told_apart_in_each_protocol(stack: Stack, port: int, layout: str) -> None:
    write(stack, port, APART, layout=LAYOUTS[layout])
    await stack.start()
    await routed(stack)
    missing = UNKNOWN.format("nowhere")
    assert await v2(stack, "nowhere") == (404, {"error": missing}, None)
    error = openai_error(UNKNOWN.format("nor here"), "model_not_found", "invalid_request_error")
    assert await openai(stack, "nor here") == (404, error, None)
    assert await over_grpc(stack, "not there") == ("NOT_FOUND", UNKNOWN.format("not there"))
    idle = NOT_LOADED.format("idle")
    assert await v2(stack, "idle") == (503, {"error": idle}, "7")
    assert await openai(stack, "idle") == (503, openai_error(idle, "model_not_loaded", "server_error"), "7")
    assert await over_grpc(stack, "idle") == ("UNAVAILABLE", idle)
    for known in ("nickname", "written", "elsewhere", "idle/versions/3"):
        assert (await v2(stack, "", OPENAI, {"model": known}))[0] == 503
    assert (await v2(stack, "", OPENAI, {"model": "nowhere/versions/3"}))[0] == 404

    async def all_logged() -> bool:
        return sum(line["miss"] is not None for line in logged(stack)) == 11

    await until(all_logged, "the access log")
    told = [(line["model"], line["miss"], line["flags"], line["code"]) for line in logged(stack)]
    assert {("nowhere", "unknown", "UH", 404), ("nor here", "unknown", "UH", 404)} < set(told)
    assert ("idle", "notLoaded", "UH", 503) in told
    assert {line["miss"] for line in logged(stack) if line["model"] == "not there"} == {"unknown"}


@pytest.mark.parametrize(("choice", "retry"), [("UNAVAILABLE", "7"), ("NO_FALLBACK", None)])
async def test_every_other_choice(stack: Stack, port: int, choice: str, retry: str | None) -> None:
    write(stack, port, {"notLoaded": "NOT_FOUND", "unknown": choice, "retryAfter": "7s"})
    await stack.start()
    await routed(stack)
    text = UNKNOWN.format("nowhere")
    assert await v2(stack, "nowhere") == (503, {"error": text}, retry)
    error = openai_error(text, "model_not_found", "server_error")
    assert await openai(stack, "nowhere") == (503, error, retry)
    assert await over_grpc(stack, "nowhere") == ("UNAVAILABLE", text)
    assert await v2(stack, "idle") == (404, {"error": NOT_LOADED.format("idle")}, None)


async def test_a_model_that_a_replica_lists_from_now_on_is_known_from_now_on(
    stack: Stack, port: int, rows: dict[str, str]
) -> None:
    write(stack, port, APART)
    await stack.start()
    await routed(stack)
    assert (await v2(stack, "later"))[0] == 404
    rows["later"] = "UNAVAILABLE"

    async def known() -> bool:
        return (await v2(stack, "later"))[0] == 503

    await until(known, "the model to be known")
    del rows["later"]

    async def unknown() -> bool:
        return (await v2(stack, "later"))[0] == 404

    await until(unknown, "the model to be unknown")


async def test_without_a_word_of_the_server_a_model_is_not_loaded(stack: Stack, port: int) -> None:
    write(stack, port, APART)
    await stack.start()
    await routed(stack)
    assert stack.server is not None
    stack.server.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    assert await v2(stack, "hung") == (503, {"error": NOT_LOADED.format("hung")}, "7")
    assert 0.9 < time.monotonic() - begun < 3.0
    assert await over_grpc(stack, "hanging") == ("UNAVAILABLE", NOT_LOADED.format("hanging"))
    stack.server.send_signal(signal.SIGCONT)

    async def unknown() -> bool:
        return (await v2(stack, "hung"))[0] == 404

    await until(unknown, "the server to answer again")
    await stack.stop_server()
    assert await v2(stack, "gone") == (503, {"error": NOT_LOADED.format("gone")}, "7")
    await stack.start_server()
    await until(unknown, "the new server to be asked")


async def test_an_envoy_that_calls_the_servers_cluster_something_else_asks_nobody(
    stack: Stack, port: int
) -> None:
    write(stack, port, APART)
    await stack.start_server()
    document = yaml.safe_load(bootstrap(xds=stack.xds, admin=f"127.0.0.1:{free_ports(1)[0]}"))
    (cluster,) = document["static_resources"]["clusters"]
    assert cluster["name"] == XDS_CLUSTER
    text = yaml.safe_dump(document).replace(f"cluster_name: {XDS_CLUSTER}", "cluster_name: control")
    stack.envoy = await asyncio.to_thread(Envoy, text.replace(f"name: {XDS_CLUSTER}\n", "name: control\n"))
    await routed(stack)
    assert await v2(stack, "nowhere") == (503, {"error": NOT_LOADED.format("nowhere")}, "7")


async def test_a_head_request_has_no_body_that_the_next_answer_would_begin_with(
    stack: Stack, port: int
) -> None:
    write(stack, port, APART)
    await stack.start()
    await routed(stack)
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    try:
        for number, method in enumerate(("HEAD", "GET", "HEAD", "GET")):
            path = V2.format(f"nobody{number // 2}")
            writer.write(f"{method} {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode())
            async with asyncio.timeout(10):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                assert head.startswith("HTTP/1.1 404 "), head
                size = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
                if method == "GET":
                    assert "not known here" in (await reader.readexactly(size)).decode()
    finally:
        writer.close()


async def test_a_rest_caller_of_replicas_that_speak_grpc(stack: Stack, port: int) -> None:
    document = pool(models={"static": {f"127.0.0.1:{port}": ["up"]}}, on_miss=APART)
    endpoint = {"address": "127.0.0.1", "ports": {"http": port}}
    stack.write("documents.yaml", service_entry([endpoint], port=stack.port, protocol="GRPC"), document)
    await stack.start()

    async def unknown() -> bool:
        with contextlib.suppress(OSError):
            return await v2(stack, "nowhere") == (404, {"error": UNKNOWN.format("nowhere")}, None)
        return False

    await until(unknown, "Envoy to answer")
    assert await over_grpc(stack, "nowhere") == ("NOT_FOUND", UNKNOWN.format("nowhere"))


async def test_the_question_goes_by_the_certificate_of_the_envoy(tmp_path: Path, port: int) -> None:
    async with Secured(tmp_path) as stack:
        write(stack, port, APART)
        await stack.start()
        await routed(stack)
        assert await v2(stack, "nowhere") == (404, {"error": UNKNOWN.format("nowhere")}, None)
        assert (await v2(stack, "idle"))[0] == 503


class Asked:
    """A server's knowledge that counts how often it is asked for which model."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()

    def __call__(self, _: str, model: str) -> bool:
        self.times[model] += 1
        return False


async def test_a_worker_asks_so_often_a_second_and_no_more() -> None:
    """Whoever asks for what is not there does so a thousand times; the server sees a part of it."""
    asked = Asked()
    async with ScaleWorld(1, knows=asked) as world:
        for name, misses in (("quiet", NO_MISSES), ("pool", Misses(unknown=Choice.NOT_FOUND))):
            world.add(name, PoolLayout(LayoutKind.SINGLE), Fallback.NO_FALLBACK, misses=misses)
        world.configure()
        for name in world.port:
            world.report(name, 0, ["up"])
        await world.start()
        assert set(await world.spread("quiet", "nobody", 20)) == {"503"}
        assert asked.times == Counter()
        begun = int(time.time())
        assert set(await world.spread("pool", "one", 100)) == {"404"}
        assert asked.times["one"] <= int(time.time()) - begun + 1, "what was told stays for that second"
        begun = int(time.time())
        connections = [world.connection("pool") for _ in range(8)]

        async def ask(number: int) -> list[int]:
            # Names with a comma are found by the script, others by Envoy's own rules: each has a share.
            names = [f"m{number}{'-,'[each % 2]}{each}" for each in range(150)]
            return [(await connections[number].get(name))[0] for name in names]

        found = Counter(status for each in await asyncio.gather(*map(ask, range(8))) for status in each)
        seconds = int(time.time()) - begun + 1
        assert set(found) == {404, 503}
        assert found[404] == sum(asked.times.values()) - asked.times["one"] <= 200 * seconds
