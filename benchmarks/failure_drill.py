"""What clients see when one of two holders of a model fails under a constant load.

One system on loopback: two stand-in replicas that both have the model (benchmarks/holder.py), the server, a
real Envoy, and requests at a constant rate that do not wait for each other. In the middle of a run one
replica is killed, stopped (it accepts connections and says nothing), or begins to answer 404 or 500. Each
fault is tried with the retry policy and the outlier detection that routes and clusters have by default, and
without both.

    python -m benchmarks.failure_drill [--rate 100] [--seconds 6] [--runs 1] [--faults killed hung 404 500]

For each run: requests, those that failed, and how many of these had begun before the fault, so that they may
have been on the failing replica's wire.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from benchmarks.ready_to_routed import free_ports
from xds_server.resources.bootstrap import bootstrap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FAULTS = ("killed", "hung", "404", "500")
LIMIT = 60.0
HEAD = "| fault | policy | requests | failed | of these begun before it | slowest, s |"
BEFORE = 2.0
"""Seconds of load before the fault."""

DOCUMENTS = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: drill}}
spec:
  hosts: [drill]
  resolution: STATIC
  ports: [{{number: {gateway}, name: http, protocol: HTTP}}]
  endpoints:
{endpoints}
---
apiVersion: xds-server.dev/v1alpha1
kind: ModelPool
metadata: {{name: drill}}
spec:
  host: drill
  models: {{openInference: {{interval: 1s, timeout: 2s}}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: drill}}
spec:
  servers: [{{port: {{number: {gateway}, name: http, protocol: HTTP}}, hosts: ["*"]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: drill}}
spec:
  hosts: ["*"]
  gateways: [drill]
  http:
    - route: [{{destination: {{host: drill}}}}]
      timeout: 5s
{without}"""

WITHOUT = """\
      retries: {attempts: 0}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: drill}
spec:
  host: drill
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 0, maxEjectionPercent: 0}
"""


@dataclass(slots=True)
class Run:
    """What became of the requests of one run. `early`: failed ones begun before the fault was complete."""

    fault: str
    policy: bool
    requests: int = 0
    failed: int = 0
    early: int = 0
    slowest: float = 0.0

    @property
    def share(self) -> float:
        return self.failed / self.requests if self.requests else 0.0


class System:
    def __init__(
        self, http: aiohttp.ClientSession, gateway: int, holders: list[subprocess.Popen[bytes]]
    ) -> None:
        self.http = http
        self.holders = holders
        self.url = f"http://127.0.0.1:{gateway}/v2/models/m/infer"

    async def ask(self) -> tuple[int, str]:
        """The status, and who answered. -1 where there was no answer."""
        try:
            async with self.http.post(self.url, json={"inputs": []}) as answer:
                await answer.read()
                return answer.status, answer.headers.get("x-served-by", "")
        except (aiohttp.ClientError, TimeoutError):
            return -1, ""

    async def both(self) -> None:
        """Wait until both holders get requests."""
        ends = time.monotonic() + LIMIT
        while {await self.ask() for _ in range(8)} != {(200, "r0"), (200, "r1")}:
            if time.monotonic() > ends:
                raise TimeoutError("the two holders never got requests")
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def system(folder: Path, *, policy: bool) -> AsyncIterator[tuple[System, list[int]]]:
    gateway, xds, admin, envoy_admin, *ports = free_ports(6)
    documents = folder / "documents"
    documents.mkdir(parents=True)
    rows = "\n".join(f"    - {{address: 127.0.0.1, ports: {{http: {port}}}}}" for port in ports)
    text = DOCUMENTS.format(gateway=gateway, endpoints=rows, without="" if policy else WITHOUT)
    (documents / "drill.yaml").write_text(text)
    configured = bootstrap(xds=f"127.0.0.1:{xds}", node_id="drill", admin=f"127.0.0.1:{envoy_admin}")
    (folder / "envoy.yaml").write_text(configured)
    python = sys.executable
    serve = [
        "serve",
        "--config",
        str(documents),
        "--xds",
        f"127.0.0.1:{xds}",
        "--admin",
        f"127.0.0.1:{admin}",
    ]
    commands = [
        *(
            [python, "-m", "benchmarks.holder", "--name", f"r{i}", "--port", str(p)]
            for i, p in enumerate(ports)
        ),
        [python, "-m", "xds_server", *serve],
        [str(Path(python).with_name("envoy")), "-c", str(folder / "envoy.yaml"), "--disable-hot-restart"],
    ]
    commands[-1] += ["--concurrency", "1"]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            with (folder / f"{number}.log").open("wb") as log:
                running.append(subprocess.Popen(command, stdout=log, stderr=log))  # noqa: ASYNC220
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=10)
        ) as http:
            made = System(http, gateway, running[:2])
            await made.both()
            yield made, ports
    finally:
        for process in reversed(running):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in running:
            process.wait(timeout=15)


async def strike(drill: System, ports: list[int], fault: str) -> None:
    """Let the first holder fail."""
    match fault:
        case "killed":
            drill.holders[0].kill()
            await asyncio.to_thread(drill.holders[0].wait)
        case "hung":
            drill.holders[0].send_signal(signal.SIGSTOP)
        case _:
            async with drill.http.post(f"http://127.0.0.1:{ports[0]}/fault/{fault}") as answer:
                answer.raise_for_status()


async def run(fault: str, rate: float, seconds: float, *, policy: bool) -> Run:
    found = Run(fault, policy)
    struck = float("inf")
    early: list[float] = []

    async def one() -> None:
        begun = time.monotonic()
        status, _ = await drill.ask()
        found.requests += 1
        found.slowest = max(found.slowest, time.monotonic() - begun)
        if status != 200:
            found.failed += 1
            early.append(begun)

    with tempfile.TemporaryDirectory(prefix="xds-drill-") as name:
        async with system(Path(name), policy=policy) as (drill, ports), asyncio.TaskGroup() as group:
            begun = time.monotonic()
            for number in range(int(rate * (BEFORE + seconds))):
                await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
                group.create_task(one())
                if struck == float("inf") and time.monotonic() - begun >= BEFORE:
                    await strike(drill, ports, fault)
                    struck = time.monotonic()
    found.early = sum(begun <= struck for begun in early)
    return found


def table(runs: list[Run]) -> str:
    lines = [HEAD, "|---|---|---|---|---|---|"]
    for each in runs:
        policy = "default" if each.policy else "none"
        share = f"{each.failed} ({100 * each.share:.2f} %)"
        lines.append(
            f"| {each.fault} | {policy} | {each.requests} | {share} | {each.early} | {each.slowest:.2f} |"
        )
    return "\n".join(lines)


async def drill(options: argparse.Namespace) -> list[Run]:
    runs = []
    for fault in options.faults:
        for policy in (False, True):
            for _ in range(options.runs):
                runs.append(await run(fault, options.rate, options.seconds, policy=policy))
                print(table(runs[-1:]).splitlines()[-1], flush=True)
    return runs


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=6.0, help="of load after the fault")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--json", type=Path, help="write the runs to this file")
    options = parser.parse_args()
    runs = asyncio.run(drill(options))
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(table(runs))
    if options.json:
        rows = [asdict(each) for each in runs]
        options.json.write_text(json.dumps(rows, indent=1))
    lost = sum(r.failed - r.early for r in runs if r.policy and r.fault == "killed")
    print(f"killed, default policy: {lost} requests lost beyond those that had begun before")
    return 0 if lost == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
