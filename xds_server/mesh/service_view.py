"""One service as it stands: its configuration joined with the facts, as picture and as status.

Work is done only for endpoints that were touched, however many there are, and objects that did not change
are kept: what is built from a picture downstream is remembered by identity.
"""

from __future__ import annotations

from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from xds_server.mesh.events import ModelState
from xds_server.mesh.health import NO_COMMON_FAILURE, Verdict
from xds_server.mesh.joins import Joined, waits_until, way_of
from xds_server.mesh.known import named_by
from xds_server.mesh.model import (
    Condition,
    Endpoint,
    EndpointId,
    Health,
    PlacedEndpoint,
    Service,
    ServicePicture,
)
from xds_server.mesh.name_index import NameIndex
from xds_server.mesh.names import NO_NAMES, bases, for_any_other, known_as, own_names
from xds_server.mesh.origins import Origin
from xds_server.mesh.placed import PlacedEndpoints
from xds_server.mesh.places import addresses, normalised
from xds_server.mesh.pools import Pool, StaticModels
from xds_server.mesh.status import EndpointStatus, SourceStatus
from xds_server.mesh.stretches import Stretches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from xds_server.mesh.facts import Facts
    from xds_server.mesh.policies import Policy

STATIC_SOURCE = "static"
"""The source shown for models that a pool lists itself."""


class _Told(NamedTuple):
    """What is known of one endpoint by itself. `healthy`: Envoy may use it."""

    own: tuple[str, ...]
    bases: frozenset[tuple[str, str]]
    """The adapters that it tells of, each with its base."""
    withdrawn: frozenset[str]
    healthy: bool


