"""Real Envoys behind servers that follow a cluster: slices, a replica's end, an API server that restarts.

The API server is a mock, since a real one cannot be told when to fail; what it tells of are real listeners.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import web

from tests.integration.envoy import Envoy
from tests.integration.mlserver import free_ports
from tests.kubernetes_mock import mock_cluster
from tests.kubernetes_objects import HOST, endpoint_slice, entry, pod, service
from tests.kubernetes_server import SERVED, fetched, serving, status_of
from xds_server.resources.bootstrap import bootstrap
from xds_server.sources.kubernetes import objects
from xds_server.xds.model import ORDER, Node

LIMIT = 60.0
MODEL = "m"


def documents(port, models):
    return f"""\
apiVersion: xds-server.dev/v1alpha1
kind: ModelPool
metadata: {{name: pool, namespace: models}}
spec:
  host: triton
  models: {models}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: gateway, namespace: models}}
spec:
  servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ["*"]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: models, namespace: models}}
spec:
  hosts: ["*"]
  gateways: [gateway]
  http: [{{name: default, route: [{{destination: {{host: triton, port: {{number: 8008}}}}}}]}}]
"""


async def until(check, what):
    """Wait for what `check` finds; what it found last is in the failure."""
    deadline = time.monotonic() + LIMIT
    while not (found := await check()):
        assert time.monotonic() < deadline, f"not within {LIMIT:g} s: {what}"
        await asyncio.sleep(0.02)
    return found


class Runtime:
    """A runtime in this process: its repository index, and inference that says who answered."""

    def __init__(self, address, port, models):
        self.address, self.port, self.models = address, port, set(models)
        self.state = "READY"
        self._runner = None

    async def start(self):
        application = web.Application()
        application.router.add_post("/v2/repository/index", self._index)
        application.router.add_post("/v2/models/{model}/infer", self._infer)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.address, self.port).start()

    async def stop(self):
        await self._runner.cleanup()

    async def _index(self, _request):
        rows = [{"name": name, "version": "1", "state": self.state} for name in sorted(self.models)]
        return web.json_response(rows)

    async def _infer(self, request):
        status = 200 if request.match_info["model"] in self.models else 404
        return web.json_response({"replica": self.address}, status=status)


class Traffic:
    """Requests for one model, one after the other, through a gateway's port; every answer is kept."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/v2/models/{MODEL}/infer"
        self.answers = []

    async def run(self):
        async with aiohttp.ClientSession() as session:
            while True:
                begun = time.monotonic()
                async with session.post(self.url, headers={"model": MODEL}, json={}) as answer:
                    body = await answer.text()
                replica = json.loads(body)["replica"] if answer.status == 200 else body
                self.answers.append((begun, answer.status, replica))
                await asyncio.sleep(0.002)

    def since(self, at):
        return {(status, replica) for begun, status, replica in self.answers if begun >= at}

    async def reaches(self, *addresses):
        """Wait until requests reach exactly these."""
        wanted = {(200, address) for address in addresses}

        async def check():
            at = time.monotonic()
            while len([begun for begun, *_ in self.answers if begun >= at]) < 12:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            return self.since(at) == wanted

        await until(check, f"requests reach {sorted(addresses)}")


@asynccontextmanager
async def envoy_at(xds):
    admin = f"127.0.0.1:{free_ports(1)[0]}"
    text = bootstrap(xds=xds, node_id="test", cluster="gateway", admin=admin, labels={}, delta=True)
    envoy = await asyncio.to_thread(Envoy, text)
    try:
        yield envoy
    finally:
        await asyncio.to_thread(envoy.stop)


@asynccontextmanager
async def running(coroutine):
    task = asyncio.create_task(coroutine)
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def sliced(*entries, port):
    return endpoint_slice("s1", *entries, ports=(("http", port),))


async def test_traffic_follows_the_cluster_and_loses_nothing(tmp_path):
    """Replicas come, end and go, and the API server is away for a while, under traffic all the time."""
    gateway, port = free_ports(2)
    one, two, three = (Runtime(f"127.0.0.{number}", port, [MODEL]) for number in (2, 3, 4))
    traffic = Traffic(gateway)
    asked = documents(gateway, "{openInference: {interval: 100ms, timeout: 1s}}")
    async with mock_cluster(tmp_path, *SERVED) as cluster:
        for runtime in (one, two, three):
            await runtime.start()
        await cluster.put(objects.SERVICES, service())
        for number in (2, 3, 4):
            await cluster.put(objects.PODS, pod(f"p{number}"))
        both = entry(one.address, "p2"), entry(two.address, "p3")
        await cluster.put(objects.SLICES, sliced(*both, port=port))
        async with serving(cluster, tmp_path, asked) as server, envoy_at(f"127.0.0.1:{server.xds_port}"):
            async with running(traffic.run()):
                await traffic.reaches(one.address, two.address)

                # A replica comes; another one is terminating, and stays known until its entry goes.
                going = entry(one.address, "p2", ready=False, serving=True, terminating=True)
                came = both[1], entry(three.address, "p4")
                await cluster.put(objects.SLICES, sliced(going, *came, port=port))
                await traffic.reaches(two.address, three.address)
                ended = time.monotonic()
                (shown,) = (await status_of(server))["services"]
                health = {each["endpoint"]: each["health"] for each in shown["endpoints"]}
                assert health[f"{one.address}:{port}"] == "TERMINATING"
                await one.stop()
                await cluster.put(objects.SLICES, sliced(*came, port=port))
                await until(lambda: _count(server, 2), "the entry goes")

                # The API server is away: models still move, since the runtimes tell that.
                await cluster.down()
                await until(lambda: _stale(server), "status says that the cluster is stale")
                three.state = "UNAVAILABLE"
                await traffic.reaches(two.address)
                three.state = "READY"
                await traffic.reaches(two.address, three.address)
                stale = await _stale(server)
                assert all(seconds > 0 for seconds in stale.values())
                assert set(stale) >= {"services", "pods", "endpointslices.discovery.k8s.io"}
                assert "the last picture stays in force" in (await fetched(server, "/readyz"))[1]

                # It comes back without its history, and with one replica less.
                cluster.forget()
                await cluster.put(objects.SLICES, sliced(came[0], port=port))
                await cluster.up()
                await traffic.reaches(two.address)
                assert not await _stale(server)
            assert {status for _, status, _ in traffic.answers} == {200}
            assert (200, one.address) not in traffic.since(ended)
            assert len(traffic.answers) >= 7 * 12  # each look at where requests go is at twelve of them
        for runtime in (two, three):
            await runtime.stop()


