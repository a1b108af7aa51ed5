"""What stands in the status of a live API's objects, where several servers agree on it."""

from __future__ import annotations

from api_objects import entry, gateway, gateway_class, http_route, pool, virtual_service
from documents_world import ROUTES, cluster_with, conditions, put, server, status

from tests.kubernetes_mock import refusal, until
from xds_server.config.objects import key_of
from xds_server.sources.kubernetes.kinds import GATEWAYS, HTTP_ROUTES, MODEL_POOLS
from xds_server.sources.kubernetes.servers import DEAD


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
