"""What the demo found: values only, with what can be concluded from them. No I/O, no display."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from xds_server.demo.forwarding import NOT_HERE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds_server.demo.placement import Move, Placement
    from xds_server.demo.requests import Sample

PERCENTILES = (50.0, 75.0, 90.0, 99.0, 99.9, 100.0)


@dataclass(frozen=True)
class Tally:
    """Requests sent, those that failed, and those that Envoy sent to a replica without their model."""

    requests: int = 0
    failed: int = 0
    astray: int = 0
    examples: tuple[str, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.requests + other.requests,
            self.failed + other.failed,
            self.astray + other.astray,
            (self.examples + other.examples)[:5],
        )

    @property
    def clean(self) -> bool:
        """Nothing failed, nothing went astray."""
        return not self.failed and not self.astray


def is_astray(sample: Sample) -> bool:
    """Whether the request met a replica without its model: that replica forwarded it, or had to refuse it."""
    return bool(sample.forwarded_by) or sample.status in NOT_HERE


def tally(
    samples: Iterable[Sample],
    upstreams: Mapping[str, str] | None = None,
    holders: Mapping[str, Sequence[str]] | None = None,
) -> Tally:
    """Counts. With `upstreams` (label to HOST:PORT) and `holders`, Envoy's choice is held against them."""
    requests = failed = astray = 0
    examples = []
    for sample in samples:
        requests += 1
        wrong = is_astray(sample)
        if upstreams is not None and holders is not None:
            wrong = wrong or upstreams[sample.label] not in holders[sample.model]
        if wrong or not sample.ok:
            astray += wrong
            failed += not wrong
            examples.append(f"{sample.model}: {sample.status} {sample.error} {sample.forwarded_by}".strip())
    return Tally(requests, failed, astray, tuple(examples[:5]))


@dataclass(frozen=True)
class Reading:
    """The seed's own request: what was read, and where."""

    model: str
    digit: int
    replica: str
    milliseconds: float
    tally: Tally


@dataclass(frozen=True)
class Way:
    """One way to say which model is meant. `digit` None: it was not answered."""

    name: str
    request: str
    digit: int | None
    replica: str
    found: str
    """Where Envoy found the name, by its access log."""


@dataclass(frozen=True)
class Ways:
    """The same request, once in each way."""

    model: str
    ways: tuple[Way, ...]
    tally: Tally


@dataclass(frozen=True)
class Matrix:
    """How many requests for each model each replica answered, against what was loaded."""

    replicas: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    placement: Placement
    tally: Tally


@dataclass(frozen=True)
class MoveResult:
    """One model's move while requests ran. Milliseconds."""

    move: Move
    loading: float
    """From the request to load until the runtime had the model READY."""
    routed: float
    """From READY until the first request that the new holder answered."""
    acknowledged: float
    """From the request to unload until every Envoy had acknowledged that the model is withdrawn."""
    last_at_source: float
    """From the request to unload until the last request left for the old holder."""
    unloading: float
    """The whole unload: withdrawn, acknowledged, settled, drained, unloaded, reported."""
    tally: Tally


@dataclass(frozen=True)
class Moves:
    """All moves, and the requests for all models that ran at a steady rate meanwhile."""

    results: tuple[MoveResult, ...]
    tally: Tally


def _percentiles(values: np.ndarray) -> dict[float, float]:
    found = np.percentile(values, PERCENTILES)
    return {percentile: float(value) for percentile, value in zip(PERCENTILES, found, strict=True)}


@dataclass(frozen=True)
class Run:
    """One latency test: when each request was due (s), its latency and how late it left (ms)."""

    due: np.ndarray
    latency: np.ndarray
    late: np.ndarray
    forwarded: np.ndarray
    failed: int

    def percentiles(self) -> dict[float, float]:
        """Latencies in milliseconds; 100 is the largest."""
        return _percentiles(self.latency)

    def percentiles_late(self) -> dict[float, float]:
        """How late the generator itself was, in milliseconds, which is part of the latencies."""
        return _percentiles(self.late)

    @property
    def share_forwarded(self) -> float:
        """Between 0 and 1."""
        return float(np.mean(self.forwarded))


@dataclass(frozen=True)
class Comparison:
    """The latency test without and with subsets."""

    model: str
    rate: float
    before: Run
    after: Run

    @property
    def tally(self) -> Tally:
        """What failed in either run, and what was forwarded although subsets were on."""
        return Tally(
            len(self.before.latency) + len(self.after.latency),
            self.before.failed + self.after.failed,
            int(np.sum(self.after.forwarded)),
        )


@dataclass
class Results:
    """Everything a run of the demo found; each step fills in its own."""

    runtime: str
    machine: dict[str, str]
    names: dict[str, str]
    """HOST:PORT of a replica to what it is called."""
    training: str = ""
    reading: Reading | None = None
    matrix: Matrix | None = None
    ways: Ways | None = None
    moves: Moves | None = None
    comparison: Comparison | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each part took."""

    @property
    def tally(self) -> Tally:
        """All requests of all steps."""
        steps = (self.reading, self.matrix, self.ways, self.moves, self.comparison)
        return sum((step.tally for step in steps if step is not None), Tally())


def percentile_name(percentile: float) -> str:
    """`p99.9`, and `max` for 100."""
    return "max" if percentile == 100 else f"p{percentile:g}"
