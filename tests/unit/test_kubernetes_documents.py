"""Objects of a live API: what the mesh is told of them, and what is waited for before it is told anything."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from api_objects import config_map, entry, gateway, gateway_class, http_route, pool
from documents_world import Running, cluster_with, put, server

from tests.kubernetes_apply import ApplyingCluster
from tests.kubernetes_mock import refusal, until
from xds_server.config.objects import key_of
from xds_server.mesh.model import Service, ServicePort
from xds_server.sources.kubernetes.kinds import (
    ALL,
    CONFIG_MAPS,
    GATEWAY_API,
    GATEWAY_CLASSES,
    GATEWAYS,
)
from xds_server.sources.kubernetes.servers import LEASES


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
