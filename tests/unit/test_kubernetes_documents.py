"""Objects of a live API: what the mesh is told, and what stands in their status; several servers agree."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress

import pytest
from api_objects import (
    config_map,
    entry,
    gateway,
    gateway_class,
    http_route,
    pool,
    virtual_service,
)

from tests.kubernetes_apply import ApplyingCluster
from tests.kubernetes_mock import refusal, until
from xds_server.config.objects import key_of
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.model import Service, ServicePort
from xds_server.sources.kubernetes.answers import Answers
from xds_server.sources.kubernetes.api import Api
from xds_server.sources.kubernetes.documents import KubernetesDocuments
from xds_server.sources.kubernetes.kinds import (
    ALL,
    CONFIG_MAPS,
    GATEWAY_API,
    GATEWAY_CLASSES,
    GATEWAYS,
    HTTP_ROUTES,
    ISTIO,
    MODEL_POOLS,
)
from xds_server.sources.kubernetes.pool_report import PoolReporter
from xds_server.sources.kubernetes.servers import DEAD, LEASES, Servers
from xds_server.sources.kubernetes.status_writer import StatusWriter
from xds_server.sources.kubernetes.watched import Scope, Timing
from xds_server.xds.hub import Hub

QUICK = Timing(server=60.0, late=1.0, inactivity=30.0, first=0.01, most=0.05, absent=0.05, brief=0.02)
KINDS = {kind.kind: kind for kind in ALL if kind.kind != "Gateway"} | {"ServiceEntry": ISTIO[2]}
ENTRIES = ISTIO[2]
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


async def test_a_pool_is_told_and_answered(tmp_path):
    async with cluster_with(tmp_path, entry(), pool()) as cluster, server(cluster) as running:
        assert list(running.mesh.routing.pools) == ["models"]
        await running.settle()
        found = status(cluster, pool())
        assert found["observedGeneration"] == 1
        assert (found["endpoints"], found["models"], found["envoys"]) == (1, 0, 0)
        assert conditions(found) == {
            "Accepted": ("True", "Accepted", "the spec is in force"),
            "ModelsDiscovered": ("False", "EndpointsSilent", "0 of 1 endpoints tell their models"),
            "Programmed": ("False", "NoEnvoys", "no connected Envoy has been sent this pool"),
        }
        assert [each["name"] for each in found["servers"]] == ["server-1"]


async def test_a_bad_pool_says_why_and_stays_as_it_was(tmp_path):
    async with cluster_with(tmp_path, entry(), pool()) as cluster, server(cluster) as running:
        before = running.mesh.routing
        bad = pool(generation=2)
        bad["spec"]["onMiss"] = {"notLoaded": "SOMEWHERE"}
        await put(cluster, bad)
        await until(lambda: running.documents.problems)
        await running.settle()
        found = status(cluster, bad)
        assert found["observedGeneration"] == 2
        state, reason, message = conditions(found)["Accepted"]
        assert (state, reason) == ("False", "Invalid")
        assert message.startswith('spec.onMiss.notLoaded: found "SOMEWHERE"; expected ANY_ENDPOINT')
        assert found["servers"][0]["generation"] == 1
        assert running.mesh.routing is before
        await put(cluster, pool(generation=3))
        await until(lambda: not running.documents.problems)
        await running.settle()
        assert conditions(status(cluster, bad))["Accepted"][0] == "True"


async def test_transition_times_stay_while_the_status_does(tmp_path):
    async with cluster_with(tmp_path, entry(), pool()) as cluster, server(cluster) as running:
        await running.settle()
        kept = status(cluster, pool())["conditions"][0]
        kept["lastTransitionTime"] = "2020-01-01T00:00:00Z"
        await put(cluster, pool(generation=2))
        await until(
            lambda: running.documents.present(MODEL_POOLS)["ml", "models"]["metadata"]["generation"] == 2
        )
        await running.settle()
        after = status(cluster, pool())["conditions"][0]
        assert (after["observedGeneration"], after["lastTransitionTime"]) == (2, "2020-01-01T00:00:00Z")


async def test_a_service_that_comes_later(tmp_path):
    async with cluster_with(tmp_path, pool()) as cluster, server(cluster) as running:
        assert "which no ServiceEntry or Service defines" in str(*running.documents.problems[key_of(pool())])
        host = "models.ml.svc.cluster.local"
        running.others[host] = Service(host, "ml", (ServicePort(8033, "http"),))
        running.documents.services_changed()
        await until(lambda: not running.documents.problems)
        assert list(running.mesh.routing.pools) == [host]


async def test_kinds_that_are_installed_later(tmp_path):
    async with cluster_with(tmp_path, kinds=()) as cluster, server(cluster) as running:
        assert not running.mesh.routing.services
        cluster.serve(*(kind.resource for kind in ALL))
        for value in (entry(), pool(), gateway_class(), gateway(), http_route()):
            await put(cluster, value)
        await until(lambda: running.documents.state.configuration.gateways)
        await until(lambda: running.mesh.routing.pools)
        await until(
            lambda: any(
                v.gateways == ("ml/front@gateway-api",) for v in running.mesh.routing.virtual_services
            )
        )


async def test_two_servers_agree_and_then_rest(tmp_path):
    values = [entry(), pool(), gateway_class(), gateway(), http_route(), virtual_service()]
    async with (
        cluster_with(tmp_path, *values) as cluster,
        server(cluster, "server-1") as one,
        server(cluster, "server-2") as two,
    ):
        await one.servers.look()
        await two.servers.look()
        for running in (one, two, one, two):
            await running.settle()
        patches = len(cluster.patches)
        for running in (one, two, one, two):
            await running.settle()
        assert len(cluster.patches) == patches
        found = status(cluster, pool())
        assert [each["name"] for each in found["servers"]] == ["server-1", "server-2"]
        assert one.documents.state.configuration == two.documents.state.configuration


async def test_what_a_dead_server_wrote_is_taken_out(tmp_path):
    async with cluster_with(tmp_path, entry(), pool()) as cluster:
        async with server(cluster, "gone") as running:
            await running.settle()
        async with server(cluster, "stays") as running:
            await running.settle()
            assert [each["name"] for each in status(cluster, pool())["servers"]] == ["gone", "stays"]
            running.hurry += DEAD + 1
            await running.servers.look()
            assert not running.servers.lives("gone")
            assert running.servers.lives("stays")
            await running.answers.round()
            assert [each["name"] for each in status(cluster, pool())["servers"]] == ["stays"]


async def test_a_server_that_leaves_takes_its_lease_away(tmp_path):
    async with (
        cluster_with(tmp_path) as cluster,
        server(cluster, "one") as one,
        server(cluster, "two") as two,
    ):
        await one.servers.look()
        assert one.servers.lives("two")
        await two.servers.leave()
        await one.servers.look()
        assert not one.servers.lives("two")


async def test_the_parents_of_a_route_are_shared_with_other_controllers(tmp_path):
    values = [entry(), pool(), gateway_class(), gateway(), http_route()]
    foreign = {"controllerName": "other", "parentRef": {"name": "theirs"}, "conditions": []}
    async with cluster_with(tmp_path, *values) as cluster, server(cluster) as running:
        cluster.get(HTTP_ROUTES.resource, "ml", "route")["status"] = {"parents": [foreign]}
        await put(cluster, http_route())
        await until(lambda: running.documents.present(HTTP_ROUTES)["ml", "route"].get("status"))
        await running.settle()
        theirs, ours = status(cluster, http_route())["parents"]
        assert theirs == foreign
        assert conditions(ours)["Accepted"][0] == conditions(ours)["ResolvedRefs"][0] == "True"
        assert conditions(status(cluster, gateway()))["Programmed"][0] == "True"
        assert status(cluster, gateway())["listeners"][0]["attachedRoutes"] == 1
        assert conditions(status(cluster, gateway_class()))["Accepted"][0] == "True"
        await put(cluster, http_route(parentRefs=[{"name": "theirs"}], generation=2))
        await until(lambda: not running.documents.state.configuration.virtual_services)
        await running.settle()
        assert status(cluster, http_route())["parents"] == [foreign]


async def test_a_conflict_is_tried_again_on_the_newer_object(tmp_path):
    values = [entry(), pool(), gateway_class(), gateway(), http_route()]
    async with cluster_with(tmp_path, *values) as cluster, server(cluster) as running:
        cluster.fault(
            lambda r: r.method.value.upper() == "PATCH" and r.resource.plural == "httproutes",
            refusal(409, "the object has been modified"),
        )
        await running.settle()
        assert running.writer.conflicts == 1
        assert running.writer.failures == 0
        assert len(status(cluster, http_route())["parents"]) == 1


async def test_a_listener_that_has_gone_leaves_the_status(tmp_path):
    two = gateway({"name": "a"}, {"name": "b", "port": 8081})
    async with cluster_with(tmp_path, gateway_class(), two) as cluster, server(cluster) as running:
        await running.settle()
        assert [each["name"] for each in status(cluster, two)["listeners"]] == ["a", "b"]
        one = gateway({"name": "a"}, generation=2)
        await put(cluster, one)
        await until(lambda: running.documents.present(GATEWAYS)["ml", "front"]["metadata"]["generation"] == 2)
        await until(lambda: len(running.documents.state.status[key_of(one)]["listeners"]) == 1)
        await running.settle()
        assert [each["name"] for each in status(cluster, one)["listeners"]] == ["a"]


async def test_what_istio_dropped_is_told_in_the_object(tmp_path):
    mapping = '"headerToDynamicSubsetKey":[{"header":"model","key":"k"}]'
    applied = f'{{"kind":"VirtualService","spec":{{"http":[{{{mapping}}}]}}}}'
    lost = virtual_service(annotations={"kubectl.kubernetes.io/last-applied-configuration": applied})
    theirs = {"type": "Reconciled", "status": "True"}
    async with cluster_with(tmp_path, entry(), pool(), lost) as cluster, server(cluster) as running:
        cluster.get(ROUTES.resource, "ml", "models")["status"] = {"conditions": [theirs]}
        await put(cluster, lost)
        await until(lambda: running.documents.present(ROUTES)["ml", "models"].get("status"))
        await running.settle()
        found = status(cluster, lost)["conditions"]
        assert found[0] == theirs
        said = {each["type"]: each for each in found[1:]}
        assert said["xds-server.dev/Accepted"]["status"] == "True"
        kept = said["xds-server.dev/FieldsKept"]
        assert (kept["status"], kept["reason"]) == ("False", "DroppedByCRD")
        assert "spec.http[0].headerToDynamicSubsetKey" in kept["message"]
        assert "ConfigMap" in kept["message"]


async def test_objects_of_istios_own_are_left_alone(tmp_path):
    own = virtual_service("reviews", name="reviews", namespace="shop")
    async with cluster_with(tmp_path, entry(), pool(), own) as cluster, server(cluster) as running:
        await running.settle()
        assert not running.documents.problems
        assert "status" not in cluster.get(ROUTES.resource, "shop", "reviews")


TEXT = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mapped}
spec:
  hosts: ["*"]
  http:
    - headerToDynamicSubsetKey: [{header: x-model, key: modelmesh.asm.alibabacloud.com}]
      route: [{destination: {host: models}}]
"""


