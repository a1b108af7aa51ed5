"""`xds-server plan`: what the law predicts for a fleet that somebody has in mind. Writes to the terminal."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from xds_server.mesh.layout import MAX_SHARDS, LayoutKind
from xds_server.resources import law

if TYPE_CHECKING:
    from xds_server.resources.law import Prediction, Size

PER_MODEL_FROM = 10_000
"""Models from which a cluster for each of them is worth a thought."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet, as asked for. `rate`: changes a second. `budget`: seconds that a rebuild may take."""

    size: Size
    rate: float
    budget: float
    workers: int = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What `auto` would choose, the other layouts beside it, and why."""

    fleet: Fleet
    chosen: Prediction
    others: tuple[Prediction, ...]
    why: tuple[str, ...]


def plan(fleet: Fleet) -> Plan:
    """Predict; the chosen layout is what `auto` takes for this size and rate."""
    limit = law.allowed(fleet.budget, fleet.rate)
    shards = law.fewest_shards(fleet.size, limit)
    single = _predict(fleet, LayoutKind.SINGLE)
    chosen = single if shards == 1 else _predict(fleet, LayoutKind.SHARDED, shards)
    others = [] if shards == 1 else [single]
    others.append(_predict(fleet, LayoutKind.PER_MODEL))
    return Plan(fleet, chosen, tuple(others), tuple(_why(fleet, chosen, single, limit)))


def _predict(fleet: Fleet, kind: LayoutKind, shards: int = 1) -> Prediction:
    return law.predict(fleet.size, kind, shards, rate=fleet.rate, workers=fleet.workers)


def _why(fleet: Fleet, chosen: Prediction, single: Prediction, limit: float) -> list[str]:
    found, within, share = _ms(single.rebuild), _ms(limit), f"{law.SHARE:.0%}"
    if chosen.shards == 1:
        first = f"one cluster is rebuilt in {found}, within the {within} that a rebuild may take"
    else:
        first = (
            f"one cluster would be rebuilt in {found} at each change, and its workers serve nothing then;\n"
            f"  {chosen.shards} is the smallest power of two that stays within {_ms(limit * law.ROOM)},\n"
            f"  which leaves room to the {within} that a rebuild may take"
        )
        if law.rebuild(fleet.size, chosen.shards // 2) <= limit * law.ROOM:
            first += f",\n  and from {law.LARGE_POOL:,} endpoints on sends a tenth of one cluster's bytes"
    lines = [first]
    if limit < fleet.budget:
        lines.append(
            f"{fleet.rate:g} changes a second may take {share} of a worker's time: {within} for each, less\n"
            f"  than the budget of {_ms(fleet.budget)}"
        )
    if chosen.rebuild > limit * 1.01:
        lines.append(
            f"even {MAX_SHARDS} clusters stay above it: split the service, raise the budget, or take\n"
            "  perModel"
        )
    if chosen.share > law.SHARE * 1.01:
        lines.append(
            f"at {fleet.rate:g} changes a second rebuilds would take {chosen.share:.0%} of a worker;\n"
            f"  they are spaced and merged to stay at {share} for each cluster"
        )
    if fleet.size.models >= PER_MODEL_FROM:
        lines.append(
            "perModel rebuilds nothing but the model's own cluster: take it for very frequent changes or\n"
            "  per-model metrics, and pay with memory and with connections for each model and replica"
        )
    return lines


def run(fleet: Fleet, fmt: Literal["text", "json"]) -> int:
    """Print the plan; returns the exit code."""
    made = plan(fleet)
    text = json.dumps(as_dict(made), indent=2) if fmt == "json" else as_text(made)
    sys.stdout.write(text + "\n")
    return 0


def as_dict(made: Plan) -> dict[str, Any]:
    """The plan as plain values: milliseconds, bytes, shares of 1."""
    size = made.fleet.size
    return {
        "endpoints": size.endpoints,
        "models": size.models,
        "per_endpoint": size.per_endpoint,
        "any_endpoint": size.everywhere,
        "changes_per_second": made.fleet.rate,
        "budget_ms": made.fleet.budget * 1000,
        "workers": made.fleet.workers,
        "layout": _record(made.chosen),
        "other_layouts": [_record(each) for each in made.others],
        "why": [" ".join(line.split()) for line in made.why],
    }


def _record(each: Prediction) -> dict[str, Any]:
    return {
        "layout": each.kind.value,
        "clusters": each.shards,
        "rebuild_ms": round(each.rebuild * 1000, 3),
        "worker_share": round(each.share, 4),
        "bytes_per_change": each.bytes_per_change,
        "memory_bytes": each.memory,
        "connections": each.connections,
    }


def as_text(made: Plan) -> str:
    """The plan as a table of layouts, the chosen one first, and the reasons."""
    size = made.fleet.size
    head = (
        f"{size.endpoints:,} endpoints, {size.models:,} models, {size.per_endpoint:g} on each endpoint, "
        f"{made.fleet.rate:g} changes a second; budget {_ms(made.fleet.budget)}, {made.fleet.workers} workers"
    )
    titles = ("layout", "clusters", "rebuild", "of a worker", "bytes a change", "memory", "connections")
    rows = [titles, *(_row(each) for each in (made.chosen, *made.others))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    marks = (" ", "*", *(" " * len(made.others)))
    table = [
        f"{mark} {row[0].ljust(widths[0])}  "
        + "  ".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        for mark, row in zip(marks, rows, strict=True)
    ]
    reasons = [f"- {line}" for line in made.why]
    note = (
        "Predicted by the law, not measured on your machines: docs/scale.md has the figures it comes from.\n"
        "Bytes, memory and connections are for each Envoy; connections for each worker, once every model\n"
        "was asked for everywhere."
    )
    return "\n".join([head, "", *table, "", "why:", *reasons, "", note])


def _row(each: Prediction) -> tuple[str, ...]:
    return (
        each.kind.value,
        f"{each.shards:,}",
        _ms(each.rebuild),
        f"{each.share:.1%}",
        _bytes(each.bytes_per_change),
        _bytes(each.memory),
        f"{each.connections:,}",
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _bytes(count: int) -> str:
    power = min(3, int(math.log(count, 1024))) if count >= 1024 else 0  # noqa: PLR2004 - as units go
    return f"{count / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"
