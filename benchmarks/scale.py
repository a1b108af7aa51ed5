"""What a change costs Envoy, in one cluster and in the layout that `auto` takes: `make bench-scale`.

For each row (E endpoints, K models on each, M models) and layout: the real server's parts in this process,
one real Envoy with one worker, and real requests by wrk to an upstream Envoy. A change is one model loaded
on one more endpoint, or unloaded from it again. CPU is that of each Envoy thread by the kernel's schedstat,
so that other work on the machine disturbs it little; latency is disturbed more, and its quiet figure is
taken just before.

    python -m benchmarks.scale [--quick] [--rows 100,20,500 ...] [--layouts single auto] [--seconds 6]
        [--moves SECONDS] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import re
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.envoys import Envoy, Upstream, free_port
from benchmarks.fleet import HOST, Fleet
from xds_server import logs
from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.mesh import Mesh
from xds_server.moves.acknowledged import Watch, acknowledged
from xds_server.publisher import Publisher
from xds_server.resources import law
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.transport.server import XdsServer
from xds_server.xds.hub import Hub
from xds_server.xds.model import ENDPOINT

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS = ((100, 20, 500), (500, 20, 2000), (1000, 20, 5000), (2000, 50, 10_000))
LARGEST = (10_000, 50, 100_000)
QUICK = ((30, 5, 40), (100, 20, 500))
LAYOUTS = {
    "single": PoolLayout(LayoutKind.SINGLE),
    "auto": PoolLayout(),
    "perModel": PoolLayout(LayoutKind.PER_MODEL),
    "plain": None,
}
"""`plain` has no pool: round robin without subsets, which the request path is compared with."""

IMPOSSIBLE = 2.0
"""Seconds of a predicted rebuild from which a layout is not tried."""
CHANGES = 7
EVERY = 2.0
"""Seconds between changes while the latency of live traffic is taken."""
TRAFFIC_MODELS = 50
LIMIT = 180.0


@dataclass(slots=True)
class Figures:
    """One row in one layout. Times in ms, memory in MiB; None: not measured."""

    row: str
    layout: str
    clusters: int = 0
    predicted: float | None = None
    worker: float | None = None
    worker_most: float | None = None
    main: float | None = None
    ack: float | None = None
    kilobytes: float | None = None
    server: float | None = None
    memory: float | None = None
    memory_after: float | None = None
    quiet_p99: float | None = None
    changing_p99: float | None = None
    changing_most: float | None = None
    request_cpu: float | None = None
    errors: int = 0
    note: str = ""
    more: dict[str, float] = field(default_factory=dict)


class World:
    """A fleet, the server's parts over it, and one Envoy."""

    def __init__(self, row: tuple[int, int, int], layout: PoolLayout | None, upstream: int) -> None:
        endpoints, each, models = row
        self.port = free_port()
        self.fleet = Fleet(
            endpoints, each, models, layout=layout, port=upstream, covering=True, gateway=self.port
        )
        self.mesh = Mesh()
        self.hub = Hub(time.monotonic)
        self.builder = Builder(BuildOptions(access_log=False))
        # Whether changes are spaced is the publisher's affair: here each is measured by itself.
        self.publisher = Publisher(self.mesh, self.builder, self.hub)
        self.server = XdsServer(self.hub, "127.0.0.1:0")
        self._number = 0

    async def start(self, directory: Path) -> None:
        self.mesh.apply(self.fleet.configuration())
        for report in self.fleet.reports(range(len(self.fleet.names))):
            self.mesh.apply(report)
        self.publisher.start()
        gc.freeze()
        port = await self.server.start()
        self.server.serving(ready=True)
        self.envoy = Envoy.with_xds(directory, f"127.0.0.1:{port}")
        await self.envoy.ready(LIMIT)
        await self.synced()
        await self.envoy.listening(self.port, LIMIT)

    async def close(self) -> None:
        self.envoy.stop()
        await self.server.stop(1.0)
        gc.unfreeze()

    async def synced(self) -> None:
        names = self.builder.assignments(HOST)
        await acknowledged(self.hub, names, self.hub.serial, timeout=LIMIT, watch=Watch(), return_limit=0.1)

    async def change(self) -> tuple[float, float, int]:
        """One model on one more endpoint, or off it again. CPU s of the server, s until the ACK, bytes."""
        before = self.hub.stats.bytes[ENDPOINT]
        cpu, begun = time.process_time(), time.perf_counter()
        self._number += 1
        model = self.fleet.toggle(self._number)
        for report in self.fleet.reports([self.fleet.toggled]):
            self.mesh.apply(report)
        serial = self.publisher.flush()
        names = self.builder.assignments(HOST, model)
        await acknowledged(self.hub, names, serial, timeout=LIMIT, watch=Watch(), return_limit=0.1)
        spent = time.process_time() - cpu
        return spent, time.perf_counter() - begun, self.hub.stats.bytes[ENDPOINT] - before


