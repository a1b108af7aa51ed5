"""What callers are told when nobody has their model: each case, in each protocol, on a real Envoy.

The replicas are stand-ins: a miss never reaches one, and what a fallback reaches has to say what it got.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.inference_calls import call
from tests.integration.mlserver import free_ports
from tests.integration.stack import HOST, KEY, Stack, destination_rule, pool, service_entry, until
from tests.static_envoy import Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

V2, OPENAI = "/v2/models/{}/infer", "/v1/chat/completions"


@pytest.fixture
def upstreams() -> Iterator[list[Upstream]]:
    made = [Upstream("r1"), Upstream("r2")]
    yield made
    for each in made:
        each.close()


class Misses:
    """One Envoy; its log lines are those of its access log."""

    def __init__(self, stack: Stack, upstreams: list[Upstream]) -> None:
        self.stack = stack
        self.upstreams = upstreams
        (self.dead,) = free_ports(1)

    async def start(self, on_miss: dict[str, Any], *rules: dict[str, Any], **placement: list[str]) -> None:
        """r1 and r2 hold what `placement` says; `dead` is where nobody listens."""
        ports = {"r1": self.upstreams[0].port, "r2": self.upstreams[1].port, "dead": self.dead}
        endpoints = [
            {"address": "127.0.0.1", "ports": {"http": ports[name]}, "labels": {"name": name}}
            for name in ("r1", "r2", "dead")
        ]
        models = {"static": {f"127.0.0.1:{ports[name]}": each for name, each in placement.items()}}
        entry = service_entry(endpoints, port=self.stack.port)
        self.stack.write("documents.yaml", entry, pool(models=models, on_miss=on_miss), *rules)
        await self.stack.start()

        async def up() -> bool:
            try:
                return (await self.v2("r1-only"))[0] == 200
            except OSError:
                return False

        await until(up, "r1 to be routed")

    async def v2(self, model: str) -> tuple[int, Any, dict[str, str]]:
        return await asyncio.to_thread(_post, self.stack.port, V2.format(model), {})

    async def nameless(self) -> tuple[int, Any, dict[str, str]]:
        return await asyncio.to_thread(_post, self.stack.port, "/somewhere", {})

    async def openai(self, model: str | None) -> tuple[int, Any, dict[str, str]]:
        return await asyncio.to_thread(
            _post, self.stack.port, OPENAI, {"model": model} if model else {"a": 1}
        )

    async def openai_by_header(self, model: str) -> tuple[int, Any, dict[str, str]]:
        return await asyncio.to_thread(_post, self.stack.port, f"{OPENAI}?a=b", {}, {"model": model})

    async def grpc(self, model: str) -> tuple[str, str]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.stack.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(channel, "ModelInfer", model_name=model)
            return raised.value.code().name, raised.value.details() or ""

    def logged(self) -> list[dict[str, Any]]:
        """What the access log has said so far."""
        envoy = self.stack.envoy
        assert envoy is not None
        return [json.loads(line) for line in envoy.log.splitlines() if line.startswith('{"')]


def _post(
    port: int, path: str, body: dict[str, Any], more: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        # GET, and no body that is not needed: the stand-in knows nothing else.
        text = json.dumps(body) if body else None
        connection.request("GET", path, text, {"content-type": "application/json"} | (more or {}))
        response = connection.getresponse()
        text = response.read().decode()
        headers = {name.lower(): value for name, value in response.getheaders()}
        assert "x-xds-flags" not in headers
        return response.status, json.loads(text), headers
    finally:
        connection.close()


@pytest.fixture
def misses(stack: Stack, upstreams: list[Upstream]) -> Misses:
    return Misses(stack, upstreams)


@pytest.fixture
def delta() -> bool:
    return True


UNAVAILABLE = {
    "noModel": "UNAVAILABLE",
    "notLoaded": "UNAVAILABLE",
    "holdersDown": "UNAVAILABLE",
    "retryAfter": "7s",
}
NOT_FOUND = {"noModel": "NOT_FOUND", "notLoaded": "NOT_FOUND", "holdersDown": "NOT_FOUND"}
STAYING = {"trafficPolicy": {"outlierDetection": {"maxEjectionPercent": 0}}}
"""Nobody is left out: a holder that is down goes on being one."""


def openai_error(message: str, code: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("on_miss", "status", "kind", "grpc_status"),
    [
        (UNAVAILABLE, 503, "server_error", "UNAVAILABLE"),
        (NOT_FOUND, 404, "invalid_request_error", "NOT_FOUND"),
        ({}, 503, "server_error", "UNAVAILABLE"),
    ],
    ids=["unavailable", "not-found", "defaults"],
)
async def test_each_miss_in_each_protocol(
    misses: Misses, on_miss: dict[str, Any], status: int, kind: str, grpc_status: str
) -> None:
    rule = destination_rule([{"keys": [KEY]}])
    rule["spec"]["trafficPolicy"] |= STAYING["trafficPolicy"]
    await misses.start(on_miss, rule, r1=["r1-only"], dead=["down"])
    texts = {
        "noModel": ("the request names no model", "model_required"),
        "notLoaded": ("model nowhere is loaded on no replica", "model_not_loaded"),
        "holdersDown": ("no replica that has model down can be reached", "model_unavailable"),
    }
    v2 = {
        "noModel": await misses.nameless(),
        "notLoaded": await misses.v2("nowhere"),
        "holdersDown": await misses.v2("down"),
    }
    openai = {
        "noModel": await misses.openai(None),
        "notLoaded": await misses.openai("nowhere"),
        "holdersDown": await misses.openai("down"),
    }
    for case, (message, code) in texts.items():
        assert v2[case][:2] == (status, {"error": message})
        assert openai[case][:2] == (status, openai_error(message, code, kind))
        retry = "7" if on_miss is UNAVAILABLE else None
        assert v2[case][2].get("retry-after") == openai[case][2].get("retry-after") == retry
    # The path tells the protocol, wherever the name is.
    assert (await misses.openai_by_header("nowhere"))[:2] == openai["notLoaded"][:2]
    assert await misses.grpc("") == (grpc_status, texts["noModel"][0])
    assert await misses.grpc("nowhere") == (grpc_status, texts["notLoaded"][0])
    assert await misses.grpc("down") == (grpc_status, texts["holdersDown"][0])

    async def all_logged() -> bool:
        return len([line for line in misses.logged() if line["miss"]]) == 9

    await until(all_logged, "the access log")
    told = {(line["miss"], line["flags"]) for line in misses.logged() if line["miss"]}
    assert {("noModel", "UH"), ("notLoaded", "UH")} < told
    (down,) = {flags for miss, flags in told if miss == "holdersDown"}
    assert set(down.split(",")) == {"UF", "URX"}


async def test_any_endpoint_and_the_default_subset(misses: Misses) -> None:
    rule = destination_rule(
        [{"keys": [KEY], "fallbackPolicy": "DEFAULT_SUBSET"}, {"keys": ["name"]}], default={"name": "r2"}
    )
    on_miss = {"noModel": "ANY_ENDPOINT", "notLoaded": "DEFAULT_SUBSET"}
    await misses.start(on_miss, rule, r1=["r1-only"])
    assert {(await misses.v2("nowhere"))[1][0] for _ in range(6)} == {"r2"}
    reached = {(await misses.nameless())[1][0] for _ in range(20)}
    assert reached >= {"r1", "r2"}


async def test_a_fallback_model_stands_in(misses: Misses) -> None:
    on_miss = {"noModel": "FALLBACK_MODEL", "notLoaded": "FALLBACK_MODEL", "fallbackModel": "base"}
    await misses.start(on_miss, r1=["r1-only"], r2=["base"])
    assert {(await misses.v2("nowhere"))[1][0] for _ in range(6)} == {"r2"}
    assert {(await misses.v2("r1-only"))[1][0] for _ in range(6)} == {"r1"}
    assert {(await misses.nameless())[1][0] for _ in range(6)} == {"r2"}


async def test_a_body_that_is_too_large(misses: Misses) -> None:
    await misses.start({}, r1=["r1-only"])
    body = {"model": "r1-only", "text": "x" * (5 << 20)}
    status, answer, _ = await asyncio.to_thread(_post, misses.stack.port, OPENAI, body)
    assert status == 413
    assert answer["error"]["type"] == "invalid_request_error"
    size = 4 << 20
    assert answer["error"]["message"] == (
        f"the body is larger than the {size} bytes that are held to find the model's name"
    )


async def test_names_that_cannot_travel_get_a_400(misses: Misses) -> None:
    await misses.start({}, r1=["r1-only"])
    for name, message in (
        ("a%0Ab", "the model's name has a control character in it"),
        ("%FF", "the model's name is not UTF-8"),
        ("%C0" + "%80" * 9, "the model's name is not UTF-8"),
        ("100%", "the model's name in the path has a malformed percent-encoding"),
    ):
        assert (await misses.v2(name))[:2] == (400, {"error": message})
    answer = await asyncio.to_thread(_post, misses.stack.port, OPENAI, {"model": 5})
    assert (answer[0], answer[1]["error"]["message"]) == (400, "the model's name in the body is not a string")


async def test_the_mark_of_a_miss_means_nothing_on_a_replicas_answer(misses: Misses) -> None:
    await misses.start({}, r1=["r1-only"])
    for mark in ("503 GET UH /", "anything"):
        misses.upstreams[0].headers["x-xds-flags"] = mark
        path = V2.format("r1-only")
        for header in ({}, {"model": ""}):  # the name is copied by a rule; it is read by the script
            answer = await asyncio.to_thread(_post, misses.stack.port, path, {}, header)
            assert answer[:2] == (200, ["r1", path])
    assert misses.stack.envoy is not None
    assert "script log" not in misses.stack.envoy.log


async def test_two_names_are_refused_where_the_pool_says_so(misses: Misses, tmp_path: Path) -> None:
    entry = service_entry(
        [{"address": "127.0.0.1", "ports": {"http": misses.upstreams[0].port}}], port=misses.stack.port
    )
    models = {"static": {f"127.0.0.1:{misses.upstreams[0].port}": ["m", "n"]}}
    misses.stack.write("documents.yaml", entry, pool(models=models, request={"onDisagreement": "REJECT"}))
    await misses.stack.start()

    async def up() -> bool:
        try:
            return (await misses.v2("m"))[0] == 200
        except OSError:
            return False

    await until(up, HOST)

    def ask(headers: dict[str, str]) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", misses.stack.port, timeout=20)
        try:
            connection.request("GET", V2.format("m"), headers=headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    assert (await asyncio.to_thread(ask, {"model": "m"}))[0] == 200
    status, answer = await asyncio.to_thread(ask, {"model": "n"})
    assert (status, answer) == (400, {"error": "the request names two models: n (header model) and m (path)"})


async def test_a_miss_of_a_head_request_has_no_body_that_the_next_answer_would_begin_with(
    misses: Misses,
) -> None:
    await misses.start(UNAVAILABLE, r1=["r1-only"])
    reader, writer = await asyncio.open_connection("127.0.0.1", misses.stack.port)
    try:
        for method in ("HEAD", "GET"):
            writer.write(f"{method} {V2.format('nobody')} HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode())
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 "), head
    finally:
        writer.close()
