"""Child processes: starting them so that they cannot outlive the demo, watching them, and stopping them.

What may not live here: what the processes are for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

STOP = 5.0
"""Seconds that processes have to end by themselves before they are killed."""

TAIL = 15
"""Lines of its log that are shown of a process that ended by itself."""

PR_SET_PDEATHSIG = 1


class DemoError(Exception):
    """The demo cannot go on; the text says why, for the person who runs it."""


@dataclass(frozen=True)
class Child:
    """A running process and the file that takes its output."""

    name: str
    process: asyncio.subprocess.Process
    log: Path


def dying_with_parent() -> Callable[[], None] | None:
    """What a child does first, on Linux: ask the kernel to end it when its parent ends, however that happens.

    It only makes a system call, so that it is safe between fork and exec.
    """
    if sys.platform != "linux":
        return None
    return functools.partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGKILL)


class Processes:
    """The demo's children. Leaving the `async with` stops all of them, the last one started first."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []
        self._at_start = dying_with_parent()

    async def __aenter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> Child:
        """Starts a process; its output goes to the file NAME.log, errors to the same."""
        log = self._logs / f"{name}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *map(str, command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                cwd=directory,
                # A group of its own: Ctrl-C reaches the demo only, which then stops its children in order.
                start_new_session=True,
                preexec_fn=self._at_start,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def check(self) -> None:
        """Raises DemoError with the end of its log when a process has ended by itself."""
        for child in self._children:
            if child.process.returncode is not None:
                raise DemoError(_ended(child))

    async def finished(self, child: Child) -> None:
        """Waits for a process that ends by itself, and forgets it. DemoError unless its exit code is 0."""
        code = await child.process.wait()
        self._children.remove(child)
        if code != 0:
            raise DemoError(_ended(child))

    async def end(self, child: Child, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends one process on purpose, by this signal, and forgets it; killed where that does not help."""
        self._children.remove(child)
        _signal(child, number)
        try:
            await asyncio.wait_for(child.process.wait(), STOP)
        except TimeoutError:
            _signal(child, signal.SIGKILL)
            await child.process.wait()

    async def stop(self) -> None:
        """Ends every process: asked first, killed with its whole group where that does not help."""
        children, self._children = self._children[::-1], []
        for child in children:
            _signal(child, signal.SIGTERM)
        waiting = [
            asyncio.create_task(child.process.wait(), name=f"end-of-{child.name}") for child in children
        ]
        if waiting:
            await asyncio.wait(waiting, timeout=STOP)
        for child in children:
            _signal(child, signal.SIGKILL)
        await asyncio.gather(*waiting)


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, number)


def _ended(child: Child) -> str:
    code = child.process.returncode
    return f"{child.name} ended with exit code {code}; its log {child.log} ends:\n{tail(child.log)}"


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join("  " + line for line in log.read_text(errors="replace").splitlines()[-TAIL:])


def busy(ports: Iterable[int]) -> list[int]:
    """Those of the ports that something listens on already."""
    return [port for port in ports if _is_busy(port)]


def _is_busy(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port that only has connections in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return True
    return False


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on at present, all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
