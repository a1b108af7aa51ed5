"""Writes the report: pictures, the page, and the numbers that they show."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from xds_server.demo.page import render
from xds_server.demo.pictures import draw_histogram, draw_over_time
from xds_server.demo.results import percentile_name

if TYPE_CHECKING:
    from pathlib import Path

    from xds_server.demo.results import Comparison, Results, Run

PAGE, NUMBERS, HISTOGRAM, OVER_TIME = "index.html", "results.json", "histogram.png", "latency-over-time.png"


def write(directory: Path, results: Results) -> Path:
    """Writes everything into `directory`, beside the load generator's CSV files; returns the page."""
    directory.mkdir(parents=True, exist_ok=True)
    pictures = []
    if results.comparison is not None:
        pictures = [directory / HISTOGRAM, directory / OVER_TIME]
        draw_histogram(results.comparison, pictures[0])
        draw_over_time(results.comparison, pictures[1])
    (directory / NUMBERS).write_text(json.dumps(numbers(results), indent=2) + "\n", encoding="utf-8")
    page = directory / PAGE
    page.write_text(render(results, pictures), encoding="utf-8")
    return page


def numbers(results: Results) -> dict[str, Any]:
    """Everything that was found, for programs. Milliseconds unless a name says otherwise."""
    return {
        "runtime": results.runtime,
        "machine": results.machine,
        "seconds": results.seconds,
        "tally": dataclasses.asdict(results.tally),
        "reading": None if results.reading is None else dataclasses.asdict(results.reading),
        "matrix": None if results.matrix is None else dataclasses.asdict(results.matrix),
        "ways": None if results.ways is None else dataclasses.asdict(results.ways),
        "moves": None if results.moves is None else dataclasses.asdict(results.moves),
        "latency": None if results.comparison is None else _latency(results.comparison),
    }


def _latency(comparison: Comparison) -> dict[str, Any]:
    runs = {"before": comparison.before, "after": comparison.after}
    return {
        "model": comparison.model,
        "requests_a_second": comparison.rate,
        **{name: _run(run) for name, run in runs.items()},
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "requests": len(run.latency),
        "failed": run.failed,
        "share_forwarded": round(run.share_forwarded, 4),
        "latency_ms": {percentile_name(p): round(value, 3) for p, value in run.percentiles().items()},
        "sent_late_ms": {percentile_name(p): round(value, 3) for p, value in run.percentiles_late().items()},
    }
