"""What one change costs: CPU of the server for each change, and when it arrives at each of C streams.

One endpoint of N gets other models; C delta streams, each on its own connection, accept everything. Our
server runs beside a bare one (benchmarks/bare_server.py) that only joins bytes: A B A B, at least three
runs of each. What counts is the ratio in one run, since the machine and the other work on it are in both.

    python -m benchmarks.churn [--quick] [--sotw] [--runs 3] [--changes 20] [--case N,C ...]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fleet import HOST
from benchmarks.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Sequence

CASES = ((100, 1), (100, 500), (1000, 1), (1000, 100), (10_000, 1), (10_000, 100))
QUICK = ((100, 1), (100, 100), (1000, 20))
SERVERS = {"bare": "benchmarks.bare_server", "ours": "benchmarks.churn_server"}
WARM_UP = 3
PAUSE = 0.1
"""Seconds between changes, so that each is published by itself."""
LIMIT = 60.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of one server. CPU in ms for each change, arrival in ms after the trigger was called, MiB."""

    cpu: float
    p50: float
    p99: float
    memory: float
    first: float
    """Seconds of CPU from the start of the process to the first assignment at every stream."""


class Served:
    """A server process and the connection on which it is told to change."""

    def __init__(self, module: str, endpoints: int) -> None:
        xds, trigger = free_ports(2)
        self.address = f"127.0.0.1:{xds}"
        self._trigger = trigger
        command = [sys.executable, "-m", module, "--endpoints", str(endpoints)]
        addresses = ["--xds", self.address, "--trigger", f"127.0.0.1:{trigger}"]
        self._process = subprocess.Popen(
            [*command, *addresses], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    async def ready(self) -> None:
        assert self._process.stdout is not None
        if not await asyncio.to_thread(self._process.stdout.readline):
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._trigger)

    async def change(self) -> None:
        self._writer.write(b"POST /churn?n=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        answer = await self._reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"the trigger answered {answer!r}")
        length = next(line for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length"))
        await self._reader.readexactly(int(length.partition(b":")[2]))

    def cpu(self) -> float:
        """Seconds of CPU of the process so far, all threads, from its own clock."""
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def peak(self) -> float:
        """The most memory that was ever resident, in MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024

    async def close(self) -> None:
        self._writer.close()
        self._process.terminate()
        await asyncio.to_thread(self._process.wait, 15)


async def run_once(module: str, case: tuple[int, int], changes: int, *, delta: bool) -> Figures:
    endpoints, count = case
    server = Served(module, endpoints)
    try:
        await server.ready()
        streams = Streams(server.address, count, HOST, delta=delta)
        try:
            await streams.open(LIMIT)
            first = server.cpu()
            arrivals, spent = await _measure(server, streams, changes)
        finally:
            await streams.close()
        return Figures(
            1000 * spent / changes, _quantile(arrivals, 0.5), _quantile(arrivals, 0.99), server.peak(), first
        )
    finally:
        await server.close()


async def _measure(server: Served, streams: Streams, changes: int) -> tuple[list[float], float]:
    arrivals: list[float] = []
    begun = 0.0
    for number in range(-WARM_UP, changes):
        await asyncio.sleep(PAUSE)
        if number == 0:
            begun = server.cpu()
        streams.expect()
        asked = time.perf_counter()
        await server.change()
        arrived = await streams.arrived(LIMIT)
        if number >= 0:
            arrivals += [1000 * (at - asked) for at in arrived]
    await asyncio.sleep(PAUSE)
    return sorted(arrivals), server.cpu() - begun


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _row(case: tuple[int, int], found: dict[str, list[Figures]]) -> str:
    """A line of the table: medians, and from least to most in brackets."""

    def spread(of: str) -> str:
        cpu = [each.cpu for each in found[of]]
        p99 = statistics.median(each.p99 for each in found[of])
        return f"{statistics.median(cpu):.1f} [{min(cpu):.1f}-{max(cpu):.1f}] ({p99:.1f})"

    ratios = [ours.cpu / bare.cpu for ours, bare in zip(found["ours"], found["bare"], strict=True)]
    ours = found["ours"]
    cells = [
        f"{case[0]:,}",
        f"{case[1]:,}",
        spread("bare"),
        spread("ours"),
        f"{statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]",
        f"{statistics.median(each.p50 for each in ours):.1f}",
        f"{max(each.memory for each in ours):.0f}",
        f"{statistics.median(each.first for each in ours):.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


async def run(options: argparse.Namespace) -> None:
    cases = options.case or (QUICK if options.quick else CASES)
    runs, changes = (1, 5) if options.quick else (options.runs, options.changes)
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(
        f"{'SotW' if options.sotw else 'delta'}, {runs} interleaved runs of {changes} changes, load average",
        end=" ",
    )
    print(f"{os.getloadavg()[0]:.1f} at the beginning\n")
    titles = ("N", "C", "bare, ms CPU [spread] (p99 arrival)", "ours, ms CPU [spread] (p99 arrival)")
    titles += ("ratio [spread]", "ours, p50 arrival, ms", "ours, peak MiB", "ours, s CPU to the first answer")
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|", flush=True)
    raw = []
    for case in cases:
        found: dict[str, list[Figures]] = {name: [] for name in SERVERS}
        for _ in range(runs):
            for name, module in SERVERS.items():
                found[name].append(await run_once(module, case, changes, delta=not options.sotw))
        print(_row(case, found), flush=True)
        raw.append(
            {
                "endpoints": case[0],
                "clients": case[1],
                **{k: [_plain(f) for f in v] for k, v in found.items()},
            }
        )
    if options.json:
        options.json.write_text(json.dumps(raw, indent=1))


def _plain(figures: Figures) -> dict[str, float]:
    return {name: getattr(figures, name) for name in Figures.__slots__}


def _case(text: str) -> tuple[int, int]:
    endpoints, clients = text.split(",")
    return int(endpoints), int(clients)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small cases, one run: does it still work?")
    parser.add_argument("--sotw", action="store_true", help="state-of-the-world xDS instead of delta")
    parser.add_argument("--runs", type=int, default=3, help="of each server, interleaved")
    parser.add_argument("--changes", type=int, default=20, help="measured in each run")
    parser.add_argument(
        "--case", type=_case, action="append", metavar="N,C", help="instead of the usual ones"
    )
    parser.add_argument("--json", type=Path, help="write every run's figures to this file")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
