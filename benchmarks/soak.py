"""Ten minutes of coming and going: is everyone in sync in the end, and is nothing left behind?

    python -m benchmarks.soak [--minutes 10] [--clients 50] [--changes 20] [--endpoints 100]

The real server over a made-up fleet; clients of both dialects, on the aggregated and on the assignments'
own service, drop their streams at random points of the exchange and come back. Then all is quiet: every
client has to hold exactly what a fresh one is sent, the server's memory has to be flat, nothing may have
been logged as an error, and once the clients are gone no stream, subscription or task may be left.
Exit code 1 if any of that fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.churn import free_ports
from benchmarks.soak_client import SoakClient

EXPECTED = frozenset({"configuration rejected"})
"""What the server logs because clients do what they are here for."""

FLAT_MIB = 4.0
"""How much more memory the last sixth of the time may have than the one after the warm-up, by the median."""

QUIET = 60.0
"""Seconds within which everyone has to be in sync once nothing changes."""

SETTLE = 10.0
"""Seconds within which the server has to have let go of clients that are gone."""


@dataclass(slots=True)
class Soak:
    """A server process, what it logged, and what its memory was, in MiB."""

    process: asyncio.subprocess.Process
    trigger: str
    session: aiohttp.ClientSession
    memory: list[float] = field(default_factory=list)
    logged: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    async def state(self) -> dict[str, Any]:
        async with self.session.get(f"http://{self.trigger}/state") as answer:
            found: dict[str, Any] = await answer.json()
        return found

    async def change(self, count: int) -> None:
        async with self.session.post(f"http://{self.trigger}/churn?n={count}") as answer:
            answer.raise_for_status()

    async def read_log(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            try:
                event = json.loads(line)
                text, level = str(event["event"]), str(event["level"])
            except (ValueError, KeyError, TypeError):
                text, level = line.decode(errors="replace").strip(), "error"
            self.logged[text] += 1
            if level in {"error", "critical"} or text not in EXPECTED:
                self.errors.append(text)

    async def sample(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.memory.append(_resident(self.process.pid))

    def growth(self) -> float:
        """By how much the last sixth of the samples is above the one after the first third."""
        part = max(1, len(self.memory) // 6)
        return statistics.median(self.memory[-part:]) - statistics.median(self.memory[2 * part : 3 * part])


def _resident(pid: int) -> float:
    """MiB of a process that are in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


async def soak(options: argparse.Namespace) -> list[str]:
    """Run it all; returns what failed."""
    xds, trigger = (f"127.0.0.1:{port}" for port in free_ports(2))
    command = ["-m", "benchmarks.churn_server", "--endpoints", str(options.endpoints)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        *("--xds", xds, "--trigger", trigger),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with aiohttp.ClientSession() as session:
        it = Soak(process, trigger, session)
        log = asyncio.create_task(it.read_log(), name="log")
        try:
            assert process.stdout is not None
            await process.stdout.readline()
            return await _run(it, xds, options)
        finally:
            process.terminate()
            await process.wait()
            await log


async def _run(it: Soak, xds: str, options: argparse.Namespace) -> list[str]:
    before = await it.state()
    clients = [SoakClient(xds, number, options.life) for number in range(options.clients)]
    running = [asyncio.create_task(client.run(), name=f"soak-{client.number}") for client in clients]
    sampling = asyncio.create_task(it.sample(), name="memory")
    try:
        changes = await _churn(it, running, options)
        sampling.cancel()
        for client in clients:
            client.calm.set()
        await asyncio.sleep(1)
        await it.change(options.endpoints)  # what was rejected last is tried again once it differs
        behind = await _behind(clients, xds)
        at_the_end = await it.state()
    finally:
        for task in (*running, sampling):
            task.cancel()
        await asyncio.gather(*running, sampling, return_exceptions=True)
    left = await _left(it, before)
    _report(it, clients, changes, at_the_end)
    return _failures(it, clients, behind, left)


async def _churn(it: Soak, running: list[asyncio.Task[None]], options: argparse.Namespace) -> int:
    begun, changes = time.monotonic(), 0
    while (now := time.monotonic() - begun) < options.minutes * 60:
        await it.change(1)
        changes += 1
        for task in running:
            if task.done():
                task.result()
        await asyncio.sleep(max(0.0, changes / options.changes - now))
    return changes


async def _behind(clients: list[SoakClient], xds: str) -> list[int]:
    """Wait until everyone holds what a fresh client is sent. Returns the numbers of those who do not."""
    fresh = SoakClient(xds, 10_002, 1.0)
    fresh.calm.set()
    reference = asyncio.create_task(fresh.run(), name="fresh")
    try:
        until = time.monotonic() + QUIET
        while True:
            await asyncio.sleep(0.2)
            behind = [client.number for client in (fresh, *clients) if not _equal(client, fresh)]
            if not behind or time.monotonic() > until:
                return behind
    finally:
        reference.cancel()
        await asyncio.gather(reference, return_exceptions=True)


def _equal(client: SoakClient, fresh: SoakClient) -> bool:
    return all(
        client.digests(type_url) and client.digests(type_url) == fresh.digests(type_url)
        for type_url in client.types
    )


async def _left(it: Soak, before: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """What the server still has of clients that are gone: by what, before and after."""
    until = time.monotonic() + SETTLE
    while True:
        now = await it.state()
        left = {key: (before[key], now[key]) for key in ("streams", "subscriptions", "tasks")}
        left = {key: each for key, each in left.items() if each[1] > each[0]}
        if not left or time.monotonic() > until:
            return left
        await asyncio.sleep(0.2)


def _failures(
    it: Soak, clients: list[SoakClient], behind: list[int], left: dict[str, tuple[int, int]]
) -> list[str]:
    failures = []
    if behind:
        failures.append(f"not in sync after {QUIET:g} s without a change: clients {behind}")
    if it.growth() > FLAT_MIB:
        failures.append(f"memory grew by {it.growth():.1f} MiB; at most {FLAT_MIB:g} count as flat")
    if it.errors:
        failures.append(f"logged: {Counter(it.errors).most_common(5)}")
    if left:
        failures.append(f"left behind (before, after): {left}")
    broken = [text for client in clients for text in client.counts.broken]
    if broken:
        failures.append(f"{len(broken)} streams were ended by the server, the first with {broken[0]}")
    return failures


def _report(it: Soak, clients: list[SoakClient], changes: int, state: dict[str, Any]) -> None:
    counts = [client.counts for client in clients]
    drops = Counter[str]()
    for each in counts:
        drops.update({drop.value: number for drop, number in each.drops.items()})
    low, high = min(it.memory, default=0.0), max(it.memory, default=0.0)
    streams, responses = sum(each.streams for each in counts), sum(each.responses for each in counts)
    for line in (
        f"{changes} changes, {streams} streams, {responses} responses read",
        f"dropped: {dict(sorted(drops.items()))}",
        f"server: {state}",
        f"memory: {low:.1f} to {high:.1f} MiB, growth {it.growth() if it.memory else 0:+.1f} MiB",
        f"logged: {dict(it.logged)}",
    ):
        sys.stdout.write(line + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--changes", type=float, default=20.0, help="a second")
    parser.add_argument("--endpoints", type=int, default=100)
    parser.add_argument(
        "--life", type=float, default=5.0, help="mean seconds after which a stream is dropped"
    )
    failures = asyncio.run(soak(parser.parse_args()))
    for failure in failures:
        sys.stdout.write(f"FAILED: {failure}\n")
    if not failures:
        sys.stdout.write("everyone in sync, memory flat, no error logged, nothing left behind\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
