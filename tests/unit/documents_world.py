"""A server's documents and answers before a mocked API server: shared by the tests of either."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress

from tests.kubernetes_apply import ApplyingCluster
from xds_server.mesh.mesh import Mesh
from xds_server.sources.kubernetes.answers import Answers
from xds_server.sources.kubernetes.api import Api
from xds_server.sources.kubernetes.documents import KubernetesDocuments
from xds_server.sources.kubernetes.kinds import ALL, ISTIO
from xds_server.sources.kubernetes.pool_report import PoolReporter
from xds_server.sources.kubernetes.servers import LEASES, Servers
from xds_server.sources.kubernetes.status_writer import StatusWriter
from xds_server.sources.kubernetes.watched import Scope, Timing
from xds_server.xds.hub import Hub

QUICK = Timing(server=60.0, late=1.0, inactivity=30.0, first=0.01, most=0.05, absent=0.05, brief=0.02)
ROUTES = ISTIO[3]


class Running:
    """One server's documents and answers; `hurry` makes the writer's and the Leases' seconds short."""

    def __init__(self, cluster, name):
        self.api = Api(cluster.login())
        self.hurry = 0.0
        self.mesh = Mesh()
        self.others = {}
        self.documents = KubernetesDocuments(
            self.api,
            Scope(),
            self.mesh.apply,
            lambda: {**self.mesh.routing.services, **self.others},
            timing=QUICK,
            patience=0.2,
        )
        self.hub = Hub(time.monotonic)
        self.writer = StatusWriter(self.api, clock=self.clock)
        self.servers = Servers(self.api, name, "xds-system", clock=self.clock)
        reporter = PoolReporter(self.mesh, self.hub, lambda host: (f"{host}|8033",))
        self.answers = Answers(self.documents, reporter, self.writer, self.servers)

    def clock(self):
        return time.monotonic() + self.hurry

    async def settle(self):
        """Rounds until one writes nothing: what the last one wrote has been seen by then."""
        for _ in range(20):
            before = self.writer.writes + self.writer.conflicts
            self.hurry += 100.0
            self.servers._seen = {name: (at, self.clock()) for name, (at, _) in self.servers._seen.items()}
            await self.answers.round()
            if self.writer.writes + self.writer.conflicts == before:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("status never rests")


@asynccontextmanager
async def server(cluster, name="server-1"):
    running = Running(cluster, name)
    await running.api.open()
    tasks = [asyncio.create_task(running.documents.run())]
    try:
        async with asyncio.timeout(10):
            await running.documents.listed()
            await running.servers.look()
        running.documents.begin()
        yield running
        assert not tasks[0].done(), tasks[0].exception()
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await running.api.close()


@asynccontextmanager
async def cluster_with(directory, *values, kinds=ALL):
    async with ApplyingCluster(directory) as cluster:
        cluster.serve(LEASES, *(kind.resource for kind in kinds))
        for value in values:
            await put(cluster, value)
        yield cluster


def kind_of(value):
    return next(
        kind
        for kind in ALL
        if kind.kind == value["kind"] and kind.api_version.split("/")[0] in value["apiVersion"]
    )


async def put(cluster, value):
    """Store it as the API server does: without the status, which is the servers'."""
    kind = kind_of(value).resource
    metadata = value["metadata"]
    try:
        status = cluster.get(kind, metadata.get("namespace", ""), metadata["name"]).get("status")
    except KeyError:
        status = None
    plain = {key: each for key, each in value.items() if key != "status"}
    await cluster.put(kind, plain | ({"status": status} if status else {}))


def status(cluster, value):
    metadata = value["metadata"]
    found = cluster.get(kind_of(value).resource, metadata.get("namespace", ""), metadata["name"])
    return found.get("status", {})


def conditions(holder):
    return {each["type"]: (each["status"], each["reason"], each["message"]) for each in holder["conditions"]}
