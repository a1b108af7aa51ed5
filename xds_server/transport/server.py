"""The gRPC server: which services there are, the port, and an end in good order.

Raw bytes go in and out: the codec is ours, so one encoded resource serves every client.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import structlog

from xds_server.transport.admission import Admission
from xds_server.transport.encoder import SharedEncoder
from xds_server.transport.stream import Stream
from xds_server.xds.messages import ProtocolError, Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from xds_server.xds.hub import Hub

    Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
    Handler: TypeAlias = Callable[[object, Context], Awaitable[None]]

_SERVICES = (
    ("envoy.service.discovery.v3.AggregatedDiscoveryService", "AggregatedResources", None),
    ("envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters", CLUSTER),
    ("envoy.service.endpoint.v3.EndpointDiscoveryService", "Endpoints", ENDPOINT),
    ("envoy.service.listener.v3.ListenerDiscoveryService", "Listeners", LISTENER),
    ("envoy.service.route.v3.RouteDiscoveryService", "Routes", ROUTE),
)
"""Each service, what its two methods end in (after Stream and Delta), and the type it serves."""

_READ_AHEAD = 1024 * 1024
"""Bytes of requests that a client may send before they are read."""

_LIFETIME_SPREAD = 0.2
"""Streams opened together should not end together: each lives up to this part longer or shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How streams are kept. Times in seconds.

    `keepalive`: silence after which the client is pinged; `keepalive_timeout`: how long it may take to
    answer. `lifetime`: how long a stream lives, give or take a fifth; None: as long as the client wants.
    `streams_per_second`: how many new ones are taken on; others wait. `max_request`: bytes; a client
    that reconnects names everything it holds.
    """

    keepalive: float = 30.0
    keepalive_timeout: float = 10.0
    lifetime: float | None = None
    streams_per_second: float = 500.0
    max_request: int = 64 * 1024 * 1024


class XdsServer:
    """Serves a hub on one address.

    Args:
        hub: what is served.
        address: HOST:PORT; port 0 picks a free one.
        options: how streams are kept.
    """

    def __init__(self, hub: Hub, address: str, options: ServerOptions | None = None) -> None:
        self._hub = hub
        self._encoder = SharedEncoder(hub)
        self._address = address
        self._options = options or ServerOptions()
        self._ending = asyncio.Event()
        rate = self._options.streams_per_second
        self._admission = Admission(rate, max(1, int(rate)), time.monotonic)
        self._server: grpc.aio.Server | None = None
        self._log = structlog.get_logger("xds")

    async def start(self) -> int:
        """Listen. Returns the port. OSError if the address cannot be had."""
        server = grpc.aio.server(options=self._channel_options())
        server.add_generic_rpc_handlers(tuple(self._services()))
        try:
            port: int = server.add_insecure_port(self._address)
        except RuntimeError as error:
            await server.stop(None)
            raise OSError(f"xds: cannot listen on {self._address}: {await _why(self._address)}") from error
        await server.start()
        self._server = server
        self._log.info("xds listening", address=self._address, port=port)
        return port

    async def stop(self, grace: float) -> None:
        """End every stream, then the server; after `grace` seconds what is left is cut off.

        Streams are told by an event of our own: gRPC's GOAWAY does not end endless ones (grpc-go 6504).
        """
        self._ending.set()
        if self._server is not None:
            await self._server.stop(grace)
            self._server = None

    def _channel_options(self) -> list[tuple[str, int]]:
        options = self._options
        return [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", options.max_request),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", int(options.keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", int(options.keepalive_timeout * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            # No ping after every few requests to find out how fast they come: a sixth of all the CPU time.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", _READ_AHEAD),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ]

    def _services(self) -> list[grpc.GenericRpcHandler]:
        return [
            grpc.method_handlers_generic_handler(
                service,
                {
                    f"Stream{what}": grpc.stream_stream_rpc_method_handler(
                        self._handler(Variant.SOTW, type_url)
                    ),
                    f"Delta{what}": grpc.stream_stream_rpc_method_handler(
                        self._handler(Variant.DELTA, type_url)
                    ),
                },
            )
            for service, what, type_url in _SERVICES
        ]

    def _handler(self, variant: Variant, type_url: str | None) -> Handler:
        async def handle(_: object, context: Context) -> None:
            await self._admission.enter()
            if self._ending.is_set():
                return
            stream = Stream(
                hub=self._hub,
                encoder=self._encoder,
                context=context,
                variant=variant,
                type_url=type_url,
                ending=self._ending,
                lifetime=self._lifetime(),
            )
            try:
                await stream.serve()
            except ProtocolError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

        return handle

    def _lifetime(self) -> float | None:
        lifetime = self._options.lifetime
        if lifetime is None:
            return None
        return lifetime * random.uniform(1 - _LIFETIME_SPREAD, 1 + _LIFETIME_SPREAD)  # noqa: S311


async def _why(address: str) -> str:
    """The operating system's reason: gRPC does not tell it, so the address is tried once more."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    try:
        probe = await loop.create_server(asyncio.Protocol, host.strip("[]"), int(port))
    except (OSError, ValueError, OverflowError) as error:
        return str(error)
    probe.close()
    await probe.wait_closed()
    return "gRPC refused the address"
