"""How soon a model that has become READY gets requests, and how soon one that is gone gets none.

One system on loopback: replicas of the embedded runtime, the server, a real Envoy. For each change a
model is loaded on a replica behind the server's back; the time runs from the runtime's answer to the
load (READY) to the first request that Envoy sends there. The bound is the poll interval plus 100 ms.
The baseline in the same run is the same change asked for through the server (`POST /v1/loads`), which
need not wait for a poll.

    python benchmarks/ready_to_routed.py [--changes 50] [--interval 1.0] [--sotw]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import joblib
import numpy as np
from sklearn.dummy import DummyClassifier

from xds_server.resources.bootstrap import bootstrap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

REPLICAS = 4
LIMIT = 30.0
STEP = 0.002
"""Seconds between two requests that look whether a change has arrived: the resolution of the figures."""
ALLOWANCE = 0.1
"""Seconds that a change may take beyond the poll interval."""

DOCUMENTS = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: bench}}
spec:
  hosts: [bench]
  resolution: STATIC
  ports: [{{number: 8033, name: http, protocol: HTTP}}]
  endpoints:
{endpoints}
---
apiVersion: xds-server.dev/v1alpha1
kind: ModelPool
metadata: {{name: bench}}
spec:
  host: bench
  models: {{openInference: {{interval: {interval}s, timeout: 2s}}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: bench}}
spec:
  servers: [{{port: {{number: {gateway}, name: http, protocol: HTTP}}, hosts: ["*"]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: bench}}
spec:
  hosts: ["*"]
  gateways: [bench]
  http: [{{route: [{{destination: {{host: bench}}}}]}}]
"""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class System:
    """Replicas, server and Envoy, and the requests that look where a model is routed."""

    def __init__(
        self, http: aiohttp.ClientSession, replicas: Sequence[int], admin: int, gateway: int
    ) -> None:
        self._http = http
        self.replicas = replicas
        self._admin = admin
        self._gateway = gateway

    async def tell(self, replica: int, model: str, verb: str) -> None:
        """Load or unload at the runtime itself."""
        url = f"http://127.0.0.1:{replica}/v2/repository/models/{model}/{verb}"
        async with self._http.post(url) as answer:
            answer.raise_for_status()

    async def load_through_server(self, replica: int, model: str) -> None:
        body = {"model": model, "endpoint": f"127.0.0.1:{replica}"}
        async with self._http.post(f"http://127.0.0.1:{self._admin}/v1/loads", json=body) as answer:
            answer.raise_for_status()

    async def asked(self, model: str) -> int:
        """The status for a model: 200 from a holder, 404 from another replica, 503 from Envoy."""
        url = f"http://127.0.0.1:{self._gateway}/v2/models/{model}"
        async with self._http.get(url, headers={"model": model}) as answer:
            await answer.read()
            return answer.status

    async def routed(self, model: str) -> bool:
        """Whether Envoy sends requests for the model to a replica that has it."""
        return await self.asked(model) == 200

    async def unrouted(self, model: str) -> bool:
        """Whether Envoy sends requests for the model nowhere."""
        return await self.asked(model) == 503

    async def until(self, check: Callable[[], Awaitable[bool]]) -> float:
        """Seconds from now until `check` holds."""
        begun = time.monotonic()
        while not await check():
            if time.monotonic() - begun > LIMIT:
                raise TimeoutError(f"nothing happened within {LIMIT:g} s")
            await asyncio.sleep(STEP)
        return time.monotonic() - begun

    async def ready(self) -> bool:
        try:
            async with self._http.get(f"http://127.0.0.1:{self._admin}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False


def write_models(folder: Path, names: Sequence[str]) -> None:
    """Models that cost nothing to load: what is measured is the way of the news, not sklearn."""
    estimator = DummyClassifier(strategy="most_frequent").fit(np.zeros((2, 784)), [5, 5])
    for name in names:
        (folder / name).mkdir(parents=True)
        joblib.dump(estimator, folder / name / "model.joblib")


@contextlib.contextmanager
def processes(folder: Path, commands: Sequence[Sequence[str]]) -> Iterator[None]:
    running = []
    try:
        for number, command in enumerate(commands):
            with (folder / f"{number}.log").open("wb") as log:
                running.append(subprocess.Popen(command, stdout=log, stderr=log))
        yield
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(timeout=15)


@contextlib.asynccontextmanager
async def system(
    folder: Path, models: Sequence[str], interval: float, *, delta: bool
) -> AsyncIterator[System]:
    *replicas, xds, admin, gateway, envoy_admin = free_ports(REPLICAS + 4)
    write_models(folder / "models", models)
    documents = folder / "documents"
    documents.mkdir()
    rows = "\n".join(f"    - {{address: 127.0.0.1, ports: {{http: {port}}}}}" for port in replicas)
    text = DOCUMENTS.format(endpoints=rows, interval=interval, gateway=gateway)
    (documents / "bench.yaml").write_text(text)
    configured = bootstrap(
        xds=f"127.0.0.1:{xds}",
        node_id="bench",
        cluster="gateway",
        admin=f"127.0.0.1:{envoy_admin}",
        labels={},
        delta=delta,
    )
    (folder / "envoy.yaml").write_text(configured)
    python = sys.executable
    envoy = str(Path(python).with_name("envoy"))
    runtime = [python, "-m", "xds_server.demo.runtime", "--repository", str(folder / "models")]
    commands = [[*runtime, "--name", f"r{port}", "--port", str(port)] for port in replicas]
    serve = [
        "serve",
        "--config",
        str(documents),
        "--xds",
        f"127.0.0.1:{xds}",
        "--admin",
        f"127.0.0.1:{admin}",
    ]
    commands.append([python, "-m", "xds_server", *serve])
    commands.append([envoy, "-c", str(folder / "envoy.yaml"), "--disable-hot-restart", "--concurrency", "1"])
    with processes(folder, commands):
        async with aiohttp.ClientSession() as http:
            bench = System(http, replicas, admin, gateway)
            await bench.until(bench.ready)
            await _first_route(bench, models[0])
            yield bench


async def _first_route(bench: System, model: str) -> None:
    """Wait until the whole way works once: Envoy listens, and all replicas run."""

    async def attempt() -> bool:
        try:
            for port in bench.replicas:
                await bench.tell(port, model, "load")
            return await bench.routed(model)
        except aiohttp.ClientConnectionError:
            return False

    await bench.until(attempt)
    for port in bench.replicas:
        await bench.tell(port, model, "unload")
    await bench.until(lambda: bench.unrouted(model))


async def measure(bench: System, models: Sequence[str], changes: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"polled": [], "gone": [], "asked": []}
    for number in range(changes):
        model = models[number % len(models)]
        replica = bench.replicas[number % len(bench.replicas)]
        # The change comes at any moment between two polls.
        await asyncio.sleep((number * 0.6180339887) % 1.0 * 0.5)
        await bench.tell(replica, model, "load")
        found["polled"].append(await bench.until(lambda name=model: bench.routed(name)))
        await bench.tell(replica, model, "unload")
        found["gone"].append(await bench.until(lambda name=model: bench.unrouted(name)))
        begun = time.monotonic()
        await bench.load_through_server(replica, model)
        await bench.until(lambda name=model: bench.routed(name))
        found["asked"].append(time.monotonic() - begun)
        await bench.tell(replica, model, "unload")
        await bench.until(lambda name=model: bench.unrouted(name))
    return found


def report(found: dict[str, list[float]], interval: float) -> bool:
    """Print the figures; returns whether the bound holds."""
    titles = {
        "polled": "READY at the runtime -> first request there",
        "gone": "gone from the runtime -> no request there",
        "asked": "asked through the server (load, READY, routed)",
    }
    print(f"{len(found['polled'])} changes, poll interval {interval:g} s, times in ms")
    print(f"{'':48}{'p50':>8}{'p90':>8}{'p99':>8}{'max':>8}")
    for key, title in titles.items():
        p50, p90, p99 = (float(np.percentile(found[key], q, method="higher")) for q in (50, 90, 99))
        print(f"{title:48}" + "".join(f"{1000 * v:8.1f}" for v in (p50, p90, p99, max(found[key]))))
    worst = float(np.percentile(found["polled"], 99, method="higher"))
    ratio = float(np.median(found["polled"]) / np.median(found["asked"]))
    bound = interval + ALLOWANCE
    print(f"polled against asked, ratio of medians: {ratio:.1f}")
    verdict = "holds" if worst <= bound else "DOES NOT HOLD"
    print(f"bound: p99 {1000 * worst:.1f} ms <= interval + 100 ms = {1000 * bound:.0f} ms: {verdict}")
    return worst <= bound


async def run(options: argparse.Namespace) -> bool:
    models = [f"model-{number:02}" for number in range(12)]
    with tempfile.TemporaryDirectory(prefix="xds-bench-") as name:
        async with system(Path(name), models, options.interval, delta=not options.sotw) as bench:
            found = await measure(bench, models, options.changes)
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, one run")
    holds = report(found, options.interval)
    if options.json:
        options.json.write_text(json.dumps({"interval": options.interval, "seconds": found}, indent=1))
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--interval", type=float, default=1.0, help="of the polls, in seconds")
    parser.add_argument("--sotw", action="store_true", help="state-of-the-world xDS instead of delta")
    parser.add_argument("--json", type=Path, help="write the raw seconds to this file")
    return 0 if asyncio.run(run(parser.parse_args())) else 1


if __name__ == "__main__":
    raise SystemExit(main())