class ServiceView:
    """The picture of one service, kept up to date by `touch` and `settle`.

    A configuration change makes a new view, which takes over what it can from the one before.
    """

    def __init__(
        self,
        service: Service,
        *,
        policy: Policy | None,
        pool: Pool | None,
        endpoints: Iterable[Endpoint],
        facts: Facts,
        before: ServiceView | None,
    ) -> None:
        self._service = service
        self._policy = policy
        self._pool = pool
        self._facts = facts
        self._endpoints = {endpoint.id: endpoint for endpoint in endpoints}
        self._way = way_of(pool.discovery) if pool else None
        self._static = _static_models(pool, self._endpoints.values())
        self._names = pool.names if pool else NO_NAMES
        self._fallback = pool.misses.fallback_model if pool and pool.misses.falls_back else None
        self._index = NameIndex(self._names)
        self._common = NO_COMMON_FAILURE
        self._stretches = Stretches()
        self._turned = set(self._endpoints)
        """Those of which it may be another one now when they failed last, of a pool that asks."""
        self._fresh = True
        self._touched: set[EndpointId] = set()
        self._picture: ServicePicture | None = None
        self._placed: dict[EndpointId, PlacedEndpoint] = {}
        self._changes: dict[EndpointId, PlacedEndpoint | None] = {}
        """What of `_placed` is not in `_shown` yet; None for those that left."""
        self._shown = PlacedEndpoints()
        self._known = False
        self._first = set(self._endpoints)
        """Those that the pool began with, who are all to be heard before it counts as known."""
        if before is not None:
            if before._way is not None:  # noqa: SLF001 - the same class
                self._known, self._first = before._known, before._first & self._first  # noqa: SLF001
            self._picture = before._picture  # noqa: SLF001 - the same class
            self._placed = {key: p for key, p in before._placed.items() if key in self._endpoints}  # noqa: SLF001

    def deadline(self, endpoint: EndpointId) -> float:
        """When (epoch seconds) time alone next changes how the endpoint stands; infinity if it does not."""
        joined = self._joined(endpoint) if endpoint in self._endpoints else None
        return inf if joined is None else joined.deadline(self._facts.now)

    def endpoint(self, key: EndpointId) -> Endpoint | None:
        """The endpoint of this id; None if the service has none."""
        return self._endpoints.get(key)

    def change(self, changes: Mapping[EndpointId, Endpoint | None]) -> None:
        """Take endpoints that came, changed or (None) left; `settle` afterwards."""
        left: list[EndpointId] = []
        for key, endpoint in changes.items():
            self._static.pop(key, None)
            if endpoint is None or key not in self._endpoints:
                self.turn(key)
            if endpoint is None:
                self._endpoints.pop(key, None)
                self._touched.discard(key)
                self._first.discard(key)
                if self._placed.pop(key, None) is not None:
                    self._changes[key] = None
                left.append(key)
            else:
                self._endpoints[key] = endpoint
                self._touched.add(key)
        self._static |= _static_models(self._pool, [each for each in changes.values() if each is not None])
        for key in left:
            self._touched |= {other for other in self._index.forget(key) if other in self._endpoints}

    @property
    def endpoint_ids(self) -> Iterable[EndpointId]:
        """The configured endpoints, in no order."""
        return self._endpoints.keys()

    @property
    def service(self) -> Service:
        """The service itself."""
        return self._service

    @property
    def pool(self) -> Pool | None:
        """The pool of its models; None if it has none."""
        return self._pool

    @property
    def told(self) -> bool:
        """Whether there are replicas, and all was heard of them that a first picture waits for."""
        return self._known and bool(self._endpoints)

    @cached_property
    def named(self) -> frozenset[str]:
        """The names that the pool's own document gives."""
        return frozenset() if self._pool is None else named_by(self._pool)

    @property
    def waits_until(self) -> float | None:
        """When (epoch seconds) the pool counts as known at the latest; None if it does, or for no limit."""
        if self._known or self._way is None:
            return None
        until = self._waits_until()
        return until if -inf < until < inf else None

    def turn(self, endpoint: EndpointId) -> None:
        """`endpoint` began or ceased to fail, came or left: every endpoint's standing may have changed."""
        self._turned.add(endpoint)

    def touch(self, endpoint: EndpointId) -> bool:
        """Facts of `endpoint` changed; returns whether the picture needs `settle`.

        Answers exactly where that costs only this endpoint, and with True where it is not yet settled.
        """
        if endpoint not in self._endpoints:
            return False
        if self._known and not self._turned and self._stands(endpoint):
            return False
        self._touched.add(endpoint)
        return True

    def settle(self) -> bool:
        """Bring the picture up to date; returns whether it is a new object."""
        if self._turned:
            self._find_common_failure()
        fresh, self._fresh = self._fresh, False
        if fresh:
            self._touched.update(self._endpoints)
        healthy: dict[EndpointId, bool] = {}
        for endpoint in tuple(self._touched):
            own, bases_of, withdrawn, healthy[endpoint] = self._told(endpoint)
            self._touched |= self._index.update(endpoint, own, bases_of, withdrawn)
        for endpoint in self._touched:
            usable = healthy.get(endpoint)
            self._place(endpoint, healthy=self._judge(endpoint).healthy if usable is None else usable)
        self._touched.clear()
        return self._compose(fresh=fresh)

    @property
    def picture(self) -> ServicePicture:
        """What the service's resources are made from. Only after `settle`."""
        if self._picture is None:
            raise RuntimeError(f"the picture of {self._service.host} was read before it was settled")
        return self._picture

    def status(self) -> tuple[EndpointStatus, ...]:
        """Every endpoint with what is known of it, sorted by id. Only after `settle`."""
        return tuple(self._status(placed.endpoint) for placed in self.picture.endpoints)

    def _compose(self, *, fresh: bool) -> bool:
        """Make a new picture if one is needed. `fresh`: of other documents, and of any endpoints."""
        known = self._known = self._known or self._is_known()
        before = self._picture
        if before is not None and before.known == known and not self._changes and not fresh:
            return False
        self._shown = (
            PlacedEndpoints.of(self._placed.values()) if fresh else self._shown.changed(self._changes)
        )
        self._changes.clear()
        after = ServicePicture(self._service, self._shown, self._policy, self._pool, known)
        if fresh and before == after:
            return False
        self._picture = after
        return True

    def _is_known(self) -> bool:
        if self._way is None or not self._endpoints:
            return True
        worked = self._facts.worked(self._service.host, self._way.lists) > -inf
        return worked and self._waits_until() <= self._facts.now

    def _waits_until(self) -> float:
        patience = self._way.limits.patience if self._way else 0.0
        # One that is going is not asked any more, so that nothing will be heard of it.
        first = (e for e in self._first if self._endpoints[e].condition is not Condition.TERMINATING)
        return waits_until(self._all_joined(first), self._all_joined(self._endpoints), patience)

    def _find_common_failure(self) -> None:
        """Find anew whether the runtimes fail together, from those that may make a difference."""
        turned, self._turned = self._turned, set()
        if self._way is None or not self._way.asks:
            return
        for key in turned:
            joined = self._joined(key) if key in self._endpoints else None
            self._stretches.put(key, None if joined is None else joined.asked)
        common = self._stretches.common(self._facts.worked(self._service.host, Origin.ASKED))
        if common != self._common:
            self._common = common
            self._touched.update(self._endpoints)

    def _joined(self, endpoint: EndpointId) -> Joined | None:
        return None if self._way is None else Joined(self._way, self._facts.records(endpoint))

    def _all_joined(self, endpoints: Iterable[EndpointId]) -> Iterator[Joined]:
        joined = map(self._joined, endpoints)
        return (each for each in joined if each is not None)

    def _judge(self, endpoint: EndpointId, joined: Joined | None = None) -> Verdict:
        """How an endpoint stands. `joined`: its records, from who has joined them already."""
        condition = self._endpoints[endpoint].condition
        if condition is not Condition.READY:
            return Verdict(Health(condition.value), healthy=False)
        joined = joined or self._joined(endpoint)
        if joined is None:
            return Verdict(Health.OK, self._static.get(endpoint, ()))
        return joined.judge(self._common, self._facts.now)

    def _place(self, endpoint: EndpointId, *, healthy: bool) -> None:
        """Place the endpoint as Envoy is to see it: the same object as before if nothing of it changed."""
        before = self._placed.get(endpoint)
        listed, known = self._index.names(endpoint), self._known_as(endpoint)
        placed = PlacedEndpoint(self._endpoints[endpoint], listed, healthy, known)
        if before is None or before != placed:
            self._placed[endpoint] = self._changes[endpoint] = placed

    def _known_as(self, endpoint: EndpointId) -> tuple[tuple[str, str], ...]:
        """Under which names the endpoint has to be asked, where the document does not say it."""
        listed, own = self._index.names(endpoint), self._index.own(endpoint)
        known: tuple[tuple[str, str], ...] = ()
        if self._names.aliases or listed is not own:
            models = self._judge(endpoint).models
            known = known_as(self._names, listed, own, models, self._index.stand_in)
        if self._fallback is not None and self._fallback in listed:
            return for_any_other(self._names, listed, known, self._fallback)
        return known

    def _stands(self, endpoint: EndpointId) -> bool:
        """Whether the endpoint is as it was placed. Its names by themselves decide all of its names.

        Not what it is asked under: an alias may be listed before and after a model of that very name comes.
        """
        own, bases_of, withdrawn, healthy = self._told(endpoint)
        if not self._index.is_own(endpoint, own, bases_of, withdrawn):
            return False
        before = self._placed[endpoint]
        as_before = not self._names.aliases or self._known_as(endpoint) == before.known_as
        return as_before and healthy == before.healthy

    def _told(self, endpoint: EndpointId) -> _Told:
        """What the endpoint's records and withdrawals say, which are joined once for all of it."""
        withdrawn = self._facts.withdrawn(endpoint)
        joined = self._joined(endpoint)
        rows: tuple[ModelState, ...] = ()
        if joined is not None and (self._names.versions is not None or self._names.adapter_fallback):
            rows = joined.rows(self._common, self._facts.now)
        verdict = self._judge(endpoint, joined)
        own = own_names(self._names, verdict.models, rows, withdrawn)
        return _Told(own, bases(self._names, rows), withdrawn, verdict.healthy)

    def _status(self, endpoint: Endpoint) -> EndpointStatus:
        key = endpoint.id
        joined = self._joined(key)
        record = joined.leading if joined else None
        static = tuple(ModelState(name) for name in self._static.get(key, ()))
        return EndpointStatus(
            endpoint=endpoint,
            health=self._judge(key).health,
            models=joined.rows(self._common, self._facts.now) if joined else static,
            routed=self._placed[key].models,
            withdrawn=tuple(sorted(self._facts.withdrawn(key))),
            source=record.source if record else STATIC_SOURCE if static else "",
            reported_at=record.reported_at if record else None,
            failure=record.failure if record else None,
            sources=tuple(
                SourceStatus(each.source, each.reported_at, len(each.rows), each.failure)
                for each in (joined.all if joined else ())
            ),
        )


def _static_models(pool: Pool | None, endpoints: Iterable[Endpoint]) -> dict[EndpointId, tuple[str, ...]]:
    """The models that a pool lists itself, for each endpoint that one of its addresses names."""
    if pool is None or not isinstance(pool.discovery, StaticModels):
        return {}
    listed: dict[str, list[str]] = {}
    for address, models in pool.discovery.models.items():
        listed.setdefault(normalised(address), []).extend(models)
    return {
        endpoint.id: tuple(sorted({name for key in addresses(endpoint) for name in listed.get(key, ())}))
        for endpoint in endpoints
    }
