"""Real Envoys for the benchmarks: one that asks our server, and one that answers for every replica."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Self

import yaml

from xds_server.resources.bootstrap import bootstrap

BINARY = str(Path(sys.executable).with_name("envoy"))
_NANOSECONDS = 1e9
_QUIET = 0.0005
"""Seconds of CPU that all threads together may take in one look for an Envoy to count as idle."""


class Envoy:
    """A process with one worker. Figures are the kernel's own, by thread name."""

    def __init__(self, directory: Path, document: dict[str, Any], name: str) -> None:
        path = directory / f"{name}.json"
        path.write_text(json.dumps(document))
        self._admin = directory / f"{name}.admin"
        self._admin.unlink(missing_ok=True)
        self._log = directory / f"{name}.log"
        command = [BINARY, "-c", str(path), "--disable-hot-restart", "--concurrency", "1"]
        command += ["--admin-address-path", str(self._admin), "--log-level", "warning"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    @classmethod
    def with_xds(cls, directory: Path, xds: str) -> Self:
        document = yaml.safe_load(bootstrap(xds=xds, node_id="bench", cluster="gateway"))
        document["admin"]["address"]["socket_address"]["port_value"] = 0
        return cls(directory, document, "envoy")

    async def ready(self, limit: float) -> None:
        async with asyncio.timeout(limit):
            while True:
                if self._process.poll() is not None:
                    raise RuntimeError(f"Envoy ended:\n{self._log.read_text()}")
                if await asyncio.to_thread(self._is_ready):
                    return
                await asyncio.sleep(0.05)

    async def listening(self, port: int, limit: float) -> None:
        async with asyncio.timeout(limit):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def threads(self) -> dict[str, float]:
        """CPU seconds by thread name; of several with one name the sum."""
        found: dict[str, float] = {}
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            name = (task / "comm").read_text().strip()
            spent = int((task / "schedstat").read_text().split()[0]) / _NANOSECONDS
            found[name] = found.get(name, 0.0) + spent
        return found

    async def idle(self) -> dict[str, float]:
        """Wait until nothing more is done; the threads' CPU seconds then."""
        before = self.threads()
        while True:
            await asyncio.sleep(0.1)
            after = self.threads()
            if sum(after.values()) - sum(before.values()) < _QUIET:
                return after
            before = after

    def memory(self) -> float:
        """Resident MiB."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _is_ready(self) -> bool:
        if not self._admin.exists():
            return False
        address = self._admin.read_text().strip()
        try:
            with urllib.request.urlopen(f"http://{address}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class Upstream(Envoy):
    """Answers 200 at once on every loopback address: all replicas at the same time."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        super().__init__(directory, _upstream(self.port), "upstream")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


def _upstream(port: int) -> dict[str, Any]:
    package = "type.googleapis.com/envoy.extensions.filters"
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}
    manager = {
        "@type": f"{package}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "upstream",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{package}.http.router.v3.Router"},
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {
            "listeners": [
                {
                    "name": "upstream",
                    "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
                    "filter_chains": [{"filters": filters}],
                }
            ]
        },
    }
