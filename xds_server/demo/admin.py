"""Talking to the server's admin port, as anybody who moves models would."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import aiohttp

from xds_server.demo.processes import DemoError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

PAUSE = 0.1
"""Seconds between two looks at something that is awaited."""

PATIENCE = 60.0
"""Seconds until something that does not come is an error: machines that run demos are often busy."""


async def eventually(what: str, look: Callable[[], Awaitable[bool]], check: Callable[[], None]) -> None:
    """Waits until `look` is true.

    Raises:
        DemoError: it was not in time, or `check` found that it cannot be.
    """
    end = time.monotonic() + PATIENCE
    while not await look():
        check()
        if time.monotonic() > end:
            raise DemoError(f"{what}: not within {PATIENCE:.0f} s")
        await asyncio.sleep(PAUSE)


class Admin:
    """The admin port at HOST:PORT."""

    def __init__(self, address: str, session: aiohttp.ClientSession) -> None:
        self._url = f"http://{address}"
        self._session = session

    async def ready(self) -> bool:
        """Whether the server has learnt enough to answer Envoy."""
        return await answers(self._session, f"{self._url}/readyz")

    async def status(self) -> dict[str, Any]:
        """The whole `/status`."""
        async with self._session.get(f"{self._url}/status") as answer:
            answer.raise_for_status()
            document: dict[str, Any] = await answer.json()
            return document

    async def load(self, model: str, endpoint: str) -> dict[str, Any]:
        """Loads a model on a replica; answers when every connected Envoy has acknowledged it."""
        return await self._post("/v1/loads", {"model": model, "endpoint": endpoint})

    async def unload(self, model: str, endpoint: str, settle: float, drain: float) -> dict[str, Any]:
        """Withdraws a model from a replica, waits, and unloads it there. Seconds."""
        body = {"model": model, "endpoint": endpoint, "settle": settle, "drain": drain}
        return await self._post("/v1/unloads", body)

    async def _post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with self._session.post(self._url + path, json=body, timeout=timeout) as answer:
            text = await answer.text()
        if answer.status >= 300:
            raise DemoError(f"POST {path} {json.dumps(body)}: {answer.status} {text.strip()}")
        document: dict[str, Any] = json.loads(text)
        return document


async def answers(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=5)) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def routed(status: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Model to the replicas (HOST:PORT) that Envoy is told of, from a `/status`."""
    return {
        model: tuple(sorted(place["endpoint"] for place in places))
        for model, places in status["models"].items()
    }


def is_synced(status: Mapping[str, Any]) -> bool:
    """Whether an Envoy is connected and has acknowledged everything that it was sent."""
    clients: Sequence[Mapping[str, Any]] = status["clients"]
    return bool(clients) and all(kind["state"] == "SYNCED" for client in clients for kind in client["types"])