async def _count(server, wanted):
    (shown,) = (await status_of(server))["services"]
    return len(shown["endpoints"]) == wanted


async def _stale(server):
    """Seconds by resource, of the watches that fail; empty while none or not yet all do."""
    watches = (await status_of(server))["kubernetes"]["watches"]
    found = {each["resource"]: each["stale_seconds"] for each in watches if each["stale_seconds"] is not None}
    return found if len(found) == len(watches) else {}


class Switch:
    """A port that leads to one server, and then to another one, with every connection cut in between."""

    def __init__(self):
        self.target = 0
        self._writers = set()
        self._server = None

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.cut()

    def cut(self):
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader, writer):
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers |= {writer, there_writer}
        with suppress(ConnectionError):
            await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
        self._writers -= {writer, there_writer}


async def _pump(reader, writer):
    with suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@pytest.mark.parametrize("writers", [{"loader": f'[{{"model": "{MODEL}", "state": "READY"}}]'}])
async def test_two_servers_over_one_cluster_agree_and_an_envoy_that_moves_is_sent_nothing(tmp_path, writers):
    gateway, port = free_ports(2)
    text = documents(gateway, "{annotations: {}}")
    async with mock_cluster(tmp_path, *SERVED) as cluster:
        await cluster.put(objects.SERVICES, service())
        await cluster.put(objects.SLICES, sliced(entry("127.0.0.2", "p2", zone="z1"), port=port))
        await cluster.put(objects.PODS, pod("p2", labels={"app": "triton"}, writers=writers))
        async with serving(cluster, tmp_path, text) as one, Switch() as switch:
            await until(lambda: _ready(one), "the first server is ready")
            switch.target = one.xds_port
            async with envoy_at(f"127.0.0.1:{switch.port}") as envoy:
                # What is there came to the first server as changes, and to the second one as lists.
                await cluster.put(
                    objects.SLICES,
                    sliced(entry("127.0.0.2", "p2", zone="z1"), entry("127.0.0.3", "p3"), port=port),
                )
                await cluster.put(objects.PODS, pod("p3", writers=writers))
                await until(lambda: _models(one, 2), "both replicas have the model")
                async with serving(cluster, tmp_path, text) as two:
                    await until(lambda: _ready(two), "the second server is ready")
                    assert versions(one) == versions(two)
                    await until(lambda: _hosts(envoy, 2), "Envoy has both replicas")
                    before = await asyncio.to_thread(updates, envoy)
                    switch.target = two.xds_port
                    switch.cut()
                    await until(lambda: _synced(two), "Envoy is in sync with the second server")
                    assert await sent(two) == 0
                    assert await asyncio.to_thread(updates, envoy) == before
                    # And it does listen there.
                    await cluster.put(objects.SLICES, sliced(entry("127.0.0.2", "p2", zone="z1"), port=port))
                    await until(lambda: _hosts(envoy, 1), "Envoy follows the second server")


async def _ready(server):
    return server.readiness.ready


async def _models(server, count):
    return [each.models for each in server.mesh.service(HOST).endpoints] == [(MODEL,)] * count


def versions(server):
    """Of each type, and of each resource, as a gateway's Envoy is sent them."""
    view = server.hub.view_of(Node(id="test", cluster="gateway"))
    return {
        url: (view.of(url).version, {name: each.version for name, each in view.of(url).resources.items()})
        for url in ORDER
    }


async def _synced(server):
    clients = (await status_of(server))["clients"]
    types = [each for client in clients for each in client["types"]]
    return len(types) >= len(ORDER) and all(each["state"] == "SYNCED" for each in types)


async def sent(server):
    """Resources that a server has sent to anyone."""
    _, metrics = await fetched(server, "/metrics")
    lines = [line for line in metrics.splitlines() if line.startswith("xds_server_xds_resources_total")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def updates(envoy):
    """How often Envoy has taken anything new in."""
    stats = envoy.stats("update_success")
    return {name: value for name, value in stats.items() if name.endswith("update_success")}


async def _hosts(envoy, count):
    def found():
        ours = [each for name, each in envoy.clusters().items() if HOST in name]
        return sum(len(each.get("host_statuses", ())) for each in ours) == count

    return await asyncio.to_thread(found)
