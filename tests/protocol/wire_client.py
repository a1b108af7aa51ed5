"""A client over a real connection, speaking the library's own messages."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.service.discovery.v3 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from envoy_data_plane.google.rpc import Status

from xds_server.transport.server import XdsServer
from xds_server.xds.messages import Variant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from xds_server.transport.not_found import TakesAnswers
    from xds_server.transport.server import ServerOptions
    from xds_server.xds.hub import Hub

LIMIT = 10.0
ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService", "AggregatedResources"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


@asynccontextmanager
async def served(
    hub: Hub, options: ServerOptions | None = None, *, answers: TakesAnswers | None = None
) -> AsyncIterator[int]:
    """A server on a free port."""
    server = XdsServer(hub, "127.0.0.1:0", options, answers=answers)
    port = await server.start()
    try:
        yield port
    finally:
        await server.stop(1.0)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        yield channel


class WireClient:
    """One stream in one dialect."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        variant: Variant,
        service: tuple[str, str] = ADS,
        node: str = "envoy-1",
    ) -> None:
        self.variant = variant
        self.node: Node | None = Node(id=node, cluster="gateway")
        prefix = "Delta" if variant is Variant.DELTA else "Stream"
        method = channel.stream_stream(f"/{service[0]}/{prefix}{service[1]}")
        self.call = method()

    async def ask(self, type_url: str, *names: str, nonce: str = "", error: str | None = None) -> None:
        node, self.node = self.node, None
        detail = None if error is None else Status(code=13, message=error)
        message = (
            DeltaDiscoveryRequest(
                node=node,
                type_url=type_url,
                resource_names_subscribe=list(names),
                response_nonce=nonce,
                error_detail=detail,
            )
            if self.variant is Variant.DELTA
            else DiscoveryRequest(
                node=node,
                type_url=type_url,
                resource_names=list(names),
                response_nonce=nonce,
                error_detail=detail,
            )
        )
        await self.send(bytes(message))

    async def send(self, data: bytes) -> None:
        await self.call.write(data)

    async def hear(self) -> DiscoveryResponse | DeltaDiscoveryResponse:
        async with asyncio.timeout(LIMIT):
            data = await self.call.read()
        assert data is not grpc.aio.EOF, f"the stream ended: {await self.ended()}"
        kind = DeltaDiscoveryResponse if self.variant is Variant.DELTA else DiscoveryResponse
        return kind.parse(data)

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """How the server ended the stream."""
        async with asyncio.timeout(LIMIT):
            return await self.call.code(), await self.call.details()


def bodies(response: DiscoveryResponse | DeltaDiscoveryResponse) -> list[str]:
    if isinstance(response, DeltaDiscoveryResponse):
        return [each.resource.value.decode() for each in response.resources if each.resource]
    return [each.value.decode() for each in response.resources]
