"""ModelMesh's registries and the reporters, as `/status`, `/metrics` and the tables have them. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from xds_server.admin import families

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from xds_server.sources.modelmesh.source import Reader
    from xds_server.sources.reports.source import Reporter


class RegistryRecord(TypedDict):
    """One ModelMesh's registry. `unreadable`: keys whose records cannot be read, with what is wrong."""

    service: str
    etcd: str
    connected: bool
    error: str
    heard_age_seconds: float | None
    lost_seconds: float | None
    listings: int
    unreadable: dict[str, str]


class ReporterRecord(TypedDict):
    """One reporter; `lost` says why its stream is gone, and is empty while it is there."""

    pod: str
    endpoint: str
    endpoints: list[str]
    heard_age_seconds: float
    lost: str
    lost_seconds: float | None


def registries(readers: Iterable[Reader], now: float) -> list[RegistryRecord]:
    """Every registry, in the order given."""
    return [
        {
            "service": reader.host,
            "etcd": reader.endpoint,
            "connected": reader.connected,
            "error": reader.error,
            "heard_age_seconds": _age(reader.heard_at, now),
            "lost_seconds": _age(reader.lost_at, now),
            "listings": reader.listings,
            "unreadable": dict(sorted(reader.registry.problems.items())),
        }
        for reader in readers
    ]


def reporters(found: Iterable[Reporter], now: float) -> list[ReporterRecord]:
    """Every reporter, in the order given."""
    return [
        {
            "pod": reporter.subject.pod,
            "endpoint": reporter.subject.endpoint,
            "endpoints": sorted(f"{each} of {each.service}" for each in reporter.endpoints),
            "heard_age_seconds": round(max(0.0, now - reporter.heard_at), 3),
            "lost": reporter.lost,
            "lost_seconds": _age(reporter.lost_at, now),
        }
        for reporter in found
    ]


def metrics(readers: Iterable[Reader], found: Iterable[Reporter], now: float) -> Iterator[Metric]:
    """The figures of both."""
    records = registries(readers, now)
    connected: dict[tuple[str, ...], float] = {
        (each["service"],): float(each["connected"]) for each in records
    }
    yield families.gauges(
        "modelmesh_connected", "1 while ModelMesh's registry is being read.", ("service",), connected
    )
    ages: dict[tuple[str, ...], float] = {
        (r["service"],): age for r in records if (age := r["heard_age_seconds"]) is not None
    }
    yield families.gauges(
        "modelmesh_heard_age_seconds",
        "Since etcd last said anything; at most 15 while it works.",
        ("service",),
        ages,
    )
    yield families.gauges(
        "modelmesh_unreadable_records",
        "Records that cannot be read; the last good ones count.",
        ("service",),
        {(each["service"],): len(each["unreadable"]) for each in records},
    )
    yield families.counters(
        "modelmesh_listings",
        "Times that a registry was read whole: at each connection, and after a compaction.",
        ("service",),
        {(each["service"],): each["listings"] for each in records},
    )
    lost = [reporter.lost_at is not None for reporter in found]
    yield families.gauges(
        "reporters",
        "Reporters with a stream, and those that were lost.",
        ("state",),
        {("connected",): lost.count(False), ("lost",): lost.count(True)},
    )


def _age(at: float | None, now: float) -> float | None:
    return None if at is None else round(max(0.0, now - at), 3)
