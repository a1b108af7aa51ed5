"""A runtime whose answers a test decides, for faults that a real one cannot be made to show.

It is a fake: it speaks just enough HTTP/1.1 to be wrong in every way that matters, and it counts
connections and requests. What real runtimes do is tested in tests/integration.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@dataclass
class Request:
    """One request, and the way to answer it."""

    line: str
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, body: bytes | list[dict[str, object]], status: str = "200 OK") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.raw(f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)

    def hang_up(self) -> None:
        self.writer.transport.abort()


@dataclass
class ScriptedRuntime:
    """Listens on a free port of 127.0.0.1; `script` answers each request."""

    script: Callable[[Request], Awaitable[None]]
    url: str = ""
    connections: int = 0
    requests: list[str] = field(default_factory=list)
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    emptied: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        self.emptied.clear()
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = re.search(r"(?im)^content-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                line = head.split("\r\n", 1)[0]
                self.requests.append(line)
                await self.script(Request(line, body, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.open.discard(writer)
            writer.close()
            if not self.open:
                self.emptied.set()

    async def closed(self) -> None:
        """Returns when no connection is open."""
        if self.open:
            await self.emptied.wait()


def rows(*names: str, state: str = "READY") -> list[dict[str, object]]:
    return [{"name": name, "version": "1", "state": state, "reason": ""} for name in names]


@asynccontextmanager
async def scripted(script: Callable[[Request], Awaitable[None]]) -> AsyncIterator[ScriptedRuntime]:
    runtime = ScriptedRuntime(script)
    server = await asyncio.start_server(runtime.serve, "127.0.0.1", 0)
    runtime.url = "http://{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield runtime
    finally:
        server.close()
        for writer in list(runtime.open):
            writer.transport.abort()
        await server.wait_closed()


@asynccontextmanager
async def answering(*names: str) -> AsyncIterator[ScriptedRuntime]:
    """A runtime that always has these models READY."""

    async def script(request: Request) -> None:
        await request.answer(rows(*names))

    async with scripted(script) as runtime:
        yield runtime
