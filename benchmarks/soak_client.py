"""A client that comes and goes: it keeps what it is sent, drops its streams at random, and comes back.

It acknowledges most of what it gets and rejects a little; some of its kind tell after a reconnect what
they hold already, the others begin from nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import grpc

from xds_server import wire
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
ASSIGNMENT = "modelmesh-serving"
ROUTES = "gateway|8008"
WHOLE = frozenset({CLUSTER, LISTENER})
"""Types whose SotW responses are all that there is."""

REJECTED = 0.01
"""The share of assignments that are rejected."""


class Drop(StrEnum):
    """Where in the exchange a stream is dropped."""

    OPENED = "opened"
    ASKED = "asked"
    UNANSWERED = "response not answered"
    REJECTED = "response rejected"
    ACCEPTED = "response accepted"
    WHENEVER = "at any moment"


@dataclass(slots=True)
class Counts:
    """What a client has been through."""

    streams: int = 0
    responses: int = 0
    rejected: int = 0
    drops: dict[Drop, int] = field(default_factory=lambda: dict.fromkeys(Drop, 0))
    broken: list[str] = field(default_factory=list)
    """Streams that ended otherwise than by the client's own will."""


@dataclass(slots=True)
class Received:
    """A response of either dialect: by name the version and the digest of what came."""

    type_url: str
    version: str
    nonce: str
    resources: dict[str, tuple[str, bytes]]
    removed: list[str]


