"""`/metrics` in Prometheus' text format, read from the rooms at each scrape.

No label grows with clients, models or replicas: labels are services, types, states and outcomes.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from xds_server import __version__
from xds_server.admin import clients, status
from xds_server.mesh.model import Health
from xds_server.xds.status import SyncState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from xds_server.admin.state import AdminState

PREFIX = "xds_server_"


class Exposition:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, state: AdminState) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Rooms(state))

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type, in the format that the Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Rooms(Collector):
    """Reads every room; holds nothing."""

    def __init__(self, state: AdminState) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of the first scrape: the names are this class's alone."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric, with its value now."""
        yield from _process(self._state)
        yield from _documents(self._state)
        yield from _services(self._state)
        yield from _moves(self._state)
        yield from _xds(self._state)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _gauges(name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family


def _counters(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]
) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family


def _process(state: AdminState) -> Iterator[Metric]:
    yield _gauges("build_info", "The version, as a label.", ("version",), {(__version__,): 1})
    yield _gauge("start_time_seconds", "When the server began, since the epoch.", state.readiness.started_at)
    yield _gauge("ready", "1 after the first sync of the sources, until the stop.", state.readiness.ready)


def _documents(state: AdminState) -> Iterator[Metric]:
    files = state.files
    yield _counters(
        "config_reloads",
        "Loads of the directory of documents, by result.",
        ("result",),
        {("ok",): files.reloads_ok, ("failed",): files.reloads_failed},
    )
    yield _gauge(
        "config_last_reload_successful", "1 when the last load was accepted, 0 when not.", not files.problems
    )
    yield _gauge("config_problems", "Errors that the last load found.", len(files.problems))
    if files.loaded_at is not None:
        yield _gauge(
            "config_loaded_time_seconds",
            "When the documents in force were loaded, since the epoch.",
            files.loaded_at,
        )


def _services(state: AdminState) -> Iterator[Metric]:
    health: dict[tuple[str, ...], float] = {}
    models: dict[tuple[str, ...], float] = {}
    placements: dict[tuple[str, ...], float] = {}
    ages: dict[tuple[str, ...], float] = {}
    stale: dict[tuple[str, ...], float] = {}
    now = state.clock()
    for host, picture in state.mesh.services().items():
        statuses = state.mesh.status(host)
        counts = Counter(each.health for each in statuses)
        health |= {(host, kind.value): counts[kind] for kind in Health}
        models[host,] = len({model for placed in picture.endpoints for model in placed.models})
        placements[host,] = sum(len(placed.models) for placed in picture.endpoints)
        stale[host,] = status.is_stale(statuses)
        reported = [each.reported_at for each in statuses if each.reported_at is not None]
        if reported:
            ages[host,] = max(0.0, now - min(reported))
    yield CounterMetricFamily(PREFIX + "polls", "Times that a runtime was asked.", value=state.poller.polls)
    yield CounterMetricFamily(
        PREFIX + "poll_failures", "Times that a runtime gave no usable answer.", value=state.poller.failures
    )
    yield _gauges("endpoints", "Replicas, by how their discovery stands.", ("service", "health"), health)
    yield _gauges("models", "Models that are routed to at least one replica.", ("service",), models)
    yield _gauges("placements", "Pairs of model and replica that are routed.", ("service",), placements)
    yield _gauges(
        "oldest_report_age_seconds", "Age of the oldest last good report of a replica.", ("service",), ages
    )
    yield _gauges(
        "pool_stale",
        "1 while no replica of the pool can be read and its last picture stays in force.",
        ("service",),
        stale,
    )


def _moves(state: AdminState) -> Iterator[Metric]:
    yield _gauge(
        "withdrawals", "Models that are kept off a replica at present.", len(state.mesh.withdrawals())
    )
    counts = state.mover.counts
    values: dict[tuple[str, ...], float] = {}
    for kind in counts.done:
        values[kind, "done"] = counts.done[kind]
        values[kind, "failed"] = counts.failed[kind]
    yield _counters("moves", "Moves that were asked for, by kind and result.", ("move", "result"), values)


def _xds(state: AdminState) -> Iterator[Metric]:
    stats = state.hub.stats
    for name, text, counts in (
        ("xds_pushes", "Responses sent.", stats.pushes),
        ("xds_resources", "Resources sent.", stats.resources),
        ("xds_response_bytes", "Bytes of the responses sent.", stats.bytes),
        ("xds_acks", "Responses that a client accepted.", stats.acks),
        ("xds_nacks", "Responses that a client rejected.", stats.nacks),
        ("xds_stale_answers", "Requests that answered a response already replaced.", stats.stale),
    ):
        yield _counters(name, text, ("type",), {(kind,): counts[url] for url, kind in clients.SHORT.items()})
    yield _gauge("xds_streams", "Open streams.", stats.streams_open)
    yield CounterMetricFamily(PREFIX + "xds_streams_opened", "Streams opened.", value=stats.streams_total)
    yield _gauges("xds_clients", "Connected clients, by type and state.", ("type", "state"), _standing(state))
    yield CounterMetricFamily(
        PREFIX + "publications", "Catalogs published.", value=state.publisher.publications
    )
    yield _gauge(
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
