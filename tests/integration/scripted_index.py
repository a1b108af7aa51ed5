"""A runtime whose repository index says what a test wants; it can be closed and opened on the same port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping


class IndexServer:
    """`models`: name to state."""

    def __init__(self) -> None:
        self.models: dict[str, str] = {}
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        application = web.Application()
        application.router.add_post("/v2/repository/index", self._index)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]

    async def close(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _index(self, _: web.Request) -> web.Response:
        return web.json_response(_rows(self.models))


def _rows(models: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "version": "1", "state": state, "reason": ""} for name, state in models.items()]
