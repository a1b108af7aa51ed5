"""Wires the parts of `xds-server serve`: start-up order, readiness, signals, shutdown.

The order: documents are read (any error ends it here), ports are bound, every runtime is asked
once, the first catalog is published. Only then is a client answered.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import structlog

from xds_server import __version__
from xds_server.admin.probes import ProbeServer
from xds_server.admin.server import AdminServer
from xds_server.admin.state import AdminState
from xds_server.mesh.events import ConfigurationReplaced, EndpointsChanged
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.pools import ModelMesh, Push
from xds_server.moves import Mover
from xds_server.publisher import Publisher
from xds_server.readiness import Readiness
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.sources.clients import ClientsSource
from xds_server.sources.files import FilesSource, NoFiles
from xds_server.sources.kubernetes.access import AccessError
from xds_server.sources.kubernetes.declared import DeclaredObjects, WholeCluster
from xds_server.sources.kubernetes.source import KubernetesSource
from xds_server.sources.modelmesh.source import ModelMeshSource
from xds_server.sources.modelmesh.source import targets as modelmesh_targets
from xds_server.sources.reports.source import ReportSource
from xds_server.sources.runtimes.poller import Poller
from xds_server.sources.runtimes.second_look import SecondLook
from xds_server.sources.runtimes.targets import target_of, targets
from xds_server.transport.server import XdsServer
from xds_server.transport.tls import CertificateError, Certificates
from xds_server.xds.hub import Hub

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds_server.config.problems import Problem
    from xds_server.mesh.events import Event
    from xds_server.settings import ServeOptions

EXIT_OK = 0
EXIT_BAD_CONFIGURATION = 1
EXIT_USAGE = 2
EXIT_CANNOT_BIND = 3
EXIT_INTERNAL = 70

FIRST_ROUND_LIMIT = 15.0
"""Seconds that the first answer to a client waits at most for runtimes that do not answer."""


def steady_clock() -> Callable[[], float]:
    """Seconds since the epoch that never step: a corrected wall clock must not stretch a grace period."""
    origin = time.time() - time.monotonic()
    return lambda: origin + time.monotonic()


class Server:
    """One running server: every part, wired."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.readiness = Readiness()
        self._log = structlog.get_logger("app")
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._expiry: asyncio.TimerHandle | None = None
        self._clock = steady_clock()
        self.mesh = Mesh(on_change=self._on_change)
        self.hub = Hub(time.monotonic, ttl=options.resource_ttl)
        self.builder = Builder(BuildOptions(access_log=options.access_log, model_stats=options.model_stats))
        self.publisher = Publisher(self.mesh, self.builder, self.hub, window=options.merge_window)
        self.poller = Poller(self._emit, on_error=self._fail, clock=self._clock)
        self.second_look = SecondLook(self.mesh.find_endpoints, self.poller)
        self.kubernetes = (
            None
            if options.kubernetes is None
            else KubernetesSource(
                options.kubernetes, self._emit, on_services=self._services_changed, clock=self._clock
            )
        )
        self.declared = self._declared(options)
        self.files = (
            NoFiles()
            if options.config is None
            else FilesSource(
                options.config,
                self._emit,
                lambda _problems: None,
                cluster=options.kubernetes is not None,
                clock=self._clock,
            )
        )
        self.modelmesh = ModelMeshSource(self._emit, on_error=self._fail, clock=self._clock)
        self.mover = Mover(
            self.mesh,
            self.hub,
            self.publisher,
            self.poller,
            self.builder.assignments,
            lag=self.builder.lag,
            clock=self._clock,
        )
        tls = options.tls_files()
        self.certificates = None if tls is None else Certificates(tls, clock=self._clock)
        self.reports = ReportSource(self._emit, clock=self._clock)
        self.xds = XdsServer(
            self.hub,
            options.xds,
            options.transport,
            self.certificates,
            self.reports,
            answers=self.second_look,
            knows=self.mesh.knows,
        )
        self.clients = (
            None
            if options.clients is None
            else ClientsSource(options.clients, self.xds.allow, clock=self._clock)
        )
        self.admin = AdminServer(
            AdminState(
                mesh=self.mesh,
                hub=self.hub,
                mover=self.mover,
                files=self.files,
                publisher=self.publisher,
                poller=self.poller,
                second_look=self.second_look,
                made_of=self.builder.state,
                readiness=self.readiness,
                certificates=self.certificates,
                clients=self.clients,
                kubernetes=self._cluster(),
                registries=lambda: self.modelmesh.readers,
                reporters=lambda: self.reports.reporters,
                metrics_per_client=options.metrics_per_client,
                clock=self._clock,
            ),
            options.admin,
        )
        self.probes = None if options.probes is None else ProbeServer(self.admin.state, options.probes)

    async def read(self) -> tuple[Problem | str, ...]:
        """Read every file for the first time. Returns what is wrong with them."""
        problems: list[Problem | str] = []
        if self.certificates is not None:
            try:
                await self.certificates.load()
            except CertificateError as error:
                problems.append(str(error))
        if self.clients is not None:
            await self.clients.check()
            problems += self.clients.problems
        if self.kubernetes is not None:
            try:
                await self.kubernetes.start()
            except AccessError as error:
                problems.append(f"--kubernetes: {error}")
        await self.files.start()
        return (*problems, *self.files.problems)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set or a part fails; the failure is raised."""
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(self.files.run(), name="files"),
                group.create_task(self.publisher.run(), name="publisher"),
                group.create_task(self._first_sync(), name="first-sync"),
            ]
            if self.kubernetes is not None:
                running.append(group.create_task(self.kubernetes.run(), name="kubernetes"))
            if self.declared is not None:
                running.append(group.create_task(self.declared.run(), name="kubernetes-documents"))
            if self.certificates is not None:
                running.append(group.create_task(self.certificates.run(), name="certificates"))
            if self.clients is not None:
                running.append(group.create_task(self.clients.run(), name="clients"))
            stopping = group.create_task(stop.wait(), name="stop-signal")
            ends: list[asyncio.Future[Any]] = [stopping, self._failure]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in (*running, stopping):
                task.cancel()
        if self._failure.done():
            self._failure.result()

    async def start(self) -> None:
        """Bind the ports. Raises OSError when one cannot be bound."""
        admin_port = await self.admin.start()
        if self.probes is not None:
            await self.probes.start()
        xds_port = await self.xds.start()
        self._log.info(
            "listening",
            version=__version__,
            xds=_with_port(self.options.xds, xds_port),
            admin=_with_port(self.options.admin, admin_port),
            config=str(self.options.config),
        )

    async def close(self) -> None:
        """Stop every part, in the reverse order of the data; Envoys keep what they have."""
        self.readiness.ready = False
        self.readiness.reason = "stopping"
        if self._expiry is not None:
            self._expiry.cancel()
        await self.mover.close()
        await self.poller.close()
        if self.declared is not None:
            await self.declared.close()
        if self.kubernetes is not None:
            await self.kubernetes.close()
        await self.modelmesh.close()
        await self.xds.stop(self.options.stop_limit)
        if self.probes is not None:
            await self.probes.stop()
        await self.admin.stop()

    async def _first_sync(self) -> None:
        if self.kubernetes is not None:
            # Without limit: an Envoy that is answered before the first lists would lose what it has.
            self.readiness.waits_for = self.kubernetes.waits_for
            await self.kubernetes.synced()
        if self.declared is not None:
            self.readiness.waits_for = self.declared.waits_for
            await self.declared.begin()
        self.readiness.waits_for = None
        self.readiness.reason = "every runtime is being asked once"
        async with asyncio.TaskGroup() as rounds:
            for source in (self.poller, self.modelmesh):
                rounds.create_task(source.first_round(FIRST_ROUND_LIMIT), name="first-round")
        serial = self.publisher.start()
        self.xds.serving(ready=True)
        # What is in memory by now stays, mostly classes of the message library: a full collection that goes
        # through it all would hold up a push by tenths of a second.
        gc.freeze()
        self.readiness.ready = True
        self.readiness.reason = "serving"
        self._log.info("ready", serial=serial, services=len(self.mesh.services()))

    def _emit(self, event: Event) -> None:
        self.mesh.apply(event)
        if isinstance(event, ConfigurationReplaced):
            self.poller.set_targets(targets(self.mesh.routing, self.mesh.services()))
            self.modelmesh.set_targets(modelmesh_targets(self.mesh.routing, self.mesh.services()))
            self.reports.set_targets(self.mesh.services())
            if self.kubernetes is not None:
                self.kubernetes.follow(event)
            self._services_changed()
        elif isinstance(event, EndpointsChanged):
            self._retarget(event)
        self._arm_expiry()

    def _declared(self, options: ServeOptions) -> DeclaredObjects | None:
        """The documents that are objects of the cluster; None where no cluster is followed."""
        if self.kubernetes is None or options.kubernetes is None:
            return None
        source = self.kubernetes
        return DeclaredObjects(
            source.api,
            options.kubernetes.namespaces,
            self._emit,
            lambda: source.services,
            mesh=self.mesh,
            hub=self.hub,
            clusters=self.builder.assignments,
            clock=self._clock,
        )

    def _cluster(self) -> WholeCluster | None:
        """Everything of the cluster, for the admin."""
        if self.kubernetes is None or self.declared is None:
            return None
        return WholeCluster(self.kubernetes, self.declared)

    def _services_changed(self) -> None:
        if self.declared is not None:
            self.declared.services_changed()

    def _retarget(self, event: EndpointsChanged) -> None:
        """Ask the runtimes behind the endpoints that changed, and only those that are there."""
        pool = self.mesh.routing.pools.get(event.service)
        keys = (*event.removed, *(endpoint.id for endpoint in event.declared))
        found = {key: self.mesh.endpoint(key) for key in keys}
        self.poller.change_targets(
            {key: None if each is None else target_of(each, pool) for key, each in found.items()}
        )
        if pool is not None and isinstance(pool.discovery, ModelMesh | Push):
            self.reports.set_targets(self.mesh.services())
            self.modelmesh.set_targets(modelmesh_targets(self.mesh.routing, self.mesh.services()))

    def _on_change(self) -> None:
        self.publisher.notify()

    def _arm_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        deadline = self.mesh.next_deadline()
        if deadline is not None:
            delay = max(0.0, deadline - self._clock())
            self._expiry = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        try:
            self.mesh.expire(self._clock())
            self._arm_expiry()
        except Exception as error:  # noqa: BLE001 - a timer has no caller: without this, no grace would end again
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"


def _install_signals(stop: asyncio.Event) -> None:
    """The first SIGTERM or SIGINT stops gracefully, the second at once."""
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            raise SystemExit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


async def serve(options: ServeOptions) -> int:
    """Run the server until a signal; returns the process's exit code."""
    log = structlog.get_logger("app")
    if mistake := options.mistake():
        sys.stderr.write(f"{mistake}\n")
        return EXIT_USAGE
    stop = asyncio.Event()
    _install_signals(stop)
    asyncio.get_running_loop().set_exception_handler(_log_unexpected)
    server = Server(options)
    try:
        problems = await server.read()
        if problems:
            _refuse(problems, options)
            return EXIT_BAD_CONFIGURATION
        try:
            await server.start()
        except OSError as error:
            sys.stderr.write(f"cannot listen: {error}\n")
            return EXIT_CANNOT_BIND
        await server.run(stop)
    except Exception:
        log.exception("a part of the server failed; stopping")
        return EXIT_INTERNAL
    finally:
        await server.close()
    log.info("stopped")
    return EXIT_OK


def _log_unexpected(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody awaits (a callback, a forgotten task) is written like everything else, not past the log."""
    structlog.get_logger("app").error(
        "unexpected", said=context.get("message"), exc_info=context.get("exception")
    )


def _refuse(problems: tuple[Problem | str, ...], options: ServeOptions) -> None:
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    read = (options.config, options.clients, options.tls_cert, options.tls_key, options.tls_client_ca)
    where = ", ".join(str(path) for path in read if path is not None)
    sys.stderr.write(f"{len(problems)} error{'s' * (len(problems) > 1)} in {where}; not started.\n")
