"""A histogram of figures, kept as counts: cheap to add to, read by whoever exposes metrics."""

from __future__ import annotations

from bisect import bisect_left

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds for times, from a local push to a client that hardly answers."""

BYTES = (
    1_000.0,
    10_000.0,
    100_000.0,
    500_000.0,
    1_000_000.0,
    2_000_000.0,
    4_194_304.0,
    16_000_000.0,
    64_000_000.0,
)
"""Bounds for sizes; 4 MiB is where clients with gRPC's default limit drop a response (kuma 16355)."""


class Histogram:
    """Counts by upper bound. `bounds` in rising order; what is above the last has a place of its own."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Add one figure."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """For each bound how many figures were at most that, ended by all of them under `+Inf`."""
        seen = 0
        rows: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            rows.append((bound, float(seen)))
        return rows
