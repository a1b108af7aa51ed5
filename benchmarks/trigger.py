"""The port on which a measured server is told to change: `POST /churn?n=K`. Costs next to nothing itself.

`GET /state` tells what the server has at that moment, where it says so.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable


class Trigger:
    """Calls `churn(K)` or `state()` for each request and answers at once with the JSON of its result."""

    def __init__(
        self,
        churn: Callable[[int], dict[str, object]],
        state: Callable[[], dict[str, object]] = dict,
    ) -> None:
        self._churn = churn
        self._state = state

    async def start(self, address: str) -> asyncio.Server:
        host, _, port = address.rpartition(":")
        return await asyncio.start_server(self._serve, host, int(port))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _head(reader):
                status, answer = self._answer(head)
                body = json.dumps(answer).encode()
                writer.write(
                    b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                    % (status, len(body), body)
                )
        except (ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    def _answer(self, head: str) -> tuple[bytes, dict[str, object]]:
        method, target, _ = head.split("\r\n", 1)[0].split(" ", 2)
        url = urlsplit(target)
        if (method, url.path) == ("GET", "/state"):
            return b"200 OK", self._state()
        if (method, url.path) != ("POST", "/churn"):
            expected = "POST /churn?n=K or GET /state"
            return b"404 Not Found", {"error": f"found {method} {url.path}; expected {expected}"}
        return b"200 OK", self._churn(int(parse_qs(url.query).get("n", ["1"])[0]))


async def _head(reader: asyncio.StreamReader) -> str:
    """A request's line and headers; empty when the client has gone. A body is read and dropped."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return ""
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            await reader.readexactly(int(value))
    return head
