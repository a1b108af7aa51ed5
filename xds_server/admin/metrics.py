"""`/metrics` in Prometheus' text format, read from the rooms at each scrape.

No label grows with clients, models or replicas: labels are services, types, states and outcomes.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from xds_server import __version__
from xds_server.admin import families, kubernetes, status, told, xds_metrics
from xds_server.mesh.model import Health

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from xds_server.admin.state import AdminState


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
        state = self._state
        yield from told.metrics(state.registries(), state.reporters(), state.clock())
        if self._state.kubernetes is not None:
            yield from kubernetes.metrics(self._state.kubernetes.status(), self._state.clock())
        yield from _services(self._state)
        yield from _moves(self._state)
        yield from _security(self._state)
        yield from xds_metrics.collect(self._state)


def _process(state: AdminState) -> Iterator[Metric]:
    yield families.gauges("build_info", "The version, as a label.", ("version",), {(__version__,): 1})
    yield families.gauge(
        "start_time_seconds", "When the server began, since the epoch.", state.readiness.started_at
    )
    yield families.gauge(
        "ready", "1 after the first sync of the sources, until the stop.", state.readiness.ready
    )


def _documents(state: AdminState) -> Iterator[Metric]:
    files = state.files
    yield families.counters(
        "config_reloads",
        "Loads of the directory of documents, by result.",
        ("result",),
        {("ok",): files.reloads_ok, ("failed",): files.reloads_failed},
    )
    yield families.gauge(
        "config_last_reload_successful", "1 when the last load was accepted, 0 when not.", not files.problems
    )
    yield families.gauge("config_problems", "Errors that the last load found.", len(files.problems))
    if files.loaded_at is not None:
        yield families.gauge(
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
    yield CounterMetricFamily(
        families.PREFIX + "polls", "Times that a runtime was asked.", value=state.poller.polls
    )
    yield CounterMetricFamily(
        families.PREFIX + "poll_failures",
        "Times that a runtime gave no usable answer.",
        value=state.poller.failures,
    )
    yield families.counters(
        "not_found_answers",
        "Attempts of Envoys that a replica answered with 404 or NOT_FOUND, by whether it is polled.",
        ("replica",),
        {(each,): count for each, count in state.second_look.answers.items()},
    )
    yield CounterMetricFamily(
        families.PREFIX + "second_looks",
        "Times that a runtime was asked at once because of such an answer.",
        value=state.second_look.looks,
    )
    yield families.gauges(
        "endpoints", "Replicas, by how their discovery stands.", ("service", "health"), health
    )
    yield families.gauges("models", "Models that are routed to at least one replica.", ("service",), models)
    yield families.gauges(
        "placements", "Pairs of model and replica that are routed.", ("service",), placements
    )
    yield families.gauges(
        "oldest_report_age_seconds", "Age of the oldest last good report of a replica.", ("service",), ages
    )
    yield families.gauges(
        "pool_stale",
        "1 while no replica of the pool can be read and its last picture stays in force.",
        ("service",),
        stale,
    )


def _moves(state: AdminState) -> Iterator[Metric]:
    yield families.gauge(
        "withdrawals", "Models that are kept off a replica at present.", len(state.mesh.withdrawals())
    )
    counts = state.mover.counts
    values: dict[tuple[str, ...], float] = {}
    for kind in counts.done:
        values[kind, "done"] = counts.done[kind]
        values[kind, "failed"] = counts.failed[kind]
    yield families.counters(
        "moves", "Moves that were asked for, by kind and result.", ("move", "result"), values
    )


def _security(state: AdminState) -> Iterator[Metric]:
    tls = state.certificates
    if tls is not None:
        yield families.counters(
            "tls_loads",
            "Loads of the xDS port's certificate files, by result.",
            ("result",),
            {("ok",): tls.reloads_ok, ("failed",): tls.reloads_failed},
        )
        yield families.gauge(
            "tls_last_load_successful", "1 when the last load was accepted, 0 when not.", not tls.problem
        )
        for name, text, count in (
            ("tls_handshakes", "TLS handshakes begun on the xDS port.", tls.handshakes.begun),
            ("tls_connections", "TLS connections that carried a call.", tls.handshakes.connections),
        ):
            yield CounterMetricFamily(families.PREFIX + name, text, value=count)
        if tls.expires_at is not None:
            yield families.gauge(
                "tls_certificate_expiry_time_seconds",
                "When the server's certificate in force ends, since the epoch.",
                tls.expires_at,
            )
    if state.clients is not None:
        yield families.gauge(
            "clients_last_load_successful",
            "1 when the last load of the list of clients was accepted, 0 when not.",
            not state.clients.problems,
        )
