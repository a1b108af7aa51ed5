"""The mesh: events in, pictures and status out.

Facts are kept by key (facts.py), judged by pure functions of facts and time (health.py) and joined with
the configuration for each service (service_view.py). Since no event changes another one's fact, the order
of events with different keys does not matter. No I/O and no clock here: times come in events.
"""

from __future__ import annotations

import heapq
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING

from xds_server.mesh.declared import Declared
from xds_server.mesh.events import (
    ConfigurationReplaced,
    EndpointsChanged,
    Event,
    ModelsKnown,
    ModelsReported,
    ReportFailed,
    ReportsForgotten,
    WithdrawalCancelled,
    WithdrawalStarted,
)
from xds_server.mesh.facts import Facts
from xds_server.mesh.implied import complete
from xds_server.mesh.known import KnownNames, joined
from xds_server.mesh.names import model_and_version
from xds_server.mesh.places import Places
from xds_server.mesh.pools import ModelMesh
from xds_server.mesh.routing import Configuration, Routing
from xds_server.mesh.service_view import ServiceView
from xds_server.mesh.status import Dirty, EndpointStatus, Failure, Withdrawal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds_server.mesh.known import KnownModel
    from xds_server.mesh.model import Endpoint, EndpointId, ServicePicture

__all__ = ["Dirty", "EndpointStatus", "Failure", "Mesh", "Withdrawal"]


