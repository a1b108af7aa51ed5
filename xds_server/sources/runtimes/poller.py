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
from xds_server.sources.runtimes.open_inference import OpenInferenceClient, RuntimeUnreadableError
from xds_server.sources.runtimes.targets import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds_server.mesh.events import Event, FailureKind
    from xds_server.mesh.model import EndpointId
    from xds_server.sources.runtimes.open_inference import Index

__all__ = ["SOURCE", "Poller", "Target"]

SOURCE = "open-inference"
"""The name under which the mesh keeps what is learnt here."""

EARLIEST = 0.9
"""A poll follows the one before after this share of the interval at the earliest, after all of it at the
latest: so polls of many endpoints stay spread, and no fact is older than an interval and one poll."""

FIRST_WITHIN = 1.0
"""Seconds within which a new endpoint is asked first, where its interval is longer than that."""


class ReadsIndex(Protocol):
    """What the poller needs of a client."""

    async def read(self, url: str, timeout: float, previous: Index | None = None) -> Index:  # noqa: ASYNC109
        """The repository index. RuntimeUnreadableError when there is none to be had."""

    async def close(self) -> None:
        """Close every connection."""


@dataclass(slots=True, eq=False)
class _Watch:
    """One endpoint being asked. Polls are numbered from 1 in the order in which they start."""

    endpoint: EndpointId
    target: Target
    task: asyncio.Task[None] | None = None
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
        self._client: ReadsIndex = client if client is not None else OpenInferenceClient()
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
        if self._closed:
            raise RuntimeError("the poller is closed")
        for endpoint in [endpoint for endpoint in self._watches if endpoint not in targets]:
            self._remove(self._watches.pop(endpoint))
            self._emit(ReportsForgotten(endpoint=endpoint, source=SOURCE))
        for endpoint, target in targets.items():
            watch = self._watches.get(endpoint)
            if watch is None:
                self._add(endpoint, target)
            elif watch.target != target:
                watch.target = target
                _hurry(watch)

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

    def _remove(self, watch: _Watch) -> None:
        gone = LookupError(f"{watch.endpoint} of {watch.endpoint.service} is no longer asked for its models")
        _fail_waiting(watch, gone)
        if watch.task is not None and not watch.task.done():
            self._ending.add(watch.task)
            watch.task.cancel()

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
                due = begun + self._rng.uniform(EARLIEST, 1.0) * target.interval
        except Exception as error:
            self._watches.pop(watch.endpoint, None)
            _fail_waiting(watch, error)
            raise

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
            index = await self._client.read(target.url, target.timeout, watch.index)
        except RuntimeUnreadableError as error:
            if watch.target.url == target.url:
                self._report_failure(watch, error, asked)
        else:
            if watch.target.url == target.url:
                self._report(watch, index)
        self.polls += 1
        if watch.target.url == target.url:
            watch.finished = watch.started
            _answer_waiting(watch)

    def _report(self, watch: _Watch, index: Index) -> None:
        previous, failing = watch.index, watch.failing
        watch.index, watch.failing = index, None
        if previous is None or failing is not None or previous.rows != index.rows:
            self._log_change(watch, previous, index)
        self._emit(
            ModelsReported(endpoint=watch.endpoint, source=SOURCE, models=index.rows, at=self._clock())
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
                source=SOURCE,
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
