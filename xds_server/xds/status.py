"""What the hub tells others about its clients: status, progress of an acknowledgement, counters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeStatus:
    """One client and one type. Times are the hub's clock (seconds), None for what has not happened."""

    type_url: str
    state: SyncState
    subscribed: tuple[str, ...]
    sent_version: str = ""
    acked_version: str = ""
    rejected_version: str = ""
    rejected_names: tuple[str, ...] = ()
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


@dataclass(slots=True)
class HubStats:
    """Counters since the process started, by type URL where there is one."""

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
    publications: int = 0
    streams_open: int = 0
    streams_total: int = 0


def type_status(watch: Watch, snapshot: Snapshot) -> TypeStatus:
    """Describe one watch as of now."""
    ledger = watch.ledger
    rejections = list(dict.fromkeys(ledger.rejected.values()))
    latest = max(rejections, key=lambda rejection: rejection.at, default=None)
    return TypeStatus(
        type_url=watch.type_url,
        state=_state(watch, snapshot),
        subscribed=watch.subscription.described(),
        sent_version=ledger.last_sent.version if ledger.last_sent else "",
        acked_version=ledger.last_acked.version if ledger.last_acked else "",
        rejected_version=latest.sent.version if latest else "",
        rejected_names=tuple(sorted(ledger.rejected)),
        error=latest.error if latest else "",
        sent_at=ledger.sent_at,
        acked_at=ledger.acked_at,
        rejected_at=latest.at if latest else None,
    )


def _state(watch: Watch, snapshot: Snapshot) -> SyncState:
    ledger = watch.ledger
    if ledger.rejected:
        return SyncState.ERROR
    if ledger.last_sent is None and not ledger.held:
        return SyncState.NOT_SENT
    if ledger.outstanding is not None or watch.owes(snapshot):
        return SyncState.STALE
    return SyncState.SYNCED
