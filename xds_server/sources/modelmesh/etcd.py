"""A reader of etcd's v3 API: everything under a prefix, then every change of it, in order. Never a writer.

A session authenticates, lists and watches on one connection. Whatever ends it (an error, a compaction, a
silence), the next one begins with a list: a store that was restored from nothing has smaller revisions,
and a watch from a revision that is yet to come would wait for ever without a word.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from xds_server.sources.modelmesh.changes import Change
from xds_server.sources.modelmesh.etcd_messages import (
    AuthenticateRequest,
    AuthenticateResponse,
    EventType,
    RangeRequest,
    RangeResponse,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
    WatchResponse,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    import betterproto2

    from xds_server.sources.modelmesh.connection import Connection


ANSWER_WITHIN = 5.0
"""Seconds that an answer may take."""

QUIET = 10.0
"""Seconds without a word after which etcd is asked how far the watch is."""

PAGE = 500
"""Keys that one answer holds at most: what is parsed at a stretch holds up the event loop."""

T = TypeVar("T", bound="betterproto2.Message")


class EtcdError(RuntimeError):
    """The session has ended; the text says why."""


class CompactedError(EtcdError):
    """The revision to watch from is no longer there: list again."""


class EtcdSession:
    """One connection to one endpoint. Made by `session`; `prefix` is that of all keys, with its slash."""

    def __init__(self, channel: grpc.aio.Channel, prefix: str, token: str) -> None:
        self._channel = channel
        self._prefix = prefix.encode()
        self._metadata = (("token", token),) if token else ()

    async def read(self) -> tuple[int, list[Change]]:
        """Every key under the prefix, and the revision at which that was so.

        Raises:
            EtcdError: no answer, or a refusal.
        """
        start, end, revision = self._prefix, _end_of(self._prefix), 0
        found: list[Change] = []
        while True:
            request = RangeRequest(key=start, range_end=end, limit=PAGE, revision=revision)
            answer = await _ask(self._channel, "KV/Range", request, RangeResponse, self._metadata)
            revision = revision or (answer.header.revision if answer.header else 0)
            found += [Change(self._name(kv.key), kv.value) for kv in answer.kvs]
            if not answer.more or not answer.kvs:
                return revision, found
            start = answer.kvs[-1].key + b"\x00"

    async def watch(self, revision: int) -> AsyncGenerator[list[Change]]:
        """The changes from `revision` on, those of one revision together; an empty list: nothing new.

        Raises:
            CompactedError: the revision was compacted away.
            EtcdError: the connection broke, etcd fell silent or refused.
        """
        call = self._channel.stream_stream(
            "/etcdserverpb.Watch/Watch", request_serializer=bytes, response_deserializer=WatchResponse.parse
        )(metadata=self._metadata)
        try:
            create = WatchCreateRequest(
                key=self._prefix,
                range_end=_end_of(self._prefix),
                start_revision=revision,
                progress_notify=True,
                fragment=True,
            )
            await call.write(WatchRequest(create_request=create))
            pending: list[Change] = []
            while True:
                answer = await self._next(call)
                _check(answer)
                pending += [
                    Change(self._name(e.kv.key), e.kv.value if e.type is not EventType.DELETE else None)
                    for e in answer.events
                    if e.kv is not None
                ]
                if not answer.fragment:
                    yield pending
                    pending = []
        except grpc.RpcError as error:
            raise EtcdError(_said(error)) from error
        except asyncio.InvalidStateError as error:
            raise EtcdError("the watch was ended by etcd") from error
        finally:
            call.cancel()

    async def _next(self, call: Any) -> WatchResponse:
        """The next word of etcd's, asked for after a while: TCP may take minutes to see a dead peer."""
        reading = asyncio.ensure_future(call.read())
        try:
            for asked in (False, True):
                done, _ = await asyncio.wait([reading], timeout=ANSWER_WITHIN if asked else QUIET)
                if done:
                    answer = reading.result()
                    if not isinstance(answer, WatchResponse):
                        raise EtcdError("the watch was ended by etcd")
                    return answer
                if not asked:
                    await call.write(WatchRequest(progress_request=WatchProgressRequest()))
        finally:
            reading.cancel()
        raise EtcdError(f"etcd has been silent for {QUIET + ANSWER_WITHIN:g} s")

    def _name(self, key: bytes) -> str:
        return key[len(self._prefix) :].decode(errors="replace")


@asynccontextmanager
async def session(connection: Connection, endpoint: str, prefix: str) -> AsyncIterator[EtcdSession]:
    """A session with one of the connection's endpoints; the user, if there is one, is authenticated anew.

    A token that expires ends at most one session.

    Raises:
        EtcdError: no answer, or the user was refused.
    """
    channel = connection.channel(endpoint)
    try:
        token = ""
        if connection.user:
            request = AuthenticateRequest(name=connection.user, password=connection.password)
            answer = await _ask(channel, "Auth/Authenticate", request, AuthenticateResponse, ())
            token = answer.token
        yield EtcdSession(channel, prefix, token)
    finally:
        await channel.close()


async def _ask(
    channel: grpc.aio.Channel,
    method: str,
    request: betterproto2.Message,
    kind: type[T],
    metadata: tuple[tuple[str, str], ...],
) -> T:
    call = channel.unary_unary(f"/etcdserverpb.{method}", request_serializer=bytes)
    try:
        answer: bytes = await call(request, timeout=ANSWER_WITHIN, metadata=metadata)
    except grpc.RpcError as error:
        raise EtcdError(_said(error)) from error
    return kind.parse(answer)


def _check(answer: WatchResponse) -> None:
    if answer.compact_revision:
        raise CompactedError(
            f"compacted up to revision {answer.compact_revision}; everything is listed again"
        )
    if answer.canceled:
        raise EtcdError(f"the watch was cancelled: {answer.cancel_reason or 'etcd gave no reason'}")


def _end_of(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`, whose last byte is below 255 (a slash)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _said(error: grpc.RpcError) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details() or 'no details'}"
    return str(error) or type(error).__name__
