"""ModelMesh's registries as a source: one reader for each pool that learns its models from one.

A task for each: it connects, lists, watches, and tells the mesh what every endpoint has; an endpoint is
joined to an instance by the last characters of its pod's name. What is out of reach loses its freshness
and nothing else: ReportFailed LOST, until the next listing.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from xds_server.mesh.events import FailureKind, ModelsKnown, ModelsReported, ReportFailed, ReportsForgotten
from xds_server.mesh.origins import Origin
from xds_server.mesh.pools import ModelMesh
from xds_server.sources.modelmesh.connection import ConnectionFileError, read_connection
from xds_server.sources.modelmesh.etcd import CompactedError, EtcdError, session
from xds_server.sources.modelmesh.registry import INSTANCE_ID, Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from xds_server.mesh.events import Event
    from xds_server.mesh.model import EndpointId, ServicePicture
    from xds_server.mesh.routing import Routing
    from xds_server.sources.modelmesh.connection import Connection
    from xds_server.sources.modelmesh.etcd import EtcdSession

SOURCE = Origin.REGISTRY.value
"""The name under which the mesh keeps what is learnt here."""

BACKOFF = (0.2, 5.0)
"""Seconds between two attempts: the first, and what doubling them ends at."""


@dataclass(frozen=True, slots=True)
class Target:
    """One service's registry. `instances`: which one each endpoint would be; empty: its pod is not known."""

    discovery: ModelMesh
    instances: Mapping[EndpointId, str]


def targets(routing: Routing, services: Mapping[str, ServicePicture]) -> dict[str, Target]:
    """One for each pool that learns its models from ModelMesh, by service host."""
    found = {}
    for host, pool in routing.pools.items():
        if host in services and isinstance(pool.discovery, ModelMesh):
            endpoints = (placed.endpoint for placed in services[host].endpoints)
            instances = {each.id: each.pod[-INSTANCE_ID:] for each in endpoints}
            found[host] = Target(pool.discovery, instances)
    return found


