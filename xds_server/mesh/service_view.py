"""One service as it stands: its configuration joined with the facts, as picture and as status.

Work is done only for endpoints that were touched, and objects that did not change are kept: what is
built from a picture downstream is remembered by identity.
"""

from __future__ import annotations

from functools import cached_property
from math import inf
from typing import TYPE_CHECKING

from xds_server.mesh.events import ModelState
from xds_server.mesh.health import NO_COMMON_FAILURE, CommonFailure, Verdict
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
from xds_server.mesh.names import NO_NAMES, bases, own_names
from xds_server.mesh.origins import Origin
from xds_server.mesh.places import addresses, normalised
from xds_server.mesh.pools import Pool, StaticModels
from xds_server.mesh.status import EndpointStatus, SourceStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from xds_server.mesh.facts import Facts
    from xds_server.mesh.policies import Policy

STATIC_SOURCE = "static"
"""The source shown for models that a pool lists itself."""


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
        self._endpoints = {endpoint.id: endpoint for endpoint in sorted(endpoints, key=lambda e: e.id)}
        self._way = way_of(pool.discovery) if pool else None
        self._static = _static_models(pool, self._endpoints.values())
        self._names = pool.names if pool else NO_NAMES
        self._index = NameIndex(self._names)
        self._common = NO_COMMON_FAILURE
        self._turned = True
        self._fresh = True
        self._moved = False
        """Whether endpoints came or left since the picture was made."""
        self._touched: set[EndpointId] = set()
        self._picture: ServicePicture | None = None
        self._placed: dict[EndpointId, PlacedEndpoint] = {}
        self._known = False
        self._first = frozenset(self._endpoints)
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
        came_or_left = False
        left: list[EndpointId] = []
        for key, endpoint in changes.items():
            came_or_left = came_or_left or endpoint is None or key not in self._endpoints
            if endpoint is None:
                self._endpoints.pop(key, None)
                self._placed.pop(key, None)
                self._touched.discard(key)
                left.append(key)
            else:
                self._endpoints[key] = endpoint
                self._touched.add(key)
        if self._static:
            self._static = {key: models for key, models in self._static.items() if key not in changes}
        self._static |= _static_models(self._pool, [each for each in changes.values() if each is not None])
        if came_or_left:
            self._first &= self._endpoints.keys()
            self._endpoints = {key: self._endpoints[key] for key in sorted(self._endpoints, key=_in_order)}
            self._moved = True
            self.turn()
        for key in left:
            self._touched |= self._index.forget(key) & self._endpoints.keys()

    @property
    def endpoint_ids(self) -> Iterable[EndpointId]:
        """The configured endpoints, sorted."""
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

    def turn(self) -> None:
        """An endpoint began or ceased to fail: every endpoint's standing may have changed."""
        self._turned = True

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
            self._turned = False
            common = self._common_failure()
            if common != self._common:
                self._common = common
                self._touched.update(self._endpoints)
        changed = self._fresh
        if self._fresh:
            self._fresh = False
            for endpoint in self._endpoints:
                self._own(endpoint)
            self._placed = {endpoint: self._place(endpoint) for endpoint in self._endpoints}
        else:
            for endpoint in tuple(self._touched):
                self._touched |= self._own(endpoint)
            for endpoint in self._touched:
                placed = self._place(endpoint)
                changed = changed or placed is not self._placed.get(endpoint)
                self._placed[endpoint] = placed
        if self._moved:
            changed = True
            self._placed = {endpoint: self._placed[endpoint] for endpoint in self._endpoints}
        self._moved = False
        self._touched.clear()
        return self._compose(changed=changed)

    @property
    def picture(self) -> ServicePicture:
        """What the service's resources are made from. Only after `settle`."""
        if self._picture is None:
            raise RuntimeError(f"the picture of {self._service.host} was read before it was settled")
        return self._picture

    def status(self) -> tuple[EndpointStatus, ...]:
        """Every endpoint with what is known of it, sorted by id. Only after `settle`."""
        return tuple(self._status(endpoint) for endpoint in self._endpoints.values())

    def _compose(self, *, changed: bool) -> bool:
        """Make a new picture if one is needed. `changed`: the placed endpoints may be other objects."""
        known = self._known = self._known or self._is_known()
        before = self._picture
        if before is not None and before.known == known and not changed:
            return False
        after = ServicePicture(self._service, tuple(self._placed.values()), self._policy, self._pool, known)
        if before == after:
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

    def _common_failure(self) -> CommonFailure:
        if self._way is None or not self._way.asks:
            return NO_COMMON_FAILURE
        records = (joined.asked for joined in self._all_joined(self._endpoints))
        return CommonFailure.of(records, self._facts.worked(self._service.host, Origin.ASKED))

    def _joined(self, endpoint: EndpointId) -> Joined | None:
        return None if self._way is None else Joined(self._way, self._facts.records(endpoint))

    def _all_joined(self, endpoints: Iterable[EndpointId]) -> Iterator[Joined]:
        joined = map(self._joined, endpoints)
        return (each for each in joined if each is not None)

    def _judge(self, endpoint: EndpointId) -> Verdict:
        condition = self._endpoints[endpoint].condition
        if condition is not Condition.READY:
            return Verdict(Health(condition.value), healthy=False)
        joined = self._joined(endpoint)
        if joined is None:
            return Verdict(Health.OK, self._static.get(endpoint, ()))
        return joined.judge(self._common, self._facts.now)

    def _place(self, endpoint: EndpointId) -> PlacedEndpoint:
        """The endpoint as Envoy is to see it: the same object as before if nothing of it changed."""
        before = self._placed.get(endpoint)
        placed = PlacedEndpoint(
            self._endpoints[endpoint], self._index.names(endpoint), self._judge(endpoint).healthy
        )
        return before if before == placed and before is not None else placed

    def _stands(self, endpoint: EndpointId) -> bool:
        """Whether the endpoint is as it was placed. Its names by themselves decide all of its names."""
        if not self._index.is_own(endpoint, *self._told(endpoint)):
            return False
        return self._judge(endpoint).healthy == self._placed[endpoint].healthy

    def _own(self, endpoint: EndpointId) -> set[EndpointId]:
        """Take the endpoint's own names in; returns the others whose names have changed with them."""
        return self._index.update(endpoint, *self._told(endpoint))

    def _told(
        self, endpoint: EndpointId
    ) -> tuple[tuple[str, ...], frozenset[tuple[str, str]], frozenset[str]]:
        """The endpoint's own names, the adapters that it tells of with their bases, what is withdrawn."""
        withdrawn = self._facts.withdrawn(endpoint)
        rows: tuple[ModelState, ...] = ()
        if self._names.versions is not None or self._names.adapter_fallback:
            joined = self._joined(endpoint)
            rows = joined.rows(self._common, self._facts.now) if joined is not None else ()
        models = self._judge(endpoint).models
        return own_names(self._names, models, rows, withdrawn), bases(self._names, rows), withdrawn

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


def _in_order(key: EndpointId) -> tuple[str, int]:
    """Sort the endpoints of one service by plain values: comparing ids themselves takes ten times as long."""
    return key.address, key.port


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
