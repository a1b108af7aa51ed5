"""The two pictures of the latency test, drawn by matplotlib without a display."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from xds_server.demo.results import Comparison, Run

BEFORE, AFTER, INK, FAINT = "#c8553d", "#1f7a8c", "#22303c", "#8a97a3"
"""Orange against teal: told apart by those who see no red or no green, and in grey."""

LABELS = ("before: no subsets, replicas forward", "after: subsets")
STYLE: Any = {
    "font.size": 10.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.grid": True,
    "grid.color": "#e6eaee",
    "axes.axisbelow": True,
}
TICKS = (0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


def draw_histogram(comparison: Comparison, path: Path) -> None:
    """How many requests took how long, before against after, with their medians and 99th percentiles."""
    before, after = comparison.before, comparison.after
    both = np.concatenate([before.latency, after.latency])
    edges = [float(edge) for edge in np.geomspace(both.min() * 0.95, both.max() * 1.05, 70)]
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(10, 4.2), dpi=144, layout="constrained")
        for run, colour, label in ((before, BEFORE, LABELS[0]), (after, AFTER, LABELS[1])):
            axes.hist(run.latency, bins=edges, color=colour, alpha=0.30)
            axes.hist(run.latency, bins=edges, color=colour, histtype="step", linewidth=1.6, label=label)
        _mark_percentiles(axes, before, BEFORE, 0.97)
        _mark_percentiles(axes, after, AFTER, 0.89)
        axes.set_ylim(top=axes.get_ylim()[1] * 1.22)
        _milliseconds(axes, "x", edges[0], edges[-1])
        axes.set_xlabel("latency, ms (logarithmic), counted from the moment at which the request was due")
        axes.set_ylabel("requests")
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        figure.savefig(path)
        plt.close(figure)


def _mark_percentiles(axes: Axes, run: Run, colour: str, height: float) -> None:
    for percentile, name in ((50, "p50"), (99, "p99")):
        value = float(np.percentile(run.latency, percentile))
        axes.axvline(value, color=colour, linewidth=1, linestyle="--" if percentile == 50 else ":")
        axes.annotate(
            f" {name} {value:.1f}",
            (value, height),
            xycoords=("data", "axes fraction"),
            color=colour,
            fontsize=9,
            va="top",
        )


def draw_over_time(comparison: Comparison, path: Path) -> None:
    """Every request's latency over the time of its run; forwarded ones are filled."""
    both = np.concatenate([comparison.before.latency, comparison.after.latency])
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), dpi=144, sharey=True, layout="constrained")
        runs = ((comparison.before, BEFORE, LABELS[0]), (comparison.after, AFTER, LABELS[1]))
        for axes, (run, colour, label) in zip(panels, runs, strict=True):
            hit = ~run.forwarded
            axes.scatter(
                run.due[hit], run.latency[hit], s=7, facecolors="none", edgecolors=colour, linewidths=0.7
            )
            axes.scatter(run.due[run.forwarded], run.latency[run.forwarded], s=7, color=colour)
            axes.set_title(f"{label} ({run.share_forwarded:.0%} forwarded)", fontsize=10.5, loc="left")
            axes.set_xlabel("seconds")
        panels[0].set_yscale("log")
        _milliseconds(panels[0], "y", both.min() * 0.9, both.max() * 1.1)
        panels[0].set_ylabel("latency, ms (logarithmic)")
        figure.savefig(path)
        plt.close(figure)


def _milliseconds(axes: Axes, which: str, low: float, high: float) -> None:
    """A logarithmic axis in plain numbers."""
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_locator(mpl.ticker.FixedLocator(ticks))
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(mpl.ticker.NullLocator())
