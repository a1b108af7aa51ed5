"""The order of the steps of a move, and what each waits for.

Withdraw: off the metadata, published, acknowledged, settled, drained. Unload: all that, then the
runtime's unload, then its own word that the model is gone. Load: the runtime's load, READY, published,
acknowledged. What fails or is given up on the way leaves the model routed where it still is.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from xds_server.moves import places
from xds_server.moves.acknowledged import RETURN_LIMIT, Acknowledged, Watch, acknowledged
from xds_server.moves.errors import (
    CancelledMoveError,
    LastHolderError,
    NotAcknowledgedError,
    RuntimeRefusedError,
    RuntimeSilentError,
    RuntimeSlowError,
    UnknownEndpointError,
    WithdrawnError,
)
from xds_server.moves.holds import Hold, Holds
from xds_server.moves.ports import Loaded, LoadSeconds, Withdrawn, WithdrawSeconds
from xds_server.moves.runtimes import AskedRuntimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from xds_server.mesh.mesh import Mesh, Withdrawal
    from xds_server.mesh.model import Endpoint
    from xds_server.mesh.pools import Pool
    from xds_server.moves.ports import Polls, Publishes, Runtimes
    from xds_server.xds.hub import Hub

SETTLE = 1.0
"""Seconds after the acknowledgement. Envoy acknowledges when its main thread has applied a change; its
workers follow, up to 0.8 s later where a merge window delays them (Envoy before 1.40)."""

LAG_MARGIN = 4.0
"""Times the predicted rebuild that workers are waited for: seen were up to 1.5 times, on idle machines."""

DRAIN = 5.0
"""Seconds for the requests that were already under way to the replica."""

TIMEOUT = 30.0
"""Seconds that the connected Envoys have to acknowledge."""

RUNTIME_TIMEOUT = 300.0
"""Seconds that a runtime has to load or unload a model, and again to report it."""

FIRST_PAUSE = 0.05
"""Seconds before a runtime is asked again whether it is done; doubled each time up to LAST_PAUSE."""
LAST_PAUSE = 1.0

KINDS = ("withdraw", "load", "unload")
"""The kinds of moves, as counted."""


@dataclass(slots=True)
class MoveCounts:
    """How many moves of each kind got to their end, and how many did not."""

    done: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    failed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))


class Mover:
    """Moves models. One for the process; any number of moves at the same time, all on the event loop.

    Args:
        mesh: where withdrawals are noted, and what is known of the models.
        hub: who has acknowledged what.
        publisher: makes a change known to Envoy at once.
        poller: asks a runtime at once.
        assignments: the names of the endpoint assignments (EDS) that a model of a service is in.
        lag: seconds that Envoy's workers may need for a change of a service, as the law predicts.
        runtimes: who loads and unloads; the Open Inference Protocol over HTTP unless told otherwise.
        clock: seconds since the epoch.
        return_limit: seconds that an Envoy which left is given to come back; see RETURN_LIMIT.
    """

    def __init__(
        self,
        mesh: Mesh,
        hub: Hub,
        publisher: Publishes,
        poller: Polls,
        assignments: Callable[[str, str], Iterable[str]],
        *,
        lag: Callable[[str], float] = lambda _: 0.0,
        runtimes: Runtimes | None = None,
        clock: Callable[[], float] = time.time,
        return_limit: float = RETURN_LIMIT,
    ) -> None:
        self._mesh = mesh
        self._hub = hub
        self._publisher = publisher
        self._poller = poller
        self._assignments = assignments
        self._lag = lag
        self._runtimes: Runtimes = AskedRuntimes() if runtimes is None else runtimes
        self._return_limit = return_limit
        self._holds = Holds(mesh, publisher, clock)
        self._unloading: set[asyncio.Task[WithdrawSeconds]] = set()
        self._log = structlog.get_logger("moves")
        self.counts = MoveCounts()

    def withdrawals(self) -> tuple[Withdrawal, ...]:
        """The withdrawals in force."""
        return self._mesh.withdrawals()

    async def withdraw(
        self,
        model: str,
        host_port: str,
        *,
        service: str | None = None,
        settle: float = SETTLE,
        drain: float = DRAIN,
        force: bool = False,
        keep: bool = False,
        timeout: float = TIMEOUT,  # noqa: ASYNC109 - the error names the clients that are late
    ) -> Withdrawn:
        """Take a model off one endpoint; when this returns, no connected Envoy uses it there any more.

        The withdrawal holds until the runtime reports the model gone, or `cancel`. When this call is
        given up or fails, the withdrawal ends; with `keep` it stays where Envoy does not acknowledge.

        Args:
            model: its name.
            host_port: HOST:PORT, any port of the endpoint.
            service: which service, where several have this endpoint.
            settle: seconds after the acknowledgement, see SETTLE; more where the law predicts more.
            drain: seconds for requests that are under way; see DRAIN.
            force: also when no other endpoint has the model.
            keep: see above.
            timeout: seconds for every connected Envoy to acknowledge.

        Raises:
            MoveError: one of its kinds; the text says what is the matter.
        """
        with self._counted("withdraw"):
            endpoint = places.find(self._mesh, host_port, service)
            # From the check to the note there is no await: two withdrawals cannot both pass as not the last.
            places.check_removable(self._mesh, endpoint, model, force=force)
            hold = self._holds.begin(endpoint, model, _now(), forced=force)
            agreed, at = await self._drained(hold, settle, drain, timeout, keep=keep)
            seconds = WithdrawSeconds(acknowledged=at, total=_now() - hold.begun)
            self._log.info("withdrawn", withdrawal=hold.id, model=model, endpoint=str(endpoint.id))
            return _withdrawn(hold, agreed, seconds)

    async def unload(
        self,
        model: str,
        host_port: str,
        *,
        service: str | None = None,
        settle: float = SETTLE,
        drain: float = DRAIN,
        force: bool = False,
        timeout: float = TIMEOUT,  # noqa: ASYNC109 - the error names the clients that are late
        runtime_timeout: float = RUNTIME_TIMEOUT,
    ) -> Withdrawn:
        """Withdraw a model (or go on from a withdrawal that stands), then unload it through the runtime.

        Once the runtime has been asked, the rest is carried through even when the caller goes away.
        When the runtime refuses, the withdrawal is cancelled and the model is routed again.

        Args: as for `withdraw`; `runtime_timeout`: seconds, see RUNTIME_TIMEOUT.

        Raises:
            MoveError: one of its kinds; the text says what is the matter and what holds now.
        """
        with self._failure_counted("unload"):
            endpoint = places.find(self._mesh, host_port, service)
            pool = places.runtime_pool(self._mesh, endpoint)
            places.check_not_held_elsewhere(self._mesh, endpoint, model)
            hold = self._holds.adopt(endpoint, model, _now())
            if hold is None:
                places.check_removable(self._mesh, endpoint, model, force=force)
                hold = self._holds.begin(endpoint, model, _now(), forced=force)
            agreed, at = await self._drained(hold, settle, drain, timeout, commit=True)
        task = asyncio.create_task(
            self._unload_at_runtime(hold, pool, at, runtime_timeout), name=f"unload-{hold.id}"
        )
        self._unloading.add(task)
        task.add_done_callback(self._unload_ended)
        return _withdrawn(hold, agreed, await asyncio.shield(task))

    async def load(
        self,
        model: str,
        host_port: str,
        *,
        service: str | None = None,
        timeout: float = TIMEOUT,  # noqa: ASYNC109 - the error names the clients that are late
        runtime_timeout: float = RUNTIME_TIMEOUT,
    ) -> Loaded:
        """Load a model through the runtime; when this returns, every connected Envoy routes to it there.

        Args:
            model: its name.
            host_port: HOST:PORT, any port of the endpoint.
            service: which service, where several have this endpoint.
            timeout: seconds for every connected Envoy to acknowledge.
            runtime_timeout: seconds, see RUNTIME_TIMEOUT.

        Raises:
            MoveError: one of its kinds; the text says what is the matter and what holds now.
        """
        with self._counted("load"):
            begun = _now()
            endpoint = places.find(self._mesh, host_port, service)
            pool = places.runtime_pool(self._mesh, endpoint)
            self._check_not_withdrawn(endpoint, model)
            await self._runtimes.load(endpoint, pool, model, runtime_timeout)
            loaded = _now() - begun
            await self._reported(endpoint, model, ready=True, limit=runtime_timeout)
            ready = _now() - begun
            try:
                agreed = await self._published(endpoint, model, Watch(), timeout)
            except NotAcknowledgedError as error:
                raise NotAcknowledgedError(f"{model} is READY on {endpoint.id}, but {error}") from error
            total = _now() - begun
            self._log.info("loaded", model=model, endpoint=str(endpoint.id), seconds=round(total, 3))
            return Loaded(
                model=model,
                endpoint=str(endpoint.id),
                service=endpoint.id.service,
                acknowledged=agreed.clients,
                left=agreed.left,
                seconds=LoadSeconds(loaded=loaded, ready=ready, acknowledged=total, total=total),
            )

    async def cancel(self, withdrawal: str) -> Withdrawal:
        """End a withdrawal: the model is routed to its endpoint again. A move that waits on it ends.

        Raises:
            UnknownWithdrawalError: there is none with this id.
            WithdrawnError: its runtime has already been asked to unload the model.
        """
        return self._holds.cancel(withdrawal)

    async def close(self) -> None:
        """Give up the unloads whose callers have gone, and wait for their end."""
        unloading = tuple(self._unloading)
        for task in unloading:
            task.cancel()
        await asyncio.gather(*unloading, return_exceptions=True)

    @contextmanager
    def _counted(self, kind: str) -> Iterator[None]:
        with self._failure_counted(kind):
            yield
        self.counts.done[kind] += 1

    @contextmanager
    def _failure_counted(self, kind: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.counts.failed[kind] += 1
            raise

    def _check_not_withdrawn(self, endpoint: Endpoint, model: str) -> None:
        withdrawal = places.withdrawal_of(self._mesh, endpoint, model)
        if withdrawal is not None:
            raise WithdrawnError(
                f"{model} is withdrawn from {endpoint.id}, by withdrawal {withdrawal.id}: cancel that first"
            )

    async def _drained(
        self,
        hold: Hold,
        settle: float,
        drain: float,
        timeout: float,  # noqa: ASYNC109 - the error names the clients that are late
        *,
        keep: bool = False,
        commit: bool = False,
    ) -> tuple[Acknowledged, float]:
        """Publish, wait for the acknowledgements, then for the workers to follow and for what is under way.

        Returns who agreed, and the seconds from the beginning to the last acknowledgement. With
        `commit` the move keeps the hold, and it is too late to cancel it.
        """
        try:
            agreed = await self._published(hold.endpoint, hold.model, hold.watch, timeout)
            at = _now() - hold.begun
            lag = LAG_MARGIN * self._lag(hold.endpoint.id.service)
            await hold.watch.pause(max(settle, lag) + drain)
            places.check_still_safe(self._mesh, hold.endpoint, hold.model, force=hold.forced)
        except BaseException as error:
            self._holds.leave(hold)
            if isinstance(error, CancelledMoveError):
                raise
            # Also when the caller has gone (CancelledError): nobody is left who would unload the model.
            kept = keep and isinstance(error, NotAcknowledgedError)
            outcome = self._holds.give_up(hold, keep=kept)
            if isinstance(error, NotAcknowledgedError | LastHolderError):
                raise type(error)(f"{error}; {outcome}") from error
            raise
        hold.committed = commit
        if not commit:
            self._holds.leave(hold)
        return agreed, at

    async def _published(
        self,
        endpoint: Endpoint,
        model: str,
        watch: Watch,
        timeout: float,  # noqa: ASYNC109 - the error names the clients that are late
    ) -> Acknowledged:
        serial = self._publisher.flush()
        concerned = places.gone_with(self._mesh, endpoint, model)
        names = {name for each in concerned for name in self._assignments(endpoint.id.service, each)}
        return await acknowledged(
            self._hub, sorted(names), serial, timeout=timeout, watch=watch, return_limit=self._return_limit
        )

    async def _unload_at_runtime(
        self, hold: Hold, pool: Pool, acknowledged_at: float, limit: float
    ) -> WithdrawSeconds:
        """Everything after the point of no return; runs in a task of its own, and is counted there."""
        with self._counted("unload"):
            try:
                await self._unload_or_give_up(hold, pool, limit)
                unloaded = _now() - hold.begun
                await self._reported(hold.endpoint, hold.model, ready=False, limit=limit)
            finally:
                self._holds.leave(hold)
        total = _now() - hold.begun
        self._log.info("unloaded", model=hold.model, endpoint=str(hold.endpoint.id), seconds=round(total, 3))
        return WithdrawSeconds(acknowledged=acknowledged_at, unloaded=unloaded, gone=total, total=total)

    async def _unload_or_give_up(self, hold: Hold, pool: Pool, limit: float) -> None:
        try:
            await self._runtimes.unload(hold.endpoint, pool, hold.model, limit)
        except RuntimeRefusedError as error:
            raise RuntimeRefusedError(f"{error}; {self._holds.give_up(hold)}") from error
        except RuntimeSilentError as error:
            # It may have heard the order all the same: requests must not go there on a guess.
            raise RuntimeSilentError(
                f"{error}; it may unload {hold.model} yet, so the withdrawal {hold.id} stays until it is "
                "reported gone or cancelled"
            ) from error

    def _unload_ended(self, task: asyncio.Task[WithdrawSeconds]) -> None:
        self._unloading.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The caller is told as well, if there is still one.
            self._log.warning("unload failed", task=task.get_name(), error=str(error))

    async def _reported(self, endpoint: Endpoint, model: str, *, ready: bool, limit: float) -> None:
        """Ask the runtime until it reports the model READY, or no longer READY, at most `limit` seconds."""
        end, pause = _now() + limit, FIRST_PAUSE
        while True:
            try:
                await self._poller.poll_now(endpoint.id)
            except LookupError as error:
                raise UnknownEndpointError(
                    f"{endpoint.id} was removed from the documents meanwhile"
                ) from error
            rows = places.rows_of(self._mesh, endpoint, model)
            if any(row.ready for row in rows) == ready:
                return
            if _now() + pause > end:
                wanted, held = ("READY", "") if ready else ("gone", f"; {model} stays withdrawn there")
                raise RuntimeSlowError(
                    f"{endpoint.id} did not report {model} {wanted} within {limit:g} s: "
                    f"{places.described(rows)}{held}"
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _withdrawn(hold: Hold, agreed: Acknowledged, seconds: WithdrawSeconds) -> Withdrawn:
    return Withdrawn(
        id=hold.id,
        model=hold.model,
        endpoint=str(hold.endpoint.id),
        service=hold.endpoint.id.service,
        acknowledged=agreed.clients,
        left=agreed.left,
        seconds=seconds,
    )
