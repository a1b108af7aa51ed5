"""The documents of a directory as a source: the first load, and a live reload whenever they change.

What documents mean is config/loader.py's. A reload that fails leaves the last good configuration in force.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from watchfiles import awatch

from xds_server.config.loader import document_files, load_directory
from xds_server.mesh.events import ConfigurationReplaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from xds_server.config.loader import Loaded
    from xds_server.config.problems import Problem
    from xds_server.mesh.events import Event
    from xds_server.mesh.routing import Configuration

SOURCE = "files"
"""The name under which the mesh keeps this configuration."""

SETTLED_MS = 50
"""Milliseconds without a change after which a burst of changes counts as over."""

BURST_MS = 200
"""Milliseconds after which a burst is looked at even if it goes on."""

CHECK_EVERY = 2.0
"""Seconds between looks that need no notice from the system: it gives none when the directory itself is
replaced, on some network file systems, and when its watches are used up."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What the directory held at one moment. `identity` is None where there is no directory."""

    identity: tuple[int, int] | None
    stamps: tuple[tuple[str, int, int, int, int], ...]
    digest: bytes
    loaded: Loaded | None = None
    """What came of loading it, where the documents differed from the look before."""


class FilesSource:
    """Tells the mesh what the documents of `directory` declare.

    Args:
        directory: where the documents are.
        emit: takes ConfigurationReplaced, when the configuration differs from the one before.
        on_problems: told after each load what is wrong with the documents; empty when nothing is.
        cluster: the documents may refer to services of a Kubernetes cluster.
        clock: epoch seconds.
    """

    def __init__(
        self,
        directory: Path,
        emit: Callable[[Event], None],
        on_problems: Callable[[tuple[Problem, ...]], None],
        *,
        cluster: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self._emit = emit
        self._on_problems = on_problems
        self._cluster = cluster
        self._clock = clock
        self._configuration: Configuration | None = None
        self._look: _Look | None = None
        self._log = structlog.get_logger("files")
        self.problems: tuple[Problem, ...] = ()
        """What was wrong at the last load; empty when it succeeded."""
        self.loaded_at: float | None = None
        """Epoch seconds of the last load that succeeded."""
        self.reloads_ok = 0
        """Loads that succeeded, the first one included."""
        self.reloads_failed = 0
        """Loads that were refused."""

    async def start(self) -> None:
        """Load for the first time. Look at `problems` afterwards: nothing is emitted if there are any."""
        await self._check()

    async def run(self) -> None:
        """Reload at every change of the documents, until cancelled."""
        while True:
            look = await self._check()
            if look.identity is None or not await self._watch(look.identity):
                await asyncio.sleep(CHECK_EVERY)

    async def _watch(self, identity: tuple[int, int]) -> bool:
        """Check at each notice and from time to time, until the directory is another one or gone.

        Returns whether watching worked; where it did not, looking from time to time is what remains.
        """
        notices = awatch(
            self.directory,
            watch_filter=None,
            debounce=BURST_MS,
            step=SETTLED_MS,
            rust_timeout=int(CHECK_EVERY * 1000),
            yield_on_timeout=True,
        )
        try:
            async with aclosing(notices):
                async for _ in notices:
                    if (await self._check()).identity != identity:
                        break
        except OSError as error:
            self._log.warning("cannot watch the documents", directory=str(self.directory), error=str(error))
            return False
        return True

    async def _check(self) -> _Look:
        look = await asyncio.to_thread(_look_at, self.directory, self._look, self._cluster)
        self._look = look
        if look.loaded is not None:
            self._take(look.loaded)
        return look

    def _take(self, loaded: Loaded) -> None:
        self.problems = loaded.problems
        if loaded.configuration is None:
            self.reloads_failed += 1
            if self._configuration is not None:
                self._log.error(
                    "documents refused; the last good ones stay in force",
                    directory=str(self.directory),
                    problems=[str(problem) for problem in loaded.problems],
                )
            self._on_problems(loaded.problems)
            return
        self.reloads_ok += 1
        self.loaded_at = self._clock()
        changed = loaded.configuration != self._configuration
        self._configuration = loaded.configuration
        self._log.info("documents loaded", directory=str(self.directory), changed=changed)
        self._on_problems(())
        if changed:
            self._emit(ConfigurationReplaced(source=SOURCE, configuration=loaded.configuration))


class NoFiles:
    """No documents in files: what a server reports that was given none."""

    directory = "none"
    problems: tuple[Problem, ...] = ()
    loaded_at: float | None = None
    reloads_ok = 0
    reloads_failed = 0

    async def start(self) -> None:
        """Nothing to load."""

    async def run(self) -> None:
        """Nothing to watch, until cancelled."""
        await asyncio.Event().wait()


def _look_at(directory: Path, before: _Look | None, cluster: bool) -> _Look:
    """Look at the directory and load it if its documents changed since `before`. Blocks: for a thread.

    The look is taken before the load, so that what changes meanwhile is seen at the next look.
    """
    identity = _identity(directory)
    files = _files(directory)
    stamps = tuple(_stamps(files))
    if before is not None and before.identity == identity and before.stamps == stamps:
        return _Look(identity, stamps, before.digest)
    digest = _digest(files)
    if before is not None and (before.identity is None) == (identity is None) and before.digest == digest:
        return _Look(identity, stamps, digest)
    return _Look(identity, stamps, digest, load_directory(directory, cluster=cluster))


def _files(directory: Path) -> list[Path]:
    """The documents; none where the directory cannot be listed, which the load then says."""
    try:
        return document_files(directory)
    except OSError:
        return []


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        found = directory.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _stamps(files: list[Path]) -> Iterator[tuple[str, int, int, int, int]]:
    """Each document's name with what the file system says of it; links are followed, as in a ConfigMap."""
    for file in files:
        try:
            found = file.stat()
        except OSError:
            yield str(file), 0, 0, 0, 0
        else:
            yield str(file), found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _digest(files: list[Path]) -> bytes:
    digest = hashlib.sha256()
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            content = repr(error).encode()
        digest.update(hashlib.sha256(bytes(file)).digest() + hashlib.sha256(content).digest())
    return digest.digest()
