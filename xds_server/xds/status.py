"""What the hub tells others about its clients: status, progress of an acknowledgement, counters."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from xds_server.xds.histogram import BYTES, SECONDS, Histogram
from xds_server.xds.model import ORDER

if TYPE_CHECKING:
    from xds_server.xds.messages import Variant
    from xds_server.xds.model import Node, Snapshot
    from xds_server.xds.watch import Watch


class SyncState(StrEnum):
    """How one client stands with one type.

    SYNCED: has accepted everything. STALE: something is on its way or owed. NOT_SENT: subscribed, but
    was sent nothing yet. ERROR: has rejected content that is still current or not yet replaced.
    """

    SYNCED = "SYNCED"
    STALE = "STALE"
    NOT_SENT = "NOT_SENT"
    ERROR = "ERROR"


class Refusal(StrEnum):
    """Why a stream was not taken on, or was ended by the server."""

    NO_IDENTITY = "no_identity"
    UNKNOWN_IDENTITY = "unknown_identity"
    FOREIGN_NODE = "foreign_node"
    FOREIGN_REPORT = "foreign_report"
    TOO_MANY_STREAMS = "too_many_streams"
    REQUEST_TOO_LARGE = "request_too_large"
    TOO_MANY_REQUESTS = "too_many_requests"
    PROTOCOL = "protocol"


class Delay(StrEnum):
    """What had to wait because of a limit."""

    STREAM = "stream"
    REQUEST = "request"
    PUSH = "push"


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeStatus:
    """One client and one type. Times are the hub's clock (seconds), None for what has not happened.

    `rejected_names`: what is not sent again until it differs. `blamed`: those of them that `error`, the
    client's own words, speaks of; none where it names none.
    """

    type_url: str
    state: SyncState
    subscribed: tuple[str, ...]
    sent_version: str = ""
    acked_version: str = ""
    rejected_version: str = ""
    rejected_names: tuple[str, ...] = ()
    blamed: tuple[str, ...] = ()
    error: str = ""
    sent_at: float | None = None
    acked_at: float | None = None
    rejected_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStatus:
    """One connected stream. `id` is unique among connected clients; `connected_since` by the hub's clock."""

    id: str
    node: Node | None
    peer: str
    variant: Variant
    aggregated: bool
    connected_since: float
    types: tuple[TypeStatus, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """Who of the clients subscribed to a name has accepted what was asked about, and who not, and why."""

    acknowledged: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()


OTHER = "other"
"""What types that this server does not serve are counted as: clients may name any."""


def counted_as(type_url: str) -> str:
    """The key of a type in HubStats."""
    return type_url if type_url in ORDER else OTHER


@dataclass(slots=True)
class HubStats:
    """Counters since the process started, by `counted_as` where there is a type. Times in seconds.

    `queue_time`: from the moment that a client is owed something to its being written. `convergence`:
    from a source's change to the last answer to it. `sizes`: bytes of a response.
    """

    requests: Counter[str] = field(default_factory=Counter)
    pushes: Counter[str] = field(default_factory=Counter)
    resources: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    encoded: Counter[str] = field(default_factory=Counter)
    """Responses whose bytes were made."""
    shared: Counter[str] = field(default_factory=Counter)
    """Responses whose bytes another client's response had already."""
    acks: Counter[str] = field(default_factory=Counter)
    nacks: Counter[str] = field(default_factory=Counter)
    stale: Counter[str] = field(default_factory=Counter)
    """Requests whose nonce is of no response on their stream that still matters."""
    refusals: Counter[Refusal] = field(default_factory=Counter)
    delays: Counter[Delay] = field(default_factory=Counter)
    queue_time: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    convergence: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    sizes: defaultdict[str, Histogram] = field(default_factory=lambda: defaultdict(_sizes))
    publications: int = 0
    streams_open: int = 0
    streams_total: int = 0
    streams_expired: int = 0


def _sizes() -> Histogram:
    return Histogram(BYTES)


def type_status(watch: Watch, snapshot: Snapshot, *, with_names: bool = True) -> TypeStatus:
    """Describe one watch as of now. `with_names` False leaves out what is subscribed: the costly part."""
    ledger = watch.ledger
    rejections = list(dict.fromkeys(ledger.rejected.values()))
    latest = max(rejections, key=lambda rejection: rejection.at, default=None)
    return TypeStatus(
        type_url=watch.type_url,
        state=state_of(watch, snapshot),
        subscribed=watch.subscription.described() if with_names else (),
        sent_version=ledger.last_sent.version if ledger.last_sent else "",
        acked_version=ledger.last_acked.version if ledger.last_acked else "",
        rejected_version=latest.sent.version if latest else "",
        rejected_names=tuple(sorted(ledger.rejected)),
        blamed=tuple(name for name in latest.blamed if name in ledger.rejected) if latest else (),
        error=latest.error if latest else "",
        sent_at=ledger.sent_at,
        acked_at=ledger.acked_at,
        rejected_at=latest.at if latest else None,
    )


def state_of(watch: Watch, snapshot: Snapshot) -> SyncState:
    """How one client stands with one type; cheap where nothing is under way."""
    ledger = watch.ledger
    if ledger.rejected:
        return SyncState.ERROR
    if ledger.last_sent is None and not ledger.held:
        return SyncState.NOT_SENT
    if ledger.outstanding is not None or watch.owes(snapshot):
        return SyncState.STALE
    return SyncState.SYNCED