async def test_documents_in_a_labelled_config_map(tmp_path):
    labelled = config_map({"route.yaml": TEXT}, labels={"xds-server.dev/documents": "true"})
    other = config_map({"route.yaml": "nothing"}, name="other")
    async with (
        cluster_with(tmp_path, entry(), pool(), labelled, other) as cluster,
        server(cluster) as running,
    ):
        assert set(running.documents.present(CONFIG_MAPS)) == {("ml", "models")}
        (service,) = [each for each in running.mesh.routing.virtual_services if each.name == "ml/mapped"]
        assert service.routes[0].header_to_key[0].header == "x-model"
        labelled["data"] = {"route.yaml": "kind: ["}
        await put(cluster, labelled)
        await until(lambda: running.documents.problems)
        assert any(each.name == "ml/mapped" for each in running.mesh.routing.virtual_services)


async def test_a_missing_permission_to_write_is_named(tmp_path):
    async with cluster_with(tmp_path, entry(), pool()) as cluster, server(cluster) as running:
        cluster.fault(
            lambda r: r.method.value.upper() == "PATCH" and r.resource.plural == "modelpools",
            refusal(403, "forbidden"),
            times=1000,
        )
        await running.answers.round()
        assert running.writer.missing_permissions == {
            "patch modelpools/status.xds-server.dev in namespace ml",
        }
        cluster.faults.clear()
        await running.settle()
        assert not running.writer.missing_permissions
        assert conditions(status(cluster, pool()))["Accepted"][0] == "True"


