"""What gRPC's own xDS client needs to call by name: the resources, the echo servers, the client itself."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager
from envoy_data_plane.google.protobuf import Any as AnyMessage

from tests.integration import grpc_caller
from tests.integration.throwaway import address, packed
from tests.protocol.catalogs import OneCatalog, types
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resource, Snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from xds_server.xds.hub import Hub

NAME = "echo"
ROUTES = "echo-routes"
LIMIT = 15.0
ADS = {"ads": {}, "resource_api_version": "V3"}


class World:
    """A listener for clients without a socket of their own, its routes, one cluster, its endpoints.

    gRPC leaves out a locality without a weight, and rejects a listener whose last filter is no router.
    """

    def __init__(self, hub: Hub, *, inline: bool = False) -> None:
        self._hub = hub
        self.inline = inline
        self.cluster = "one"
        self.policy = "ROUND_ROBIN"
        self.ports: tuple[int, ...] = ()

    def publish(self) -> None:
        made = {
            CLUSTER: [self._cluster()],
            ENDPOINT: [self._assignment()],
            LISTENER: [self._listener()],
            ROUTE: [
                packed(ROUTE, ROUTES, bytes(RouteConfiguration.from_dict(self._routes())), self._needs())
            ],
        }
        snapshot = Snapshot(self._hub.serial + 1, {url: types(url, each) for url, each in made.items()})
        self._hub.publish(OneCatalog(snapshot))

    @property
    def assignment(self) -> str:
        """The EDS name, which is not the cluster's."""
        return f"{self.cluster}-endpoints"

    def _needs(self) -> frozenset[tuple[str, str]]:
        return frozenset({(CLUSTER, self.cluster), (ENDPOINT, self.assignment)})

    def _listener(self) -> Resource:
        routes = (
            {"route_config": self._routes()}
            if self.inline
            else {"rds": {"config_source": ADS, "route_config_name": ROUTES}}
        )
        router = {"name": "router", "typed_config": AnyMessage.pack(Router()).to_dict()}
        manager = HttpConnectionManager.from_dict({**routes, "http_filters": [router]})
        message = Listener.from_dict(
            {"name": NAME, "api_listener": {"api_listener": AnyMessage.pack(manager).to_dict()}}
        )
        return packed(LISTENER, NAME, bytes(message), self._needs() if self.inline else frozenset())

    def _routes(self) -> dict[str, Any]:
        routes = [{"match": {"prefix": ""}, "route": {"cluster": self.cluster}}]
        return {"name": ROUTES, "virtual_hosts": [{"name": "all", "domains": [NAME], "routes": routes}]}

    def _cluster(self) -> Resource:
        message = Cluster.from_dict(
            {
                "name": self.cluster,
                "type": "EDS",
                "eds_cluster_config": {"eds_config": ADS, "service_name": self.assignment},
                "lb_policy": self.policy,
            }
        )
        return packed(CLUSTER, self.cluster, bytes(message), frozenset({(ENDPOINT, self.assignment)}))

    def _assignment(self) -> Resource:
        group = {
            "locality": {"region": "here"},
            "load_balancing_weight": 1,
            "lb_endpoints": [{"endpoint": {"address": address(port)}} for port in self.ports],
        }
        message = ClusterLoadAssignment.from_dict(
            {"cluster_name": self.assignment, "endpoints": [group] if self.ports else []}
        )
        return packed(ENDPOINT, self.assignment, bytes(message))


@asynccontextmanager
async def echo(name: str) -> AsyncIterator[int]:
    """A server that answers every call with its name; the value is its port."""

    async def who(_: bytes, __: object) -> bytes:
        return name.encode()

    service, _, method = grpc_caller.METHOD.strip("/").partition("/")
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {method: grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


class Caller:
    """The process with gRPC's client in it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def who(self) -> str:
        """Make one call. Who answered, or the name of the status."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"who\n")
        async with asyncio.timeout(LIMIT):
            line = await self._process.stdout.readline()
        assert line, "the client's process ended"
        return line.decode().strip()

    async def until(self, check: Callable[[set[str]], bool], calls: int = 1) -> set[str]:
        """Call until the answers of that many calls in a row are as `check` wants them."""
        ends = time.monotonic() + LIMIT
        while True:
            answers = {await self.who() for _ in range(calls)}
            if check(answers):
                return answers
            assert time.monotonic() < ends, f"the last answers: {answers}"


@asynccontextmanager
async def caller(xds_port: int) -> AsyncIterator[Caller]:
    """gRPC's client, told to ask the xDS server on that port for NAME."""
    server = {
        "server_uri": f"127.0.0.1:{xds_port}",
        "channel_creds": [{"type": "insecure"}],
        "server_features": ["xds_v3"],
    }
    bootstrap = {"xds_servers": [server], "node": {"id": "grpc-1", "cluster": "callers"}}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(grpc_caller.__file__)),
        f"xds:///{NAME}",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)},
    )
    try:
        yield Caller(process)
    finally:
        process.kill()
        await process.wait()
