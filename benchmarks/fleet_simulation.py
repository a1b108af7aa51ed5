"""A large fleet without Envoys: many light delta clients, thousands of endpoints, changes all the time.

The server is the real one in a process of its own; the clients are bare gRPC streams, each on its own
connection, that accept everything and read no more of a response than they must. They share the machine
with the server, so what counts is the server's own CPU; where both need more than there is, responses are
merged and convergence grows, which is where it ends.

A client comes with what it holds, as an Envoy does that connects again: the first fetches everything, the
others name the same versions and are sent what has changed since.

    python -m benchmarks.fleet_simulation [--quick] [--clients 1000] [--endpoints 10000] [--per-endpoint 50]
        [--models 100000] [--changes-per-second 20] [--seconds 30] [--layout auto]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import time
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from benchmarks.fleet import HOST, Fleet
from benchmarks.streams import head
from xds_server import logs, wire
from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.mesh import Mesh
from xds_server.publisher import Publisher
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.resources.law import SHARE
from xds_server.transport.server import ServerOptions, XdsServer
from xds_server.xds.hub import Hub
from xds_server.xds.model import CLUSTER, ENDPOINT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
PROCESSES = 2
"""Of clients."""
LIMIT = 600.0


class Driven:
    """The real server's parts over a fleet in which one model after the other comes and goes."""

    def __init__(self, options: argparse.Namespace) -> None:
        layout = PoolLayout(LayoutKind(options.layout))
        self.fleet = Fleet(
            options.endpoints, options.per_endpoint, options.models, layout=layout, covering=True
        )
        self.mesh = Mesh(on_change=self._changed)
        self.hub = Hub(time.monotonic)
        self.builder = Builder(BuildOptions(access_log=False))
        share = inf if options.unpaced else SHARE
        self.publisher = Publisher(self.mesh, self.builder, self.hub, share=share)
        self.server = XdsServer(self.hub, "127.0.0.1:0", ServerOptions(streams_per_second=5000.0))
        self._rate = options.changes_per_second
        self.changes = 0

    async def run(self) -> None:
        begun = time.process_time()
        self.mesh.apply(self.fleet.configuration())
        for report in self.fleet.reports(range(len(self.fleet.names))):
            self.mesh.apply(report)
        self.publisher.start()
        gc.freeze()  # as serve does
        port = await self.server.start()
        self.server.serving(ready=True)
        _say(port=port, start_cpu=time.process_time() - begun, **self.state())
        task = asyncio.create_task(self.publisher.run())
        churn: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            if line.strip() == "go":
                churn = asyncio.create_task(self._churn())
            elif line.strip() == "halt" and churn is not None:
                churn.cancel()
            _say(**self.state())
        task.cancel()
        await self.server.stop(0.5)

    async def _churn(self) -> None:
        loop = asyncio.get_running_loop()
        begun, made = loop.time(), 0
        while True:
            await asyncio.sleep(max(0.0, begun + made / self._rate - loop.time()))
            made += 1
            self.changes += 1
            self.fleet.toggle(self.changes)
            for report in self.fleet.reports([self.fleet.toggled]):
                self.mesh.apply(report)

    def _changed(self) -> None:
        self.publisher.notify()

    def state(self) -> dict[str, Any]:
        stats = self.hub.stats
        convergence = stats.convergence
        return {
            "cpu": time.process_time(),
            "at": time.monotonic(),
            "memory": _resident(),
            "changes": self.changes,
            "publications": stats.publications,
            "pushes": stats.pushes[ENDPOINT],
            "bytes": stats.bytes[ENDPOINT],
            "encoded": stats.encoded[ENDPOINT],
            "streams": stats.streams_open,
            "spaced": self.publisher.pace.spaced,
            "converged": sum(convergence.counts),
            "convergence_total": convergence.total,
            "convergence": list(convergence.counts),
            "bounds": list(convergence.bounds),
            "open_rounds": self.hub.convergence.open,
            "clusters": len(self.builder.assignments(HOST)),
        }


