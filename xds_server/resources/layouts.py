"""The choice of a pool's layout: what its document asks for, or its size and its rate of changes.

Replicas have to agree, so a choice is a pure function of the size, the rate's step and the choice that is
in force. A replica that has just started knows no layout in force and takes the fewest shards; one that
has been running may keep up to four times as many, until its pool has shrunk well below them. An Envoy
that moves from one to the other is led over as at any change of layout: without a lost request.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log
from typing import TYPE_CHECKING

from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.policies import Fallback
from xds_server.resources import law
from xds_server.resources.balancing import fallback_of
from xds_server.resources.shards import SINGLE, Layout

if TYPE_CHECKING:
    from xds_server.mesh.model import PlacedEndpoint
    from xds_server.mesh.policies import Policy
    from xds_server.mesh.pools import Pool

RATE_STEP = 4
"""Rates are taken in powers of it, so that a small difference between replicas is none."""

SLACK = 0.5
"""Of the budget: fewer shards are only taken where they would need no more than this."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A layout in force, what it was chosen for, and why. `rebuild`: predicted seconds for a change.

    `rate`: the step of the rate of changes, a second, that was reckoned with; 0 where none was.
    """

    layout: Layout
    asked: PoolLayout
    size: law.Size
    rate: float
    rebuild: float
    why: str


def rate_step(rate: float) -> float:
    """The power of RATE_STEP that `rate` (changes a second) is at most; 0 for fewer than one."""
    return 0.0 if rate < 1 else float(RATE_STEP ** ceil(log(rate, RATE_STEP) - 1e-9))


def held_step(rate: float, present: float) -> float:
    """The step of `rate`, or the step `present` that is in force until `rate` is half of what leads to it.

    A step is worth up to four times as many shards: a rate about a border must not make and end them.
    """
    return max(rate_step(rate), min(present, rate_step(2 * rate)))


def choose(asked: PoolLayout, size: law.Size, rate: float, present: Choice | None) -> Choice:
    """Choose a layout. `rate`: a step of held_step. `present`: the choice in force, None at the start."""
    limit = law.allowed(asked.budget, rate)
    layout, why = _layout(asked, size, limit, present)
    if present is not None and (present.layout, present.asked) == (layout, asked) and present.size == size:
        return present
    own = layout.kind is LayoutKind.PER_MODEL
    seconds = law.PER_MODEL_CHANGE if own else law.rebuild(size, layout.count)
    return Choice(layout, asked, size, rate, seconds, why)


def single(asked: PoolLayout, size: law.Size, why: str) -> Choice:
    """One cluster, for a reason that no size is."""
    return Choice(SINGLE, asked, size, 0.0, law.rebuild(size, 1), why)


def _layout(asked: PoolLayout, size: law.Size, limit: float, present: Choice | None) -> tuple[Layout, str]:
    match asked.kind:
        case LayoutKind.SINGLE:
            return SINGLE, "asked for by the document"
        case LayoutKind.PER_MODEL:
            return Layout(LayoutKind.PER_MODEL), "asked for by the document"
        case LayoutKind.SHARDED if asked.shards is not None:
            return _sharded(asked.shards), "asked for by the document"
        case _:
            return _by_law(asked, size, limit, present)


def _by_law(asked: PoolLayout, size: law.Size, limit: float, present: Choice | None) -> tuple[Layout, str]:
    least = 2 if asked.kind is LayoutKind.SHARDED else 1
    count = max(least, law.fewest_shards(size, limit))
    large = size.endpoints >= law.LARGE_POOL and not size.everywhere
    saving = " and a tenth of one cluster's bytes" if large else ""
    within = limit * law.ROOM * 1000
    reason = f"the fewest that stay within {within:.3g} ms{saving} a change"
    if present is not None and present.asked == asked and present.layout.count > count:
        relaxed = max(least, law.fewest_shards(size, limit * SLACK))
        if relaxed > present.layout.count // 2:
            count = present.layout.count
            reason = f"kept: half as many would need more than {within * SLACK:.3g} ms a change"
    if count == 1:
        reason = f"one cluster stays within {limit * 1000:.3g} ms a change"
    elif law.rebuild(size, count) > limit * 1.01:
        reason = f"the most there may be; still above {limit * 1000:.3g} ms a change"
    return (SINGLE if count == 1 else _sharded(count)), reason


def _sharded(count: int) -> Layout:
    return Layout(LayoutKind.SHARDED, count)


@dataclass(frozen=True, slots=True)
class Misses:
    """Which endpoints a request may reach whose model nobody has: all, those with some labels, or none.

    They are in every shard, so that a fallback keeps its meaning over the whole pool. `obstacle`: why only
    one cluster can say what is meant; empty where shards can.
    """

    everywhere: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    obstacle: str = ""

    def __bool__(self) -> bool:
        return self.everywhere or bool(self.labels)

    @classmethod
    def of(cls, policy: Policy | None, pool: Pool | None) -> Misses:
        """Find them from a service's rule and its pool."""
        if policy is None or pool is None:
            return cls()
        found = {fallback_of(selector, pool) for selector in policy.selectors}
        # A selector without the key may match a request whose model has nothing to do with it.
        apart = any(pool.subset_key not in selector.keys for selector in policy.selectors)
        if pool.misses.falls_back:
            everywhere = Fallback.ANY_ENDPOINT in found or apart or not policy.selectors
            return cls(everywhere, obstacle="a model that nobody has falls back to another")
        if Fallback.ANY_ENDPOINT in found or apart or not policy.selectors:
            return cls(everywhere=True)
        if Fallback.DEFAULT_SUBSET not in found:
            return cls()
        obstacle = "its default subset names a model" if pool.subset_key in policy.default_subset else ""
        return cls(labels=tuple(sorted(policy.default_subset.items())), obstacle=obstacle)

    def take(self, placed: PlacedEndpoint) -> bool:
        """Whether such a request may reach this endpoint."""
        if self.everywhere or not self.labels:
            return self.everywhere
        labels = placed.endpoint.labels
        return all(labels.get(key) == value for key, value in self.labels)