async def test_writes_to_one_object_are_spaced(tmp_path):
    async with cluster_with(tmp_path, entry(), pool()) as cluster, server(cluster) as running:
        await running.answers.round()
        writes = running.writer.writes
        assert writes == 3  # the pool twice, the ServiceEntry once
        cluster.get(MODEL_POOLS.resource, "ml", "models")["status"] = {"servers": []}
        await put(cluster, pool())
        await until(
            lambda: running.documents.present(MODEL_POOLS)["ml", "models"]["status"] == {"servers": []}
        )
        await running.answers.round()
        assert running.writer.writes == writes
        running.hurry += 2.1
        await running.answers.round()
        assert running.writer.writes == writes + 2


@pytest.mark.parametrize("kind", [GATEWAY_CLASSES, *GATEWAY_API])
async def test_without_permission_for_a_kind_the_others_go_on(tmp_path, kind):
    async with ApplyingCluster(tmp_path) as cluster:
        cluster.serve(LEASES, *(each.resource for each in ALL))
        await put(cluster, entry())
        await put(cluster, pool())
        plural, group = kind.resource.plural, kind.resource.group
        cluster.fault(
            lambda r: r.resource is not None and (r.resource.plural, r.resource.group) == (plural, group),
            refusal(403, "forbidden"),
            times=100_000,
        )
        async with server(cluster) as running:
            assert list(running.mesh.routing.pools) == ["models"]
            missing = [each.missing_permission for each in running.documents.watch_status()]
            assert [text for text in missing if text] == [f"list {kind.resource} {kind.resource.where('')}"]


