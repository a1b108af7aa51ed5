"""A cluster of N pods and M models: from the start of the server to the first snapshot, and one pod's change.

The same fleet twice, interleaved: as documents in a directory, which is the baseline, and as Services,
EndpointSlices (100 endpoints each, as the controller makes them) and annotated Pods of an API server. That
is tests/kubernetes_mock.py in this process, so that its work is not in the server's figures. Each pod has 20
models. One delta stream waits for the assignment; what counts is the ratio in one run.

    python -m benchmarks.kubernetes_start [--quick] [--pods 1000] [--models 5000] [--runs 3] [--changes 10]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import aiohttp
import yaml

from benchmarks.churn import free_ports
from benchmarks.streams import Streams
from tests.kubernetes_mock import MockCluster
from tests.kubernetes_objects import HOST, NAMESPACE, endpoint_slice, entry, pod, service
from xds_server.sources.kubernetes import objects

if TYPE_CHECKING:
    from collections.abc import Callable

PER_POD = 20
"""Models of one pod."""
PER_SLICE = 100
WARM_UP = 3
LIMIT = 300.0
LAYOUT = {"type": "single"}
"""One cluster, whatever the number of models would ask for: the stream waits for one assignment."""
POOL = {
    "apiVersion": "xds-server.dev/v1alpha1",
    "kind": "ModelPool",
    "metadata": {"name": "pool", "namespace": NAMESPACE},
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds from the start to the first assignment, wall and CPU; MiB at most; ms CPU and wall a change."""

    start: float
    start_cpu: float
    memory: float
    change_cpu: float
    change: float


class Fleet:
    """Which models each pod has; `move` gives pod 0 another one."""

    def __init__(self, pods: int, models: int) -> None:
        self.pods = pods
        self._models = models
        self._moved = 0

    def move(self) -> None:
        self._moved += 1

    def address(self, number: int) -> str:
        return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    def models(self, number: int) -> list[str]:
        names = [f"model-{(number * PER_POD + each) % self._models}" for each in range(PER_POD)]
        return [f"moved-{self._moved}", *names[1:]] if number == 0 and self._moved else names


class World(Protocol):
    """Where the fleet is described. `options`: of `serve`."""

    options: list[str]

    async def begin(self) -> None: ...

    async def change(self) -> None: ...

    async def end(self) -> None: ...


class Documents:
    """The fleet as files: a ServiceEntry, and a pool with static models in a file of its own."""

    def __init__(self, fleet: Fleet, directory: Path) -> None:
        self._fleet = fleet
        self._directory = directory / "conf"
        self.options = ["--config", str(self._directory)]

    async def begin(self) -> None:
        self._directory.mkdir()
        endpoints = [{"address": self._fleet.address(each)} for each in range(self._fleet.pods)]
        spec = {
            "hosts": [HOST],
            "resolution": "STATIC",
            "ports": [{"number": 8080, "name": "http", "protocol": "HTTP"}],
            "endpoints": endpoints,
        }
        metadata = {"name": "triton", "namespace": NAMESPACE}
        document = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": metadata,
            "spec": spec,
        }
        (self._directory / "service.yaml").write_text(yaml.dump(document, Dumper=yaml.CSafeDumper))
        await self.change()

    async def change(self) -> None:
        placed = {
            f"{self._fleet.address(each)}:8080": self._fleet.models(each) for each in range(self._fleet.pods)
        }
        document = {**POOL, "spec": {"host": HOST, "models": {"static": placed}, "layout": LAYOUT}}
        temporary = self._directory / ".pool.new"
        temporary.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper))
        temporary.rename(self._directory / "pool.yaml")

    async def end(self) -> None:
        pass


class Cluster:
    """The fleet as objects of an API server."""

    def __init__(self, fleet: Fleet, directory: Path) -> None:
        self._fleet = fleet
        self._directory = directory
        self._cluster = MockCluster(directory)
        self.options: list[str] = []

    async def begin(self) -> None:
        await self._cluster.__aenter__()
        self._cluster.serve(objects.SERVICES, objects.SLICES, objects.PODS)
        await self._cluster.put(objects.SERVICES, service((("http", 8080),)))
        numbers = range(self._fleet.pods)
        for begin in numbers[::PER_SLICE]:
            entries = [
                entry(self._fleet.address(each), f"pod-{each}") for each in numbers[begin : begin + PER_SLICE]
            ]
            await self._cluster.put(objects.SLICES, endpoint_slice(f"slice-{begin}", *entries))
        for each in numbers:
            await self._cluster.put(objects.PODS, self._pod(each))
        conf = self._directory / "conf"
        conf.mkdir()
        spec = {"host": "triton", "models": {"annotations": {}}, "layout": LAYOUT}
        (conf / "pool.yaml").write_text(yaml.safe_dump({**POOL, "spec": spec}))
        login = self._cluster.login()
        self.options = ["--config", str(conf), "--kubernetes", "--kubeconfig", str(login.kubeconfig)]

    async def change(self) -> None:
        await self._cluster.put(objects.PODS, self._pod(0))

    async def end(self) -> None:
        await self._cluster.__aexit__(None, None, None)

    def _pod(self, number: int) -> dict[str, object]:
        rows = [{"model": model, "state": "READY"} for model in self._fleet.models(number)]
        return pod(f"pod-{number}", labels={"app": "triton"}, writers={"loader": json.dumps(rows)})


