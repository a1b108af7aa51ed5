"""The gRPC server: which services there are, the port, and an end in good order.

Raw bytes go in and out: the codec is ours, so one encoded resource serves every client.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import structlog

from xds_server import known_messages, report_messages
from xds_server.transport import csds, health, not_found
from xds_server.transport.access import CODES, Doorkeeper, RefusedError, identities
from xds_server.transport.admission import Admission
from xds_server.transport.channel import channel_options
from xds_server.transport.encoder import SharedEncoder
from xds_server.transport.known import KnownAnswers
from xds_server.transport.limits import PushGate, RequestMeter
from xds_server.transport.not_found import NotFoundStreams
from xds_server.transport.places import Places
from xds_server.transport.quiet import Quieter
from xds_server.transport.reading import next_request
from xds_server.transport.reports import ReportStreams
from xds_server.transport.stream import Stream
from xds_server.xds.messages import ProtocolError, Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE
from xds_server.xds.status import Delay, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import TypeAlias

    from xds_server.transport.not_found import TakesAnswers
    from xds_server.transport.reports import TakesReports
    from xds_server.transport.tls import Certificates
    from xds_server.xds.access import AccessList
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

_LIFETIME_SPREAD = 0.2
"""Streams opened together should not end together: each lives up to this part longer or shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How streams are kept. Times in seconds.

    `keepalive`: silence after which the client is pinged; `keepalive_timeout`: how long it may take to
    answer. `shortest_ping`: a client that pings more often is cut off; Envoys ping every 10 s.
    `lifetime`: how long a stream lives, give or take a fifth; None: as long as the client wants.
    `streams_per_second`: how many new ones are taken on; others wait. `max_streams`: how many there may be,
    those that wait included; more are refused. `max_request`: bytes; a client that reconnects names
    everything it holds. `requests_per_second`: of one stream; it is slowed down to that, and ended if it
    goes on. `max_pushes`: how many responses are written at a time; others wait.
    """

    keepalive: float = 30.0
    keepalive_timeout: float = 10.0
    shortest_ping: float = 5.0
    lifetime: float | None = None
    streams_per_second: float = 500.0
    max_streams: int = 10_000
    max_request: int = 16 * 1024 * 1024
    requests_per_second: float = 500.0
    max_pushes: int = 200


class XdsServer:
    """Serves a hub on one address.

    Args:
        hub: what is served.
        address: HOST:PORT; port 0 picks a free one.
        options: how streams are kept.
        certificates: loaded already; None: plain text.
        reports: who is told what reporters say; None: they are refused.
        answers: who is told where Envoys were answered "not found"; None: they are refused.
        knows: whether a service's host knows a model's name; None: nothing is said to be unknown.
    """

    def __init__(
        self,
        hub: Hub,
        address: str,
        options: ServerOptions | None = None,
        certificates: Certificates | None = None,
        reports: TakesReports | None = None,
        *,
        answers: TakesAnswers | None = None,
        knows: Callable[[str, str], bool] | None = None,
    ) -> None:
        self._hub = hub
        self._encoder = SharedEncoder(hub)
        self._address = address
        self._options = options or ServerOptions()
        self._certificates = certificates
        self._door = Doorkeeper()
        self._streams: set[Stream] = set()
        self._quieter = Quieter(time.monotonic)
        self._ending = asyncio.Event()
        rate = self._options.streams_per_second
        self._reports = ReportStreams(reports, self._door, self._ending)
        self._not_found = NotFoundStreams(answers, self._door, self._ending, hub.stats.delays)
        self._admission = Admission(rate, max(1, int(rate)), time.monotonic)
        self._health = health.Health((service for service, _, _ in _SERVICES), self._met)
        self._statuses = csds.ClientStatuses(hub, time.time)
        self._known = KnownAnswers(knows)
        self._pushes = PushGate(self._options.max_pushes, hub.stats.delays, hub.clock)
        self._places = Places(self._options.max_streams)
        self._server: grpc.aio.Server | None = None
        self._log = structlog.get_logger("xds")

    async def start(self) -> int:
        """Listen. Returns the port. OSError if the address cannot be had."""
        server = grpc.aio.server(options=channel_options(self._options))
        server.add_generic_rpc_handlers((*self._services(), *self._tools()))
        try:
            port = self._bind(server)
        except RuntimeError as error:
            await server.stop(None)
            raise OSError(f"xds: cannot listen on {self._address}: {await _why(self._address)}") from error
        await server.start()
        self._server = server
        self._log.info("xds listening", address=self._address, port=port, tls=self._certificates is not None)
        return port

    def _bind(self, server: grpc.aio.Server) -> int:
        port: int = (
            server.add_insecure_port(self._address)
            if self._certificates is None
            else server.add_secure_port(self._address, self._certificates.credentials())
        )
        return port

    def serving(self, *, ready: bool) -> None:
        """Tell the health service whether clients are answered."""
        self._health.set(serving=ready)

    def allow(self, access: AccessList) -> None:
        """Take over a list of clients. Streams of those that are no longer on it are ended."""
        self._door.access = access
        for stream in tuple(self._streams):
            stream.reconsider()

    async def stop(self, grace: float) -> None:
        """End every stream, then the server; after `grace` seconds what is left is cut off.

        Streams are told by an event of our own: gRPC's GOAWAY does not end endless ones (grpc-go 6504).
        """
        self._health.close()
        self._ending.set()
        if self._server is not None:
            await self._server.stop(grace)
            self._server = None

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

    def _tools(self) -> list[grpc.GenericRpcHandler]:
        """What is served beside xDS: health, clients' status, reporters, known models, replicas' answers."""
        return [
            grpc.method_handlers_generic_handler(
                health.SERVICE,
                {
                    "Check": grpc.unary_unary_rpc_method_handler(self._health.check),
                    "Watch": grpc.unary_stream_rpc_method_handler(self._health.watch),
                },
            ),
            grpc.method_handlers_generic_handler(
                csds.SERVICE,
                {
                    "FetchClientStatus": grpc.unary_unary_rpc_method_handler(self._fetch_status),
                    "StreamClientStatus": grpc.stream_stream_rpc_method_handler(self._stream_status),
                },
            ),
            grpc.method_handlers_generic_handler(
                report_messages.SERVICE,
                {report_messages.METHOD: grpc.stream_stream_rpc_method_handler(self._take_reports)},
            ),
            grpc.method_handlers_generic_handler(
                known_messages.SERVICE,
                {known_messages.METHOD: grpc.unary_unary_rpc_method_handler(self._is_known)},
            ),
            grpc.method_handlers_generic_handler(
                not_found.SERVICE,
                {not_found.METHOD: grpc.stream_unary_rpc_method_handler(self._take_answers)},
            ),
        ]

    async def _take_reports(self, _: object, context: Context) -> None:
        async with self._refusing(context):
            with self._places.one():
                await self._reports.serve(context)

    async def _is_known(self, request: bytes, context: Context) -> bytes:
        async with self._refusing(context):
            self._door.admit_some_node(identities(context.auth_context()))
            return self._known.answer(request)

    async def _take_answers(self, _: object, context: Context) -> bytes:
        async with self._refusing(context):
            await self._not_found.serve(context)
        return b""

    async def _fetch_status(self, request: bytes, context: Context) -> bytes:
        async with self._refusing(context):
            return self._status(request, context)

    async def _stream_status(self, _: object, context: Context) -> None:
        """Each request has one answer."""
        async with self._refusing(context):
            with self._places.one():
                while (data := await next_request(context, self._ending)) is not None:
                    await context.write(self._status(data, context))

    def _status(self, request: bytes, context: Context) -> bytes:
        proved = identities(context.auth_context())
        self._door.admit(proved)
        return self._statuses.answer(request, lambda node: self._door.may_see(proved, node))

    def _handler(self, variant: Variant, type_url: str | None) -> Handler:
        async def handle(_: object, context: Context) -> None:
            async with self._refusing(context):
                await self._serve(context, variant, type_url)

        return handle

    @asynccontextmanager
    async def _refusing(self, context: Context) -> AsyncIterator[None]:
        """Tell the client why it is refused, where what is done within refuses it."""
        self._met(context)
        try:
            yield
        except RefusedError as error:
            await self._refuse(context, error.reason, str(error))
        except ProtocolError as error:
            await self._refuse(context, Refusal.PROTOCOL, str(error))

    def _met(self, context: Context) -> None:
        """A connection has carried a call."""
        if self._certificates is not None:
            self._certificates.handshakes.met(context.peer())

    async def _serve(self, context: Context, variant: Variant, type_url: str | None) -> None:
        """One stream, from its identity to its end."""
        proved = identities(context.auth_context())
        self._door.admit(proved)
        with self._places.one():
            self._hub.stats.delays[Delay.STREAM] += await self._admission.enter()
            if not self._ending.is_set():
                await self._run(context, variant, type_url, proved)

    async def _run(
        self, context: Context, variant: Variant, type_url: str | None, proved: tuple[str, ...]
    ) -> None:
        stream = Stream(
            hub=self._hub,
            encoder=self._encoder,
            context=context,
            variant=variant,
            type_url=type_url,
            identities=proved,
            door=self._door,
            ending=self._ending,
            lifetime=self._lifetime(),
            meter=RequestMeter(self._options.requests_per_second, time.monotonic),
            max_request=self._options.max_request,
            pushes=self._pushes,
        )
        self._streams.add(stream)
        try:
            await stream.serve()
        finally:
            self._streams.discard(stream)

    async def _refuse(self, context: Context, reason: Refusal, text: str) -> None:
        self._hub.stats.refusals[reason] += 1
        if (unsaid := self._quieter.may_say(reason)) is not None:
            self._log.warning(
                "client refused", peer=context.peer(), reason=reason.value, error=text, not_logged=unsaid
            )
        await context.abort(CODES[reason], text)

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
