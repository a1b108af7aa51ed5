"""The documents of a cluster as one part of the server: watches, the compilation, status, the Lease."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xds_server.sources.kubernetes.answers import Answers
from xds_server.sources.kubernetes.documents import KubernetesDocuments
from xds_server.sources.kubernetes.pool_report import PoolReporter
from xds_server.sources.kubernetes.servers import Servers, own_name, own_namespace
from xds_server.sources.kubernetes.status_writer import StatusWriter
from xds_server.sources.kubernetes.watched import Scope, WatchState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from xds_server.config.problems import Problem
    from xds_server.mesh.events import Event
    from xds_server.mesh.mesh import Mesh
    from xds_server.mesh.model import Service
    from xds_server.sources.kubernetes.api import Api
    from xds_server.sources.kubernetes.source import KubernetesSource, KubernetesStatus
    from xds_server.sources.kubernetes.watched import Timing, WatchStatus
    from xds_server.xds.hub import Hub


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredStatus:
    """How the documents of the cluster stand. Times are epoch seconds.

    `problems` by object (group/kind/namespace/name). `missing_permissions`: also those of the watches.
    """

    server: str
    watches: tuple[WatchStatus, ...]
    problems: Mapping[str, tuple[Problem, ...]]
    missing_permissions: tuple[str, ...]
    changed_at: float | None
    writes: int
    write_conflicts: int
    write_failures: int
    last_write_error: str


class DeclaredObjects:
    """Everything that has to do with documents that are API objects.

    Args:
        api: the API server.
        namespaces: none means all.
        emit: takes ConfigurationReplaced.
        services: the services of the cluster, by full name, wanted or not.
        mesh: what is known, for the status.
        hub: the clients, for the status.
        clusters: the names of a service's clusters, by its host.
        timing: limits and pauses of the watches.
        clock: epoch seconds.
    """

    def __init__(
        self,
        api: Api,
        namespaces: tuple[str, ...],
        emit: Callable[[Event], None],
        services: Callable[[], Mapping[str, Service]],
        *,
        mesh: Mesh,
        hub: Hub,
        clusters: Callable[[str], Sequence[str]],
        timing: Timing | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        def known() -> Mapping[str, Service]:
            return {**mesh.routing.services, **services()}

        self.documents = KubernetesDocuments(api, Scope(namespaces), emit, known, timing=timing, clock=clock)
        self._servers = Servers(api, own_name(), own_namespace())
        self._writer = StatusWriter(api)
        self._answers = Answers(
            self.documents, PoolReporter(mesh, hub, clusters), self._writer, self._servers
        )

    async def run(self) -> None:
        """Watch, compile, answer, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.documents.run(), name="documents")
            group.create_task(self._answers.run(), name="status")
            group.create_task(self._servers.run(), name="lease")

    async def begin(self) -> None:
        """Tell the mesh, once every kind was listed. The services of the cluster must be known by now."""
        await self.documents.listed()
        self.documents.begin()

    def services_changed(self) -> None:
        """Services of the cluster, or of other documents, may have come or gone."""
        self.documents.services_changed()

    async def close(self) -> None:
        """Take the Lease away; while the API server can still be asked."""
        await self._servers.leave()

    def waits_for(self) -> str:
        """Which kinds were not listed yet, and why, in words; empty when none is."""
        missing = [
            status
            for status in self.documents.watch_status()
            if not status.listed and status.state is not WatchState.ABSENT
        ]
        return "; ".join(
            f"{each} not listed yet" + (f" ({each.error})" if each.error else "") for each in missing
        )

    def status(self) -> DeclaredStatus:
        """How it stands."""
        watches = self.documents.watch_status()
        missing = {each.missing_permission for each in watches if each.missing_permission}
        missing |= self._writer.missing_permissions
        if self._servers.missing_permission:
            missing.add(self._servers.missing_permission)
        return DeclaredStatus(
            server=self._servers.name,
            watches=watches,
            problems=self.documents.problems,
            missing_permissions=tuple(sorted(missing)),
            changed_at=self.documents.changed_at,
            writes=self._writer.writes,
            write_conflicts=self._writer.conflicts,
            write_failures=self._writer.failures,
            last_write_error=self._writer.last_error,
        )


class WholeCluster:
    """Services, replicas and documents of a cluster, as one thing to look at."""

    def __init__(self, source: KubernetesSource, declared: DeclaredObjects) -> None:
        self._source = source
        self._declared = declared

    def status(self) -> KubernetesStatus:
        """How all of it stands; an object that is refused is a problem."""
        source, declared = self._source.status(), self._declared.status()
        problems = [str(problem) for found in declared.problems.values() for problem in found]
        problems += [f"missing permission: {each}" for each in declared.missing_permissions]
        if declared.last_write_error:
            problems.append(f"status cannot be written: {declared.last_write_error}")
        return replace(
            source,
            watches=(*source.watches, *(_calm(each) for each in declared.watches)),
            problems=tuple(sorted({*source.problems, *problems})),
        )


def _calm(status: WatchStatus) -> WatchStatus:
    """A kind of documents whose CRD is not installed is nothing to be alarmed at."""
    return replace(status, failing_since=None) if status.state is WatchState.ABSENT else status
