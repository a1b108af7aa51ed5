"""A real etcd for a test: its own directory and ports, stopped and started at will."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from xds_server.demo.modelmesh.etcd import EtcdWriter, EtcdWriterError

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

ETCD = Path(sys.executable).with_name("etcd")


class Etcd:
    """One member. `tls`: the arguments and the context for clients."""

    def __init__(
        self,
        directory: Path,
        session: aiohttp.ClientSession,
        arguments: tuple[str, ...] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.directory = directory
        self.port, self._peer = free_ports(2)
        self._scheme = "http" if tls is None else "https"
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"{self._scheme}://127.0.0.1:{self.port}"
        self.writer = EtcdWriter(session, self.url, tls=tls)

    async def start(self) -> None:
        peer = f"http://127.0.0.1:{self._peer}"
        with (self.directory / "etcd.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(ETCD),
                *("--data-dir", str(self.directory / "data"), "--unsafe-no-fsync", "--log-level", "error"),
                *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *(
                    "--initial-cluster",
                    f"default={peer}",
                    "--heartbeat-interval",
                    "20",
                    "--election-timeout",
                    "200",
                ),
                *self._arguments,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        async with asyncio.timeout(20):
            while not await self._answers():
                assert self._process.returncode is None, (self.directory / "etcd.log").read_text()
                await asyncio.sleep(0.05)

    async def _answers(self) -> bool:
        try:
            await self.writer.revision()
        except EtcdWriterError as error:
            return "invalid auth token" in str(error)
        return True

    async def stop(self, number: int = signal.SIGKILL) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            await self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It answers nothing, and no connection breaks."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def connection_file(self, **more: Any) -> Path:
        path = self.directory / "etcd_connection"
        path.write_text(json.dumps({"endpoints": self.url, "root_prefix": "modelmesh-serving"} | more))
        return path


@contextlib.asynccontextmanager
async def running_etcd(
    directory: Path, *arguments: str, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Etcd]:
    os.makedirs(directory, exist_ok=True)  # noqa: PTH103 - once, before anything runs
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        etcd = Etcd(directory, session, arguments, tls)
        try:
            await etcd.start()
            yield etcd
        finally:
            await etcd.stop()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
