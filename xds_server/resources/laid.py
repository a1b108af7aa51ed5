"""A service in one layout: its shards, who is in each, and the resources that were made of them.

Told what changed, it knows which shards that leaves stale; those are encoded when they are asked for,
which may be later for a cluster that Envoy was busied with just now (pacing.py). Nothing here looks at
a shard that a change did not touch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

from xds_server.mesh.layout import LayoutKind
from xds_server.mesh.placed import PlacedEndpoints
from xds_server.resources import members as placing
from xds_server.resources.endpoints import AssignmentEncoder
from xds_server.resources.parts import kept, resource
from xds_server.resources.shards import Shard
from xds_server.resources.views import ShardResources
from xds_server.xds.model import CLUSTER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from xds_server.mesh.model import EndpointId, PlacedEndpoint, ServicePicture
    from xds_server.mesh.policies import Selector
    from xds_server.resources.clusters import ClusterEncoder
    from xds_server.resources.layouts import Misses
    from xds_server.resources.members import Key
    from xds_server.resources.shards import Layout, Sharding
    from xds_server.resources.views import Changes


@dataclass(slots=True)
class Stale:
    """What a shard lacks: `withdrawal` when that is something that requests must not reach any more."""

    withdrawal: bool = False
    fresh: bool = False
    """It has never been encoded: routes wait for it, and Envoy has nothing to rebuild."""
    since: float = inf
    """When the first change that it lacks happened; infinity: that was not told."""


@dataclass(slots=True)
class Made:
    """A shard's resources and the encoder that remembers its endpoints."""

    encoder: AssignmentEncoder
    resources: ShardResources | None = None
    other_rules: bool = True
    """The cluster has to be made (again), not the assignment alone."""


@dataclass(slots=True)
class Work:
    """What was done: endpoints `encoded` anew and `kept` with their bytes, `assignments` made.

    `changed`: the shards whose resources are other ones now; None for one that has ended. `since`: when the
    first change that is in them happened; infinity: that was not told.
    """

    encoded: int = 0
    kept: int = 0
    assignments: int = 0
    changed: Changes = field(default_factory=dict)
    since: float = inf


class Members:
    """Who is in a shard. What came and left is put in order when it is asked for, all at once.

    The only shard of a pool has the whole picture, so that it is enough to count.
    """

    __slots__ = ("_changes", "_only", "_placed", "count")

    def __init__(self, *, only: bool) -> None:
        self._only = only
        self._placed = PlacedEndpoints()
        self._changes: dict[EndpointId, PlacedEndpoint | None] = {}
        self.count = 0

    def put(self, was: PlacedEndpoint | None, now: PlacedEndpoint | None) -> None:
        """Have `now` in place of `was`, which is the same endpoint; None: it was, or is, not here."""
        self.count += (now is not None) - (was is not None)
        either = now or was
        if either is not None and not self._only:
            self._changes[either.endpoint.id] = now

    @property
    def placed(self) -> PlacedEndpoints:
        """All of them."""
        if self._changes:
            self._placed = self._placed.changed(self._changes)
            self._changes = {}
        return self._placed


