"""gRPC to runtimes: one channel each, and every way to get no answer as one of three kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from xds_server.mesh.events import FailureKind
from xds_server.sources.runtimes.answers import RuntimeUnreadableError, bad, shown
from xds_server.sources.runtimes.http import MAX_ANSWER

if TYPE_CHECKING:
    from xds_server.sources.runtimes.asking import Call

_OPTIONS = (
    # A replica that is back is to be seen at the next poll, not minutes later.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", MAX_ANSWER),
    ("grpc.enable_http_proxy", 0),
    # Channels to one address share nothing: each is closed with its own target.
    ("grpc.use_local_subchannel_pool", 1),
)
_REFUSED = ("Connection refused", "Connection reset", "Socket closed", "Broken pipe")
"""What gRPC's core says of an address where nobody listens, or nobody any more. It has no code for it."""


class GrpcCalls:
    """A channel to each runtime that was asked, until it is forgotten. Create it on the event loop."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def ask(self, call: Call, method: str, request: bytes) -> bytes:
        """The answer to a call, as bytes.

        Raises:
            RuntimeUnreadableError: no answer, or an error instead of one.
        """
        try:
            return await self._call(call, method, request)
        except grpc.aio.AioRpcError as error:
            raise _unreadable(call.url, error) from None

    async def order(self, call: Call, method: str, request: bytes) -> tuple[str, str] | None:
        """None when the runtime did what it was told; else the code and the text of its refusal.

        Raises:
            RuntimeUnreadableError: it gave no answer of its own.
        """
        try:
            await self._call(call, method, request)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise _unreadable(call.url, error) from None
            return f"gRPC {error.code().name}", error.details() or ""
        return None

    async def forget(self, url: str) -> None:
        """Close the channel to a runtime that is no longer asked."""
        channel = self._channels.pop(url, None)
        if channel is not None:
            await channel.close()

    async def close(self) -> None:
        """Close every channel."""
        for url in tuple(self._channels):
            await self.forget(url)

    async def _call(self, call: Call, method: str, request: bytes) -> bytes:
        channel = self._channels.get(call.url)
        if channel is None:
            channel = self._channels[call.url] = _opened(call.url)
        metadata = tuple((name.lower(), value) for name, value in call.headers.items())
        # Without serialisers: bytes in, bytes out.
        answer: bytes = await channel.unary_unary(method)(request, metadata=metadata)
        return answer


def _opened(url: str) -> grpc.aio.Channel:
    scheme, _, address = url.partition("://")
    if scheme == "https":
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(), options=_OPTIONS)
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


def _unreadable(url: str, error: grpc.aio.AioRpcError) -> RuntimeUnreadableError:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        kind = FailureKind.REFUSED if any(each in details for each in _REFUSED) else FailureKind.TIMEOUT
        return RuntimeUnreadableError(kind, f"{url}: {shown(details)}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return RuntimeUnreadableError(FailureKind.TIMEOUT, f"{url}: {shown(details)}")
    return bad(f"{url} answered gRPC {code.name} {shown(details)}".rstrip())
