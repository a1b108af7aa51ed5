"""A cluster's objects as documents: watched, compiled together, told to the mesh.

Nothing is told before `begin`: the first picture has to be whole. A kind whose CRD is not installed counts as
having no objects, and is taken up when it comes.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from xds_server.config.cluster_documents import ClusterDocuments
from xds_server.config.objects import key_of
from xds_server.mesh.events import ConfigurationReplaced
from xds_server.sources.kubernetes.kinds import ALL, GATEWAY_CLASSES, GATEWAYS, MODEL_POOLS, DocumentKind
from xds_server.sources.kubernetes.watched import Scope, WatchState
from xds_server.sources.kubernetes.watching import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds_server.config.cluster_documents import ClusterState
    from xds_server.config.problems import Problem
    from xds_server.mesh.events import Event
    from xds_server.mesh.model import Service
    from xds_server.sources.kubernetes.api import Api
    from xds_server.sources.kubernetes.watched import Key, Timing, WatchStatus

SOURCE = "kubernetes-documents"
"""The name under which the mesh keeps this configuration."""

PATIENCE = 30.0
"""Seconds that the first picture waits for kinds that may not be read; later ones are taken when they may."""

_LOOK = 0.1
"""Seconds between looks at watches that have not listed yet: their failures have no event."""

Value = dict[str, Any]


class KubernetesDocuments:
    """Tells the mesh what the objects of a cluster declare.

    Args:
        api: the API server.
        scope: the namespaces; its selector is not for documents.
        emit: takes ConfigurationReplaced, when the configuration differs from the one before.
        services: all services that are known, by host; those declared here are left out of account.
        timing: limits and pauses of the watches.
        patience: seconds that the first picture waits for kinds that may not be read.
        clock: epoch seconds.
    """

    def __init__(
        self,
        api: Api,
        scope: Scope,
        emit: Callable[[Event], None],
        services: Callable[[], Mapping[str, Service]],
        *,
        timing: Timing | None = None,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.documents = ClusterDocuments()
        self.changed_at: float | None = None
        """Epoch seconds of the last change of the configuration."""
        self.compiled = asyncio.Event()
        """Set after each compilation; for whoever writes status to clear."""
        self._emit = emit
        self._services = services
        self._clock = clock
        self._patience = patience
        self._begun = False
        self._dirty = asyncio.Event()
        self._elsewhere: Mapping[str, Service] = {}
        self._known: Mapping[str, tuple[Problem, ...]] = {}
        self._log = structlog.get_logger("documents")
        self._watches = {
            kind: Watch(
                api,
                kind.resource,
                Scope(scope.namespaces, kind.selector),
                keep=partial(_kept, kind),
                on_change=partial(self._take, kind),
                optional=True,
                timing=timing,
                clock=clock,
            )
            for kind in ALL
        }

    @property
    def state(self) -> ClusterState:
        """What the objects make, as of the last compilation."""
        return self.documents.state

    @property
    def problems(self) -> Mapping[str, tuple[Problem, ...]]:
        """What is wrong with which object, by its key."""
        return self.documents.state.problems

    def watch_status(self) -> tuple[WatchStatus, ...]:
        """How each watch stands."""
        return tuple(status for each in self._statuses().values() for status in each)

    def present(self, kind: DocumentKind) -> dict[Key, Value]:
        """The objects of one kind as they are now."""
        return self._watches[kind].objects()

    async def run(self) -> None:
        """Watch and compile until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind, watch in self._watches.items():
                group.create_task(watch.run(), name=f"documents {kind.resource}")
            group.create_task(self._compile_changes(), name="compile documents")

    async def listed(self) -> None:
        """Return once every kind was listed, or is not served.

        ModelPools are waited for as long as it takes. Other kinds that may not be read are waited for a
        while, since a permission that is missing for a moment at a start must not take routes away.
        """
        begun = time.monotonic()
        while not self._whole(late=time.monotonic() - begun > self._patience):  # noqa: ASYNC110 - see _LOOK
            await asyncio.sleep(_LOOK)

    def _whole(self, *, late: bool) -> bool:
        return all(
            status.listed
            or status.state is WatchState.ABSENT
            or (late and kind is not MODEL_POOLS and bool(status.missing_permission))
            for kind, each in self._statuses().items()
            for status in each
        )

    def _statuses(self) -> dict[DocumentKind, tuple[WatchStatus, ...]]:
        """How each kind stands. Who may not see GatewayClasses is told 403 also where there are none."""
        found = {kind: watch.status() for kind, watch in self._watches.items()}
        if all(each.state is WatchState.ABSENT for each in found[GATEWAYS]):
            found[GATEWAY_CLASSES] = tuple(
                replace(each, state=WatchState.ABSENT, missing_permission="")
                if each.missing_permission
                else each
                for each in found[GATEWAY_CLASSES]
            )
        return found

    def begin(self) -> None:
        """From now on the mesh is told; at once for the first time. Call it when the services are known."""
        self._begun = True
        self._compile()

    def services_changed(self) -> None:
        """Services may have come or gone: documents may refer to them."""
        if self._begun and self._others() != self._elsewhere:
            self._dirty.set()

    async def _compile_changes(self) -> None:
        while True:
            await self._dirty.wait()
            if self._begun:
                self._compile()
            else:
                self._dirty.clear()

    def _take(self, kind: DocumentKind, changes: Mapping[Key, Value | None]) -> None:
        matters = False
        for (namespace, name), value in changes.items():
            if value is None:
                self.documents.drop(_key(kind, namespace, name))
                matters = True
            else:
                matters = self.documents.put(value) or matters
        if matters:
            self._dirty.set()

    def _others(self) -> dict[str, Service]:
        """The services that are not declared here."""
        ours = {service.host: service for service in self.state.configuration.services}
        known = self._services()
        return {host: known[host] for host in known if host not in ours}

    def _compile(self) -> None:
        self._dirty.clear()
        before = self.state
        self._elsewhere = self._others()
        state = self.documents.compile(self._elsewhere)
        self._say(before.problems, state.problems)
        if self.changed_at is None or state.configuration != before.configuration:
            self.changed_at = self._clock()
            self._emit(ConfigurationReplaced(source=SOURCE, configuration=state.configuration))
        self.compiled.set()

    def _say(self, before: Mapping[str, tuple[Problem, ...]], now: Mapping[str, tuple[Problem, ...]]) -> None:
        for key, problems in now.items():
            if before.get(key) != problems:
                self._log.error(
                    "object refused; its last good state stays in force",
                    object=key,
                    problems=[str(problem) for problem in problems],
                )
        for key in before.keys() - now.keys():
            self._log.info("object accepted", object=key)


def _kept(kind: DocumentKind, item: Mapping[str, Any]) -> Value:
    """The object with its kind, which lists leave out, and without who wrote which field."""
    metadata = {name: value for name, value in item["metadata"].items() if name != "managedFields"}
    return {**item, "apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}


def _key(kind: DocumentKind, namespace: str, name: str) -> str:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return key_of({"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata})