async def measure(row: tuple[int, int, int], name: str, seconds: float, upstream: int) -> Figures:
    """Measure one row in one layout."""
    endpoints, each, models = row
    figures = Figures(f"{endpoints}, {each}, {models}", name)
    size = law.Size(endpoints, models, each)
    if name == "single" and law.rebuild(size, 1) > IMPOSSIBLE:
        figures.predicted = law.rebuild(size, 1) * 1000
        figures.note = "not tried: the law predicts that long a pause"
        return figures
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as directory:
        world = World(row, LAYOUTS[name], upstream)
        begun = time.perf_counter()
        await world.start(Path(directory))
        figures.more["start_s"] = time.perf_counter() - begun
        try:
            await _measure(world, figures, seconds, Path(directory))
        finally:
            await world.close()
    return figures


async def _measure(world: World, figures: Figures, seconds: float, directory: Path) -> None:
    state = world.builder.state(HOST)
    assert state is not None
    figures.clusters = len(world.builder.assignments(HOST))
    figures.predicted = None if state.choice is None else state.choice.rebuild * 1000
    figures.memory = world.envoy.memory()
    await _changes(world, figures)
    figures.memory_after = world.envoy.memory()
    if shutil.which("wrk") is None:
        figures.note = "no wrk on PATH (Debian package wrk): latency not measured"
        return
    script = directory / "models.lua"
    script.write_text(_script(world.fleet.traffic(TRAFFIC_MODELS)))
    await wrk(world.port, script, 1.0)
    before = world.envoy.threads()
    quiet = await wrk(world.port, script, seconds)
    spent = _spent(before, world.envoy.threads())
    figures.request_cpu = 1e6 * spent["worker"] / max(1, quiet.requests)
    changing = asyncio.create_task(wrk(world.port, script, max(seconds, 3 * EVERY + 1)))
    while not changing.done():
        await world.change()
        await asyncio.wait({changing}, timeout=EVERY)
    live = await changing
    figures.quiet_p99, figures.changing_p99, figures.changing_most = quiet.p99, live.p99, live.most
    figures.errors = quiet.errors + live.errors


async def _changes(world: World, figures: Figures) -> None:
    worker, main, ack, sizes, server = [], [], [], [], []
    for number in range(CHANGES + 1):
        before = await world.envoy.idle()
        cpu, seconds, count = await world.change()
        spent = _spent(before, await world.envoy.idle())
        if number:  # the first one warms caches up
            worker.append(spent["worker"] * 1000)
            main.append(spent["main"] * 1000)
            ack.append(seconds * 1000)
            sizes.append(count / 1024)
            server.append(cpu * 1000)
    figures.worker, figures.worker_most = statistics.median(worker), max(worker)
    figures.main, figures.ack = statistics.median(main), statistics.median(ack)
    figures.kilobytes, figures.server = statistics.median(sizes), statistics.median(server)


def _spent(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """CPU seconds by kind of thread."""
    spent = {"worker": 0.0, "main": 0.0}
    for thread, seconds in after.items():
        kind = "worker" if thread.startswith("wrk:") else "main" if thread == "envoy" else ""
        if kind:
            spent[kind] += seconds - before.get(thread, 0.0)
    return spent


@dataclass(frozen=True, slots=True)
class Wrk:
    """What wrk saw. Milliseconds."""

    requests: int
    p99: float
    most: float
    errors: int


async def wrk(port: int, script: Path, seconds: float) -> Wrk:
    """Requests on 4 connections, one after the other on each, for the traffic's models in turn."""
    command = ["wrk", "-t1", "-c4", f"-d{seconds:g}s", "--latency", "-s", str(script)]
    command.append(f"http://127.0.0.1:{port}/")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out = (await process.communicate())[0].decode()
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+)", out)
    if found is None:
        raise RuntimeError(f"wrk said:\n{out}")
    requests, p99, most, errors = map(int, found.groups())
    return Wrk(requests, p99 / 1000, most / 1000, errors)


def _script(models: Sequence[str]) -> str:
    names = ", ".join(f'"{model}"' for model in models)
    return f"""
local models, at = {{{names}}}, 0
request = function()
  at = at % #models + 1
  return wrk.format("GET", "/v2/models/" .. models[at] .. "/infer", {{model = models[at]}})
end
done = function(summary, latency)
  local e = summary.errors
  print(string.format("RESULT %d %d %d %d", summary.requests, latency:percentile(99.0), latency.max,
    e.status + e.connect + e.read + e.write + e.timeout))
end
"""


