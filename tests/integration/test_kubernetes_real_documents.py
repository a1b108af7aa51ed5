"""Our CRD and our status on a real kube-apiserver: schema, validation rules, server-side apply."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import yaml

from tests.kubernetes_real import RealCluster, needs_assets
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.model import Service, ServicePort
from xds_server.sources.kubernetes.api import Api, ApiError, Request
from xds_server.sources.kubernetes.declared import DeclaredObjects
from xds_server.sources.kubernetes.kinds import HTTP_ROUTES, ISTIO, MODEL_POOLS
from xds_server.xds.hub import Hub

CRD = Path(__file__).parents[2] / "deploy" / "crd" / "modelpools.yaml"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
HOST = "triton.models.svc.cluster.local"
POOL = MODEL_POOLS.resource.path("models")
LIMIT = 60.0

pytestmark = needs_assets


def pool(**spec):
    return {
        "apiVersion": MODEL_POOLS.api_version,
        "kind": "ModelPool",
        "metadata": {"name": "triton", "namespace": "models"},
        "spec": {"host": "triton", "models": {"openInference": {}}, **spec},
    }


async def eventually(check):
    async with asyncio.timeout(LIMIT):
        while True:
            with suppress(ApiError):
                if found := await check():
                    return found
            await asyncio.sleep(0.05)


@asynccontextmanager
async def cluster_with_crd(directory):
    async with RealCluster(directory) as cluster:
        api = Api(cluster.login())
        await api.open()
        await api.json(Request(path=CRDS, method="POST", body=yaml.safe_load(CRD.read_text())))
        await eventually(lambda: api.json(Request(path=MODEL_POOLS.resource.path())))
        await api.json(
            Request(path="/api/v1/namespaces", method="POST", body={"metadata": {"name": "models"}})
        )
        cluster.asked = api
        try:
            yield cluster
        finally:
            await api.close()


@asynccontextmanager
async def server(cluster, name, monkeypatch):
    monkeypatch.setenv("POD_NAME", name)
    api = Api(cluster.login())
    await api.open()
    mesh = Mesh()
    service = Service(HOST, "models", (ServicePort(8008, "http"),))
    declared = DeclaredObjects(
        api,
        ("models",),
        mesh.apply,
        lambda: {HOST: service},
        mesh=mesh,
        hub=Hub(asyncio.get_running_loop().time),
        clusters=lambda _: (),
    )
    declared.mesh = mesh
    task = asyncio.create_task(declared.run())
    try:
        async with asyncio.timeout(LIMIT):
            await declared.begin()
        yield declared
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await declared.close()
        await api.close()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"models": {"openInference": {}, "static": {}}}, "exactly one of"),
        ({"models": {}}, "exactly one of"),
        ({"models": {"openInference": {"interval": "soon"}}}, "should match"),
        ({"host": "a/b"}, "should match"),
        ({"onMiss": {"noModel": "SOMEWHERE"}}, "Unsupported value"),
    ],
)
async def test_the_api_server_refuses_what_the_schema_refuses(tmp_path, spec, words):
    async with cluster_with_crd(tmp_path) as cluster:
        with pytest.raises(ApiError, match=words):
            await cluster.asked.json(Request(path=POOL, method="POST", body=pool(**spec)))


async def test_two_servers_write_one_status(tmp_path, monkeypatch):
    async with cluster_with_crd(tmp_path) as cluster:
        await cluster.asked.json(Request(path=POOL, method="POST", body=pool()))
        async with server(cluster, "one", monkeypatch) as one, server(cluster, "two", monkeypatch):

            async def both():
                found = await cluster.asked.json(Request(path=f"{POOL}/triton"))
                status = found.get("status", {})
                names = [each["name"] for each in status.get("servers", ())]
                return found if names == ["one", "two"] and "conditions" in status else None

            found = await eventually(both)
            said = {each["type"]: each["status"] for each in found["status"]["conditions"]}
            assert said == {"Accepted": "True", "ModelsDiscovered": "False", "Programmed": "False"}
            assert list(one.mesh.routing.pools) == [HOST]

        async def alone():
            found = await cluster.asked.json(Request(path=f"{POOL}/triton"))
            return found["status"]["servers"]

        async with server(cluster, "three", monkeypatch):
            await eventually(lambda: _names(alone, ["three"]))


async def _names(entries, expected):
    return [each["name"] for each in await entries()] == expected


async def test_kinds_whose_crds_come_later(tmp_path, monkeypatch):
    async with cluster_with_crd(tmp_path) as cluster, server(cluster, "one", monkeypatch) as declared:
        for kind in (HTTP_ROUTES, ISTIO[3]):
            await cluster.install(kind.resource, kind.kind)
        await eventually(lambda: _listed(declared, {"httproutes", "virtualservices"}))


async def _listed(declared, plurals):
    listed = {each.resource.plural for each in declared.status().watches if each.confirmed_at is not None}
    return plurals <= listed
