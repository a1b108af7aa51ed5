"""`xds-server report --annotate`: the pod's annotation follows the runtime, through refusals."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from aiohttp import web

from tests.integration.scripted_index import IndexServer
from xds_server.report import annotating
from xds_server.report.runner import Annotate, ReportOptions, run
from xds_server.report.streaming import Subject
from xds_server.sources.kubernetes.access import Login
from xds_server.sources.runtimes.asking import Target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEY = "models.xds-server.dev/report"


class PodApi:
    """The one call of the API that is made, with refusals at will, which a real one cannot be told."""

    def __init__(self) -> None:
        self.annotations: list[list[dict[str, Any]]] = []
        self.refuse = 0
        self.written = asyncio.Event()

    async def patch(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/merge-patch+json"
        assert request.headers["Authorization"] == "Bearer secret"
        if self.refuse:
            self.refuse -= 1
            return web.json_response({"message": "pods is forbidden"}, status=403)
        body = await request.json()
        self.annotations.append(json.loads(body["metadata"]["annotations"][KEY]))
        self.written.set()
        return web.json_response({"kind": "Pod"})

    async def next(self) -> list[dict[str, Any]]:
        async with asyncio.timeout(15):
            await self.written.wait()
        self.written.clear()
        return self.annotations[-1]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[tuple[PodApi, Login]]:
    api = PodApi()
    application = web.Application()
    application.router.add_patch("/api/v1/namespaces/ml/pods/models-0", api.patch)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    named = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}
    config = {
        "clusters": [named],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    yield api, Login(tmp_path / "kubeconfig")
    await runner.cleanup()


async def test_the_annotation_follows_the_runtime(api, monkeypatch):
    monkeypatch.setattr(annotating, "RETRY", 0.05)
    pods, login = api
    pods.refuse = 2
    stop = asyncio.Event()
    async with IndexServer() as runtime:
        runtime.models = {"m": "READY"}
        wanted = Annotate(login, "ml", "models-0", "report")
        options = ReportOptions(Target(runtime.url, 0.05, 2.0), Subject("models-0"), annotate=wanted)
        task = asyncio.create_task(run(options, stop))
        assert await pods.next() == [{"model": "m", "version": "1", "state": "READY"}]
        runtime.models["n"] = "LOADING"
        assert [row["state"] for row in await pods.next()] == ["READY", "LOADING"]
        await runtime.close()
        assert await pods.next() == [], "nobody listens: nothing is READY"
        stop.set()
        await task
