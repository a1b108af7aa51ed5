"""`xds-server explain` says what real Envoy then does: one table of requests, explained and sent.

The replicas are a stand-in that lists models as Triton does and answers with what reached it, which no real
runtime says: what is tested is where Envoy sends a request, and under which path.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from yarl import URL

from tests.integration.stack import (
    HOST,
    KEY,
    Stack,
    destination_rule,
    gateway,
    pool,
    service_entry,
    until,
    virtual_service,
)
from xds_server.explain.request import normalised

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ASKED = {"interval": "100ms", "timeout": "2s"}
INPUT = [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]
MODELS = (
    [("m", "1"), ("a", "1")],
    [("m", "1"), ("m", "2"), ("b c", "1")],
)


class Replica:
    """Lists its models, and says what it was asked."""

    def __init__(self, models: list[tuple[str, str]]) -> None:
        self._rows = [{"name": name, "version": version, "state": "READY"} for name, version in models]
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        application = web.Application()
        application.router.add_post("/v2/repository/index", self._index)
        application.router.add_route("*", "/{rest:.*}", self._said)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _index(self, _: web.Request) -> web.Response:
        return web.json_response(self._rows)

    async def _said(self, request: web.Request) -> web.Response:
        return web.json_response({"endpoint": f"127.0.0.1:{self.port}", "path": request.raw_path})


@pytest.fixture
async def replicas() -> AsyncIterator[list[Replica]]:
    made = [Replica(models) for models in MODELS]
    try:
        for each in made:
            await each.start()
        yield made
    finally:
        for each in made:
            await each.stop()


NAMES: dict[str, Any] = {
    "versions": {},
    "aliases": {"one": "a", "old": "m/versions/1", "both": ["a", "b c"]},
    "fallbacks": {"gone": ["nobody", "b c"]},
    "splits": {
        "draw": {
            "stickyHeader": "x-user",
            "targets": [{"name": "a", "weight": 3}, {"name": "b c", "weight": 1}],
        }
    },
}

REQUESTS: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    # path, headers, more of the body
    ("/v2/models/a/infer", {}, {}),
    ("/v2/models/a/infer?x=1", {}, {}),
    ("/v2/models/b%20c/infer", {}, {}),
    ("/v2/models/m/infer", {}, {}),
    ("/v2/models/m/versions/1/infer", {}, {}),
    ("/v2/models/m/versions/2/infer", {}, {}),
    ("/v2/models/m/versions/9/infer", {}, {}),
    ("/v2/models/one/infer", {}, {}),
    ("/v2/models/old/infer", {}, {}),
    ("/v2/models/both/infer", {}, {}),
    ("/v2/models/gone/infer", {}, {}),
    ("/v2/models/nobody/infer", {}, {}),
    ("/v2/models/%zz/infer", {}, {}),
    ("/v2/models/%41/infer", {}, {}),
    ("/v2/models/a", {}, {}),
    ("/v2/models", {}, {}),
    ("/v2/health/live", {}, {}),
    ("/elsewhere", {}, {}),
    ("/v2/models/m/infer", {"model": "a"}, {}),
    ("/v2/models/m/infer", {"model": "b c"}, {}),
    ("/v2/models/m/infer", {"model": ""}, {}),
    ("/v2/models/m/infer", {"mm-model-id": "a"}, {}),
    ("/v2/models/m/infer", {"mm-vmodel-id": "b c", "mm-model-id": "a"}, {}),
    ("/v2/models/m/infer", {"model": "m/versions/2"}, {}),
    ("/v2/models/m/infer", {"model": "nobody"}, {}),
    ("/v2/models/m/infer", {"x-xds-model": "a"}, {}),
    ("/v2/models/draw/infer", {"x-user": "ann"}, {}),
    ("/v2/models/draw/infer", {"x-user": "bob"}, {}),
    ("/v2/models/draw/infer", {"x-user": "user-17"}, {}),
    ("/v2/models/draw/infer", {}, {}),
    ("/v1/chat/completions", {}, {"model": "a"}),
    ("/v1/chat/completions", {}, {"model": "one"}),
    ("/v1/chat/completions", {}, {"model": "nobody"}),
    ("/v1/chat/completions", {}, {"model": 7}),
    ("/v1/chat/completions", {}, {}),
    ("/v1/chat/completions", {"model": "b c"}, {"model": "a"}),
    ("/v1/chat/completions", {"content-type": "text/plain"}, {"model": "a"}),
    ("/v1/chat/completions", {"content-type": "application/json; charset=utf-8"}, {"model": "b c"}),
]


async def reached(
    stack: Stack, path: str, headers: dict[str, str], body: bytes, times: int
) -> set[tuple[str, str]]:
    """Which replicas requests reach, and under which path; or the status of Envoy's own answer."""
    assert stack.http is not None
    url = URL(f"http://127.0.0.1:{stack.port}{path}", encoded=True)
    found = set()
    for _ in range(times):
        async with stack.http.post(url, data=body, headers=headers) as answer:
            if answer.status == 200:
                said = await answer.json()
                found.add((said["endpoint"], said["path"]))
            else:
                found.add((str(answer.status), ""))
    return found


def expected(told: dict[str, Any], path: str) -> set[tuple[str, str]]:
    """Who may answer by the explanation, or with which status Envoy does."""
    if not told["routes"]:
        return {("404", "")}
    found: set[tuple[str, str]] = set()
    for route in told["routes"]:
        if route.get("outcome") == "REFUSED":
            found.add((str(route["status"]), ""))
        for target in route["targets"]:
            if "status" in target:
                found.add((str(target["status"]), ""))
            else:
                got = target.get("path") or normalised(path)
                found.update((each["endpoint"], each.get("path", got)) for each in target["holders"])
    return found


