"""What the admin port says of the cluster that is followed: status, metrics, table."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from xds_server.admin import families
from xds_server.sources.kubernetes.watched import WatchState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from xds_server.sources.kubernetes.source import KubernetesStatus
    from xds_server.sources.kubernetes.watched import WatchStatus


class WatchRecord(TypedDict):
    """One watch. `namespace` is empty for all. Times are epoch seconds, ages seconds.

    `age_seconds`: since the API server last said anything on it; `stale_seconds`: for how long it has been
    failing, while what it last knew stays in force; None while it is not.
    """

    resource: str
    namespace: str
    state: str
    listed: bool
    objects: int
    confirmed_at: float | None
    age_seconds: float | None
    stale_seconds: float | None
    error: str
    missing_permission: str
    lists: int
    failures: int


class KubernetesRecord(TypedDict):
    """The cluster that is followed."""

    server: str
    login: str
    synced: bool
    watches: list[WatchRecord]
    problems: list[str]


def record(status: KubernetesStatus, now: float) -> KubernetesRecord:
    """As `/status` has it."""
    return {
        "server": status.server,
        "login": status.login,
        "synced": status.synced,
        "watches": [_watch(each, now) for each in status.watches],
        "problems": list(status.problems),
    }


def _watch(status: WatchStatus, now: float) -> WatchRecord:
    return {
        "resource": str(status.resource),
        "namespace": status.namespace,
        "state": status.state.value,
        "listed": status.listed,
        "objects": status.objects,
        "confirmed_at": status.confirmed_at,
        "age_seconds": _since(status.confirmed_at, now),
        "stale_seconds": _since(status.failing_since, now),
        "error": status.error,
        "missing_permission": status.missing_permission,
        "lists": status.lists,
        "failures": status.failures,
    }


def _since(at: float | None, now: float) -> float | None:
    return None if at is None else max(0.0, now - at)


def stale(status: KubernetesStatus, now: float) -> list[str]:
    """One line for each watch that fails: what is stale, for how long, why."""
    return [
        f"stale: {each} for {now - each.failing_since:.0f} s: {each.error}; the last picture stays in force"
        for each in status.watches
        if each.failing_since is not None
    ]


def metrics(status: KubernetesStatus, now: float) -> Iterator[Metric]:
    """Labels are what was asked for on the command line: they do not grow with the cluster."""
    watches = {(str(each.resource), each.namespace): each for each in status.watches}
    labels = ("resource", "namespace")
    yield families.gauge("kubernetes_synced", "1 once everything that is watched was listed.", status.synced)
    yield families.gauge(
        "kubernetes_problems", "Services that are missing or cannot be used.", len(status.problems)
    )
    yield families.gauges(
        "kubernetes_watch_up",
        "1 while the watch goes well, 0 while what it last knew stays in force.",
        labels,
        {key: each.state is WatchState.WATCHING for key, each in watches.items()},
    )
    yield families.gauges(
        "kubernetes_watch_age_seconds",
        "Since the API server last said anything on the watch, bookmarks included.",
        labels,
        _known((key, _since(each.confirmed_at, now)) for key, each in watches.items()),
    )
    yield families.gauges(
        "kubernetes_objects",
        "Objects of the last good picture.",
        labels,
        {key: each.objects for key, each in watches.items()},
    )
    yield families.counters(
        "kubernetes_watch_failures",
        "Attempts to list or watch that failed.",
        labels,
        {key: each.failures for key, each in watches.items()},
    )
    yield families.counters(
        "kubernetes_lists",
        "Lists that were read in full: one at the start, one for each time that history was gone.",
        labels,
        {key: each.lists for key, each in watches.items()},
    )


def _known(
    values: Iterable[tuple[tuple[str, str], float | None]],
) -> dict[tuple[str, ...], float]:
    return {key: value for key, value in values if value is not None}
