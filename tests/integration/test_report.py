"""`xds-server report` over real streams: what is told and when, what a loss costs, who is refused."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.certificates import Authority
from tests.integration.scripted_index import IndexServer
from tests.mesh_events import HOST, configuration, endpoint
from xds_server.mesh.events import ConfigurationReplaced
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.model import Health
from xds_server.mesh.pools import Push
from xds_server.report import streaming
from xds_server.report.runner import ReportOptions, run
from xds_server.report.streaming import Subject, Tls
from xds_server.sources.reports.source import ReportSource
from xds_server.sources.runtimes.asking import Target
from xds_server.transport.server import XdsServer
from xds_server.transport.tls import Certificates
from xds_server.xds.access import AccessList, Grant
from xds_server.xds.hub import Hub
from xds_server.xds.status import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

POD = "modelmesh-serving-abcde"

LIMIT = 20.0
"""Seconds after which an end that does not come is a failure, not a test that hangs."""


class World:
    """A server that takes reports, with one pool of `push`; endpoint a is the pod."""

    def __init__(self, certificates: Certificates | None = None) -> None:
        self.mesh = Mesh()
        self.hub = Hub(lambda: 0.0)
        self.source = ReportSource(self.mesh.apply)
        self.certificates = certificates
        self.port = 0
        self.server: XdsServer | None = None

    async def start(self) -> None:
        address = f"127.0.0.1:{self.port}"
        self.server = XdsServer(self.hub, address, None, self.certificates, self.source)
        self.port = await self.server.start()

    async def stop(self) -> None:
        if self.server is not None:
            await asyncio.wait_for(self.server.stop(1.0), LIMIT)

    def configure(self, letters: str = "ab") -> None:
        base = configuration("", discovery=Push(5))
        endpoints = tuple(endpoint(each, pod=POD if each == "a" else "") for each in letters)
        whole = type(base)(services=base.services, pools=base.pools, endpoints=endpoints)
        self.mesh.apply(ConfigurationReplaced(source="files", configuration=whole))
        self.source.set_targets(self.mesh.services())

    def seen(self) -> tuple[Health, str]:
        status = self.mesh.status(HOST)[0]
        return status.health, " ".join(status.routed)

    async def until(self, what: Callable[[], bool], seconds: float = 15) -> None:
        async with asyncio.timeout(seconds):
            while not what():  # noqa: ASYNC110 - the mesh tells the publisher, not a test
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def serving(certificates: Certificates | None = None) -> AsyncIterator[World]:
    world = World(certificates)
    world.configure()
    await world.start()
    try:
        yield world
    finally:
        await world.stop()


@contextlib.asynccontextmanager
async def reporting(
    world: World, runtime: IndexServer, tls: Tls | None = None, **subject: str
) -> AsyncIterator[None]:
    options = ReportOptions(
        Target(runtime.url, 0.05, 2.0),
        Subject(**(subject or {"pod": POD})),
        (f"localhost:{world.port}" if tls else f"127.0.0.1:{world.port}",),
        tls,
    )
    stop = asyncio.Event()
    task = asyncio.create_task(run(options, stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, LIMIT)


@pytest.fixture
async def runtime() -> AsyncIterator[IndexServer]:
    async with IndexServer() as runtime:
        runtime.models = {"m": "READY", "n": "LOADING"}
        yield runtime


async def test_a_change_is_told_at_once_and_a_loss_of_the_stream_loses_no_model(runtime):
    async with serving() as world:
        async with reporting(world, runtime):
            await world.until(lambda: world.seen() == (Health.OK, "m"))
            runtime.models["n"] = "READY"
            await world.until(lambda: world.seen() == (Health.OK, "m n"))
            assert [row.state for row in world.mesh.status(HOST)[0].models] == ["READY", "READY"]
        await world.until(lambda: world.seen() == (Health.STALE, "m n"))
        assert world.mesh.status(HOST)[0].failure.error == "its reporter: its stream has ended"
        runtime.models = {"n": "READY"}
        async with reporting(world, runtime):
            await world.until(lambda: world.seen() == (Health.OK, "n"))


async def test_a_runtime_that_is_gone_is_told_as_such(runtime):
    async with serving() as world, reporting(world, runtime):
        await world.until(lambda: world.seen() == (Health.OK, "m"))
        await runtime.close()
        await world.until(lambda: world.seen() == (Health.DOWN, ""))
        await runtime.open()
        await world.until(lambda: world.seen() == (Health.OK, "m"))


async def test_a_heartbeat_keeps_the_report_fresh(runtime, monkeypatch):
    monkeypatch.setattr(streaming, "HEARTBEAT", 0.05)
    async with serving() as world, reporting(world, runtime):
        await world.until(lambda: world.seen() == (Health.OK, "m"))
        told = world.mesh.status(HOST)[0].reported_at
        await world.until(lambda: world.mesh.status(HOST)[0].reported_at > told)


async def test_a_server_that_restarts_is_told_again(runtime):
    async with serving() as world, reporting(world, runtime):
        await world.until(lambda: world.seen() == (Health.OK, "m"))
        await world.stop()
        await world.until(lambda: world.seen() == (Health.STALE, "m"))
        assert world.mesh.status(HOST)[0].failure.error == "its reporter: the server is stopping"
        runtime.models["o"] = "READY"
        await world.start()
        await world.until(lambda: world.seen() == (Health.OK, "m o"))


async def test_a_report_that_comes_before_its_endpoint_is_joined_and_one_by_address_too(runtime):
    async with serving() as world, reporting(world, runtime):
        world.configure("b")
        await world.until(lambda: bool(world.source.reporters))
        world.configure("ab")
        await world.until(lambda: world.seen() == (Health.OK, "m"))
        async with reporting(world, runtime, endpoint="10.0.0.2:9090", service=HOST):
            await world.until(lambda: world.mesh.status(HOST)[1].routed == ("m",))
        world.configure("b")
        assert len(world.source.reporters) == 2


async def test_a_reporter_that_comes_back_before_its_loss_was_noticed_is_not_lost_by_it(runtime):
    async with serving() as world:
        one = contextlib.AsyncExitStack()
        await one.enter_async_context(reporting(world, runtime))
        await world.until(lambda: world.seen() == (Health.OK, "m"))
        first = world.source.reporters[0]
        async with reporting(world, runtime):
            await world.until(lambda: world.source.reporters[0] is not first)
            await one.aclose()
            await world.until(lambda: len(world.source._streams) == 1)
            assert world.seen() == (Health.OK, "m")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def listed(*reports: str, identity: str = "spiffe://mesh/ns/ml/sa/modelmesh") -> AccessList:
    return AccessList([Grant(identity, reports=reports), Grant("envoy.example", nodes=("*",))])


async def test_only_an_identity_that_is_bound_to_the_pod_may_report_on_it(runtime, authority):
    server = authority.issue("server", "DNS:localhost")
    reporter = authority.issue("reporter", "URI:spiffe://mesh/ns/ml/sa/modelmesh")
    envoy = authority.issue("envoy", "DNS:envoy.example")
    certificates = Certificates(server)
    await certificates.load()
    as_reporter = Tls(authority.ca, reporter.certificate, reporter.key)
    async with serving(certificates) as world:
        world.server.allow(listed("other-*"))
        async with reporting(world, runtime, as_reporter):
            await world.until(lambda: world.hub.stats.refusals[Refusal.FOREIGN_REPORT] > 0)
            assert world.seen()[1] == ""
            world.server.allow(listed("modelmesh-serving-*"))
            await world.until(lambda: world.seen() == (Health.OK, "m"))
        refused = world.hub.stats.refusals[Refusal.FOREIGN_REPORT]
        async with reporting(world, runtime, Tls(authority.ca, envoy.certificate, envoy.key)):
            await world.until(lambda: world.hub.stats.refusals[Refusal.FOREIGN_REPORT] > refused)
        assert world.seen() == (Health.STALE, "m")
        unknown = authority.issue("unknown", "DNS:unknown.example")
        async with reporting(world, runtime, Tls(authority.ca, unknown.certificate, unknown.key)):
            await world.until(lambda: world.hub.stats.refusals[Refusal.UNKNOWN_IDENTITY] > 0)


async def test_an_identity_that_is_taken_off_the_list_loses_its_stream(runtime, authority, monkeypatch):
    monkeypatch.setattr(streaming, "HEARTBEAT", 0.05)
    certificates = Certificates(authority.issue("server", "DNS:localhost"))
    await certificates.load()
    reporter = authority.issue("reporter", "URI:spiffe://mesh/ns/ml/sa/modelmesh")
    async with serving(certificates) as world:
        world.server.allow(listed("modelmesh-serving-*"))
        async with reporting(world, runtime, Tls(authority.ca, reporter.certificate, reporter.key)):
            await world.until(lambda: world.seen() == (Health.OK, "m"))
            world.server.allow(listed("modelmesh-serving-*", identity="someone.else"))
            await world.until(lambda: world.seen() == (Health.STALE, "m"))
            assert "not in this server's list" in world.mesh.status(HOST)[0].failure.error