async def running(stack: Stack, replicas: list[Replica], *, locality: str = "", **more: Any) -> None:
    document = pool(models={"openInference": ASKED, **NAMES})
    document["spec"] |= more
    place = {"locality": locality} if locality else {}
    endpoints = [{"address": "127.0.0.1", "ports": {"http": each.port}} | place for each in replicas]
    stack.write("services.yaml", service_entry(endpoints), document)
    stack.write("routing.yaml", gateway(stack.port), virtual_service(headers={"model": KEY}))
    await stack.start()

    async def ready() -> bool:
        (service,) = [each for each in (await stack.status())["services"] if each["host"] == HOST]
        counts = [len(each["routed"]) for each in service["endpoints"]]
        return len(counts) == 2 and min(counts) >= 4

    await until(ready, "both replicas to be routed")


async def explained(stack: Stack, path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    question = {
        "path": path,
        "headers": [[name, value] for name, value in headers.items()],
        "body": base64.b64encode(body).decode(),
    }
    status, told = await stack.call("/v1/explain", question)
    assert status == 200, told
    return told


@pytest.mark.parametrize("delta", [True], ids=["delta"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"layout": {"type": "sharded", "shards": 4}},
        {"request": {"onDisagreement": "REJECT"}, "onMiss": {"notLoaded": "ANY_ENDPOINT"}},
        {"onMiss": {"noModel": "FALLBACK_MODEL", "notLoaded": "FALLBACK_MODEL", "fallbackModel": "a"}},
        {"onMiss": {"noModel": "ANY_ENDPOINT", "notLoaded": "NOT_FOUND"}},
        {"onMiss": {"unknown": "NOT_FOUND"}},
    ],
    ids=["single", "sharded", "reject-any", "fallback-model", "not-found", "unknown"],
)
async def test_what_is_explained_is_what_envoy_does(
    stack: Stack, replicas: list[Replica], more: dict[str, Any]
) -> None:
    await running(stack, replicas, **more)
    for path, headers, extra in REQUESTS:
        body = json.dumps({"inputs": INPUT, **extra}).encode()
        sent = {"content-type": "application/json"} | headers
        told = await explained(stack, path, sent, body)
        wanted = expected(told, path)
        times = 24 if len(wanted) > 1 else 2

        async def agrees(
            path: str = path,
            sent: dict[str, str] = sent,
            body: bytes = body,
            wanted: set[tuple[str, str]] = wanted,
            times: int = times,
        ) -> bool:
            return await reached(stack, path, sent, body, times) == wanted

        seen = await reached(stack, path, sent, body, times)
        if seen != wanted:
            await until(agrees, f"{path} {headers} {extra}: seen {seen}, explained {wanted}", 5)


@pytest.mark.parametrize("delta", [True], ids=["delta"])
async def test_the_command_says_it_in_words(stack: Stack, replicas: list[Replica], tmp_path: Any) -> None:
    await running(stack, replicas, onMiss={"unknown": "NOT_FOUND"})

    async def settled() -> bool:
        told = await explained(stack, "/v2/models/a/infer", {}, b"")
        return bool(told["routes"][0]["acknowledged"]["all"])

    await until(settled, "Envoy to have acknowledged everything")

    async def run(*options: str) -> str:
        command = [sys.executable, "-m", "xds_server", "explain", "--admin", stack.admin, *options]
        # Not on the loop: the replicas answer there.
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False, text=True)
        return f"{done.returncode} {done.stdout}{done.stderr}"

    said = await run("--model", "one")
    assert "model     one, from header model" in said
    assert "asked for a" in said
    assert f"-> 127.0.0.1:{replicas[0].port} OK, weight 1" in said
    assert "has a READY, which one means" in said
    assert "envoys    all 1 that ask for it have acknowledged" in said
    assert "stands in for gone, which nobody has" in await run("--model", "gone")
    assert "miss      notLoaded: nobody is READY on no replica" in await run("--model", "nobody")
    said = await run("--model", "nowhere")
    assert "miss      unknown: nowhere is READY on no replica" in said
    assert "and nobody there knows it; policy NOT_FOUND, so Envoy answers 404" in said
    body = tmp_path / "chat.json"
    body.write_text('{"model": "b c"}')
    assert "model     b c, from json" in await run("--path", "/v1/chat/completions", "--body", str(body))
    assert "note: that is not m" in await run("--model", "m", "--header", "model: a")
    assert json.loads((await run("--model", "m", "--format", "json"))[2:])["routes"][0]["model"] == "m"
    assert "no listener on port 7; there is: gateway|" in await run("--model", "m", "--port", "7")
    assert (await run("--header", "nonsense")).startswith("2 ")
    assert (await run("--model", "m", "--authority", "elsewhere")).startswith("0 ")


@pytest.mark.parametrize("delta", [True], ids=["delta"])
async def test_zones_are_told_where_they_count(stack: Stack, replicas: list[Replica]) -> None:
    setting = {"localityLbSetting": {"enabled": True}}
    stack.write("rule.yaml", destination_rule([], loadBalancer=setting))
    await running(stack, replicas, locality="eu/a")

    async def said() -> str:
        command = [sys.executable, "-m", "xds_server", "explain", "--admin", stack.admin, "--model", "b c"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, text=True)
        return str(done.stdout)

    first = "zones     an Envoy that knows its zone sends to the holders there first\n"
    holder = f"  -> 127.0.0.1:{replicas[1].port} in zone a OK, weight 1"
    assert f"{first}{holder}" in await said()
    setting["localityLbSetting"]["enabled"] = False
    stack.write("rule.yaml", destination_rule([], loadBalancer=setting))

    async def off() -> bool:
        text = await said()
        return holder in text and first not in text

    await until(off, "zones not to count")
