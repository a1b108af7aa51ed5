"""A real Envoy process for a test, started from a bootstrap and seen through its admin interface.

Everything here blocks: call it through `asyncio.to_thread` where a server runs on the same loop.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

BINARY = str(Path(sys.executable).with_name("envoy"))
LIMIT = 30.0
"""Seconds within which Envoy has to be ready; it waits up to 15 s for an xDS answer that never comes."""


class Envoy:
    """One Envoy. Constructing it starts it and returns once `/ready` says so; `stop` it, or use `with`.

    Args:
        bootstrap: its bootstrap as YAML, with an admin address; admin port 0 picks a free one.
        limit: seconds to become ready in.
    """

    def __init__(self, bootstrap: str, *, limit: float = LIMIT) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="envoy-")
        directory = Path(self._directory.name)
        self._log = directory / "envoy.log"
        self._address = directory / "admin"
        document = yaml.safe_load(bootstrap)
        assert "admin" in document, "a test's bootstrap needs an admin address"
        path = directory / "envoy.json"
        path.write_text(json.dumps(document))
        command = [BINARY, "-c", str(path), "--disable-hot-restart", "--concurrency", "1"]
        command += ["--file-flush-interval-msec", "50"]
        command += ["--admin-address-path", str(self._address), "--log-level", "info"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.admin_url = ""
        try:
            self._await_ready(limit)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process. May be called again."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._directory.cleanup()

    @property
    def log(self) -> str:
        """What Envoy has written so far."""
        return self._log.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        """Ask the admin interface; status and body."""
        return self._ask("GET", path)

    def post(self, path: str) -> tuple[int, str]:
        """Change something through the admin interface, such as `/drain_listeners`."""
        return self._ask("POST", path)

    def stats(self, pattern: str = "") -> dict[str, int | str]:
        """Counters, gauges and texts by name; histograms as Envoy writes them. `pattern` filters names."""
        status, body = self.get(f"/stats?filter={pattern}" if pattern else "/stats")
        assert status == 200, body
        pairs = (line.split(": ", 1) for line in body.splitlines() if ": " in line)
        return {name: int(value) if value.isdigit() else value.strip('"') for name, value in pairs}

    def config_dump(self) -> list[dict[str, Any]]:
        """The sections of `/config_dump?include_eds`."""
        status, body = self.get("/config_dump?include_eds")
        assert status == 200, body
        configs: list[dict[str, Any]] = json.loads(body)["configs"]
        return configs

    def section(self, name: str) -> dict[str, Any]:
        """One section of the configuration dump, such as `ClustersConfigDump`; empty if there is none."""
        for section in self.config_dump():
            if section["@type"].endswith("." + name):
                return section
        return {}

    def clusters(self) -> dict[str, Any]:
        """`/clusters?format=json`, by cluster name."""
        status, body = self.get("/clusters?format=json")
        assert status == 200, body
        return {each["name"]: each for each in json.loads(body)["cluster_statuses"]}

    def assignments(self) -> dict[str, set[int]]:
        """Each dynamic cluster's assignment: the ports of its endpoints."""
        found: dict[str, set[int]] = {}
        for each in self.section("EndpointsConfigDump").get("dynamic_endpoint_configs", []):
            assignment = each["endpoint_config"]
            found[assignment["cluster_name"]] = set(_ports(assignment))
        return found

    def _ask(self, method: str, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.admin_url.removeprefix("http://"), timeout=10)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def _await_ready(self, limit: float) -> None:
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"Envoy ended with {self._process.returncode}:\n{self.log}"
            if self._address.exists() and (address := self._address.read_text().strip()):
                self.admin_url = f"http://{address}"
                if self.get("/ready")[0] == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(f"Envoy is not ready after {limit:g} s:\n{self.log}")


def _ports(assignment: dict[str, Any]) -> Iterator[int]:
    for locality in assignment.get("endpoints", []):
        for endpoint in locality.get("lb_endpoints", []):
            yield endpoint["endpoint"]["address"]["socket_address"]["port_value"]
