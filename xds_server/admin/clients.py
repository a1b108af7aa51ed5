"""The connected Envoys, as `/status` shows them. Ages are from the hub's clock, which is monotonic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE

if TYPE_CHECKING:
    from xds_server.admin.model import ClientRecord, ClientTypeRecord
    from xds_server.xds.hub import Hub
    from xds_server.xds.status import ClientStatus, TypeStatus

SHORT = {CLUSTER: "CDS", ENDPOINT: "EDS", LISTENER: "LDS", ROUTE: "RDS"}
"""How people call the types."""


def records(hub: Hub) -> list[ClientRecord]:
    """Every connected client, sorted by id."""
    now = hub.clock()
    return [_client(each, now) for each in sorted(hub.clients(), key=lambda client: client.id)]


def short(type_url: str) -> str:
    """CDS, EDS, LDS, RDS; for any other type the message's name."""
    return SHORT.get(type_url, type_url.rpartition(".")[2])


def _client(client: ClientStatus, now: float) -> ClientRecord:
    node = client.node
    return {
        "id": client.id,
        "node": node.id if node is not None else "",
        "cluster": node.cluster if node is not None else "",
        "labels": dict(node.labels) if node is not None else {},
        "peer": client.peer,
        "variant": client.variant.value,
        "aggregated": client.aggregated,
        "connected_seconds": _ago(client.connected_since, now),
        "types": [_type(each, now) for each in client.types],
    }


def _type(each: TypeStatus, now: float) -> ClientTypeRecord:
    return {
        "type": short(each.type_url),
        "state": each.state.value,
        "subscribed": list(each.subscribed),
        "sent": each.sent_version or None,
        "acknowledged": each.acked_version or None,
        "rejected": each.rejected_version or None,
        "rejected_names": list(each.rejected_names),
        "blamed": list(each.blamed),
        "error": each.error or None,
        "sent_seconds_ago": None if each.sent_at is None else _ago(each.sent_at, now),
        "acknowledged_seconds_ago": None if each.acked_at is None else _ago(each.acked_at, now),
        "rejected_seconds_ago": None if each.rejected_at is None else _ago(each.rejected_at, now),
    }


def _ago(then: float, now: float) -> float:
    return round(max(0.0, now - then), 3)