class Clients:
    """Some of the clients, in a process of their own. They hold what `versions` says from the start."""

    def __init__(self, address: str, count: int, first: int, versions: dict[str, dict[str, str]]) -> None:
        self._address = address
        self._numbers = range(first, first + count)
        self._versions = versions
        self.responses = 0
        self.synced = 0

    async def run(self) -> None:
        tasks = [asyncio.create_task(self._one(number)) for number in self._numbers]
        while self.synced < len(tasks):
            await asyncio.sleep(0.1)
            for task in tasks:
                if task.done():
                    task.result()
        _say(synced=self.synced)
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            _say(responses=self.responses, cpu=time.process_time())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, number: int) -> None:
        await asyncio.sleep(0.002 * (number % 500))
        async with grpc.aio.insecure_channel(self._address, options=_OPTIONS) as channel:
            call = channel.stream_stream(_METHOD)()
            node = wire.string(1, f"light-{number}") + wire.string(2, "gateway")
            await call.write(wire.field(1, node) + _ask(CLUSTER, (), self._versions[CLUSTER]))
            known = self._versions[ENDPOINT]
            await call.write(_ask(ENDPOINT, known, known))
            self.synced += 1  # what it holds is current, so there may be nothing to answer
            while (data := await call.read()) is not grpc.aio.EOF:
                seen = head(data)
                self.responses += 1
                await call.write(wire.field(2, seen.type_url) + wire.field(6, seen.nonce))


def _ask(type_url: str, names: Iterable[str], versions: dict[str, str]) -> bytes:
    parts = [wire.string(2, type_url), *(wire.string(3, name) for name in names)]
    parts += [wire.field(5, wire.string(1, name) + wire.string(2, of)) for name, of in versions.items()]
    return b"".join(parts)


async def fetch(address: str) -> dict[str, dict[str, str]]:
    """Everything that a client is sent, as names and versions."""
    found: dict[str, dict[str, str]] = {CLUSTER: {}, ENDPOINT: {}}
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        call = channel.stream_stream(_METHOD)()
        node = wire.string(1, "first") + wire.string(2, "gateway")
        await call.write(wire.field(1, node) + wire.string(2, CLUSTER))
        while not found[ENDPOINT] or len(found[ENDPOINT]) < len(found[CLUSTER]):
            data = await call.read()
            seen = head(data)
            kind = found[seen.type_url.decode()]
            for number, _, payload in wire.fields(data):
                if number == 2:
                    texts = {n: text for n, _, text in wire.fields(payload) if n in {1, 3}}
                    kind[texts[3].decode()] = texts[1].decode()
            await call.write(wire.field(2, seen.type_url) + wire.field(6, seen.nonce))
            if seen.type_url.decode() == CLUSTER:
                await call.write(_ask(ENDPOINT, found[CLUSTER], {}))
    return found


