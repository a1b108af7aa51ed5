"""One gRPC stream: a reader and a writer around a session.

The session's wake call or its deadline asks for a turn; when it comes, the writer takes what is owed and
writes it. A client that reads slowly blocks its own writer only, and is then owed one merged response, not
a queue.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import structlog

from xds_server.transport.access import RefusedError
from xds_server.transport.codec import parse_delta_request, parse_request
from xds_server.transport.limits import Turn
from xds_server.xds.messages import ProtocolError, Variant
from xds_server.xds.model import Node
from xds_server.xds.status import Delay, Refusal

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from xds_server.transport.access import Doorkeeper
    from xds_server.transport.encoder import SharedEncoder
    from xds_server.transport.limits import PushGate, RequestMeter
    from xds_server.xds.hub import Hub
    from xds_server.xds.messages import DeltaResponse, Response


class Stream:
    """Serves one stream from open to close; owns its two tasks and its session.

    Args:
        hub: where the session is opened.
        encoder: makes the bytes of its responses, which other streams may share.
        context: the RPC, as grpc.aio hands it over.
        variant: which dialect is spoken.
        type_url: the only type served; None on an aggregated stream.
        identities: what the client's certificate proves.
        door: who may be which node.
        ending: set when streams should end.
        lifetime: seconds after which this stream ends by itself; None: never.
        meter: how many requests it may send.
        max_request: bytes of a request.
        pushes: where its pushes wait for their turn.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        encoder: SharedEncoder,
        context: grpc.aio.ServicerContext[bytes, bytes],
        variant: Variant,
        type_url: str | None,
        identities: tuple[str, ...],
        door: Doorkeeper,
        ending: asyncio.Event,
        lifetime: float | None,
        meter: RequestMeter,
        max_request: int,
        pushes: PushGate,
    ) -> None:
        self._hub = hub
        self._encoder = encoder
        self._context = context
        self._variant = variant
        self._identities = identities
        self._door = door
        self._ending = ending
        self._refused: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._lifetime = lifetime
        self._meter = meter
        self._max_request = max_request
        self._loop = asyncio.get_running_loop()
        self._go = False
        """It is the writer's turn, or the end."""
        self._asleep: asyncio.Future[None] | None = None
        """What the writer waits for meanwhile."""
        self._turn = Turn(pushes, self._come)
        self._timer: asyncio.TimerHandle | None = None
        self._woken_at: float | None = None
        self._over = asyncio.Event()
        self._session = hub.open(variant, type_url, context.peer(), self._on_wake)
        self._log = structlog.get_logger("xds").bind(peer=context.peer(), variant=variant.value)

    async def serve(self) -> None:
        """Run until the client leaves, its lifetime is over, or streams are to end.

        Raises:
            ProtocolError: the client asked for what cannot be.
            RefusedError: the client is not, or no longer, let in.
        """
        writer: asyncio.Future[object] = self._task("nothing more can be written", self._write())
        others: set[asyncio.Future[object]] = {
            self._task("the client ended it", self._read()),
            self._task("the server stops", self._ending.wait()),
        }
        tasks = {writer, *others}
        reason = "the connection is gone"
        try:
            ends = tasks | {self._refused}
            done, _ = await asyncio.wait(ends, timeout=self._lifetime, return_when=asyncio.FIRST_COMPLETED)
            reason = ", ".join(sorted(map(_name, done))) or "its lifetime is over"
            self._hub.stats.streams_expired += not done
            for task in done:
                task.result()
        except (ProtocolError, RefusedError) as error:
            reason = str(error)
            raise
        finally:
            self._log.info("client disconnected", client=self._session.id, reason=reason)
            self._over.set()
            self._session.close()
            self._refused.cancel()
            self._come()
            for task in others:
                task.cancel()
            # A message that is under way cannot be taken back, and gRPC tells the client of the end only
            # after it: the writer is let finish, and is cancelled with this call when the client is gone.
            await asyncio.gather(*tasks, return_exceptions=True)

    def reconsider(self) -> None:
        """The list of clients has changed: a client that is no longer let in is told so."""
        node = self._session.node
        try:
            if node is None:
                self._door.admit(self._identities)
            else:
                self._door.admit_node(self._identities, node)
        except RefusedError as error:
            if not self._refused.done():
                self._refused.set_exception(error)

    def _task(self, name: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        return asyncio.create_task(work, name=name)

    async def _read(self) -> None:
        """Hand each request to the session, until the client has no more."""
        parse = parse_delta_request if self._variant is Variant.DELTA else parse_request
        session, read = self._session, self._context.read
        while (data := await read()) is not grpc.aio.EOF:
            if len(data) > self._max_request:
                text = f"a request of {len(data)} bytes; at most {self._max_request} are read"
                raise RefusedError(Refusal.REQUEST_TOO_LARGE, text)
            if seconds := self._meter.delay():
                self._hub.stats.delays[Delay.REQUEST] += 1
                await asyncio.sleep(seconds)
            first = session.node is None
            request = parse(data, with_node=first)
            if first:
                self._door.admit_node(self._identities, request.node or Node("", ""))
            before = None if request.error_detail is None else session.rejection(request.type_url)
            session.receive(request)
            if first:
                self._connected()
            if request.error_detail is not None:
                self._rejected(request.type_url, before)

    def _on_wake(self) -> None:
        """There may be something to write."""
        if self._woken_at is None:
            self._woken_at = self._hub.clock()
        self._turn.ask()

    def _come(self) -> None:
        """Wake the writer; an event would cost it another coroutine each time."""
        self._go = True
        if self._asleep is not None and not self._asleep.done():
            self._asleep.set_result(None)

    async def _write(self) -> None:
        """Write what is owed, whenever something is and it is this stream's turn."""
        # One coroutine: each one within another is resumed with it.
        try:
            while True:
                if not self._go:
                    self._asleep = self._loop.create_future()
                    await self._asleep
                self._go = False
                if self._over.is_set():
                    return
                for response in self._owed():
                    await self._context.write(self._encoder.encode(response))
                    if self._over.is_set():
                        return
                self._turn.leave()
                self._await_deadline()
        finally:
            self._turn.close()
            if self._timer is not None:
                self._timer.cancel()

    def _owed(self) -> list[Response | DeltaResponse]:
        """What is to be written in this turn."""
        now = self._hub.clock()
        self._turn.begin(now)
        responses = self._session.take()
        woken_at, self._woken_at = self._woken_at, None
        if responses:
            self._hub.stats.queue_time.observe(now - (now if woken_at is None else woken_at))
        return responses

    def _await_deadline(self) -> None:
        """See to it that what the session has to say at a certain time is said then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._session.next_deadline()
        if deadline is not None:
            rest = max(0.0, deadline - self._hub.clock())
            self._timer = self._loop.call_later(rest, self._on_wake)

    def _connected(self) -> None:
        node = self._session.node
        self._log.info(
            "client connected",
            client=self._session.id,
            cluster=node.cluster if node else "",
            aggregated=self._session.aggregated,
        )

    def _rejected(self, type_url: str, before: object) -> None:
        rejection = self._session.rejection(type_url)
        if rejection is not None and rejection is not before:
            self._log.warning(
                "configuration rejected",
                client=self._session.id,
                type=type_url,
                version=rejection.sent.version,
                names=sorted(rejection.sent.contents),
                blamed=list(rejection.blamed),
                error=rejection.error,
            )


def _name(end: asyncio.Future[object]) -> str:
    return end.get_name() if isinstance(end, asyncio.Task) else "refused"
