"""A client of C streams, each on a connection of its own, that accepts everything and notes when it came.

It reads no more of a response than its version, type and nonce: the client shares the machine with what
is measured.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from xds_server import wire
from xds_server.xds.model import CLUSTER, ENDPOINT

if TYPE_CHECKING:
    from collections.abc import Sequence

_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 16 * 1024 * 1024),
]
_ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"


@dataclass(slots=True)
class Head:
    """What a client has to know of a response in either dialect."""

    version: bytes = b""
    type_url: bytes = b""
    nonce: bytes = b""


def head(data: bytes) -> Head:
    """Read a response's short fields, which have the same numbers in both dialects; skip its resources."""
    found, at = {}, 0
    while at < len(data):
        number, at = data[at] >> 3, at + 1
        size = shift = 0
        while True:
            byte = data[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if number in {1, 4, 5}:
            found[number] = data[at : at + size]
        at += size
    return Head(found.get(1, b""), found.get(4, b""), found.get(5, b""))


@dataclass(slots=True)
class Round:
    """One change on its way: done when all streams have an assignment that they had not before."""

    missing: int
    arrived: list[float] = field(default_factory=list)
    """When, by time.perf_counter()."""
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def arrive(self) -> None:
        self.arrived.append(time.perf_counter())
        self.missing -= 1
        if self.missing == 0:
            self.complete.set()


class Streams:
    """C streams of one dialect that subscribe to all clusters, and to one assignment by name."""

    def __init__(self, address: str, count: int, name: str, *, delta: bool) -> None:
        self._address = address
        self._count = count
        self._name = name
        self._delta = delta
        self._round = Round(count)
        self._tasks: list[asyncio.Task[None]] = []
        self._versions: dict[int, bytes] = {}

    async def open(self, limit: float) -> None:
        """Connect all; returns when every stream has its first assignment."""
        self._tasks = [
            asyncio.create_task(self._run(number), name=f"{number}") for number in range(self._count)
        ]
        await self._all(limit)

    async def arrived(self, limit: float) -> Sequence[float]:
        """Wait until the change has come to every stream; returns when it did, by time.perf_counter()."""
        await self._all(limit)
        return self._round.arrived

    def expect(self) -> None:
        """What arrives from now on belongs to the next change."""
        self._round = Round(self._count)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _all(self, limit: float) -> None:
        complete = asyncio.create_task(self._round.complete.wait())
        done, _ = await asyncio.wait(
            {complete, *self._tasks}, timeout=limit, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done - {complete}:
            task.result()
            raise RuntimeError(f"stream {task.get_name()} ended")
        if complete not in done:
            complete.cancel()
            raise TimeoutError(f"{self._round.missing} of {self._count} streams got nothing in {limit:g} s")

    async def _run(self, number: int) -> None:
        method = _ADS + ("DeltaAggregatedResources" if self._delta else "StreamAggregatedResources")
        async with grpc.aio.insecure_channel(self._address, options=_OPTIONS) as channel:
            call = channel.stream_stream(method)()
            node = wire.string(1, f"bench-{number}") + wire.string(2, "bench")
            await call.write(self._ask(CLUSTER, node=node))
            asked = False
            while (data := await call.read()) is not grpc.aio.EOF:
                seen = head(data)
                assignment = seen.type_url == ENDPOINT.encode()
                if assignment and self._versions.get(number) != seen.version:
                    self._versions[number] = seen.version
                    self._round.arrive()
                await call.write(self._accept(seen, named=assignment))
                if not asked:
                    asked = True
                    await call.write(self._ask(ENDPOINT, self._name))

    def _ask(self, type_url: str, name: str = "", node: bytes = b"") -> bytes:
        first = wire.field(1 if self._delta else 2, node) if node else b""
        kind = wire.string(2 if self._delta else 4, type_url)
        return first + kind + wire.string(3, name)

    def _accept(self, seen: Head, *, named: bool) -> bytes:
        """Build an ACK; in the SotW dialect it repeats the version and the subscription."""
        if self._delta:
            return wire.field(2, seen.type_url) + wire.field(6, seen.nonce)
        name = wire.string(3, self._name if named else "")
        return wire.field(1, seen.version) + name + wire.field(4, seen.type_url) + wire.field(5, seen.nonce)
