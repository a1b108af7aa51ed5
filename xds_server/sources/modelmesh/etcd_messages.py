"""The messages of etcd's v3 API that a reader needs: Range, Watch, Authenticate. Values only.

Field numbers are those of the public protocol (etcdserverpb, mvccpb); fields that are not read here are
left out, which protobuf allows: they are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import betterproto2
from betterproto2 import field

_STRING, _BYTES, _BOOL = betterproto2.TYPE_STRING, betterproto2.TYPE_BYTES, betterproto2.TYPE_BOOL
_INT64, _ENUM, _MESSAGE = betterproto2.TYPE_INT64, betterproto2.TYPE_ENUM, betterproto2.TYPE_MESSAGE


class EventType(betterproto2.Enum):
    """What became of a key."""

    PUT = 0
    DELETE = 1


@dataclass(eq=False, repr=False)
class ResponseHeader(betterproto2.Message):
    """`revision`: of the store, when the request was answered."""

    revision: int = field(3, _INT64)


@dataclass(eq=False, repr=False)
class KeyValue(betterproto2.Message):
    """One key as it was at `mod_revision`."""

    key: bytes = field(1, _BYTES)
    mod_revision: int = field(3, _INT64)
    value: bytes = field(5, _BYTES)


@dataclass(eq=False, repr=False)
class RangeRequest(betterproto2.Message):
    """Keys from `key` up to, not including, `range_end`, as of `revision` (0: now)."""

    key: bytes = field(1, _BYTES)
    range_end: bytes = field(2, _BYTES)
    limit: int = field(3, _INT64)
    revision: int = field(4, _INT64)


@dataclass(eq=False, repr=False)
class RangeResponse(betterproto2.Message):
    """`more`: the limit cut the answer."""

    header: ResponseHeader | None = field(1, _MESSAGE, optional=True)
    kvs: list[KeyValue] = field(2, _MESSAGE, repeated=True)
    more: bool = field(3, _BOOL)


@dataclass(eq=False, repr=False)
class WatchCreateRequest(betterproto2.Message):
    """`start_revision`: the first of which changes are wanted."""

    key: bytes = field(1, _BYTES)
    range_end: bytes = field(2, _BYTES)
    start_revision: int = field(3, _INT64)
    progress_notify: bool = field(4, _BOOL)
    fragment: bool = field(8, _BOOL)


@dataclass(eq=False, repr=False)
class WatchProgressRequest(betterproto2.Message):
    """Asks for a response that says how far the stream is."""


@dataclass(eq=False, repr=False)
class WatchRequest(betterproto2.Message):
    """Exactly one of the two."""

    create_request: WatchCreateRequest | None = field(1, _MESSAGE, optional=True, group="request_union")
    progress_request: WatchProgressRequest | None = field(3, _MESSAGE, optional=True, group="request_union")


@dataclass(eq=False, repr=False)
class Event(betterproto2.Message):
    """One change; a DELETE has the key alone."""

    type: EventType = field(1, _ENUM, default_factory=lambda: EventType.PUT)
    kv: KeyValue | None = field(2, _MESSAGE, optional=True)


@dataclass(eq=False, repr=False)
class WatchResponse(betterproto2.Message):
    """`compact_revision`: set when the revision to watch from is no longer there; the watch has ended.

    `fragment`: the rest of this revision's events follows in the next response.
    """

    header: ResponseHeader | None = field(1, _MESSAGE, optional=True)
    created: bool = field(3, _BOOL)
    canceled: bool = field(4, _BOOL)
    compact_revision: int = field(5, _INT64)
    cancel_reason: str = field(6, _STRING)
    fragment: bool = field(7, _BOOL)
    events: list[Event] = field(11, _MESSAGE, repeated=True)


@dataclass(eq=False, repr=False)
class AuthenticateRequest(betterproto2.Message):
    """A user's name and password."""

    name: str = field(1, _STRING)
    password: str = field(2, _STRING)


@dataclass(eq=False, repr=False)
class AuthenticateResponse(betterproto2.Message):
    """`token` goes into the metadata `token` of every further call."""

    token: str = field(2, _STRING)