class Process:
    """One of our own in a process, asked by lines and answering in JSON."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "benchmarks.fleet_simulation", *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    async def read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(self._process.stdout.readline), LIMIT)
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        read: dict[str, Any] = json.loads(line)
        return read

    async def ask(self, word: str = "") -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        return await self.read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


async def simulate(options: argparse.Namespace) -> None:
    """Run one fleet and print what it took."""
    size = ["--endpoints", str(options.endpoints), "--per-endpoint", str(options.per_endpoint)]
    size += ["--models", str(options.models), "--layout", options.layout]
    size += ["--unpaced"] if options.unpaced else []
    server = Process("--role", "server", *size, "--changes-per-second", str(options.changes_per_second))
    crowd: list[Process] = []
    try:
        born = await server.read()
        address = f"127.0.0.1:{born['port']}"
        print(
            f"{options.clients} clients, {options.endpoints} endpoints of {options.per_endpoint}, "
            f"{options.models} models, {options.changes_per_second:g} changes a second, layout "
            f"{options.layout}: {born['clusters']} clusters; start {born['start_cpu']:.1f} s of CPU, "
            f"{born['memory']:.0f} MiB; load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        held = options.directory / f"versions-{os.getpid()}.json"
        held.write_text(json.dumps(await fetch(address)))
        share = [options.clients // PROCESSES + (n < options.clients % PROCESSES) for n in range(PROCESSES)]
        for number, count in enumerate(share):
            if count:
                first = str(sum(share[:number]))
                more = ["--clients", str(count), "--first", first, "--address", address]
                crowd.append(Process("--role", "clients", *more, "--versions", str(held)))
        await asyncio.gather(*(each.read() for each in crowd))
        held.unlink()
        before = await server.ask("go")
        clients_before = await asyncio.gather(*(each.ask() for each in crowd))
        await asyncio.sleep(options.seconds)
        after = await server.ask("halt")
        clients_after = await asyncio.gather(*(each.ask() for each in crowd))
        halted = time.monotonic()
        last = await server.ask()
        while last["open_rounds"] and time.monotonic() < halted + LIMIT:
            await asyncio.sleep(0.05)
            last = await server.ask()
        spent = sum(b["cpu"] - a["cpu"] for a, b in zip(clients_before, clients_after, strict=True))
        print(_said(before, after, last, spent, time.monotonic() - halted), flush=True)
    finally:
        for each in crowd:
            each.close()
        server.close()


def _said(
    before: dict[str, Any],
    after: dict[str, Any],
    last: dict[str, Any],
    clients: float,
    catching_up: float,
) -> str:
    seconds = after["at"] - before["at"]
    changes = max(1, after["changes"] - before["changes"])
    pushes = after["pushes"] - before["pushes"]
    cpu = after["cpu"] - before["cpu"]
    rounds = [b - a for a, b in zip(before["convergence"], last["convergence"], strict=True)]
    total = last["convergence_total"] - before["convergence_total"]
    mean = total / max(1, sum(rounds))
    published = after["publications"] - before["publications"]
    size = (after["bytes"] - before["bytes"]) / max(1, pushes) / 1024
    half, most = (_within(last["bounds"], rounds, part) for part in (0.5, 0.99))
    return (
        f"  server: {cpu / seconds:.2f} of a core, {1000 * cpu / changes:.1f} ms for each change, "
        f"{1e6 * cpu / max(1, pushes):.0f} us for each push; {after['memory']:.0f} MiB\n"
        f"  clients: {clients / seconds:.2f} of a core\n"
        f"  a second: {changes / seconds:.1f} changes, {published / seconds:.1f} publications, "
        f"{pushes / seconds:.0f} pushes of {size:.1f} KiB\n"
        f"  {after['encoded'] - before['encoded']} encodings, {after['spaced'] - before['spaced']} spaced\n"
        f"  convergence of all clients: mean {mean:.3f} s, half within {half}, 99 % within {most}; "
        f"all in sync {catching_up:.2f} s after the last change"
    )


def _within(bounds: Sequence[float], counts: Sequence[int], part: float) -> str:
    """The bound under which `part` of the counted are."""
    seen, wanted = 0, part * sum(counts)
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        seen += count
        if seen >= wanted:
            return f"{bound:g} s"
    return "-"


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; roles other than `all` are for the processes that it starts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="50 clients, 500 endpoints, 5 s")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--endpoints", type=int, default=10_000)
    parser.add_argument("--per-endpoint", type=int, default=50)
    parser.add_argument("--models", type=int, default=100_000)
    parser.add_argument("--changes-per-second", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--layout", choices=[each.value for each in LayoutKind], default="auto")
    parser.add_argument("--unpaced", action="store_true", help="no rests: each change by itself")
    parser.add_argument("--directory", type=Path, default=Path("/tmp"), help="for a file of versions (/tmp)")
    parser.add_argument("--role", choices=("all", "server", "clients"), default="all", help=argparse.SUPPRESS)
    parser.add_argument("--address", default="", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--versions", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.clients, options.endpoints, options.per_endpoint = 50, 500, 20
        options.models, options.seconds = 2000, 5.0
    return options


async def main(options: argparse.Namespace) -> None:
    """Play one of the roles."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    match options.role:
        case "server":
            await Driven(options).run()
        case "clients":
            versions = json.loads(options.versions.read_text())
            await Clients(options.address, options.clients, options.first, versions).run()
        case _:
            await simulate(options)


if __name__ == "__main__":
    logs.configure(level="error", as_json=True)
    asyncio.run(main(parse()))
