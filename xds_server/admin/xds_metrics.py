"""The metrics of the xDS side, read from the hub and the publisher at each scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily

from xds_server.admin import clients, families
from xds_server.xds.status import Refusal, SyncState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from xds_server.admin.state import AdminState


def collect(state: AdminState) -> Iterator[Metric]:
    """Every metric of the xDS side, with its value now."""
    stats = state.hub.stats
    for name, text, counts in (
        ("xds_pushes", "Responses sent.", stats.pushes),
        ("xds_resources", "Resources sent.", stats.resources),
        ("xds_response_bytes", "Bytes of the responses sent.", stats.bytes),
        ("xds_acks", "Responses that a client accepted.", stats.acks),
        ("xds_nacks", "Responses that a client rejected.", stats.nacks),
        ("xds_stale_answers", "Requests that answered a response already replaced.", stats.stale),
    ):
        values: dict[tuple[str, ...], float] = {(kind,): counts[url] for url, kind in clients.SHORT.items()}
        yield families.counters(name, text, ("type",), values)
    yield families.gauge("xds_streams", "Open streams.", stats.streams_open)
    yield CounterMetricFamily(
        families.PREFIX + "xds_streams_opened", "Streams opened.", value=stats.streams_total
    )
    yield families.counters(
        "xds_refusals",
        "Streams that were not taken on, or were ended by the server, by reason.",
        ("reason",),
        {(reason.value,): stats.refusals[reason] for reason in Refusal},
    )
    yield families.gauges(
        "xds_clients", "Connected clients, by type and state.", ("type", "state"), _standing(state)
    )
    yield CounterMetricFamily(
        families.PREFIX + "publications", "Catalogs published.", value=state.publisher.publications
    )
    yield families.gauge(
        "publication_last_duration_seconds",
        "How long the last publication took.",
        state.publisher.last_duration,
    )


def _standing(state: AdminState) -> dict[tuple[str, ...], float]:
    """How many clients stand how, for each of the four types; those of other types are not counted."""
    counts: dict[tuple[str, ...], float] = {
        (kind, each.value): 0 for kind in clients.SHORT.values() for each in SyncState
    }
    for client in state.hub.clients():
        for each in client.types:
            if each.type_url in clients.SHORT:
                counts[clients.SHORT[each.type_url], each.state.value] += 1
    return counts
