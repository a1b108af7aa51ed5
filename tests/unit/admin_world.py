"""An admin server over the world of moves, with documents and readiness played by the test."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from xds_server.admin.server import AdminServer
from xds_server.admin.state import AdminState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moves_world import World

    from xds_server.config.problems import Problem


@dataclass
class Files:
    directory: Path = Path("conf")
    problems: tuple[Problem, ...] = ()
    loaded_at: float | None = 1000.0
    reloads_ok: int = 1
    reloads_failed: int = 0


@dataclass
class Readiness:
    ready: bool = True
    reason: str = "serving"
    started_at: float = 900.0


@dataclass
class Polling:
    polls: int = 7
    failures: int = 2


@dataclass
class SecondLooks:
    answers: dict[str, int] = field(default_factory=lambda: {"polled": 5, "other": 1})
    looks: int = 3


def state_of(world: World, **parts: Any) -> AdminState:
    rooms: dict[str, Any] = {
        "mesh": world.mesh,
        "hub": world.hub,
        "mover": world.mover,
        "publisher": world.publisher,
        "files": Files(),
        "poller": Polling(),
        "second_look": SecondLooks(),
        "readiness": Readiness(),
        "clock": time.time,
    }
    return AdminState(**(rooms | parts))


@dataclass
class Admin:
    address: str
    http: aiohttp.ClientSession

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return await self.ask("GET", path, None, **headers)

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        return await self.ask("POST", path, body, **headers)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        url = f"http://{self.address}{path}"
        async with self.http.request(method, url, json=body, headers=headers) as answer:
            if answer.content_type == "application/json":
                return answer.status, await answer.json()
            return answer.status, await answer.text()


@asynccontextmanager
async def admin_of(world: World, **parts: Any) -> AsyncIterator[Admin]:
    server = AdminServer(state_of(world, **parts), "127.0.0.1:0")
    port = await server.start()
    try:
        async with aiohttp.ClientSession() as http:
            yield Admin(f"127.0.0.1:{port}", http)
    finally:
        await server.stop()