async def test_classes_are_not_waited_for_where_there_are_no_gateways(tmp_path):
    """An API server asks for the permission first: 403 is its answer also where the CRDs are missing."""
    served = [kind for kind in ALL if kind not in GATEWAY_API]
    async with cluster_with(tmp_path, entry(), pool(), kinds=served) as cluster:
        cluster.fault(
            lambda r: r.resource is not None and r.resource.plural == "gatewayclasses",
            refusal(403, "forbidden"),
            times=100_000,
        )
        running = Running(cluster, "server")
        running.documents._patience = 1000.0
        await running.api.open()
        task = asyncio.create_task(running.documents.run())
        try:
            async with asyncio.timeout(10):
                await running.documents.listed()
            assert not any(each.missing_permission for each in running.documents.watch_status())
            cluster.serve(GATEWAYS.resource)
            await until(lambda: any(each.missing_permission for each in running.documents.watch_status()))
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await running.api.close()


async def test_nothing_is_told_before_the_pools_may_be_read(tmp_path):
    async with cluster_with(tmp_path, entry(), pool()) as cluster:
        cluster.fault(
            lambda r: r.resource is not None and r.resource.plural == "modelpools",
            refusal(403, "forbidden"),
            times=100_000,
        )
        running = Running(cluster, "server")
        await running.api.open()
        task = asyncio.create_task(running.documents.run())
        listed = asyncio.create_task(running.documents.listed())
        await until(lambda: any(each.missing_permission for each in running.documents.watch_status()))
        await asyncio.wait([listed], timeout=0.5)
        assert not listed.done()
        cluster.faults.clear()
        async with asyncio.timeout(10):
            await listed
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await running.api.close()


async def test_many_pools_take_turns(tmp_path):
    values = [entry(f"host-{i:03}", name=f"e-{i:03}") for i in range(120)]
    pools = [pool(f"host-{i:03}", name=f"p-{i:03}") for i in range(120)]
    async with cluster_with(tmp_path, *values, *pools) as cluster, server(cluster) as running:
        assert len(running.answers._turn()) == 120  # none has been answered yet
        await running.answers.round()
        await until(
            lambda: all(
                value.get("status", {}).get("observedGeneration") == 1
                for value in running.documents.present(MODEL_POOLS).values()
            )
        )
        turns = [{value["metadata"]["name"] for value in running.answers._turn()} for _ in range(3)]
        assert [len(turn) for turn in turns] == [50, 50, 50]
        assert len(set.union(*turns)) == 120
