"""Requests by model as Envoy counts them, and what its access log says of a request."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from yarl import URL

from tests.integration.stack import KEY, Stack, gateway, pool, service_entry, until, virtual_service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ODD = 'b c."x"'


@pytest.fixture
async def replica() -> AsyncIterator[int]:
    """Answers 500 for the model `broken`, else 200: it is Envoy that counts."""

    async def said(request: web.Request) -> web.Response:
        return web.Response(status=500 if request.headers.get("model") == "broken" else 200)

    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", said)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def started(stack: Stack, port: int, limit: int) -> None:
    models = {"static": {f"127.0.0.1:{port}": ["a", ODD, "broken", "m1", "m2", "m3", "m4"]}}
    endpoint = {"address": "127.0.0.1", "ports": {"http": port}}
    if limit:
        stack.options += ["--model-stats", str(limit)]
    stack.write("services.yaml", service_entry([endpoint]), pool(models=models))
    stack.write("routing.yaml", gateway(stack.port), virtual_service(headers={"model": KEY}))
    await stack.start()

    async def routed() -> bool:
        return await ask(stack, "a") == 200

    await until(routed, "the first request to be answered")


async def ask(stack: Stack, model: str, path: str = "/v2/models/x/infer") -> int:
    assert stack.http is not None
    url = URL(f"http://127.0.0.1:{stack.port}{path}", encoded=True)
    async with stack.http.post(url, headers={"model": model} if model else {}) as answer:
        return int(answer.status)


async def counters(stack: Stack) -> dict[str, float]:
    assert stack.envoy is not None
    _, text = await asyncio.to_thread(stack.envoy.get, "/stats/prometheus")
    return {
        name: float(value)
        for name, value in re.findall(r"^(envoy_xds_server_model_\S*(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
        if "_bucket" not in name
    }


@pytest.mark.parametrize("delta", [True], ids=["delta"])
async def test_envoy_counts_by_model_what_exists_and_nothing_that_clients_make_up(
    stack: Stack, replica: int
) -> None:
    await started(stack, replica, 100)
    for model, times in (("a", 3), (ODD, 2), ("broken", 1)):
        for _ in range(times):
            await ask(stack, model)
    for number in range(20):
        assert await ask(stack, f"made-up-{number}") == 503
    assert await ask(stack, "", "/nowhere") == 503
    found = await counters(stack)
    text = "\n".join(f"{name} {value}" for name, value in found.items())
    assert "made-up" not in text
    by_model = {
        name: value for name, value in found.items() if name.startswith("envoy_xds_server_model_requests{")
    }
    assert sorted(by_model.values()) == [1, 2, 4], text
    assert any('model="a"' in name and 'code="200"' in name for name in by_model), text
    assert any('model="broken"' in name and 'code="500"' in name for name in by_model), text
    refused = {name: value for name, value in found.items() if "_refused" in name}
    assert sum(value for name, value in refused.items() if 'miss="notLoaded"' in name) == 20, text
    assert sum(value for name, value in refused.items() if 'miss="noModel"' in name) == 1, text

    async def merged() -> bool:
        """Envoy merges its threads' histograms every five seconds."""
        durations = await counters(stack)
        return durations['envoy_xds_server_model_duration_count{model="a"}'] == 4

    await until(merged, "the durations of a's requests")


@pytest.mark.parametrize("delta", [True], ids=["delta"])
async def test_the_bound_holds(stack: Stack, replica: int) -> None:
    await started(stack, replica, 3)
    for model in ("m1", "m2", "m3", "m4", "broken", ODD):
        await ask(stack, model)
    found = await counters(stack)
    assert len([name for name in found if "_requests{" in name or "_refused{" in name]) <= 3
    assert await ask(stack, "m4") == 200


@pytest.mark.parametrize("delta", [True], ids=["delta"])
async def test_the_access_log_says_which_model_and_where_it_was_found(stack: Stack, replica: int) -> None:
    await started(stack, replica, 0)
    await ask(stack, "a", "/v2/models/x/infer?header")
    await ask(stack, "", "/v2/models/m1/infer?path")
    await ask(stack, "nobody", "/v2/models/x/infer?miss")
    await ask(stack, "", "/nowhere?none")
    assert stack.envoy is not None

    async def lines() -> dict[str, Any] | None:
        assert stack.envoy is not None
        entries = [json.loads(line) for line in stack.envoy.log.splitlines() if line.startswith("{")]
        found = {entry["path"].partition("?")[2]: entry for entry in entries if "from" in entry}
        return found if {"header", "path", "miss", "none"} <= found.keys() else None

    found = await until(lines, "the log lines of all requests", 30)
    told = {
        name: (entry["model"], entry["from"], entry["miss"], entry["code"])
        for name, entry in found.items()
        if name
    }
    assert told == {
        "header": ("a", "header model", None, 200),
        "path": ("m1", "path", None, 200),
        "miss": ("nobody", "header model", "notLoaded", 503),
        "none": (None, "none", "noModel", 503),
    }
    assert found["header"]["upstream"] == f"127.0.0.1:{replica}"
    assert found["header"]["subset"] == {KEY: "a"}
    assert found["header"]["attempts"] == 1
