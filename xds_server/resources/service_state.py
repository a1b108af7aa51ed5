"""One service between two publications: its layout and why, what it was made into, and what of it is stale.

After a change of layout the former shards stay, and are kept up to date, until `drop` is called: requests
that chose their cluster before the routes changed are still on their way to it.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import TYPE_CHECKING

from xds_server.mesh.layout import LayoutKind
from xds_server.mesh.placed import differences
from xds_server.resources import law
from xds_server.resources.laid import Laid, Work
from xds_server.resources.layouts import Choice, Misses, choose, held_step, single
from xds_server.resources.shards import SINGLE

if TYPE_CHECKING:
    from xds_server.mesh.model import PlacedEndpoint, ServicePicture
    from xds_server.resources.clusters import ClusterEncoder
    from xds_server.resources.members import Key
    from xds_server.resources.pacing import Pace
    from xds_server.resources.shards import Layout, Shard, Sharding, Target
    from xds_server.resources.views import ShardResources

_NOTHING: frozenset[str] = frozenset()


class ServiceState:
    """What was made of a service. `targets`: its shards' resources by port, in force and former."""

    def __init__(self, picture: ServicePicture, sharding: Sharding) -> None:
        self._sharding = sharding
        self.picture = picture
        self._misses = Misses.of(picture.policy, picture.pool)
        self._holders: Counter[str] = Counter()
        self._held = 0
        for placed in picture.endpoints:
            self._count(None, placed)
        self.choice: Choice | None = None
        """None where the service holds no models: it is one cluster."""
        self.choice = self._choose(None)
        self.laid = self._lay()
        self.former: list[Laid] = []
        """Layouts that routes have left, the oldest first."""
        self._ended: set[Shard] = set()
        self.targets: dict[Target, dict[Shard, ShardResources]] = {}
        self.requires: dict[Target, frozenset[tuple[str, str]]] = {}
        """What routes to a target wait for: the clusters and assignments that exist and are sent."""

    @property
    def layout(self) -> Layout:
        """The layout that routes lead to."""
        return SINGLE if self.choice is None else self.choice.layout

    @property
    def stale(self) -> bool:
        """Whether anything waits to be encoded, or to be gone."""
        return bool(self._ended) or any(laid.stale for laid in self._all())

    def names(self, model: str | None = None) -> tuple[str, ...]:
        """The assignments that routes lead to and those of former layouts; with `model`, those it is in."""
        if model is None:
            return tuple(shard.name for shards in self.targets.values() for shard in shards)
        return tuple(name for laid in self._all() for name in laid.names_for(model))

    def show(self, picture: ServicePicture, pace: Pace | None, since: float = inf) -> bool:
        """Take a picture over; `since`: when the first change in it happened.

        Returns whether the layout is another one.
        """
        before, self.picture = self.picture, picture
        changes = differences(before.endpoints, picture.endpoints)
        for old, new in changes:
            self._count(old, new)
        if pace is not None and changes:
            pace.changed(picture.service.host, len(changes))
        other_rules = _rules(before) != _rules(picture)
        if other_rules:
            self._misses = Misses.of(picture.policy, picture.pool)
        for laid in self._all():
            if laid.misses == self._misses:
                laid.show(picture, changes, other_rules=other_rules, since=since)
            else:
                laid.show_all(picture, self._misses, since)
        return self._choose_again(pace)

    def drop(self, laid: Laid) -> None:
        """Forget a former layout; the next `encode` tells that its shards have ended."""
        self.former = [each for each in self.former if each is not laid]
        # Some are the same in every layout.
        self._ended.update(laid.shards.keys() - {shard for each in self._all() for shard in each.shards})

    def encode(self, clusters: ClusterEncoder, pace: Pace | None, *, urgent: bool) -> Work:
        """Encode what is stale and may go now; says what became of each shard."""
        work = Work()
        for laid in self._all():
            keys = [key for key in laid.stale if pace is None or self._may(laid, key, pace, urgent=urgent)]
            if keys:
                laid.encode(keys, clusters, work)
        ended, self._ended = self._ended, set()
        others = bool(ended) or not self.requires
        for shard, made in work.changed.items():
            others |= made is not None and self._put(shard, made)
        work.changed.update(dict.fromkeys(ended))
        if work.changed and others:
            self.collect()
        return work

    def rebuild_seconds(self) -> float:
        """How long Envoy is predicted to need for a change of the largest shard in force."""
        return max((self._cost(self.laid, key) for key in self.laid.keys), default=0.0)

    def _all(self) -> tuple[Laid, ...]:
        return (self.laid, *self.former)

    def _may(self, laid: Laid, key: Key, pace: Pace, *, urgent: bool) -> bool:
        stale = laid.stale[key]
        return pace.may(
            laid.names(key), self._cost(laid, key), withdrawal=stale.withdrawal, urgent=urgent or stale.fresh
        )

    def _cost(self, laid: Laid, key: Key) -> float:
        if laid.layout.kind is LayoutKind.PER_MODEL or self.picture.pool is None:
            return law.PER_MODEL_CHANGE
        return law.cost(len(self._holders) / laid.layout.count, laid.size(key))

    def _lay(self) -> Laid:
        return Laid(self.layout, self._misses, self._sharding, self.picture)

    def _choose(self, pace: Pace | None) -> Choice | None:
        pool = self.picture.pool
        if pool is None:
            return None
        misses = self._misses
        endpoints = len(self.picture.endpoints)
        mean = self._held / endpoints if endpoints else 0.0
        size = law.Size(endpoints, len(self._holders), mean, everywhere=misses.everywhere)
        if misses.obstacle:
            return single(pool.layout, size, misses.obstacle)
        present = 0.0 if self.choice is None else self.choice.rate
        rate = 0.0 if pace is None else held_step(pace.rate(self.picture.service.host), present)
        return choose(pool.layout, size, rate, self.choice)

    def _choose_again(self, pace: Pace | None) -> bool:
        before = self.layout
        self.choice = self._choose(pace)
        if self.layout == before:
            return False
        self.former.append(self.laid)
        back = next((each for each in self.former if each.layout == self.layout), None)
        if back is None:
            self.laid = self._lay()
        else:
            self.laid = back
            self.former.remove(back)
        self.requires = {}
        return True

    def _count(self, before: PlacedEndpoint | None, after: PlacedEndpoint | None) -> None:
        """Count who holds each model, with `after` in place of `before`."""
        was = frozenset(before.models) if before is not None else _NOTHING
        now = frozenset(after.models) if after is not None else _NOTHING
        self._held += len(now) - len(was)
        for model in now - was:
            self._holders[model] += 1
        for model in was - now:
            self._holders[model] -= 1
            if not self._holders[model]:
                del self._holders[model]

    def _put(self, shard: Shard, made: ShardResources) -> bool:
        """Put a shard's new resources among the others; returns whether routes wait for others now.

        What each new model adds to a layout by model is no reason to wait: the routes name no cluster.
        """
        shards = self.targets.setdefault((shard.host, shard.port), {})
        before = shards.get(shard)
        shards[shard] = made
        if self.layout.kind is LayoutKind.PER_MODEL:
            return False
        return before is None or (before.assignment is None) is not (made.assignment is None)

    def collect(self) -> None:
        """Put the shards of all layouts together anew, by target."""
        targets: dict[Target, dict[Shard, ShardResources]] = {}
        for laid in self._all():
            for shard, made in laid.shards.items():
                targets.setdefault((shard.host, shard.port), {})[shard] = made
        self.targets = {**targets}
        if self.layout.kind is LayoutKind.PER_MODEL and self.requires:
            return  # what each new model adds is no reason to wait: the routes name no cluster
        self.requires = {target: self._required(target) for target in targets}

    def _required(self, target: Target) -> frozenset[tuple[str, str]]:
        required = frozenset(
            (each.type_url, each.name)
            for shard, made in self.laid.shards.items()
            if (shard.host, shard.port) == target
            for each in (made.cluster, made.assignment)
            if each is not None
        )
        before = self.requires.get(target)
        return before if before == required and before is not None else required


def _rules(picture: ServicePicture) -> tuple[object, ...]:
    return picture.service, picture.policy, picture.pool
