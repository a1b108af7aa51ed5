"""Reading Envoy's access log: which replica Envoy itself chose for a request.

What a runtime says about who answered is its own word; this is Envoy's.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from xds_server.demo.requests import LABEL

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

PAUSE = 0.05
"""Seconds between two looks at the file; Envoy writes it out every FLUSH milliseconds."""

FLUSH = 100

PATIENCE = 5.0
"""Seconds until a line that does not come is an error."""


class AccessLog:
    """Envoy's standard output, with JSON lines among others, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._upstreams: dict[str, str] = {}
        self.lines: list[dict[str, Any]] = []
        """Every access log line so far."""

    def read(self) -> None:
        """Takes in what has been written since the last time."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            written = file.read()
        whole = written[: written.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            self._take(line)

    def _take(self, line: bytes) -> None:
        if not line.startswith(b"{"):
            return
        entry = json.loads(line)
        if "upstream" not in entry:
            return
        self.lines.append(entry)
        label = parse_qs(urlsplit(entry.get("path") or "").query).get(LABEL)
        if label:
            self._upstreams[label[0]] = entry["upstream"] or ""

    async def upstreams(self, labels: Collection[str]) -> dict[str, str]:
        """The replica (HOST:PORT) that Envoy sent each labelled request to; empty where it sent it to none.

        Raises:
            TimeoutError: some requests are not in the log in time.
        """
        end = time.monotonic() + PATIENCE
        while True:
            self.read()
            missing = [label for label in labels if label not in self._upstreams]
            if not missing:
                return {label: self._upstreams[label] for label in labels}
            if time.monotonic() > end:
                raise TimeoutError(
                    f"{len(missing)} of {len(labels)} requests are not in Envoy's access log {self._path}, "
                    f"for example {missing[0]}"
                )
            await asyncio.sleep(PAUSE)

    async def last(self) -> dict[str, Any]:
        """The newest line, once nothing has been added for a moment: for a request that was sent alone."""
        await asyncio.sleep(3 * FLUSH / 1000)
        self.read()
        if not self.lines:
            raise TimeoutError(f"no request is in Envoy's access log {self._path}")
        return self.lines[-1]
