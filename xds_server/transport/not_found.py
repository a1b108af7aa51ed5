"""Streams of Envoys' access log service (ALS): attempts that a replica answered with "not found".

Only addresses are read, and only from the log that this server's listeners have. What an answer means is not
ours. In a flood most messages are not looked at: what is left unread would be late when it is read, and until
then Envoy keeps up to 16 MiB of it on each thread.
"""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeAlias

import grpc

from xds_server import wire
from xds_server.transport.access import RefusedError, identities
from xds_server.transport.admission import Admission
from xds_server.transport.codec import MAX_NAME, MAX_NODE, parse_node
from xds_server.transport.places import Places
from xds_server.transport.reading import next_request
from xds_server.xds.messages import ProtocolError
from xds_server.xds.model import NOT_FOUND_LOG
from xds_server.xds.status import Delay, Refusal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Mapping

    from xds_server.transport.access import Doorkeeper
    from xds_server.xds.model import Node

    Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]

SERVICE = "envoy.service.accesslog.v3.AccessLogService"
METHOD = "StreamAccessLogs"

SILENCE = 60.0
"""Seconds without a message after which a stream is ended: each of Envoy's threads has one of its own, and
opens it again when it has something to tell."""

MAX_STREAMS = 1_000
"""Apart from those of xDS, which they must not crowd out."""

MESSAGES_PER_SECOND = 50
"""Of one stream; more wait. An Envoy that is not flooded itself sends up to ten."""

MESSAGES_LOOKED_AT = 100
"""A second, of all streams together; others are passed over."""

MAX_MESSAGE = 256 * 1024
"""Bytes, without the node that a stream's first message has. Envoy sends when it has 16 kB, and an entry has
at most a request's headers."""

MAX_ENTRIES = 64
"""Of a message: Envoy's 16 kB have fewer. What comes after them is not looked at."""

_MAX_FIELDS = 16
"""Of any message in it, likewise: they are written in order, and the address is the thirteenth."""

_IDENTIFIER, _HTTP_LOGS = 1, 2
_NODE, _LOG_NAME = 1, 2
_ENTRY = 1
_TO_SOCKET_ADDRESS = (1, 13, 1)
"""From an entry: its common properties, upstream_remote_address, socket_address."""
_HOST, _PORT = 2, 3


class TakesAnswers(Protocol):
    """Who is told."""

    def take(self, answers: Mapping[str, int], /) -> None:
        """How many times the replica at each HOST:PORT has answered "not found"."""


class NotFoundStreams:
    """Serves Envoys. `taker` None: this server takes no logs. `delays` counts messages that had to wait."""

    def __init__(
        self, taker: TakesAnswers | None, door: Doorkeeper, ending: asyncio.Event, delays: Counter[Delay]
    ) -> None:
        self._taker = taker
        self._door = door
        self._ending = ending
        self._delays = delays
        self._looked_at = Admission(MESSAGES_LOOKED_AT, MESSAGES_LOOKED_AT, time.monotonic)
        self._places = Places(MAX_STREAMS, "streams of access logs")

    async def serve(self, context: Context) -> None:
        """One stream, until it falls silent. RefusedError where the client may not be its node, and so on."""
        if self._taker is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server takes no access logs")
            return
        proved = identities(context.auth_context())
        self._door.admit(proved)
        node: Node | None = None
        messages = Admission(MESSAGES_PER_SECOND, MESSAGES_PER_SECOND, time.monotonic)
        with self._places.one():
            while (data := await self._read(context, first=node is None)) is not None:
                if await messages.enter():
                    self._delays[Delay.REQUEST] += 1
                if node is None:
                    node = parse_identifier(data)
                self._door.admit_node(proved, node)
                if self._looked_at.take():
                    self._taker.take(parse_answers(data))

    async def _read(self, context: Context, *, first: bool) -> bytes | None:
        """The next message; None when the stream is to end."""
        try:
            data = await next_request(context, self._ending, SILENCE)
        except TimeoutError:
            return None
        if data is None:
            return None
        most = MAX_MESSAGE + MAX_NODE if first else MAX_MESSAGE
        if len(data) > most:
            text = f"a message of {len(data)} bytes; at most {most} are read"
            raise RefusedError(Refusal.REQUEST_TOO_LARGE, text)
        return data


def parse_identifier(data: bytes) -> Node:
    """Who sends, from the first message of a stream.

    Raises:
        ProtocolError: it says nobody, or it is another log than the one that is asked for.
    """
    try:
        identifier = next(_under(data, _IDENTIFIER), b"")
        name = next(_under(identifier, _LOG_NAME), b"")[:MAX_NAME].decode()
        node = next(_under(identifier, _NODE), None)
        read = None if node is None else parse_node(node)
    except ProtocolError:
        raise
    except Exception as error:  # the library that reads labels fails in many ways
        raise _no_message(error) from error
    if name != NOT_FOUND_LOG or read is None:
        raise ProtocolError(f"found a log {name!r}; expected {NOT_FOUND_LOG} with its node")
    return read


def parse_answers(data: bytes) -> Counter[str]:
    """How many entries there are for each HOST:PORT of a replica; ProtocolError if this is no message."""
    found: Counter[str] = Counter()
    try:
        logs = next(_under(data, _HTTP_LOGS), b"")
        for entry in _under(logs, _ENTRY, most=MAX_ENTRIES):
            address = entry
            for number in _TO_SOCKET_ADDRESS:
                address = next(_under(address, number), b"")
            if address:
                found[_host_port(address)] += 1
    except ValueError as error:
        raise _no_message(error) from error
    return found


def _host_port(address: bytes) -> str:
    host, port = "", 0
    for number, raw, payload in islice(wire.fields(address), _MAX_FIELDS):
        if number == _HOST:
            host = payload[:MAX_NAME].decode()
        elif number == _PORT:
            port = wire.number(raw)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _under(data: bytes, wanted: int, *, most: int = _MAX_FIELDS) -> Iterator[bytes]:
    """The payloads of a field, among the first fields of a message."""
    return (payload for number, _, payload in islice(wire.fields(data), most) if number == wanted)


def _no_message(error: Exception) -> ProtocolError:
    return ProtocolError(f"the message is not a StreamAccessLogsMessage: {type(error).__name__}: {error}")
