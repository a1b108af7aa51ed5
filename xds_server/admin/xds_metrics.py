"""The metrics of the xDS side, read from the hub and the publisher at each scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily

from xds_server.admin import clients, families, layouts
from xds_server.xds.status import Delay, Refusal, SyncState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from xds_server.admin.state import AdminState
    from xds_server.xds.status import HubStats


def collect(state: AdminState) -> Iterator[Metric]:
    """Every metric of the xDS side, with its value now."""
    stats = state.hub.stats
    for name, text, counts in (
        ("xds_requests", "Requests read: subscriptions and answers.", stats.requests),
        ("xds_pushes", "Responses sent.", stats.pushes),
        ("xds_resources", "Resources sent.", stats.resources),
        ("xds_response_bytes", "Bytes of the responses sent.", stats.bytes),
        ("xds_encodings", "Responses whose bytes were made.", stats.encoded),
        ("xds_encodings_saved", "Responses whose bytes another client's response had.", stats.shared),
        ("xds_acks", "Responses that a client accepted.", stats.acks),
        ("xds_nacks", "Responses that a client rejected.", stats.nacks),
        ("xds_stale_answers", "Answers to a response that is no longer waited for, or to none.", stats.stale),
    ):
        values: dict[tuple[str, ...], float] = {(kind,): counts[url] for url, kind in clients.SHORT.items()}
        yield families.counters(name, text, ("type",), values)
    yield families.gauge("xds_streams", "Open streams.", stats.streams_open)
    yield CounterMetricFamily(
        families.PREFIX + "xds_streams_opened", "Streams opened.", value=stats.streams_total
    )
    yield CounterMetricFamily(
        families.PREFIX + "xds_streams_expired",
        "Streams ended because their lifetime was over.",
        value=stats.streams_expired,
    )
    yield families.counters(
        "xds_delays",
        "What waited because of a limit: new streams, requests of a stream, pushes.",
        ("limit",),
        {(delay.value,): stats.delays[delay] for delay in Delay},
    )
    yield from _histograms(stats)
    yield families.counters(
        "xds_refusals",
        "Streams that were not taken on, or were ended by the server, by reason.",
        ("reason",),
        {(reason.value,): stats.refusals[reason] for reason in Refusal},
    )
    yield families.gauges(
        "xds_clients", "Connected clients, by type and state.", ("type", "state"), _standing(state)
    )
    if state.metrics_per_client:
        yield from _clients(state)
    yield CounterMetricFamily(
        families.PREFIX + "publications", "Catalogs published.", value=state.publisher.publications
    )
    yield families.gauge(
        "publication_last_duration_seconds",
        "How long the last publication took.",
        state.publisher.last_duration,
    )
    yield CounterMetricFamily(
        families.PREFIX + "spaced_pushes",
        "Times that a changed cluster was left out of a publication, because it rests.",
        value=state.publisher.spaced,
    )
    yield from _layouts(state)


def _layouts(state: AdminState) -> Iterator[Metric]:
    clusters: dict[tuple[str, ...], float] = {}
    former: dict[tuple[str, ...], float] = {}
    for host in state.mesh.services():
        layout = layouts.record(state.made_of(host))
        if layout is not None:
            clusters[host, layout["layout"]] = layout["clusters"]
            former[host,] = layout["former"]
    yield families.gauges(
        "layout_clusters", "Clusters of a pool in the layout in force.", ("service", "layout"), clusters
    )
    yield families.gauges(
        "layout_former_clusters",
        "Clusters of layouts that routes have left, which have not gone yet.",
        ("service",),
        former,
    )


def _clients(state: AdminState) -> Iterator[Metric]:
    """A label for each client: only where that was asked for."""
    now = state.hub.clock()
    states: dict[tuple[str, ...], float] = {}
    ages: dict[tuple[str, ...], float] = {}
    for client in state.hub.clients(with_names=False):
        cluster = client.node.cluster if client.node is not None else ""
        for each in client.types:
            label = client.id, cluster, clients.short(each.type_url)
            states[(*label, each.state.value)] = 1
            if each.acked_at is not None:
                ages[label] = now - each.acked_at
    yield families.gauges(
        "xds_client_state",
        "1 for the state that a client is in.",
        ("client", "cluster", "type", "state"),
        states,
    )
    yield families.gauges(
        "xds_client_last_ack_age_seconds",
        "Since a client's last acknowledgement.",
        ("client", "cluster", "type"),
        ages,
    )


def _histograms(stats: HubStats) -> Iterator[Metric]:
    yield families.histograms(
        "xds_push_queue_seconds",
        "From the moment that a client is owed something to its being written.",
        (),
        {(): stats.queue_time},
    )
    yield families.histograms(
        "xds_convergence_seconds",
        "From a change at its source to the last client's answer to it.",
        (),
        {(): stats.convergence},
    )
    yield families.histograms(
        "xds_response_size_bytes",
        "Bytes of a response.",
        ("type",),
        {(kind,): stats.sizes[url] for url, kind in clients.SHORT.items()},
    )


def _standing(state: AdminState) -> dict[tuple[str, ...], float]:
    """How many clients stand how, for each of the four types; those of other types are not counted."""
    counts: dict[tuple[str, ...], float] = {
        (kind, each.value): 0 for kind in clients.SHORT.values() for each in SyncState
    }
    for (type_url, stands), count in state.hub.standing().items():
        if type_url in clients.SHORT:
            counts[clients.SHORT[type_url], stands.value] += count
    return counts
