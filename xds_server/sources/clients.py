"""The file of clients as a source: the first load, and a live reload whenever it changes.

What the file means is config/clients.py's. A reload that fails leaves the last good list in force.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from xds_server.config.clients import load_clients

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xds_server.config.problems import Problem
    from xds_server.xds.access import AccessList

CHECK_EVERY = 1.0
"""Seconds between looks at the file. It is small, and a look finds a swapped link like an edit."""


class ClientsSource:
    """Tells who may connect.

    Args:
        path: the file of clients.
        emit: takes the list, at the first load and whenever the file changed and is without error.
        clock: epoch seconds.
    """

    def __init__(
        self, path: Path, emit: Callable[[AccessList], None], *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self.problems: tuple[Problem, ...] = ()
        """What was wrong at the last load; empty when it succeeded."""
        self.loaded_at: float | None = None
        """Epoch seconds of the last load that succeeded."""
        self._emit = emit
        self._clock = clock
        self._content: bytes | None = None
        self._log = structlog.get_logger("clients")

    async def check(self) -> None:
        """Load the file if its content is not that of the last look. Look at `problems` afterwards."""
        content = await asyncio.to_thread(_content, self.path)
        if content == self._content:
            return
        first, self._content = self._content is None, content
        loaded = await asyncio.to_thread(load_clients, self.path)
        self.problems = loaded.problems
        if loaded.access is not None:
            self.loaded_at = self._clock()
            self._log.info("clients loaded", file=str(self.path), identities=len(loaded.access))
            self._emit(loaded.access)
        elif not first:
            self._log.error(
                "clients refused; the last good list stays in force",
                file=str(self.path),
                problems=[str(problem) for problem in loaded.problems],
            )

    async def run(self) -> None:
        """Reload at every change, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_EVERY)
            await self.check()


def _content(path: Path) -> bytes:
    """What the file holds; an error's text where it cannot be read, so that its end is a change too."""
    try:
        return path.read_bytes()
    except OSError as error:
        return repr(error).encode()
