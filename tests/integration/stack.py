"""One whole system for a test: a directory of documents, the server's process, a real Envoy.

The runtimes are not part of it: they outlive a stack (see conftest.py).
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import yaml

from tests.integration.envoy import Envoy
from tests.integration.mlserver import free_ports
from xds_server.resources.bootstrap import bootstrap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

LIMIT = 60.0
"""Seconds after which something awaited is taken to have failed."""
HOST = "modelmesh-serving"
KEY = "modelmesh.asm.alibabacloud.com"


async def until(check: Callable[[], Awaitable[Any]], what: str, limit: float = LIMIT) -> Any:
    """The first truthy answer of `check`; AssertionError with the last answer after `limit` seconds."""
    deadline = time.monotonic() + limit
    answer: Any = None
    while time.monotonic() < deadline:
        answer = await check()
        if answer:
            return answer
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {limit:g} s: {what}; last seen: {answer!r}")


class Stack:
    """The server and one Envoy around a directory of documents."""

    def __init__(self, directory: Path, *, delta: bool = True, cluster: str = "gateway") -> None:
        self.directory = directory / "documents"
        self.directory.mkdir()
        self.log = directory / "server.log"
        xds, admin, self.port = free_ports(3)
        self.xds = f"127.0.0.1:{xds}"
        self.admin = f"127.0.0.1:{admin}"
        self.delta = delta
        self.cluster = cluster
        self.options: list[str] = []
        self.server: subprocess.Popen[bytes] | None = None
        self.envoy: Envoy | None = None
        self.http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.http is not None:
            await self.http.close()
        if self.envoy is not None:
            self.envoy.stop()
        if self.server is not None and self.server.poll() is None:
            self.server.kill()
            self.server.wait()

    def write(self, name: str, *documents: dict[str, Any] | str) -> None:
        """Write one file at once, as an editor's rename does."""
        texts = [d if isinstance(d, str) else yaml.safe_dump(d, sort_keys=False) for d in documents]
        temporary = self.directory / f".{name}.new"
        temporary.write_text("---\n".join(texts))
        temporary.rename(self.directory / name)

    async def start(self) -> None:
        await self.start_server()
        await self.start_envoy()

    async def start_server(self) -> None:
        command = [sys.executable, "-m", "xds_server", "serve", "--config", str(self.directory)]
        command += ["--xds", self.xds, "--admin", self.admin, "--log-format", "json", *self.options]
        with self.log.open("ab") as log:
            self.server = subprocess.Popen(command, stderr=log)  # noqa: ASYNC220 - starting does not block
        await until(self._ready, f"the server to be ready; its log: {self.log}")

    async def stop_server(self, number: int = signal.SIGTERM) -> int:
        assert self.server is not None
        self.server.send_signal(number)
        return await asyncio.to_thread(self.server.wait, LIMIT)

    async def start_envoy(self) -> None:
        text = bootstrap(
            xds=self.xds,
            node_id="test",
            cluster=self.cluster,
            admin=f"127.0.0.1:{free_ports(1)[0]}",
            labels={},
            delta=self.delta,
        )
        self.envoy = await asyncio.to_thread(Envoy, text)

    async def _ready(self) -> bool:
        assert self.server is not None
        assert self.http is not None
        assert self.server.poll() is None, f"the server ended:\n{self.log.read_text()}"
        try:
            async with self.http.get(f"http://{self.admin}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def status(self) -> dict[str, Any]:
        assert self.http is not None
        async with self.http.get(f"http://{self.admin}/status") as answer:
            body: dict[str, Any] = await answer.json()
            return body

    async def call(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """POST to the server's admin port."""
        assert self.http is not None
        async with self.http.post(f"http://{self.admin}{path}", json=body) as answer:
            return answer.status, await answer.json()

    async def infer(self, model: str, **headers: str) -> tuple[int, str]:
        """The status and the replica that answered (the text of the error where none did)."""
        assert self.http is not None
        sent = {"model": model} | {k.replace("_", "-"): v for k, v in headers.items()}
        return await self.post(f"/v2/models/{model}/infer", {k: v for k, v in sent.items() if v})

    async def post(self, path: str, headers: dict[str, str]) -> tuple[int, str]:
        assert self.http is not None
        body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.http.post(url, json=body, headers=headers) as answer:
            if answer.status != 200:
                return answer.status, await answer.text()
            outputs = {row["name"]: row["data"][0] for row in (await answer.json())["outputs"]}
            return 200, str(outputs["replica"])

    async def routed(self, model: str, replicas: Iterable[str]) -> None:
        """Wait until requests for `model` reach exactly `replicas`, each of them."""
        wanted = {(200, name) for name in replicas}

        async def check() -> bool:
            return {await self.infer(model) for _ in range(6)} == wanted

        await until(check, f"{model} on {sorted(replicas)}")


def service_entry(
    endpoints: Iterable[dict[str, Any]], *, host: str = HOST, port: int = 8033, protocol: str = "HTTP"
) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": host, "namespace": HOST},
        "spec": {
            "hosts": [host],
            "resolution": "STATIC",
            "ports": [{"number": port, "name": "http", "protocol": protocol}],
            "endpoints": list(endpoints),
        },
    }


def pool(
    *,
    host: str = HOST,
    key: str = KEY,
    models: dict[str, Any] | None = None,
    on_miss: dict[str, str] | None = None,
    request: dict[str, Any] | None = None,
) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "host": host,
        "subsetKey": key,
        "models": models or {"openInference": {"interval": "200ms", "timeout": "2s"}},
    }
    if on_miss:
        spec["onMiss"] = on_miss
    if request:
        spec["request"] = request
    return {
        "apiVersion": "xds-server.dev/v1alpha1",
        "kind": "ModelPool",
        "metadata": {"name": host, "namespace": HOST},
        "spec": spec,
    }


def destination_rule(
    selectors: list[dict[str, Any]], *, default: dict[str, str] | None = None, **policy: Any
) -> dict[str, Any]:
    dynamic: dict[str, Any] = {"subsetSelectors": selectors}
    if default:
        dynamic["defaultSubset"] = default
    return {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "DestinationRule",
        "metadata": {"name": HOST, "namespace": HOST},
        "spec": {"host": HOST, "trafficPolicy": {"loadBalancer": {"dynamicSubset": dynamic}} | policy},
    }


def gateway(port: int, *, name: str = "gateway") -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": HOST},
        "spec": {"servers": [{"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]},
    }


def virtual_service(
    *, headers: dict[str, str] | None = None, gateways: list[str] | None = None, **route: Any
) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": "default"}
    if headers:
        entry["headerToDynamicSubsetKey"] = [{"header": h, "key": k} for h, k in headers.items()]
    entry["route"] = [{"destination": {"host": HOST, "port": {"number": 8033}}}]
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "models", "namespace": HOST},
        "spec": {"hosts": ["*"], "gateways": gateways or ["gateway"], "http": [entry | route]},
    }