class Mesh:
    """What is known now. Not thread-safe: it lives on the event loop's thread.

    Args:
        on_change: called when something may have become dirty that was not before, within `apply` or
            `expire`. It must not call back into the mesh; it may find `take_dirty` empty, where a
            change turns out to make no difference.
    """

    def __init__(self, on_change: Callable[[], None] | None = None) -> None:
        self._on_change = on_change
        self._facts = Facts()
        self._configurations: dict[str, Configuration] = {}
        self._known = KnownNames()
        self._routing = Routing()
        self._views: dict[str, ServiceView] = {}
        self._declared = Declared()
        self._places = Places()
        self._deadlines: list[tuple[float, EndpointId]] = []
        self._incomplete: dict[str, float] = {}
        self._unsettled: set[str] = set()
        self._dirty: set[str] = set()
        self._routing_dirty = False
        self._pictures: dict[str, ServicePicture] | None = None

    def apply(self, event: Event) -> None:
        """Take one event in.

        A report equal to the one before it marks nothing dirty and costs nothing but itself.
        """
        match event:
            case ModelsReported():
                self._report(event)
            case ReportFailed():
                self._fail(event)
            case ReportsForgotten():
                self._forget(event)
            case ModelsKnown():
                self._known.tell(event.service, event.source, event.models)
            case WithdrawalStarted():
                self._withdraw(event)
            case WithdrawalCancelled():
                self._cancel(event.id)
            case ConfigurationReplaced():
                self._configure(event)
            case EndpointsChanged():
                self._change_endpoints(event)

    def expire(self, now: float) -> None:
        """Let the graces, ages and waits for silent endpoints end that are over at `now` (epoch seconds)."""
        self._facts.now = now
        for host in [host for host, until in self._incomplete.items() if until <= now]:
            del self._incomplete[host]
            self._mark(host)
        while self._deadlines and self._deadlines[0][0] <= now:
            endpoint = heapq.heappop(self._deadlines)[1]
            self._touch(endpoint)
            self._await_deadline(endpoint)

    def next_deadline(self) -> float | None:
        """When `expire` next matters (epoch seconds), as of the last look; None while nothing is waiting."""
        while self._deadlines:
            at, endpoint = self._deadlines[0]
            view = self._views.get(endpoint.service)
            if view is not None and view.deadline(endpoint) == at:
                break
            heapq.heappop(self._deadlines)
        graces = [self._deadlines[0][0]] if self._deadlines else []
        return min([*graces, *self._incomplete.values()], default=None)

    @property
    def routing(self) -> Routing:
        """The configurations of all sources joined and completed; the same object while it is equal."""
        return self._routing

    def service(self, host: str) -> ServicePicture:
        """The picture of a service: the same object while nothing of it changed. KeyError if unknown."""
        view = self._views[host]
        self._settle(host)
        return view.picture

    def services(self) -> Mapping[str, ServicePicture]:
        """All pictures, sorted by host: a view that follows what changes."""
        self._settle_all()
        if self._pictures is None:
            self._pictures = {host: view.picture for host, view in self._views.items()}
        return MappingProxyType(self._pictures)

    def take_dirty(self) -> Dirty:
        """What changed since the last call, which is thereby forgotten."""
        self._settle_all()
        dirty = Dirty(frozenset(self._dirty), self._routing_dirty)
        self._dirty.clear()
        self._routing_dirty = False
        return dirty

    def status(self, host: str) -> tuple[EndpointStatus, ...]:
        """Every endpoint of a service with what is known of it, sorted. KeyError if unknown."""
        view = self._views[host]
        self._settle(host)
        return view.status()

    def endpoint(self, key: EndpointId) -> Endpoint | None:
        """The endpoint of this id, as it is in its service's picture; None if there is none."""
        view = self._views.get(key.service)
        return None if view is None else view.endpoint(key)

    def known_models(self, host: str) -> Mapping[str, KnownModel]:
        """Every model that clients of a ModelMesh may ask for, loaded or not, by name. KeyError if unknown.

        Empty where nobody tells: then a name that no replica has is not known to be wrong.
        """
        picture = self.service(host)
        if picture.pool is None or not isinstance(picture.pool.discovery, ModelMesh):
            return {}
        return joined(
            self._routing.declared,
            self._known.told(host),
            picture.service.namespace,
            (model for placed in picture.endpoints for model in placed.models),
        )

    def knows(self, host: str, model: str) -> bool:
        """Whether anybody names the model, or the one that it is a version of, loaded or not.

        A replica in its list, whatever the state; the pool's document; of a ModelMesh its registry and the
        InferenceServices. True also where nobody can tell: of a host without a pool, or without replicas,
        and until they were heard. A few look-ups, whatever the size of the mesh.
        """
        view = self._views.get(host)
        if view is None or view.pool is None or not view.told:
            return True
        of_a_mesh = isinstance(view.pool.discovery, ModelMesh)
        return any(
            self._facts.listed.has(host, name)
            or name in view.named
            or (of_a_mesh and self._known.has(host, view.service.namespace, name))
            for name in (model, model_and_version(model)[0])
        )

    def find_endpoints(self, host_port: str, service: str | None = None) -> tuple[Endpoint, ...]:
        """The endpoints of which any port is HOST:PORT, of one service or of all; sorted by id."""
        found = self._places.find(host_port)
        return tuple(endpoint for endpoint in found if service is None or endpoint.id.service == service)

    def withdrawals(self) -> tuple[Withdrawal, ...]:
        """The withdrawals that hold, sorted by id."""
        return tuple(
            Withdrawal(event.id, event.endpoint, event.model, event.at)
            for _, event in sorted(self._facts.withdrawals.items())
        )

    def _report(self, event: ModelsReported) -> None:
        turned, changed = self._facts.report(event)
        ended = self._facts.end_withdrawals(event.endpoint)
        if turned or changed or ended:
            self._touch(event.endpoint, turned=turned)
            self._await_deadline(event.endpoint)

    def _fail(self, event: ReportFailed) -> None:
        turned = self._facts.fail(event)
        if turned:
            self._await_deadline(event.endpoint)
        self._touch(event.endpoint, turned=turned)

    def _forget(self, event: ReportsForgotten) -> None:
        if self._facts.forget(event):
            self._touch(event.endpoint, turned=True)

    def _withdraw(self, event: WithdrawalStarted) -> None:
        self._cancel(event.id)
        if self._facts.withdraw(event):
            self._touch(event.endpoint)

    def _cancel(self, withdrawal: str) -> None:
        endpoint = self._facts.cancel(withdrawal)
        if endpoint is not None:
            self._touch(endpoint)

    def _await_deadline(self, endpoint: EndpointId) -> None:
        view = self._views.get(endpoint.service)
        if view is not None and (at := view.deadline(endpoint)) < inf:
            heapq.heappush(self._deadlines, (at, endpoint))

    def _touch(self, endpoint: EndpointId, *, turned: bool = False) -> None:
        host = endpoint.service
        view = self._views.get(host)
        if view is None:
            return
        if turned:
            view.turn(endpoint)
        if view.touch(endpoint) or turned:
            self._mark(host)

    def _mark(self, host: str) -> None:
        announced = host in self._unsettled or host in self._dirty
        self._unsettled.add(host)
        if not announced:
            self._announce()

    def _announce(self) -> None:
        if self._on_change is not None:
            self._on_change()

    def _settle(self, host: str) -> None:
        if host not in self._unsettled:
            return
        self._unsettled.discard(host)
        view = self._views[host]
        if view.settle():
            self._dirty.add(host)
            if self._pictures is not None:
                self._pictures[host] = view.picture
        self._incomplete.pop(host, None)
        if (until := view.waits_until) is not None:
            self._incomplete[host] = until

    def _settle_all(self) -> None:
        for host in sorted(self._unsettled):
            self._settle(host)

    def _configure(self, event: ConfigurationReplaced) -> None:
        if self._configurations.get(event.source) == event.configuration:
            return
        configurations = {**self._configurations, event.source: event.configuration}
        ordered = [configurations[source] for source in sorted(configurations)]
        routing = complete(ordered)  # before anything is touched: it may refuse
        self._configurations = configurations
        if routing != self._routing:
            self._routing = routing
            self._known.declare(routing.declared)
            self._routing_dirty = True
        self._declared.replace(event.source, event.configuration.endpoints)
        self._rebuild()
        self._unsettled.update(self._views)
        self._announce()

    def _change_endpoints(self, event: EndpointsChanged) -> None:
        touched = self._declared.change(event)
        view = self._views.get(event.service)
        if view is None:
            return
        changes = {key: self._declared.endpoint(key) for key in touched}
        changes = {key: endpoint for key, endpoint in changes.items() if view.endpoint(key) != endpoint}
        if not changes:
            return
        for key, endpoint in changes.items():
            self._places.put(view.endpoint(key), endpoint)
            if endpoint is None:
                self._facts.end_withdrawals(key, gone=True)
        view.change(changes)
        for key, endpoint in changes.items():
            if endpoint is not None:
                self._await_deadline(key)
        self._mark(event.service)

    def _rebuild(self) -> None:
        before = self._views
        self._views = {
            host: ServiceView(
                service,
                policy=self._routing.policies.get(host),
                pool=self._routing.pools.get(host),
                endpoints=self._declared.endpoints(host),
                facts=self._facts,
                before=before.get(host),
            )
            for host, service in sorted(self._routing.services.items())
        }
        present = {key for view in self._views.values() for key in view.endpoint_ids}
        for view in before.values():
            for key in view.endpoint_ids:
                if key not in present:
                    self._facts.end_withdrawals(key, gone=True)
        removed = before.keys() - self._views.keys()
        self._unsettled -= removed
        self._dirty -= removed
        self._pictures = None
        self._places = Places(
            view.endpoint(key) for view in self._views.values() for key in view.endpoint_ids
        )
        self._deadlines = []
        self._incomplete = {}
        for key in present:
            self._await_deadline(key)
