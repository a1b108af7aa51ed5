"""Responses to bytes, once for all clients that are owed the same: what is remembered between streams.

How a response is written is the codec's; here is only which bytes exist already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from xds_server.transport.codec import encode_response
from xds_server.xds.status import counted_as

if TYPE_CHECKING:
    from xds_server.xds.histogram import Histogram
    from xds_server.xds.hub import Hub
    from xds_server.xds.messages import DeltaResponse, Response

LARGE_RESPONSE = 3_500_000
"""Bytes from which a response is logged: clients with gRPC's default limit of 4 MiB drop larger ones."""

REMEMBERED = 64 * 1024 * 1024
"""Bytes of responses that are kept: clients that all want something else must not fill the memory."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A response, which is kept so that its identity is not another one's, with its bytes and its type."""

    response: Response | DeltaResponse
    payload: bytes
    kind: str
    sizes: Histogram
    """Where its size is counted."""


class SharedEncoder:
    """Encodes the responses of one hub's publications; equal ones give one and the same bytes object."""

    def __init__(self, hub: Hub, limit: int = REMEMBERED) -> None:
        self._hub = hub
        self._limit = limit
        self._serial = 0
        self._made: dict[int, _Made] = {}
        """By the response's identity: the hub gives one object to all clients that are owed the same."""
        self._size = 0
        self._warn_from = LARGE_RESPONSE
        self._log = structlog.get_logger("xds")

    def encode(self, response: Response | DeltaResponse) -> bytes:
        """Encode a response, or find its bytes. Those of earlier publications are forgotten."""
        if self._serial != self._hub.serial:
            self._serial = self._hub.serial
            self._made.clear()
            self._size = 0
        stats = self._hub.stats
        made = self._made.get(id(response))
        if made is None:
            made = self._make(response)
            stats.encoded[made.kind] += 1
        else:
            stats.shared[made.kind] += 1
        payload = made.payload
        stats.bytes[made.kind] += len(payload)
        made.sizes.observe(len(payload))
        return payload

    def _make(self, response: Response | DeltaResponse) -> _Made:
        payload = encode_response(response)
        if len(payload) >= self._warn_from:
            self._warn_from = len(payload) * 5 // 4  # again when it has grown, not with every change
            self._log.warning("large response", type=response.type_url, bytes=len(payload))
        kind = counted_as(response.type_url)
        made = self._made[id(response)] = _Made(response, payload, kind, self._hub.stats.sizes[kind])
        self._size += len(payload)
        while self._size > self._limit and len(self._made) > 1:
            oldest = next(iter(self._made))
            self._size -= len(self._made.pop(oldest).payload)
        return made
