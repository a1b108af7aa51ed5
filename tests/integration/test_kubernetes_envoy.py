"""API objects to a real Envoy: a pool, a Gateway, routes; requests through Envoy; what the status says."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp

from tests.integration.envoy import Envoy
from tests.kubernetes_apply import ApplyingCluster
from tests.kubernetes_mock import until
from tests.kubernetes_objects import HOST, endpoint_slice, entry, service
from tests.scripted_runtime import rows, scripted
from xds_server import app
from xds_server.resources.bootstrap import bootstrap
from xds_server.settings import ServeOptions
from xds_server.sources.kubernetes import objects
from xds_server.sources.kubernetes.kinds import (
    ALL,
    GATEWAY_CLASSES,
    GATEWAYS,
    HTTP_ROUTES,
    MODEL_POOLS,
)
from xds_server.sources.kubernetes.options import KubernetesOptions
from xds_server.sources.kubernetes.servers import LEASES

LIMIT = 30.0
POOL = {"host": "triton", "models": {"openInference": {"interval": "100ms"}}}
BACKEND = {"group": "xds-server.dev", "kind": "ModelPool", "name": "triton"}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def value(kind, spec, name, generation=1, namespace="models"):
    metadata = {"name": name, "generation": generation, "creationTimestamp": "2026-01-01T00:00:00Z"}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": spec}


@asynccontextmanager
async def runtime(name, *models):
    """A replica that tells its models and answers everything else with its own name."""

    async def script(request):
        if "repository/index" in request.line:
            await request.answer(rows(*models))
        else:
            await request.answer(name.encode())

    async with scripted(script) as running:
        yield int(running.url.rpartition(":")[2])


@asynccontextmanager
async def serving(cluster):
    options = ServeOptions(
        xds="127.0.0.1:0",
        admin="127.0.0.1:0",
        kubernetes=KubernetesOptions(login=cluster.login(), namespaces=("models",)),
    )
    server = app.Server(options)
    stop = asyncio.Event()
    assert await server.read() == ()
    await server.admin.start()
    server.xds_port = await server.xds.start()
    task = asyncio.create_task(server.run(stop))
    try:
        async with asyncio.timeout(LIMIT):
            while not server.readiness.ready:
                await asyncio.sleep(0.02)
                assert not task.done(), task.exception()
        yield server
        assert not task.done(), task.exception()
    finally:
        stop.set()
        with suppress(asyncio.CancelledError):
            await task
        await server.close()


class World:
    """A cluster with two replicas and a Gateway, a server over it, an Envoy on that."""

    def __init__(self, cluster, port):
        self.cluster = cluster
        self.port = port

    async def put(self, kind, spec, name, generation=1):
        status = self.status(kind, name)
        found = value(kind, spec, name, generation)
        await self.cluster.put(kind.resource, found | ({"status": status} if status else {}))

    def status(self, kind, name):
        try:
            return self.cluster.get(kind.resource, "models", name).get("status", {})
        except KeyError:
            return {}

    def condition(self, kind, name, type_):
        status = self.status(kind, name)
        listed = status["parents"][0]["conditions"] if status.get("parents") else status.get("conditions", [])
        return next(((c["status"], c["message"]) for c in listed if c["type"] == type_), (None, ""))

    async def ask(self, path, model, **headers):
        url = f"http://127.0.0.1:{self.port}{path}"
        async with (
            aiohttp.ClientSession() as http,
            http.get(url, headers={"model": model, **headers}) as answer,
        ):
            return answer.status, await answer.text()

    async def answered(self, expected, path, model, **headers):
        """Ask until the answer is this one."""
        found = None
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT):
                while found != expected:
                    with suppress(aiohttp.ClientConnectionError):
                        found = await self.ask(path, model, **headers)
                    await asyncio.sleep(0.02)
        assert found == expected


@asynccontextmanager
async def world(directory, *routes):
    async with AsyncExitStack() as stack:
        ports = {
            "one": await stack.enter_async_context(runtime("one", "a")),
            "two": await stack.enter_async_context(runtime("two", "b")),
        }
        cluster = await stack.enter_async_context(ApplyingCluster(directory))
        kinds = (objects.SERVICES, objects.SLICES, objects.PODS, LEASES, *(kind.resource for kind in ALL))
        cluster.serve(*kinds)
        await cluster.put(objects.SERVICES, service((("http", 8008),)))
        for name, port in ports.items():
            found = endpoint_slice(name, entry("127.0.0.1"), ports=(("http", port),))
            await cluster.put(objects.SLICES, found)
        listening = free_port()
        running = World(cluster, listening)
        await running.put(MODEL_POOLS, POOL, "triton")
        controller = {"controllerName": "xds-server.dev/gateway-controller"}
        await cluster.put(
            GATEWAY_CLASSES.resource, value(GATEWAY_CLASSES, controller, "xds-server", namespace="")
        )
        listener = {"name": "http", "port": listening, "protocol": "HTTP"}
        await running.put(GATEWAYS, {"gatewayClassName": "xds-server", "listeners": [listener]}, "front")
        for number, rules in enumerate(routes):
            spec = {"parentRefs": [{"name": "front"}], "rules": rules}
            await running.put(HTTP_ROUTES, spec, f"route-{number}")
        running.server = await stack.enter_async_context(serving(cluster))
        text = bootstrap(xds=f"127.0.0.1:{running.server.xds_port}", admin=f"127.0.0.1:{free_port()}")
        envoy = await asyncio.to_thread(Envoy, text)
        stack.push_async_callback(asyncio.to_thread, envoy.stop)
        yield running


async def holds(check):
    async with asyncio.timeout(LIMIT):
        await until(check)


async def test_requests_follow_an_http_route_to_the_replica_that_has_the_model(tmp_path):
    rules = [
        {"matches": [{"path": {"type": "PathPrefix", "value": "/app"}}], "backendRefs": [BACKEND]},
        {
            "matches": [{"path": {"type": "Exact", "value": "/app/gone"}}],
            "backendRefs": [{**BACKEND, "name": "nowhere"}],
        },
    ]
    async with world(tmp_path, rules) as running:
        await running.answered((200, "one"), "/app/models/a/infer", "a")
        for _ in range(10):
            assert await running.ask("/app/models/b/infer", "b") == (200, "two")
            assert await running.ask("/app", "a") == (200, "one")
        assert (await running.ask("/app/models/c/infer", "c"))[0] == 503  # loaded nowhere
        assert (await running.ask("/application/models/a/infer", "a"))[0] == 404  # a prefix ends at a slash
        assert (await running.ask("/app/gone", "a"))[0] == 500  # a reference that cannot be followed
        await holds(lambda: running.condition(MODEL_POOLS, "triton", "Programmed")[0] == "True")
        assert running.condition(MODEL_POOLS, "triton", "Programmed")[1] == "acknowledged by 1 of 1 Envoys"
        assert running.condition(MODEL_POOLS, "triton", "ModelsDiscovered")[0] == "True"
        status = running.status(MODEL_POOLS, "triton")
        assert (status["endpoints"], status["readyEndpoints"], status["models"]) == (2, 2, 2)
        assert running.condition(GATEWAYS, "front", "Programmed")[0] == "True"
        assert running.condition(HTTP_ROUTES, "route-0", "Accepted")[0] == "True"
        assert running.condition(HTTP_ROUTES, "route-0", "ResolvedRefs") == (
            *("False",),
            "no ModelPool models/nowhere is in force",
        )


async def test_a_bad_object_changes_nothing_and_says_why(tmp_path):
    async with world(tmp_path, [{"backendRefs": [BACKEND]}]) as running:
        await running.answered((200, "one"), "/", "a")
        await running.put(MODEL_POOLS, {**POOL, "subsetKye": "x"}, "triton", generation=2)
        await holds(lambda: running.condition(MODEL_POOLS, "triton", "Accepted")[0] == "False")
        message = running.condition(MODEL_POOLS, "triton", "Accepted")[1]
        assert message.startswith("spec.subsetKye: found an unknown field; expected ")
        assert "did you mean subsetKey?" in message
        (server,) = running.status(MODEL_POOLS, "triton")["servers"]
        assert server["generation"] == 1
        assert await running.ask("/", "a") == (200, "one")
        assert await running.ask("/", "b") == (200, "two")
        await running.put(MODEL_POOLS, POOL, "triton", generation=3)
        await holds(lambda: running.condition(MODEL_POOLS, "triton", "Accepted")[0] == "True")
        assert running.server.mesh.routing.pools[HOST].name == "models/triton"


async def test_a_route_that_is_applied_later_is_followed(tmp_path):
    async with world(tmp_path) as running:
        await running.answered((404, ""), "/", "a")
        header = {"headers": [{"name": "x-team", "value": "vision"}], "method": "GET"}
        spec = {"parentRefs": [{"name": "front"}], "rules": [{"matches": [header], "backendRefs": [BACKEND]}]}
        await running.put(HTTP_ROUTES, spec, "late")
        await running.answered((200, "two"), "/any", "b", **{"x-team": "vision"})
        assert (await running.ask("/any", "b"))[0] == 404
        await holds(lambda: running.condition(HTTP_ROUTES, "late", "Accepted")[0] == "True")
