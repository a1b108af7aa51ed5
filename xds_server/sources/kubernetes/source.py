"""Services, EndpointSlices and Pods of a cluster as a source: three watches, and what they add up to.

Nothing is told before each of them was listed once: an empty or half a picture at the start would take
away what Envoys have (istio 25100). After that, what a watch last knew stays in force, however long it fails.

Permissions, in each namespace of the scope by a Role, or in all by a ClusterRole:

    services                           list, watch
    pods                               list, watch   (metadata only is asked for)
    endpointslices.discovery.k8s.io    list, watch
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds_server.sources.kubernetes import objects
from xds_server.sources.kubernetes.api import Api
from xds_server.sources.kubernetes.cluster import SOURCE, Cluster
from xds_server.sources.kubernetes.wanted import Wanted
from xds_server.sources.kubernetes.watched import Scope
from xds_server.sources.kubernetes.watching import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds_server.mesh.events import ConfigurationReplaced, Event
    from xds_server.mesh.model import Service
    from xds_server.sources.kubernetes.objects import PodFacts, ServiceFacts, SliceFacts
    from xds_server.sources.kubernetes.options import KubernetesOptions
    from xds_server.sources.kubernetes.watched import Key, Timing, WatchStatus


@dataclass(frozen=True, slots=True)
class KubernetesStatus:
    """How the source stands. `problems`: what of the wanted services is missing or cannot be used."""

    server: str
    login: str
    synced: bool
    watches: tuple[WatchStatus, ...]
    problems: tuple[str, ...]


class KubernetesSource:
    """Tells the mesh of the services that configurations refer to and that nothing else declares.

    Args:
        options: where, and what.
        emit: takes ConfigurationReplaced (services), EndpointsChanged, and what annotations say.
        on_services: told when the services of the cluster may be others, wanted or not.
        api: the API server; one of its own by default.
        timing: limits and pauses of the watches.
        clock: epoch seconds.
    """

    def __init__(
        self,
        options: KubernetesOptions,
        emit: Callable[[Event], None],
        *,
        on_services: Callable[[], None] = lambda: None,
        api: Api | None = None,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.api = api if api is not None else Api(options.login)
        self._options = options
        self._emit = emit
        self._on_services = on_services
        self._cluster = Cluster(clock)
        self._wanted = Wanted()
        self._synced = asyncio.Event()
        services = Scope(options.namespaces, options.selector)
        pods = Scope(options.namespaces, options.pod_selector)
        self._services = Watch(
            self.api,
            objects.SERVICES,
            services,
            keep=objects.service,
            on_change=self._take_services,
            timing=timing,
            clock=clock,
        )
        self._slices = Watch(
            self.api,
            objects.SLICES,
            services,
            keep=objects.endpoint_slice,
            on_change=self._take_slices,
            timing=timing,
            clock=clock,
        )
        self._pods = Watch(
            self.api,
            objects.PODS,
            pods,
            keep=objects.pod,
            on_change=self._take_pods,
            timing=timing,
            clock=clock,
        )

    async def start(self) -> None:
        """Find out where the API server is; nothing is asked of it yet. Raises AccessError."""
        await self.api.open()

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for watch in (self._services, self._slices, self._pods):
                group.create_task(watch.run(), name=f"kubernetes {watch.resource}")
            group.create_task(self._begin(), name="kubernetes first sync")

    async def synced(self) -> None:
        """Return once every watch was listed, and the mesh was told."""
        await self._synced.wait()

    async def close(self) -> None:
        """Close every connection."""
        await self.api.close()

    def follow(self, event: ConfigurationReplaced) -> None:
        """Take what another source declares: what it refers to is what is wanted here."""
        if event.source != SOURCE:
            self._wanted.take(event)
            self._cluster.want(self._wanted.hosts())
            self._tell()

    @property
    def services(self) -> Mapping[str, Service]:
        """Every service of the scope that can be routed to, wanted or not, by its full name."""
        return self._cluster.services

    def status(self) -> KubernetesStatus:
        """How the source stands."""
        watches = (self._services.status(), self._slices.status(), self._pods.status())
        synced = self._synced.is_set()
        problems = sorted([*self._cluster.problems(), *self._wanted.problems(self.services)])
        return KubernetesStatus(
            server=self.api.url,
            login=str(self._options.login),
            synced=synced,
            watches=tuple(status for each in watches for status in each),
            problems=tuple(problems if synced else ()),
        )

    def waits_for(self) -> str:
        """Which lists are missing, and why, in words; empty when none is."""
        missing = [status for status in self.status().watches if not status.listed]
        return "; ".join(f"{status} not listed yet{_why(status)}" for status in missing)

    async def _begin(self) -> None:
        for watch in (self._services, self._slices, self._pods):
            await watch.listed()
        self._synced.set()
        self._tell()
        self._on_services()

    def _take_services(self, changes: Mapping[Key, ServiceFacts | None]) -> None:
        self._cluster.change_services(changes)
        self._tell()
        if self._synced.is_set():
            self._on_services()

    def _take_slices(self, changes: Mapping[Key, SliceFacts | None]) -> None:
        self._cluster.change_slices(changes)
        self._tell()

    def _take_pods(self, changes: Mapping[Key, PodFacts | None]) -> None:
        self._cluster.change_pods(changes)
        self._tell()

    def _tell(self) -> None:
        if self._synced.is_set():
            for event in self._cluster.events():
                self._emit(event)


def _why(status: WatchStatus) -> str:
    return f" ({status.error})" if status.error else ""
