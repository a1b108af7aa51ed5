"""The whole source, and a server with it, against an API server: first sync, staleness, what is missing."""

from __future__ import annotations

import kmock

from tests.kubernetes_mock import mock_cluster, refusal, until
from tests.kubernetes_objects import HOST, endpoint_slice, entry, pod, service
from tests.kubernetes_server import DOCUMENTS, SERVED, addresses, fetched, serving, status_of
from xds_server import app
from xds_server.admin import tables
from xds_server.settings import ServeOptions
from xds_server.sources.kubernetes import objects
from xds_server.sources.kubernetes.access import Login
from xds_server.sources.kubernetes.options import KubernetesOptions


async def test_a_server_follows_a_pools_service(tmp_path):
    async with mock_cluster(tmp_path, *SERVED) as cluster:
        await cluster.put(objects.SERVICES, service())
        await cluster.put(objects.SLICES, endpoint_slice("s1", entry("10.0.0.1", "p1")))
        await cluster.put(objects.PODS, pod("p1", labels={"app": "triton"}))
        async with serving(cluster, tmp_path) as server:
            await until(lambda: server.readiness.ready)
            assert addresses(server) == ["10.0.0.1"]
            (placed,) = server.mesh.service(HOST).endpoints
            assert (placed.endpoint.pod, placed.endpoint.labels) == ("p1", {"app": "triton"})
            slices = endpoint_slice("s1", entry("10.0.0.1", "p1", terminating=True), entry("10.0.0.2", "p2"))
            await cluster.put(objects.SLICES, slices)
            await until(lambda: addresses(server) == ["10.0.0.1", "10.0.0.2"])
            found = await status_of(server)
            (shown,) = found["services"]
            assert [each["health"] for each in shown["endpoints"]] == ["TERMINATING", "OK"]
            assert found["kubernetes"]["problems"] == []
            assert {watch["state"] for watch in found["kubernetes"]["watches"][:3]} == {"WATCHING"}


async def test_pods_are_asked_for_their_metadata_only(tmp_path):
    async with mock_cluster(tmp_path, *SERVED) as cluster, serving(cluster, tmp_path) as server:
        await until(lambda: server.readiness.ready)
        await until(lambda: len(cluster.streams) == 3)
        asked = [request for request in cluster.requests if request.resource.plural == "pods"]
        kinds = {request.action: request.headers["Accept"].partition(";g=")[0] for request in asked}
        assert kinds[kmock.action.LIST] == "application/json;as=PartialObjectMetadataList"
        assert kinds[kmock.action.WATCH] == "application/json;as=PartialObjectMetadata"


async def test_nobody_is_answered_before_everything_was_listed_once(tmp_path):
    async with mock_cluster(tmp_path, *SERVED) as cluster:
        await cluster.put(objects.SERVICES, service())
        await cluster.put(objects.SLICES, endpoint_slice("s1", entry("10.0.0.1")))
        cluster.fault(lambda request: request.resource.plural == "pods", refusal(403), times=10**6)
        async with serving(cluster, tmp_path, namespaces=("models",)) as server:
            await until(lambda: server.kubernetes.status().watches[2].failures > 1)
            code, text = await fetched(server, "/readyz")
            assert code == 503
            assert text == (
                "not ready: pods in namespace models not listed yet"
                " (missing permission: list pods in namespace models)\n"
            )
            assert addresses(server) is None
            assert server.hub.serial == 0
            cluster.faults.clear()
            await until(lambda: server.readiness.ready)
            assert addresses(server) == ["10.0.0.1"]


async def test_a_service_that_is_not_there_is_said_until_it_comes(tmp_path):
    async with mock_cluster(tmp_path, *SERVED) as cluster, serving(cluster, tmp_path) as server:
        await until(lambda: server.readiness.ready)
        found = await status_of(server)
        assert found["kubernetes"]["problems"] == [
            "service triton is not in namespace models (yet), or is not watched"
        ]
        await cluster.put(objects.SLICES, endpoint_slice("s1", entry("10.0.0.1")))
        await cluster.put(objects.SERVICES, service())
        await until(lambda: addresses(server) == ["10.0.0.1"])
        assert (await status_of(server))["kubernetes"]["problems"] == []


