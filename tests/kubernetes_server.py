"""A server that follows a mock cluster, in this process, with its ports and what its admin port says."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress

import aiohttp

from tests.kubernetes_objects import HOST
from xds_server import app
from xds_server.settings import ServeOptions
from xds_server.sources.kubernetes import objects
from xds_server.sources.kubernetes.options import KubernetesOptions
from xds_server.sources.kubernetes.watched import Timing

SERVED = (objects.SERVICES, objects.SLICES, objects.PODS)
QUICK = Timing(server=60.0, late=1.0, inactivity=30.0, first=0.01, most=0.05, absent=0.05, brief=0.02)

DOCUMENTS = """\
apiVersion: xds-server.dev/v1alpha1
kind: ModelPool
metadata: {name: pool, namespace: models}
spec:
  host: triton
  models: {static: {}}
"""


@asynccontextmanager
async def serving(cluster, directory, documents=DOCUMENTS, **options):
    """A server that follows the cluster, with its admin port's address."""
    config = directory / "conf"
    config.mkdir(exist_ok=True)
    (config / "documents.yaml").write_text(documents)
    asked = ServeOptions(
        config=config,
        xds="127.0.0.1:0",
        admin="127.0.0.1:0",
        kubernetes=KubernetesOptions(login=cluster.login(), **options),
    )
    server = app.Server(asked)
    for watch in (server.kubernetes._services, server.kubernetes._slices, server.kubernetes._pods):
        watch.timing = QUICK
    stop = asyncio.Event()
    assert await server.read() == ()
    admin_port = await server.admin.start()
    xds_port = await server.xds.start()
    task = asyncio.create_task(server.run(stop))
    server.url, server.xds_port = f"http://127.0.0.1:{admin_port}", xds_port
    try:
        yield server
        assert not task.done(), task.exception()
    finally:
        stop.set()
        with suppress(asyncio.CancelledError):
            await task
        await server.close()


async def fetched(server, path):
    async with aiohttp.ClientSession() as session, session.get(server.url + path) as response:
        return response.status, await response.text()


async def status_of(server):
    return json.loads((await fetched(server, "/status"))[1])


def addresses(server):
    services = server.mesh.services()
    return [each.endpoint.id.address for each in services[HOST].endpoints] if HOST in services else None