@dataclass(slots=True, eq=False)
class Reader:
    """One registry being read. Times are epoch seconds; read by the admin, written by the source."""

    host: str
    target: Target
    registry: Registry
    connected: bool = False
    endpoint: str = ""
    heard_at: float | None = None
    """When etcd last said anything."""
    listings: int = 0
    """Times that everything was listed: at each connection, and after a compaction."""
    error: str = "not read yet"
    """Why it is not being read; empty while it is."""
    lost_at: float | None = None
    listed: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class ModelMeshSource:
    """Reads the registries of the targets that it was last given. Create it on the running loop; close it.

    Args:
        emit: takes each event, synchronously.
        on_error: told of a defect that ended a reader, which is also logged.
        clock: epoch seconds, for the events.
        rng: where the jitter comes from.
    """

    def __init__(
        self,
        emit: Callable[[Event], None],
        *,
        on_error: Callable[[BaseException], None],
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._emit = emit
        self._on_error = on_error
        self._clock = clock
        self._rng = rng if rng is not None else random.Random()  # noqa: S311 - jitter, no secret
        self._readers: dict[str, Reader] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("modelmesh")

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Every registry, sorted by service host."""
        return tuple(self._readers[host] for host in sorted(self._readers))

    def set_targets(self, targets: Mapping[str, Target]) -> None:
        """Read exactly these from now on. What is no longer read is forgotten."""
        for host in [host for host in self._readers if host not in targets]:
            reader = self._readers.pop(host)
            self._end(reader)
            self._forget(reader.target.instances)
            self._emit(ModelsKnown(service=host, source=SOURCE, models=()))
        for host, target in targets.items():
            present = self._readers.get(host)
            if present is None:
                self._begin(host, target)
            elif present.target != target:
                self._change(present, target)

    async def first_round(self, timeout: float) -> bool:  # noqa: ASYNC109
        """Wait until each registry was listed once, `timeout` seconds at most; returns whether all were."""
        try:
            async with asyncio.timeout(timeout):
                for reader in self.readers:
                    await reader.listed.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """End every reader."""
        for reader in self._readers.values():
            self._end(reader)
        self._readers.clear()
        if self._ending:
            await asyncio.wait(self._ending)

    def _begin(self, host: str, target: Target) -> None:
        reader = Reader(host, target, Registry(target.discovery.loaded_after))
        self._readers[host] = reader
        reader.task = asyncio.create_task(self._run(reader), name=f"modelmesh registry of {host}")
        reader.task.add_done_callback(self._ended)

    def _change(self, reader: Reader, target: Target) -> None:
        """Other endpoints are told of at once; another registry is read from the beginning."""
        before, reader.target = reader.target, target
        self._forget(before.instances.keys() - target.instances.keys())
        if before.discovery != target.discovery:
            self._end(reader)
            self._begin(reader.host, target)
            return
        joined = {e for e, instance in target.instances.items() if before.instances.get(e) != instance}
        if reader.listings:
            self._tell(reader, joined)
            if reader.lost_at is not None:
                self._tell_lost(reader, joined, reader.lost_at)

    def _end(self, reader: Reader) -> None:
        if reader.task is not None and not reader.task.done():
            self._ending.add(reader.task)
            reader.task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A reader ends by being cancelled, or by a defect, which must not go unseen."""
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("reading ended by a defect", task=task.get_name(), exc_info=error)
            self._on_error(error)

    async def _run(self, reader: Reader) -> None:
        attempt = 0
        first, last = BACKOFF
        while True:
            listings = reader.listings
            try:
                connection = await asyncio.to_thread(
                    read_connection, Path(reader.target.discovery.connection_file)
                )
                await self._read(reader, connection, attempt)
            except (EtcdError, ConnectionFileError) as error:
                self._lose(reader, str(error))
            attempt = 0 if reader.listings > listings else attempt + 1
            wait = min(last, first * 2 ** min(attempt, 10))
            await asyncio.sleep(self._rng.uniform(wait / 2, wait))

    async def _read(self, reader: Reader, connection: Connection, attempt: int) -> None:
        """One session, with one of the endpoints after the other: list, then watch until it ends."""
        endpoint = connection.endpoints[attempt % len(connection.endpoints)]
        root = f"{connection.root_prefix}/" if connection.root_prefix else ""
        async with session(connection, endpoint, root + reader.target.discovery.prefix) as etcd:
            reader.endpoint = endpoint
            while True:
                revision = await self._list(reader, etcd)
                try:
                    await self._follow(reader, etcd, revision + 1)
                except CompactedError as error:
                    self._log.info("registry compacted", service=reader.host, said=str(error))

    async def _follow(self, reader: Reader, etcd: EtcdSession, revision: int) -> None:
        async with aclosing(etcd.watch(revision)) as batches:
            async for changes in batches:
                reader.heard_at = self._clock()
                touched = {each for change in changes for each in reader.registry.apply(change)}
                self._tell(reader, self._endpoints(reader, touched) if changes else None)
                if changes:
                    self._tell_known(reader)

    async def _list(self, reader: Reader, etcd: EtcdSession) -> int:
        revision, listing = await etcd.read()
        reader.registry.replace(listing)
        reader.listings += 1
        reader.listed.set()
        reader.heard_at = self._clock()
        reader.connected, reader.error, reader.lost_at = True, "", None
        self._log.info(
            "registry read",
            service=reader.host,
            etcd=reader.endpoint,
            revision=revision,
            keys=len(listing),
            instances=len(reader.registry.instances()),
            unreadable=len(reader.registry.problems),
        )
        self._tell(reader, None)
        self._tell_known(reader)
        return revision

    def _endpoints(self, reader: Reader, instances: set[str]) -> set[EndpointId]:
        return {endpoint for endpoint, each in reader.target.instances.items() if each in instances}

    def _tell(self, reader: Reader, endpoints: Iterable[EndpointId] | None) -> None:
        """What these endpoints have; None: all of them, also where nothing changed: it is still so."""
        now = self._clock()
        for endpoint in sorted(reader.target.instances if endpoints is None else endpoints):
            instance = reader.target.instances[endpoint]
            rows = reader.registry.rows(instance) if instance else ()
            self._emit(ModelsReported(endpoint=endpoint, source=SOURCE, models=rows, at=now))

    def _tell_known(self, reader: Reader) -> None:
        self._emit(ModelsKnown(service=reader.host, source=SOURCE, models=reader.registry.known()))

    def _lose(self, reader: Reader, error: str) -> None:
        if reader.lost_at is None:
            reader.lost_at = self._clock()
        if reader.error != error:
            self._log.warning(
                "registry cannot be read", service=reader.host, etcd=reader.endpoint, error=error
            )
        reader.connected, reader.error = False, error
        self._tell_lost(reader, reader.target.instances, self._clock())

    def _tell_lost(self, reader: Reader, endpoints: Iterable[EndpointId], at: float) -> None:
        for endpoint in sorted(endpoints):
            error = f"ModelMesh's registry: {reader.error}"
            self._emit(
                ReportFailed(endpoint=endpoint, source=SOURCE, kind=FailureKind.LOST, error=error, at=at)
            )

    def _forget(self, endpoints: Iterable[EndpointId]) -> None:
        for endpoint in sorted(endpoints):
            self._emit(ReportsForgotten(endpoint=endpoint, source=SOURCE))
