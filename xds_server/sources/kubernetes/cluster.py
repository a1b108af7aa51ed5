"""Services, slices and pods as events for the mesh. Pure: changes in, events out, no I/O.

Only services that somebody wants (by host) become any. Whatever order the changes come in, the events add
up to the same: each object is kept under its key, and what is told of a replica is made from what is there.
The cost of a change is that of the replicas that it touches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xds_server.config.cluster_hosts import full_name, service_of
from xds_server.mesh.events import (
    ConfigurationReplaced,
    EndpointsChanged,
    FailureKind,
    ModelsReported,
    ReportFailed,
    ReportsForgotten,
)
from xds_server.mesh.model import Service
from xds_server.mesh.routing import Configuration
from xds_server.sources.kubernetes.annotations import SEEN, PodModels, Told
from xds_server.sources.kubernetes.slices import ServiceSlices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from xds_server.mesh.events import Event
    from xds_server.mesh.model import Endpoint, EndpointId
    from xds_server.sources.kubernetes.objects import PodFacts, ServiceFacts, SliceFacts
    from xds_server.sources.kubernetes.slices import Replica
    from xds_server.sources.kubernetes.watched import Key

SOURCE = "kubernetes"
"""The name under which the mesh keeps services and endpoints."""


@dataclass(slots=True)
class _Followed:
    """A service that is wanted: what the mesh was told of it, and what has to be looked at again."""

    host: str
    told: dict[Replica, tuple[Endpoint, Key | None]] = field(default_factory=dict)
    touched: set[Replica] = field(default_factory=set)


class Cluster:
    """What the watches have seen, and what the mesh was told of it. `clock`: epoch seconds, for events."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._services: dict[Key, ServiceFacts] = {}
        self._slices: dict[Key, ServiceSlices] = {}
        self._owners: dict[Key, Key] = {}
        """The service of each slice, as last told: its label may change."""
        self._pods: dict[Key, PodFacts] = {}
        self._models: dict[Key, PodModels] = {}
        self._followed: dict[Key, _Followed] = {}
        self._behind: dict[Key, set[tuple[Key, Replica]]] = {}
        """The replicas of each pod, by service."""
        self._reported: dict[EndpointId, Mapping[str, Told]] = {}
        self._declared = Configuration()
        self._services_changed = False

    @property
    def services(self) -> Mapping[str, Service]:
        """Every service that was seen and can be routed to, wanted or not, by its full name."""
        found = {full_name(*key): facts for key, facts in self._services.items() if _usable(facts)}
        return {host: _service(host, facts) for host, facts in sorted(found.items())}

    def want(self, hosts: Iterable[str]) -> None:
        """Follow exactly the services with these full names; other hosts are somebody else's."""
        keys = {key: host for host in hosts if (key := service_of(host)) is not None}
        for key in [key for key in self._followed if key not in keys]:
            followed = self._followed[key]
            followed.touched.update(followed.told)
            followed.host = ""
            self._services_changed = True
        for key, host in keys.items():
            followed = self._followed.setdefault(key, _Followed(host))
            if followed.host != host or not followed.told:
                followed.host = host
                followed.touched.update(self._of(key).by_replica)
                self._services_changed = True

    def change_services(self, changes: Mapping[Key, ServiceFacts | None]) -> None:
        """Take Services as they are now; None: gone."""
        for key, facts in changes.items():
            if facts is None:
                self._services.pop(key, None)
            else:
                self._services[key] = facts
            usable = facts is not None and _usable(facts)
            self._touch(key, self._of(key).put_service(facts if usable else None))
            self._services_changed = self._services_changed or key in self._followed
            self._tidy(key)

    def change_slices(self, changes: Mapping[Key, SliceFacts | None]) -> None:
        """Take EndpointSlices as they are now; None: gone."""
        for key, facts in changes.items():
            before, after = self._owners.pop(key, None), facts.service if facts is not None else None
            if before is not None and before != after:
                self._touch(before, self._of(before).put_slice(key, None))
                self._tidy(before)
            if after is not None:
                self._owners[key] = after
                self._touch(after, self._of(after).put_slice(key, facts))

    def change_pods(self, changes: Mapping[Key, PodFacts | None]) -> None:
        """Take Pods as they are now; None: gone."""
        for key, facts in changes.items():
            if facts is None:
                self._pods.pop(key, None)
                self._models.pop(key, None)
            else:
                self._pods[key] = facts
                self._models.setdefault(key, PodModels()).take(key, facts)
            for service, replica in self._behind.get(key, ()):
                self._touch(service, (replica,))

    def events(self) -> list[Event]:
        """What the mesh is to be told since the last call: endpoints before the services that have them."""
        events: list[Event] = []
        for key in [key for key, each in self._followed.items() if each.touched or not each.host]:
            events += self._endpoint_events(key, self._followed[key])
        if self._services_changed:
            self._services_changed = False
            events += self._service_events()
        return events

    def problems(self) -> list[str]:
        """What of the wanted services is missing or cannot be used, in words, sorted."""
        found: list[str] = []
        for key, followed in self._followed.items():
            facts = self._services.get(key)
            if facts is None:
                found.append(f"service {key[1]} is not in namespace {key[0]} (yet), or is not watched")
            elif facts.external:
                found.append(f"service {'/'.join(key)} is of type ExternalName: write a ServiceEntry for it")
            elif not facts.ports:
                found.append(f"service {'/'.join(key)} has no TCP port")
            found += self._of(key).problems(followed.host)
        for pod in sorted(self._behind):
            if pod in self._models:
                found += self._models[pod].problems()
        return sorted(found)

    def _of(self, key: Key) -> ServiceSlices:
        return self._slices.setdefault(key, ServiceSlices())

    def _tidy(self, key: Key) -> None:
        """Forget what nothing is left of."""
        slices = self._slices.get(key)
        if slices is not None and slices.service is None and not slices.slices and key not in self._followed:
            del self._slices[key]

    def _touch(self, service: Key, replicas: Iterable[Replica]) -> None:
        followed = self._followed.get(service)
        if followed is not None:
            followed.touched.update(replicas)

    def _endpoint_events(self, key: Key, followed: _Followed) -> list[Event]:
        events: list[Event] = []
        slices = self._of(key)
        declared: list[Endpoint] = []
        removed: list[EndpointId] = []
        for replica in followed.touched:
            before = followed.told.get(replica)
            after = slices.endpoint(followed.host, replica, self._pods.get) if followed.host else None
            if before is not None:
                self._leave(key, replica, before[1])
            if after is not None:
                followed.told[replica] = after
                if after[1] is not None:
                    self._behind.setdefault(after[1], set()).add((key, replica))
                if before is None or before[0] != after[0]:
                    declared.append(after[0])
                events += self._model_events(after[0].id, self._told(after[1]))
            elif before is not None:
                del followed.told[replica]
                removed.append(before[0].id)
                events += self._model_events(before[0].id, {})
        followed.touched.clear()
        if not followed.host:
            del self._followed[key]
            self._tidy(key)
        if declared or removed:
            host = full_name(*key)
            told = EndpointsChanged(
                source=SOURCE, service=host, declared=tuple(declared), removed=tuple(removed)
            )
            events.insert(0, told)
        return events

    def _leave(self, service: Key, replica: Replica, pod: Key | None) -> None:
        if pod is not None and (replicas := self._behind.get(pod)) is not None:
            replicas.discard((service, replica))
            if not replicas:
                del self._behind[pod]

    def _told(self, pod: Key | None) -> Mapping[str, Told]:
        """What the annotations say; nothing where there is no pod, which is a fact too."""
        models = self._models.get(pod) if pod is not None else None
        return models.told if models is not None else SEEN

    def _model_events(self, endpoint: EndpointId, told: Mapping[str, Told]) -> list[Event]:
        """The difference to what the mesh was last told of the endpoint's annotations."""
        before = self._reported.pop(endpoint, {})
        if told:
            self._reported[endpoint] = told
        events: list[Event] = [
            ReportsForgotten(endpoint=endpoint, source=source)
            for source, each in before.items()
            if source not in told or (told[source].rows is None and each.rows is not None)
        ]
        at = self._clock()
        for source, each in told.items():
            last = before.get(source)
            if each == last:
                continue
            if each.rows is not None and (last is None or last.rows != each.rows or last.problem):
                events.append(ModelsReported(endpoint=endpoint, source=source, models=each.rows, at=at))
            if each.problem:
                events.append(
                    ReportFailed(
                        endpoint=endpoint,
                        source=source,
                        kind=FailureKind.BAD_ANSWER,
                        error=each.problem,
                        at=at,
                    )
                )
        return events

    def _service_events(self) -> list[Event]:
        wanted = {f.host: self._services.get(key) for key, f in self._followed.items() if f.host}
        found = {host: facts for host, facts in wanted.items() if facts is not None and _usable(facts)}
        declared = Configuration(services=tuple(_service(host, found[host]) for host in sorted(found)))
        if declared == self._declared:
            return []
        self._declared = declared
        return [ConfigurationReplaced(source=SOURCE, configuration=declared)]


def _usable(facts: ServiceFacts) -> bool:
    return bool(facts.ports) and not facts.external


def _service(host: str, facts: ServiceFacts) -> Service:
    key = service_of(host)
    return Service(host, key[0] if key is not None else "", facts.ports)
