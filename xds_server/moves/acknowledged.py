"""Waiting until every connected Envoy has acknowledged a publication.

An Envoy that goes away while it is waited for may only have lost its connection: it goes on serving
with what it knew until it is back. So it is waited for as well, for a limited time, and named in the
answer when it did not come back.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds_server.moves.errors import CancelledMoveError, NotAcknowledgedError
from xds_server.xds.model import ENDPOINT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds_server.xds.hub import Hub

RETURN_LIMIT = 5.0
"""Seconds that a client which left is given to come back. Envoy tries again after 0.5 s, growing to 30 s;
most of those that come back at all do so with the first tries."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Who agreed, and who went away before doing so; client names, sorted."""

    clients: tuple[str, ...]
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Standing:
    acknowledged: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    rejected: tuple[tuple[str, str], ...] = ()

    @property
    def present(self) -> frozenset[str]:
        return self.acknowledged | self.waiting | {client for client, _ in self.rejected}


@dataclass(frozen=True, slots=True)
class _Absence:
    """A client that has gone: since when (the loop's time), and who was there when it was last seen."""

    since: float
    others: frozenset[str]


class Watch:
    """Wakes one move: what it waits for may have changed, or somebody has cancelled it."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.cancelled = False

    def cancel(self) -> None:
        """Let the move end with CancelledMoveError."""
        self.cancelled = True
        self.changed.set()

    async def wait(self, seconds: float) -> None:
        """Return at the next change, or after `seconds`. CancelledMoveError when cancelled."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self.changed.wait()
        except TimeoutError:
            return
        self.check()

    async def pause(self, seconds: float) -> None:
        """Let `seconds` pass. CancelledMoveError when cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        self.check()
        while (now := loop.time()) < end:
            self.changed.clear()
            await self.wait(end - now)

    def check(self) -> None:
        """Raise CancelledMoveError when cancelled."""
        if self.cancelled:
            raise CancelledMoveError("the withdrawal was cancelled before the move was done")


async def acknowledged(
    hub: Hub,
    assignments: Iterable[str],
    serial: int,
    *,
    timeout: float,  # noqa: ASYNC109 - the error names who is late, which a caller's timeout could not
    watch: Watch,
    return_limit: float,
) -> Acknowledged:
    """Wait until every client subscribed to `assignments` has acknowledged them as of `serial`.

    Raises:
        NotAcknowledgedError: a client rejected them, or `timeout` seconds passed.
        CancelledMoveError: `watch` was cancelled.
    """
    names = tuple(assignments)
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    absent: dict[str, _Absence] = {}
    before = _Standing()
    remove = hub.add_listener(watch.changed.set)
    try:
        while True:
            watch.changed.clear()
            watch.check()
            now = loop.time()
            standing = _standing(hub, names, serial)
            _follow(before, standing, absent, now)
            before = standing
            if standing.rejected:
                raise NotAcknowledgedError(_rejected(standing.rejected))
            left = {client for client, each in absent.items() if now >= each.since + return_limit}
            missing = standing.waiting | (absent.keys() - left)
            if not missing:
                return Acknowledged(tuple(sorted(standing.acknowledged)), tuple(sorted(left)))
            if now >= end:
                raise NotAcknowledgedError(_late(missing, timeout))
            returns = [each.since + return_limit for client, each in absent.items() if client not in left]
            await watch.wait(min([end, *returns]) - now)
    finally:
        remove()


def _standing(hub: Hub, names: tuple[str, ...], serial: int) -> _Standing:
    """Join the progress of several assignments: a client has agreed when it has to all of them."""
    acknowledged: set[str] = set()
    waiting: set[str] = set()
    rejected: dict[str, str] = {}
    for name in names:
        progress = hub.progress(ENDPOINT, name, serial)
        acknowledged.update(progress.acknowledged)
        waiting.update(progress.waiting)
        rejected.update(progress.rejected)
    return _Standing(
        frozenset(acknowledged - waiting - rejected.keys()),
        frozenset(waiting),
        tuple(sorted(rejected.items())),
    )


def _follow(before: _Standing, now: _Standing, absent: dict[str, _Absence], at: float) -> None:
    """Note in `absent` who of those waited for has gone away since, and forget who is back.

    A client that is back has a new stream, so a new id, of the same node.
    """
    for client in before.waiting - now.present:
        absent.setdefault(client, _Absence(at, before.present))
    for client, each in list(absent.items()):
        if any(_node(other) == _node(client) for other in now.present - each.others):
            del absent[client]


def _node(client: str) -> str:
    """The node's own id within a client's: NODE/STREAM."""
    return client.rpartition("/")[0]


def _rejected(rejected: tuple[tuple[str, str], ...]) -> str:
    return "; ".join(f"Envoy {client} rejected the change: {error}" for client, error in rejected)


def _late(clients: Iterable[str], timeout: float) -> str:
    return f"not acknowledged within {timeout:g} s by {', '.join(sorted(clients))}"