class Laid:
    """One service in one layout. `policy`, ports and pool are those of the last picture that it was shown."""

    def __init__(self, layout: Layout, misses: Misses, sharding: Sharding, picture: ServicePicture) -> None:
        self.layout = layout
        self.misses = misses
        self._sharding = sharding
        self._picture = picture
        self._made: dict[Key, dict[Shard, Made]] = {}
        self._members: dict[Key, Members] = {}
        self._spare: set[Key] = set()
        """Shards of models that nobody holds and whose requests any of the pool's endpoints may take."""
        self.stale: dict[Key, Stale] = {}
        self._since = inf
        if layout.kind is not LayoutKind.PER_MODEL:
            for index in range(layout.count):
                self._open(index)
        if layout.kind is not LayoutKind.SINGLE:
            self._open(placing.REST)
        self._fill()

    @property
    def keys(self) -> Iterable[Key]:
        """All shards."""
        return self._made.keys()

    @property
    def shards(self) -> dict[Shard, ShardResources]:
        """All shards that were encoded, sorted by index and then by model."""
        return {
            shard: made.resources
            for each in self._made.values()
            for shard, made in each.items()
            if made.resources is not None
        }

    def names(self, key: Key) -> tuple[str, ...]:
        """The names of the assignments of a shard, one for each port."""
        return tuple(shard.name for shard in self._made[key])

    def names_for(self, model: str) -> tuple[str, ...]:
        """The names of the assignments that a model is in, or would be in."""
        key = placing.key_of(self.layout, model)
        return self.names(key) if key in self._made else ()

    def size(self, key: Key) -> int:
        """How many endpoints a shard has."""
        return self._members[key].count

    def show(
        self,
        picture: ServicePicture,
        changes: Iterable[tuple[PlacedEndpoint | None, PlacedEndpoint | None]],
        *,
        other_rules: bool,
        since: float,
    ) -> None:
        """Take a picture over: `changes` are its endpoints that differ; `other_rules`: all else may, too.

        `since`: when the first of that happened.
        """
        self._since = since
        if other_rules or picture.known != self._picture.known:
            self.stale = {key: self.stale.get(key, Stale(since=since)) for key in self._made}
        if other_rules:
            for key, made in self._made.items():
                shards = self._shards(key, picture)
                self._made[key] = {s: made.get(s) or Made(AssignmentEncoder(s)) for s in shards}
                for each in self._made[key].values():
                    each.other_rules = True
        self._picture = picture
        for before, after in changes:
            self._change(before, after)

    def show_all(self, picture: ServicePicture, misses: Misses, since: float) -> None:
        """Take a picture over where others may be in each shard: a miss goes elsewhere now."""
        self.misses = misses
        self._members = {key: self._nobody() for key in self._made}
        self._spare = set()
        self.show(picture, (), other_rules=True, since=since)
        self._fill()
        for key, members in self._members.items():
            if isinstance(key, str):  # of a model that nobody holds nothing was told just now
                self._hold(key, held=members.count > 0)

    def _fill(self) -> None:
        for placed in self._picture.endpoints:
            self._change(None, placed)

    def encode(self, keys: Iterable[Key], clusters: ClusterEncoder, work: Work) -> None:
        """Encode these shards, which are stale no more, and add up what was done."""
        for key in keys:
            part = self._part(key)
            since = self.stale[key].since if key in self.stale else inf
            for shard, made in self._made[key].items():
                before = made.resources
                after = self._encode(shard, made, part, clusters)
                if part.known:
                    work.assignments += 1
                    work.encoded += made.encoder.encoded
                    work.kept += len(part.endpoints) - made.encoder.encoded
                if after is not before:
                    made.resources = work.changed[shard] = after
                    work.since = min(work.since, since)
            self.stale.pop(key, None)

    def _encode(
        self, shard: Shard, made: Made, part: ServicePicture, clusters: ClusterEncoder
    ) -> ShardResources:
        before = made.resources
        if before is None or made.other_rules:
            port = part.service.port(shard.port)
            if port is None:
                raise ValueError(f"{shard.name}: {part.service.host} has no port {shard.port}")
            body = clusters.encode(shard, port, part.policy, part.pool)
            cluster = kept(resource(CLUSTER, shard.name, body), before.cluster if before else None)
            made.other_rules = False
        else:
            cluster = before.cluster
        assignment = None
        if part.known:
            assignment = kept(made.encoder.encode(part), before.assignment if before else None)
        if before is not None and before.cluster is cluster and before.assignment is assignment:
            return before
        return ShardResources(cluster, assignment)

    def _part(self, key: Key) -> ServicePicture:
        """The picture as a shard is to show it."""
        picture = self._picture
        if self.layout.kind is LayoutKind.SINGLE:
            return picture
        policy = picture.policy
        if isinstance(key, str) and policy is not None and picture.pool is not None:
            policy = replace(policy, selectors=_without(picture.pool.subset_key, policy.selectors))
        return replace(picture, endpoints=self._endpoints(key), policy=policy)

    def _endpoints(self, key: Key) -> Sequence[PlacedEndpoint]:
        if key not in self._spare:
            return self._members[key].placed
        return tuple(filter(self.misses.take, self._members[placing.REST].placed))

    def _change(self, before: PlacedEndpoint | None, after: PlacedEndpoint | None) -> None:
        for key, part in placing.parts(self.layout, self.misses, before, after):
            if key not in self._made:
                self._open(key)
            was, now = part
            members = self._members[key]
            members.put(was, now)
            self._mark(key, withdrawal=placing.withdraws(part))
            if isinstance(key, str):
                self._hold(key, held=members.count > 0)
            elif key == placing.REST:
                for spare in self._spare:
                    self._mark(spare, withdrawal=placing.withdraws(part))

    def _hold(self, key: str, *, held: bool) -> None:
        if held:
            self._spare.discard(key)
        elif self.misses:
            self._spare.add(key)

    def _mark(self, key: Key, *, withdrawal: bool) -> None:
        stale = self.stale.setdefault(key, Stale(since=self._since))
        stale.withdrawal = stale.withdrawal or withdrawal

    def _open(self, key: Key) -> None:
        self._members[key] = self._nobody()
        self._made[key] = {
            shard: Made(AssignmentEncoder(shard)) for shard in self._shards(key, self._picture)
        }
        self.stale[key] = Stale(fresh=True, since=self._since)

    def _nobody(self) -> Members:
        return Members(only=self.layout.kind is LayoutKind.SINGLE)

    def _shards(self, key: Key, picture: ServicePicture) -> Iterator[Shard]:
        host = picture.service.host
        for port in sorted({port.number for port in picture.service.ports}):
            if isinstance(key, str):
                yield Shard(host, port, model=key)
            elif key == placing.REST:
                yield Shard(host, port, rest=True)
            else:
                yield self._sharding.part(host, port, self.layout, key)


def _without(key: str, selectors: tuple[Selector, ...]) -> tuple[Selector, ...]:
    """The selectors as the cluster of one model needs them: the model is decided."""
    rest = (replace(each, keys=tuple(k for k in each.keys if k != key)) for each in selectors)
    return tuple(each for each in rest if each.keys)
