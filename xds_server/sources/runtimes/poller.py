"""Asks every runtime for its models, each on its own schedule, and reports what it hears to the mesh.

One task for each endpoint: it rests until its next poll is due or someone wants one now, asks, emits one
event, and so on until it is cancelled. What an answer means is the mesh's to judge.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from xds_server.mesh.events import ModelsReported, ReportFailed, ReportsForgotten
from xds_server.sources.runtimes.answers import RuntimeUnreadableError
from xds_server.sources.runtimes.client import RuntimeClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from xds_server.mesh.events import Event, FailureKind
    from xds_server.mesh.model import EndpointId
    from xds_server.sources.runtimes.answers import Index
    from xds_server.sources.runtimes.asking import Target

EARLIEST = 0.9
"""A poll follows the one before after this share of the interval at the earliest, after all of it at the
latest: so polls of many endpoints stay spread, and no fact is older than an interval and one poll."""

FIRST_WITHIN = 1.0
"""Seconds within which a new endpoint is asked first, where its interval is longer than that."""


FOLLOW_AGAIN = 5.0
"""Seconds before a runtime that tells of changes by itself is listened to again after it broke off. It is
polled all the while."""


class ReadsIndex(Protocol):
    """What the poller needs of a client."""

    async def read(self, target: Target, previous: Index | None = None) -> Index:
        """What the runtime has. RuntimeUnreadableError when that is not to be had."""

    async def forget(self, target: Target) -> None:
        """Close what is kept for a runtime that is no longer asked."""

    def follows(self, target: Target) -> bool:
        """Whether the runtime tells of changes by itself."""

    def changes(self, target: Target) -> AsyncIterator[None]:
        """One item for each such change. RuntimeUnreadableError when it cannot be followed."""

    async def close(self) -> None:
        """Close every connection."""


@dataclass(slots=True, eq=False)
class _Watch:
    """One endpoint being asked. Polls are numbered from 1 in the order in which they start."""

    endpoint: EndpointId
    target: Target
    task: asyncio.Task[None] | None = None
    follower: asyncio.Task[None] | None = None
    """Listens to a runtime that tells of changes by itself."""
    started: int = 0
    finished: int = 0
    wanted: int = 0
    """The poll of this number starts without a rest before it."""
    bell: asyncio.Future[None] | None = None
    """Ends the rest before the next poll, while there is one."""
    waiting: list[tuple[int, asyncio.Future[None]]] = field(default_factory=list)
    """Who waits for the poll of that number, or a later one."""
    index: Index | None = None
    failing: FailureKind | None = None


class Poller:
    """Polls the targets it was last given. Create it on the running event loop, and close it.

    Args:
        emit: takes each event, synchronously.
        on_error: told of a defect that ended the polling of an endpoint, which is also logged: the
            owner must not go on as if that endpoint were still watched.
        client: asks the runtimes; it is closed with the poller. One of its own by default.
        clock: epoch seconds, for the events.
        rng: where the jitter comes from.
    """

    def __init__(
        self,
        emit: Callable[[Event], None],
        *,
        on_error: Callable[[BaseException], None],
        client: ReadsIndex | None = None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._emit = emit
        self._on_error = on_error
        self._client: ReadsIndex = client if client is not None else RuntimeClient()
        self._clock = clock
        self._rng = rng if rng is not None else random.Random()  # noqa: S311 - jitter, no secret
        self._loop = asyncio.get_running_loop()
        self._watches: dict[EndpointId, _Watch] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False
        self._log = structlog.get_logger("poller")
        self.polls = 0
        """Polls that ended, with an answer or without."""
        self.failures = 0
        """Polls that ended without an answer."""

    def set_targets(self, targets: Mapping[EndpointId, Target]) -> None:
        """Ask exactly these from now on; those that stay as they are notice nothing.

        An endpoint that is no longer asked is forgotten (ReportsForgotten). A changed target is asked
        at once; what was known of the endpoint stays until then.
        """
        gone = (endpoint for endpoint in self._watches if endpoint not in targets)
        self.change_targets({**dict.fromkeys(gone), **targets})

    def change_targets(self, changes: Mapping[EndpointId, Target | None]) -> None:
        """Ask these so from now on, and where there is None no more; all others as before."""
        if self._closed:
            raise RuntimeError("the poller is closed")
        left: dict[str, Target] = {}
        for endpoint, target in changes.items():
            watch = self._watches.get(endpoint)
            if target is None:
                if watch is not None:
                    del self._watches[endpoint]
                    self._remove(watch)
                    left[watch.target.url] = watch.target
                    self._emit(ReportsForgotten(endpoint=endpoint, source=watch.target.discovery.source))
            elif watch is None:
                self._add(endpoint, target)
            elif watch.target != target:
                left[watch.target.url] = watch.target
                self._change(watch, target)
        if left:
            for url in left.keys() - {watch.target.url for watch in self._watches.values()}:
                self._forget(left[url])

    def _change(self, watch: _Watch, target: Target) -> None:
        before, watch.target = watch.target, target
        if before.discovery.source != target.discovery.source:
            self._emit(ReportsForgotten(endpoint=watch.endpoint, source=before.discovery.source))
        if before.discovery != target.discovery:
            watch.index = None
        self._follow(watch)
        _hurry(watch)

    def _forget(self, target: Target) -> None:
        task = asyncio.create_task(self._client.forget(target), name=f"forget {target.url}")
        self._ending.add(task)
        task.add_done_callback(self._ended)

    async def poll_now(self, endpoint: EndpointId) -> None:
        """Ask at once; returns when a poll that started after this call has been reported.

        Raises:
            LookupError: the endpoint is not being asked, or ceased to be meanwhile.
        """
        watch = self._watches.get(endpoint)
        if watch is None:
            raise LookupError(f"{endpoint} of {endpoint.service} is not being asked for its models")
        waiter = self._waiter(watch, watch.started + 1)
        _hurry(watch)
        await waiter

    def hurry(self, endpoint: EndpointId) -> bool:
        """Let its next poll start at once, or as soon as one under way has ended.

        Returns whether it is being asked at all.
        """
        watch = self._watches.get(endpoint)
        if watch is None:
            return False
        _hurry(watch)
        return True

    async def first_round(self, timeout: float) -> bool:  # noqa: ASYNC109
        """Wait until each present target was tried once, `timeout` seconds at most.

        Returns whether all were. A target that is removed meanwhile is not waited for.
        """
        waiters = [self._waiter(watch, 1) for watch in self._watches.values() if not watch.finished]
        if not waiters:
            return True
        try:
            _, pending = await asyncio.wait(waiters, timeout=timeout)
        finally:
            # Also when this is cancelled: else the end of their targets would be an error that nobody takes.
            for waiter in waiters:
                if waiter.done() and not waiter.cancelled():
                    waiter.exception()  # a removed target's: nothing to wait for
                waiter.cancel()
        return not pending

    async def close(self) -> None:
        """End every poll and close the connections."""
        self._closed = True
        for watch in self._watches.values():
            self._remove(watch)
        self._watches.clear()
        if self._ending:
            await asyncio.wait(self._ending)
        await self._client.close()

    def _add(self, endpoint: EndpointId, target: Target) -> None:
        watch = _Watch(endpoint, target)
        self._watches[endpoint] = watch
        watch.task = asyncio.create_task(self._run(watch), name=f"poll {endpoint} of {endpoint.service}")
        watch.task.add_done_callback(self._ended)
        self._follow(watch)

    def _remove(self, watch: _Watch) -> None:
        gone = LookupError(f"{watch.endpoint} of {watch.endpoint.service} is no longer asked for its models")
        _fail_waiting(watch, gone)
        self._cancel(watch.task)
        self._cancel(watch.follower)

    def _cancel(self, task: asyncio.Task[None] | None) -> None:
        if task is not None and not task.done():
            self._ending.add(task)
            task.cancel()

    def _follow(self, watch: _Watch) -> None:
        """Listen to the runtime where it tells of changes, and no longer to the one before."""
        self._cancel(watch.follower)
        watch.follower = None
        if self._client.follows(watch.target):
            name = f"follow {watch.endpoint} of {watch.endpoint.service}"
            watch.follower = asyncio.create_task(self._listen(watch, watch.target), name=name)
            watch.follower.add_done_callback(self._ended)

    async def _listen(self, watch: _Watch, target: Target) -> None:
        """Poll at once when the runtime says that something changed; its events are no facts."""
        while True:
            try:
                async for _ in self._client.changes(target):
                    _hurry(watch)
            except RuntimeUnreadableError as error:
                self._log.info("runtime cannot be followed", endpoint=str(watch.endpoint), error=str(error))
            await asyncio.sleep(FOLLOW_AGAIN)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A polling task ends by being cancelled, or by a defect, which must not go unseen."""
        self._ending.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._log.error("polling ended by a defect", task=task.get_name(), exc_info=error)
            self._on_error(error)

    async def _run(self, watch: _Watch) -> None:
        try:
            due = self._loop.time() + self._rng.uniform(0, min(watch.target.interval, FIRST_WITHIN))
            while True:
                if watch.wanted <= watch.started:
                    await self._rest(watch, due)
                target, begun = watch.target, self._loop.time()
                watch.started += 1
                await self._poll(watch, target)
                due = self._due(watch, begun + self._rng.uniform(EARLIEST, 1.0) * target.interval)
        except Exception as error:
            self._watches.pop(watch.endpoint, None)
            _fail_waiting(watch, error)
            raise

    def _due(self, watch: _Watch, due: float) -> float:
        """When to ask next: not later than the runtime itself says that its answer holds."""
        until = watch.index.until if watch.index is not None else None
        left = until - self._clock() if until is not None else 0.0
        return min(due, self._loop.time() + left) if left > 0 else due

    async def _rest(self, watch: _Watch, due: float) -> None:
        bell: asyncio.Future[None] = self._loop.create_future()
        watch.bell = bell
        timer = self._loop.call_at(due, _ring, bell)
        try:
            await bell
        finally:
            timer.cancel()
            watch.bell = None

    async def _poll(self, watch: _Watch, target: Target) -> None:
        """Ask once and report it, unless the target changed meanwhile: then it is asked anew at once."""
        asked = self._clock()
        try:
            index = await self._client.read(target, watch.index)
        except RuntimeUnreadableError as error:
            if _same(watch.target, target):
                self._report_failure(watch, error, asked)
        else:
            if _same(watch.target, target):
                self._report(watch, index)
        self.polls += 1
        if _same(watch.target, target):
            watch.finished = watch.started
            _answer_waiting(watch)

    def _report(self, watch: _Watch, index: Index) -> None:
        previous, failing = watch.index, watch.failing
        watch.index, watch.failing = index, None
        if previous is None or failing is not None or previous.rows != index.rows:
            self._log_change(watch, previous, index)
        self._emit(
            ModelsReported(
                endpoint=watch.endpoint,
                source=watch.target.discovery.source,
                models=index.rows,
                at=self._clock(),
            )
        )

    def _report_failure(self, watch: _Watch, error: RuntimeUnreadableError, asked: float) -> None:
        self.failures += 1
        if watch.failing is not error.kind:
            self._log.warning(
                "runtime cannot be read",
                service=watch.endpoint.service,
                endpoint=str(watch.endpoint),
                kind=str(error.kind),
                error=str(error),
            )
        watch.failing = error.kind
        self._emit(
            ReportFailed(
                endpoint=watch.endpoint,
                source=watch.target.discovery.source,
                kind=error.kind,
                error=str(error),
                at=self._clock(),
                asked=asked,
            )
        )

    def _log_change(self, watch: _Watch, previous: Index | None, index: Index) -> None:
        before = {row.name for row in previous.rows if row.ready} if previous else set()
        after = {row.name for row in index.rows if row.ready}
        self._log.info(
            "runtime's models",
            service=watch.endpoint.service,
            endpoint=str(watch.endpoint),
            ready=len(after),
            known=len(index.rows),
            loaded=sorted(after - before),
            unloaded=sorted(before - after),
        )

    def _waiter(self, watch: _Watch, number: int) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = self._loop.create_future()
        watch.waiting.append((number, waiter))
        return waiter


def _same(one: Target, other: Target) -> bool:
    """Whether an answer to one is an answer to the other: all but the times is equal."""
    return one.url == other.url and type(one.discovery) is type(other.discovery)


def _hurry(watch: _Watch) -> None:
    """Let the next poll start at once, or as soon as the one under way has ended."""
    watch.wanted = watch.started + 1
    _ring(watch.bell)


def _ring(bell: asyncio.Future[None] | None) -> None:
    if bell is not None and not bell.done():
        bell.set_result(None)


def _answer_waiting(watch: _Watch) -> None:
    due = [waiter for number, waiter in watch.waiting if number <= watch.finished]
    watch.waiting = [(n, waiter) for n, waiter in watch.waiting if n > watch.finished and not waiter.done()]
    for waiter in due:
        _ring(waiter)


def _fail_waiting(watch: _Watch, error: BaseException) -> None:
    for _, waiter in watch.waiting:
        if not waiter.done():
            waiter.set_exception(error)
    watch.waiting.clear()