class Server:
    """`xds-server serve` in a process of its own."""

    def __init__(self, options: list[str]) -> None:
        xds, admin = free_ports(2)
        self.address, self._admin = f"127.0.0.1:{xds}", f"http://127.0.0.1:{admin}"
        command = [sys.executable, "-m", "xds_server", "serve", *options, "--log-level", "warning"]
        command += ["--xds", self.address, "--admin", f"127.0.0.1:{admin}"]
        self._process = subprocess.Popen(command)

    async def ready(self) -> None:
        """Return once clients are answered."""
        async with aiohttp.ClientSession() as session:
            while self._process.poll() is None:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with session.get(f"{self._admin}/readyz") as answer:
                        if answer.ok:
                            return
                await asyncio.sleep(0.02)
        raise RuntimeError(f"the server ended with {self._process.returncode}")

    def cpu(self) -> float:
        """Seconds of CPU of the process so far, all threads, from its own clock."""
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def peak(self) -> float:
        """The most memory that was ever resident, in MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) / 1024

    async def close(self) -> None:
        self._process.terminate()
        await asyncio.to_thread(self._process.wait, 30)


async def run_once(make: Callable[[Fleet, Path], World], options: argparse.Namespace) -> Figures:
    fleet = Fleet(options.pods, options.models)
    with tempfile.TemporaryDirectory() as directory:
        world = make(fleet, Path(directory))
        await world.begin()
        try:
            begun = time.perf_counter()
            server = Server(world.options)
            streams = Streams(server.address, 1, f"{HOST}|8080", delta=True)
            try:
                await server.ready()
                await streams.open(LIMIT)
                start, start_cpu = time.perf_counter() - begun, server.cpu()
                waits, spent = await _changes(world, fleet, server, streams, options)
                return Figures(start, start_cpu, server.peak(), 1000 * spent, 1000 * statistics.median(waits))
            finally:
                await streams.close()
                await server.close()
        finally:
            await world.end()


async def _changes(
    world: World, fleet: Fleet, server: Server, streams: Streams, options: argparse.Namespace
) -> tuple[list[float], float]:
    """How long each change took to arrive, and the server's CPU for one on average; in seconds."""
    waits: list[float] = []
    begun = 0.0
    for number in range(-WARM_UP, options.changes):
        await asyncio.sleep(options.pause)
        if number == 0:
            begun = server.cpu()
        streams.expect()
        fleet.move()
        asked = time.perf_counter()
        await world.change()
        (arrived,) = await streams.arrived(LIMIT)
        if number >= 0:
            waits.append(arrived - asked)
    return waits, (server.cpu() - begun) / options.changes


WORLDS: dict[str, Callable[[Fleet, Path], World]] = {"documents": Documents, "kubernetes": Cluster}

TITLES = {
    "start": "s to the first assignment",
    "start_cpu": "s CPU to it",
    "memory": "peak MiB",
    "change_cpu": "ms CPU a change",
    "change": "ms to a change's arrival",
}


def _row(name: str, found: dict[str, list[Figures]]) -> str:
    """A line of the table: medians with their spread, and the ratio of each pair of runs."""
    values = {world: [getattr(each, name) for each in figures] for world, figures in found.items()}
    cells = [f"{statistics.median(each):.2f} [{min(each):.2f}-{max(each):.2f}]" for each in values.values()]
    ratios = [ours / base for base, ours in zip(*values.values(), strict=True)]
    cells.append(f"{statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]")
    return f"| {TITLES[name]} | " + " | ".join(cells) + " |"


async def run(options: argparse.Namespace) -> None:
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{options.pods:,} pods, {options.models:,} models, {PER_POD} on each pod;", end=" ")
    print(f"{options.runs} interleaved runs of {options.changes} changes,", end=" ")
    print(f"load average {os.getloadavg()[0]:.1f} at the beginning\n")
    found: dict[str, list[Figures]] = {name: [] for name in WORLDS}
    for _ in range(options.runs):
        for name, make in WORLDS.items():
            found[name].append(await run_once(make, options))
    print("| | documents [spread] | Kubernetes [spread] | ratio [spread] |\n|---|---|---|---|")
    for name in TITLES:
        print(_row(name, found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small fleet, one run: does it still work?")
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--models", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=3, help="of each world, interleaved")
    parser.add_argument("--changes", type=int, default=10, help="measured in each run")
    parser.add_argument(
        "--pause",
        type=float,
        default=5.0,
        help="seconds between changes: so long that none waits for the rest of a cluster before it (5)",
    )
    options = parser.parse_args()
    if options.quick:
        options.pods, options.models, options.runs, options.changes, options.pause = 20, 50, 1, 3, 0.2
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
