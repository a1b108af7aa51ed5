"""Clusters on demand (ODCDS) with a real Envoy: one that nobody subscribed to is asked for by a request."""

from __future__ import annotations

import asyncio
import http.client
import time
from typing import Any

import yaml

from tests.integration.envoy import Envoy
from tests.integration.mlserver import free_ports
from tests.integration.test_envoy_modes import until
from tests.integration.throwaway import RealWorld, address, api, envoy_bootstrap, source
from xds_server.transport.server import XdsServer
from xds_server.xds.hub import Hub
from xds_server.xds.model import CLUSTER

MODE = "AGGREGATED_DELTA_GRPC"
FILTERS = "type.googleapis.com/envoy.extensions.filters"


def bootstrap(xds_port: int, port: int) -> str:
    """A listener that takes the cluster's name from a header and asks for it when it is not there."""
    document = yaml.safe_load(envoy_bootstrap(MODE, xds_port))
    document["dynamic_resources"] = {"ads_config": api("DELTA_GRPC")}
    on_demand: dict[str, Any] = {
        "@type": f"{FILTERS}.http.on_demand.v3.OnDemand",
        "odcds": {"source": source(MODE), "timeout": "5s"},
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster_header": "cluster"}}
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "on_demand",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.on_demand", "typed_config": on_demand},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"},
            },
        ],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    document["static_resources"]["listeners"] = [
        {"name": "on-demand", "address": address(port), "filter_chains": [chain]}
    ]
    return yaml.safe_dump(document)


def ask(port: int, cluster: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/", headers={"cluster": cluster})
        return connection.getresponse().status
    finally:
        connection.close()


async def test_a_cluster_is_sent_when_a_request_needs_it_and_told_absent_when_there_is_none() -> None:
    answering, port = free_ports(2)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    upstream = await asyncio.start_server(answer, "127.0.0.1", answering)
    hub = Hub(time.monotonic)
    world = RealWorld(MODE, {"a": (answering,), "b": (answering,)})
    hub.publish(world.catalog())
    server = XdsServer(hub, "127.0.0.1:0")
    xds_port = await server.start()
    envoy = await asyncio.to_thread(Envoy, bootstrap(xds_port, port))
    try:
        assert await asyncio.to_thread(ask, port, "a") == 204
        begun = time.monotonic()
        assert await asyncio.to_thread(ask, port, "nowhere") == 503
        assert time.monotonic() - begun < 2.0
        (subscribed,) = [
            each.subscribed for client in hub.clients() for each in client.types if each.type_url == CLUSTER
        ]
        assert subscribed == ("a", "nowhere")
        assert set(await asyncio.to_thread(envoy.clusters)) == {"a", "xds"}
        world.clusters["nowhere"] = (answering,)
        hub.publish(world.catalog())
        await until(lambda: all(each == "SYNCED" for _, each in hub.standing()), lambda: str(hub.standing()))
        assert await asyncio.to_thread(ask, port, "nowhere") == 204
    finally:
        await asyncio.to_thread(envoy.stop)
        await server.stop(2.0)
        upstream.close()
        await upstream.wait_closed()