class SoakClient:
    """One client. Even numbers speak delta, odd ones SotW; every fifth asks for assignments only.

    Args:
        address: of the server, HOST:PORT.
        number: tells it from the others, and what kind it is.
        life: mean seconds after which it drops a stream.
    """

    def __init__(self, address: str, number: int, life: float) -> None:
        self.number = number
        self.counts = Counts()
        self.held: dict[str, dict[str, tuple[str, bytes]]] = {}
        self.calm = asyncio.Event()
        """From here on it neither drops nor rejects."""
        self._address = address
        self._life = life
        self._delta = number % 2 == 0
        self._aggregated = number % 5 != 0
        self._remembers = number % 3 != 0
        self._random = random.Random(number)

    @property
    def types(self) -> tuple[str, ...]:
        """What it asks for."""
        return (CLUSTER, ENDPOINT, LISTENER, ROUTE) if self._aggregated else (ENDPOINT,)

    def digests(self, type_url: str) -> dict[str, bytes]:
        """By name what it holds of a type."""
        return {name: digest for name, (_, digest) in self.held.get(type_url, {}).items()}

    async def run(self) -> None:
        """Come and go until cancelled."""
        while True:
            if not (self._remembers and self._delta):
                self.held.clear()
            drop = self._random.choice(list(Drop))
            await self._stream(None if self.calm.is_set() else drop)

    async def _stream(self, drop: Drop | None) -> None:
        life = self._random.expovariate(1 / self._life)
        self.counts.streams += 1
        async with self._call() as call:
            stream = asyncio.create_task(self._exchange(call, drop, life), name=f"client-{self.number}")
            calm = asyncio.create_task(self.calm.wait(), name=f"calm-{self.number}")
            ends = {stream} if drop is None else {stream, calm}
            try:
                limit = life if drop is Drop.WHENEVER else None
                await asyncio.wait(ends, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (stream, calm):
                    task.cancel()
                ended, _ = await asyncio.gather(stream, calm, return_exceptions=True)
        if drop is not None:
            self.counts.drops[drop] += 1
        if isinstance(ended, Exception):
            self.counts.broken.append(repr(ended))

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[grpc.aio.StreamStreamCall[bytes, bytes]]:
        kind = "Delta" if self._delta else "Stream"
        method = f"/envoy.service.endpoint.v3.EndpointDiscoveryService/{kind}Endpoints"
        if self._aggregated:
            method = f"/envoy.service.discovery.v3.AggregatedDiscoveryService/{kind}AggregatedResources"
        async with grpc.aio.insecure_channel(self._address, options=OPTIONS) as channel:
            call = channel.stream_stream(method)()
            try:
                yield call
            finally:
                call.cancel()

    async def _exchange(
        self, call: grpc.aio.StreamStreamCall[bytes, bytes], drop: Drop | None, life: float
    ) -> None:
        over = asyncio.get_running_loop().time() + life
        if drop is Drop.OPENED:
            return
        asked: list[str] = []
        # Like an Envoy: whoever holds a type's content already need not be sent any to ask for the next.
        while not asked or (len(asked) < len(self.types) and self.held.get(asked[-1])):
            asked.append(self.types[len(asked)])
            await call.write(self._ask(asked[-1], first=len(asked) == 1))
        if drop is Drop.ASKED:
            return
        while (data := await call.read()) is not grpc.aio.EOF:
            seen = received(data, delta=self._delta)
            self.counts.responses += 1
            due = asyncio.get_running_loop().time() >= over
            if drop is Drop.UNANSWERED and due:
                return
            rejects = self._rejects(seen, drop, due=due)
            await call.write(self._answer(seen, rejects=rejects))
            if not rejects:
                self._apply(seen)
            if due and drop is (Drop.REJECTED if rejects else Drop.ACCEPTED):
                return
            if len(asked) < len(self.types) and seen.type_url == asked[-1] and not rejects:
                following = self.types[len(asked)]
                asked.append(following)
                await call.write(self._ask(following))
        raise ConnectionError(f"the server ended the stream: {await call.code()} {await call.details()}")

    def _rejects(self, seen: Received, drop: Drop | None, *, due: bool) -> bool:
        if drop is None or seen.type_url != ENDPOINT or not self.held.get(ENDPOINT):
            return False
        return (drop is Drop.REJECTED and due) or self._random.random() < REJECTED

    def _apply(self, seen: Received) -> None:
        held = self.held.setdefault(seen.type_url, {})
        if not self._delta and seen.type_url in WHOLE:
            held.clear()
        held.update(seen.resources)
        for name in seen.removed:
            held.pop(name, None)

    def _names(self, type_url: str) -> bytes:
        name = {ENDPOINT: ASSIGNMENT, ROUTE: ROUTES}.get(type_url)
        return wire.string(3, name) if name else b""

    def _ask(self, type_url: str, *, first: bool = False) -> bytes:
        node = wire.string(1, f"soak-{self.number}") + wire.string(2, "soak")
        if not self._delta:
            head = wire.field(2, node) if first else b""
            return head + self._names(type_url) + wire.string(4, type_url)
        head = wire.field(1, node) if first else b""
        versions = b"".join(
            wire.field(5, wire.string(1, name) + wire.string(2, version))
            for name, (version, _) in sorted(self.held.get(type_url, {}).items())
        )
        return head + wire.string(2, type_url) + self._names(type_url) + versions

    def _answer(self, seen: Received, *, rejects: bool) -> bytes:
        """An ACK, or a NACK with an error_detail (a Status: code 3, and a text)."""
        error = wire.uint(1, 3) + wire.string(2, "the soak rejects this") if rejects else b""
        if self._delta:
            detail = wire.field(7, error) if error else b""
            return wire.string(2, seen.type_url) + wire.string(6, seen.nonce) + detail
        held = self.held.get(seen.type_url, {})
        before = next((version for version, _ in held.values()), "")
        version = before if rejects else seen.version
        detail = wire.field(6, error) if error else b""
        named = self._names(seen.type_url) + wire.string(4, seen.type_url)
        return wire.string(1, version) + named + wire.string(5, seen.nonce) + detail


def received(data: bytes, *, delta: bool) -> Received:
    """Read a response of either dialect."""
    texts: dict[int, str] = {}
    found: dict[str, tuple[str, bytes]] = {}
    removed: list[str] = []
    bodies: list[bytes] = []
    for number, _, payload in wire.fields(data):
        if number == 2:
            bodies.append(payload)
        elif number == 6:
            removed.append(payload.decode())
        else:
            texts[number] = payload.decode()
    for body in bodies:
        name, version, content = _resource(body) if delta else ("", texts.get(1, ""), body)
        value = next((payload for number, _, payload in wire.fields(content) if number == 2), b"")
        found[name or _name(value)] = version, hashlib.blake2b(value, digest_size=16).digest()
    return Received(texts.get(4, ""), texts.get(1, ""), texts.get(5, ""), found, removed)


def _resource(data: bytes) -> tuple[str, str, bytes]:
    fields = {number: payload for number, _, payload in wire.fields(data)}
    return fields[3].decode(), fields[1].decode(), fields.get(2, b"")


def _name(body: bytes) -> str:
    """The name of a resource of any type: its first field."""
    return next(payload for number, _, payload in wire.fields(body) if number == 1).decode()
