"""What the mock and a real API server both do: so that what the mock shows is worth something."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from tests.kubernetes_mock import MockCluster
from tests.kubernetes_objects import HOST, NAME, NAMESPACE, endpoint_slice, entry, pod, service
from tests.kubernetes_real import RealCluster, needs_assets
from tests.kubernetes_server import SERVED, addresses, serving
from tests.kubernetes_watches import names, watching
from xds_server.sources.kubernetes import objects
from xds_server.sources.kubernetes.watched import Resource, Scope, WatchState

LIMIT = 60.0
WIDGETS = Resource("example.org", "v1", "widgets")

pytestmark = pytest.mark.parametrize(
    "kind", ["mock", pytest.param("real", marks=[pytest.mark.kube_apiserver, needs_assets])]
)


@asynccontextmanager
async def a_cluster(kind, directory):
    cluster = MockCluster(directory) if kind == "mock" else RealCluster(directory)
    async with cluster:
        if kind == "mock":
            cluster.serve(*SERVED)
        yield cluster


async def until(condition, what):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT:g} s: {what}"
        await asyncio.sleep(0.01)


def a_pod(name, namespace=NAMESPACE, **labels):
    item = pod(name, labels=labels)
    item["metadata"]["namespace"] = namespace
    return item


async def test_list_and_watch(kind, tmp_path):
    async with a_cluster(kind, tmp_path) as cluster:
        await cluster.put(objects.PODS, a_pod("a"))
        async with watching(cluster, objects.PODS, Scope((NAMESPACE,))) as watch:
            await until(lambda: names(watch) == ["a"], "the list")
            await cluster.put(objects.PODS, a_pod("b", x="1"))
            await until(lambda: names(watch) == ["a", "b"], "an event")
            await cluster.put(objects.PODS, a_pod("a", x="2"))
            await until(lambda: watch.objects()[NAMESPACE, "a"] == ("a", (("x", "2"),)), "a change")
            await cluster.remove(objects.PODS, NAMESPACE, "b")
            await until(lambda: names(watch) == ["a"], "a removal")
            (status,) = watch.status()
            assert (status.state, status.failures, status.lists) == (WatchState.WATCHING, 0, 1)


async def test_namespaces_and_labels(kind, tmp_path):
    async with a_cluster(kind, tmp_path) as cluster:
        for namespace in ("x", "y", "z"):
            await cluster.put(objects.PODS, a_pod("a", namespace, app="triton"))
            await cluster.put(objects.PODS, a_pod("b", namespace, app="other"))
        async with watching(cluster, objects.PODS, Scope(("x", "y"), "app=triton")) as watch:
            await until(lambda: sorted(watch.objects()) == [("x", "a"), ("y", "a")], "those selected")


async def test_more_than_a_page(kind, tmp_path):
    async with a_cluster(kind, tmp_path) as cluster:
        for number in range(300):
            await cluster.put(objects.SLICES, endpoint_slice(f"s{number}", entry("10.0.0.1")))
        async with watching(cluster, objects.SLICES, Scope((NAMESPACE,))) as watch:
            await until(lambda: len(watch.objects()) == 300, "all pages")


async def test_a_restart_of_the_api_server(kind, tmp_path):
    async with a_cluster(kind, tmp_path) as cluster:
        await cluster.put(objects.PODS, a_pod("a"))
        async with watching(cluster, objects.PODS, Scope((NAMESPACE,))) as watch:
            await until(lambda: names(watch) == ["a"], "the list")
            await cluster.down()
            await until(lambda: watch.status()[0].failing_since is not None, "the failure")
            assert names(watch) == ["a"]
            await cluster.up()
            await until(lambda: watch.status()[0].failing_since is None, "the recovery")
            await cluster.put(objects.PODS, a_pod("b"))
            await until(lambda: names(watch) == ["a", "b"], "what came after")


async def test_a_crd_that_comes_later(kind, tmp_path):
    async with a_cluster(kind, tmp_path) as cluster, watching(cluster, WIDGETS, Scope()) as watch:
        await until(lambda: watch.status()[0].state is WatchState.ABSENT, "its absence")
        if kind == "mock":
            cluster.serve(WIDGETS)
        else:
            await cluster.install(WIDGETS, "Widget")
        metadata = {"name": "w", "namespace": NAMESPACE}
        await cluster.put(WIDGETS, {"apiVersion": "example.org/v1", "kind": "Widget", "metadata": metadata})
        await until(lambda: names(watch) == ["w"], "the object")


async def test_a_server_follows_the_cluster(kind, tmp_path):
    async with a_cluster(kind, tmp_path) as cluster:
        await cluster.put(objects.SERVICES, service())
        await cluster.put(objects.SLICES, endpoint_slice("s1", entry("10.0.0.1", "p1", zone="z1")))
        await cluster.put(objects.PODS, a_pod("p1", app="triton"))
        async with serving(cluster, tmp_path) as server:
            await until(lambda: server.readiness.ready, "the server to be ready")
            (placed,) = server.mesh.service(HOST).endpoints
            assert (placed.endpoint.pod, dict(placed.endpoint.labels)) == ("p1", {"app": "triton"})
            both = endpoint_slice("s1", entry("10.0.0.1", "p1", terminating=True), entry("10.0.0.2"))
            await cluster.put(objects.SLICES, both)
            await until(lambda: addresses(server) == ["10.0.0.1", "10.0.0.2"], "the slice")
            await cluster.remove(objects.SERVICES, NAMESPACE, NAME)
            await until(lambda: addresses(server) is None, "the service to go")