async def request_path(row: tuple[int, int, int], name: str, upstream: int, cycles: int) -> dict[str, float]:
    """CPU of a worker for a request in a layout, as a ratio to plain round robin: both in each cycle."""
    directory = Path(tempfile.mkdtemp(prefix="bench-scale-"))
    ratios = []
    figures: dict[str, list[float]] = {"plain": [], name: []}
    for layout in ("plain", name):
        world = World(row, LAYOUTS[layout], upstream)
        await world.start(directory)
        script = directory / "models.lua"
        script.write_text(_script(world.fleet.traffic(TRAFFIC_MODELS)))
        try:
            await wrk(world.port, script, 1.0)
            for _ in range(cycles):
                before = world.envoy.threads()
                seen = await wrk(world.port, script, 1.0)
                spent = _spent(before, world.envoy.threads())
                figures[layout].append(1e6 * spent["worker"] / max(1, seen.requests))
        finally:
            await world.close()
    shutil.rmtree(directory)
    ratios = [one / plain for plain, one in zip(figures["plain"], figures[name], strict=True)]
    return {
        "plain_us": statistics.median(figures["plain"]),
        "layout_us": statistics.median(figures[name]),
        "ratio": statistics.median(figures[name]) / statistics.median(figures["plain"]),
        "least": min(ratios),
        "most": max(ratios),
    }


HEAD = (
    "| E, K, M | layout | clusters | law, ms | worker, ms (most) | main, ms | ACK, ms | kB a change | "
    "server, ms CPU | Envoy, MiB (after) | p99 quiet / changing / most, ms | ratio | errors |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def line(each: Figures) -> str:
    """One row of the table in docs/scale.md."""

    def say(value: float | None, digits: int = 3) -> str:
        return "-" if value is None else f"{value:.{digits}g}"

    ratio = each.changing_p99 / each.quiet_p99 if each.changing_p99 and each.quiet_p99 else None
    cells = (
        each.row,
        each.layout,
        str(each.clusters or "-"),
        say(each.predicted),
        f"{say(each.worker)} ({say(each.worker_most)})",
        say(each.main),
        say(each.ack),
        say(each.kilobytes),
        say(each.server),
        f"{say(each.memory, 4)} ({say(each.memory_after, 4)})",
        f"{say(each.quiet_p99)} / {say(each.changing_p99)} / {say(each.changing_most)}",
        say(ratio),
        str(each.errors) if not each.note else each.note,
    )
    return f"| {' | '.join(cells)} |"


def _rows(text: str) -> tuple[int, int, int]:
    endpoints, each, models = map(int, text.split(","))
    return endpoints, each, models


async def main(options: argparse.Namespace) -> int:
    """Run it all; the exit code is 1 when any request failed."""
    rows = options.rows or (QUICK if options.quick else [*ROWS, *([LARGEST] if options.largest else [])])
    seconds = 2.0 if options.quick else options.seconds
    load = os.getloadavg()[0]
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {load:.1f} at the beginning\n")
    print(HEAD, flush=True)
    made: list[Figures] = []
    paths: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as directory:
        upstream = Upstream(Path(directory))
        try:
            await upstream.ready(LIMIT)
            for row in rows:
                for layout in options.layouts:
                    figures = await measure(row, layout, seconds, upstream.port)
                    made.append(figures)
                    print(line(figures), flush=True)
            if shutil.which("wrk") is not None:
                print("\nCPU of a worker for a request, against plain round robin (each cycle 1 s):")
                for row in [rows[0], rows[min(2, len(rows) - 1)]]:
                    path = await request_path(row, "auto", upstream.port, 3 if options.quick else 8)
                    paths[",".join(map(str, row))] = path
                    print(
                        f"- {', '.join(map(str, row))}: {path['layout_us']:.1f} us against "
                        f"{path['plain_us']:.1f} us, {path['ratio']:.2f} "
                        f"({path['least']:.2f} to {path['most']:.2f})",
                        flush=True,
                    )
        finally:
            upstream.stop()
    if options.json:
        facts = {"rows": [asdict(each) for each in made], "request_path": paths, "load": load}
        await asyncio.to_thread(options.json.write_text, json.dumps(facts, indent=2))
    return 1 if any(each.errors for each in made) else 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two small rows, to see that it runs")
    parser.add_argument("--rows", type=_rows, nargs="+", metavar="E,K,M")
    parser.add_argument("--largest", action="store_true", help=f"with the row {LARGEST}, which needs 8 GiB")
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=["single", "auto"])
    parser.add_argument("--seconds", type=float, default=6.0, help="of quiet traffic for each row (6)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    logs.configure(level="warning", as_json=True)
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(main(parse())))