async def test_an_api_server_that_is_gone_leaves_the_picture_and_is_said(tmp_path, capsys):
    async with mock_cluster(tmp_path, *SERVED) as cluster:
        await cluster.put(objects.SERVICES, service())
        await cluster.put(objects.SLICES, endpoint_slice("s1", entry("10.0.0.1")))
        async with serving(cluster, tmp_path) as server:
            await until(lambda: server.readiness.ready and len(cluster.streams) == 3)
            await cluster.down()
            await until(lambda: all(each.failing_since for each in server.kubernetes.status().watches))
            assert addresses(server) == ["10.0.0.1"]
            code, text = await fetched(server, "/readyz")
            assert code == 200
            assert "stale: endpointslices.discovery.k8s.io in all namespaces for 0 s: " in text
            assert text.count("the last picture stays in force") == 3
            found = await status_of(server)
            assert all(watch["stale_seconds"] is not None for watch in found["kubernetes"]["watches"][:3])
            tables.show(found, tables.console())
            assert "1 objects stay in force" in capsys.readouterr().out
            _, metrics = await fetched(server, "/metrics")
            assert 'xds_server_kubernetes_watch_up{namespace="",resource="services"} 0.0' in metrics
            assert 'xds_server_kubernetes_watch_age_seconds{namespace="",resource="pods"}' in metrics
            cluster.forget()
            await cluster.put(objects.SLICES, endpoint_slice("s1", entry("10.0.0.2")))
            await cluster.up()
            await until(lambda: addresses(server) == ["10.0.0.2"])
            await until(lambda: not any(each.failing_since for each in server.kubernetes.status().watches))
            code, text = await fetched(server, "/readyz")
            assert (code, text) == (200, "ready\n")


async def test_only_the_runtimes_that_are_there_are_asked(tmp_path):
    """One endpoint's change costs the poller that endpoint alone; a terminating one is not asked."""
    documents = DOCUMENTS.replace("{static: {}}", "{openInference: {interval: 10s, timeout: 0.2s}}")
    async with mock_cluster(tmp_path, *SERVED) as cluster:
        await cluster.put(objects.SERVICES, service())
        await cluster.put(objects.SLICES, endpoint_slice("s1", entry("127.0.0.1"), entry("127.0.0.2")))
        async with serving(cluster, tmp_path, documents) as server:
            asked = server.poller._watches
            await until(lambda: len(asked) == 2)
            one = next(each for key, each in asked.items() if key.address == "127.0.0.1")
            going = endpoint_slice(
                "s1", entry("127.0.0.1"), entry("127.0.0.2", terminating=True), entry("127.0.0.3")
            )
            await cluster.put(objects.SLICES, going)
            await until(lambda: {key.address for key in asked} == {"127.0.0.1", "127.0.0.3"})
            assert next(each for key, each in asked.items() if key.address == "127.0.0.1") is one


async def test_a_routes_only_port_is_found_with_the_service(tmp_path):
    documents = (
        DOCUMENTS
        + """\
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: routes, namespace: models}
spec:
  hosts: ["*"]
  gateways: [gw]
  http:
  - match: [{port: 8008}]
    route: [{destination: {host: triton.models.svc}}]
"""
    )
    async with mock_cluster(tmp_path, *SERVED) as cluster, serving(cluster, tmp_path, documents) as server:
        await until(lambda: server.readiness.ready)
        await cluster.put(objects.SERVICES, service())
        await until(lambda: HOST in server.mesh.services())
        (route,) = server.mesh.routing.virtual_services[0].routes
        assert [(each.host, each.port) for each in route.destinations] == [(HOST, 8008)]
        await cluster.put(objects.SERVICES, service((("http", 8008), ("grpc", 8033))))
        await until(lambda: len(server.mesh.service(HOST).service.ports) == 2)
        assert (await status_of(server))["kubernetes"]["problems"] == [
            f"VirtualService models/routes: no port for {HOST}; expected 8008 or 8033"
        ]


async def test_nothing_but_what_is_selected_is_asked_for(tmp_path):
    async with mock_cluster(tmp_path, *SERVED) as cluster:
        options = {"namespaces": ("x", "y"), "selector": "app=triton", "pod_selector": "tier=models"}
        async with serving(cluster, tmp_path, **options) as server:
            await until(lambda: server.readiness.ready)
            served = {resource.plural for resource in SERVED}
            lists = [
                r for r in cluster.requests if r.action is kmock.action.LIST and r.resource.plural in served
            ]
            found = {(r.resource.plural, r.namespace, r.params["labelSelector"]) for r in lists}
            assert found == {
                (plural, namespace, selector)
                for namespace in ("x", "y")
                for plural, selector in [
                    ("services", "app=triton"),
                    ("endpointslices", "app=triton"),
                    ("pods", "tier=models"),
                ]
            }


async def test_a_kubeconfig_that_cannot_be_read_ends_the_start(tmp_path, capsys):
    options = KubernetesOptions(login=Login(tmp_path / "absent"))
    asked = ServeOptions(xds="127.0.0.1:0", admin="127.0.0.1:0", kubernetes=options)
    assert await app.serve(asked) == app.EXIT_BAD_CONFIGURATION
    assert f"--kubernetes: no kubeconfig file at {tmp_path / 'absent'}" in capsys.readouterr().err


def test_nothing_to_serve():
    assert ServeOptions().mistake() == "nothing to serve: give --config DIR, or --kubernetes, or both"
