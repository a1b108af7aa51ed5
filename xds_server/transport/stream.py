"""One gRPC stream: a reader and a writer around a session.

The writer waits for the session's wake call or its deadline, takes what is owed and writes it. A client
that reads slowly blocks its own writer only, and is then owed one merged response, not a queue.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import structlog

from xds_server.transport.codec import parse_delta_request, parse_request
from xds_server.xds.messages import ProtocolError, Variant

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from xds_server.transport.encoder import SharedEncoder
    from xds_server.xds.hub import Hub


class Stream:
    """Serves one stream from open to close; owns its two tasks and its session.

    Args:
        hub: where the session is opened.
        encoder: makes the bytes of its responses, which other streams may share.
        context: the RPC, as grpc.aio hands it over.
        variant: which dialect is spoken.
        type_url: the only type served; None on an aggregated stream.
        ending: set when streams should end.
        lifetime: seconds after which this stream ends by itself; None: never.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        encoder: SharedEncoder,
        context: grpc.aio.ServicerContext[bytes, bytes],
        variant: Variant,
        type_url: str | None,
        ending: asyncio.Event,
        lifetime: float | None,
    ) -> None:
        self._hub = hub
        self._encoder = encoder
        self._context = context
        self._variant = variant
        self._ending = ending
        self._lifetime = lifetime
        self._wake = asyncio.Event()
        self._session = hub.open(variant, type_url, context.peer(), self._wake.set)
        self._log = structlog.get_logger("xds").bind(peer=context.peer(), variant=variant.value)

    async def serve(self) -> None:
        """Run until the client leaves, its lifetime is over, or streams are to end.

        Raises:
            ProtocolError: the client asked for what cannot be.
        """
        tasks = {
            self._task("the client ended it", self._read()),
            self._task("nothing more can be written", self._write()),
            self._task("the server stops", self._ending.wait()),
        }
        reason = "the connection is gone"
        try:
            done, _ = await asyncio.wait(tasks, timeout=self._lifetime, return_when=asyncio.FIRST_COMPLETED)
            reason = ", ".join(sorted(task.get_name() for task in done)) or "its lifetime is over"
            for task in done:
                task.result()
        except ProtocolError as error:
            reason = str(error)
            raise
        finally:
            client = self._session.id
            self._session.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._log.info("client disconnected", client=client, reason=reason)

    def _task(self, name: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        return asyncio.create_task(work, name=name)

    async def _read(self) -> None:
        """Hand each request to the session, until the client has no more."""
        while (data := await self._context.read()) is not grpc.aio.EOF:
            first = self._session.node is None
            parse = parse_delta_request if self._variant is Variant.DELTA else parse_request
            request = parse(data, with_node=first)
            before = None if request.error_detail is None else self._session.rejection(request.type_url)
            self._session.receive(request)
            if first:
                self._connected()
            if request.error_detail is not None:
                self._rejected(request.type_url, before)

    async def _write(self) -> None:
        """Write what is owed, whenever something is."""
        while True:
            self._wake.clear()
            for response in self._session.take():
                await self._context.write(self._encoder.encode(response))
            await self._woken()

    async def _woken(self) -> None:
        """Wait for the wake call, or for the moment when the session has something to say anyway."""
        deadline = self._session.next_deadline()
        if deadline is None:
            await self._wake.wait()
            return
        try:
            async with asyncio.timeout(max(0.0, deadline - self._hub.clock())):
                await self._wake.wait()
        except TimeoutError:
            return

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
                error=rejection.error,
            )
