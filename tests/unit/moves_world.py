"""A world for tests of moves and of the admin port: real mesh, builder, publisher and hub; Envoys and
runtimes played by the test.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xds_server.mesh.events import (
    ConfigurationReplaced,
    FailureKind,
    ModelsReported,
    ModelState,
    ReportFailed,
)
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.model import Endpoint, EndpointId, Locality, Service, ServicePort
from xds_server.mesh.pools import OpenInference, Pool, StaticModels
from xds_server.mesh.routing import Configuration, Destination, Gateway, GatewayServer, Route, VirtualService
from xds_server.moves.errors import RuntimeRefusedError
from xds_server.moves.mover import Mover
from xds_server.publisher import Publisher
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.xds.hub import Hub
from xds_server.xds.messages import DeltaRequest, Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, Node

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "models.example"
OTHER = "other.example"
STATIC = "static.example"


def endpoint(port: int, host: str = HOST, zone: str = "") -> Endpoint:
    return Endpoint(
        EndpointId(host, "127.0.0.1", port),
        {"http": port, "rest": port + 100},
        {"rack": "r1"},
        Locality(zone=zone),
    )


def configuration(*ports: int, zone: str = "", other: tuple[int, ...] = ()) -> Configuration:
    services = (HOST, STATIC, *([OTHER] if other else []))
    return Configuration(
        services=tuple(Service(host, "ns", (ServicePort(8033, "http"),)) for host in services),
        endpoints=(
            *(endpoint(port, zone=zone) for port in ports),
            *(endpoint(port, OTHER) for port in other),
            endpoint(7001, STATIC),
        ),
        pools=(
            Pool("ns/models", HOST, OpenInference(port="rest")),
            Pool("ns/static", STATIC, StaticModels({"127.0.0.1:7001": ("fixed",)})),
            *([Pool("ns/other", OTHER, OpenInference(port="rest"))] if other else []),
        ),
        gateways=(Gateway("ns/gateway", (GatewayServer(8008, "http"),)),),
        virtual_services=(
            VirtualService(
                "ns/models",
                ("*",),
                ("ns/gateway",),
                (Route("default", (), tuple(Destination(host, 8033) for host in services)),),
            ),
        ),
    )


class FakeEnvoy:
    """One delta ADS stream that subscribes like Envoy does. `acks` is False: it stays silent.

    `assignments`: those that it subscribes to; None: all.
    """

    def __init__(self, world: World, node: str, assignments: tuple[str, ...] | None = None) -> None:
        self.acks = True
        self.nack: str | None = None
        self.pending = False
        self._loop = asyncio.get_running_loop()
        self.session = world.hub.open(Variant.DELTA, None, "10.0.0.1:4711", self._wake)
        self.session.receive(DeltaRequest(type_url=CLUSTER, subscribe=("*",), node=Node(node, "gateway")))
        names = tuple(world.assignments()) if assignments is None else assignments
        self.session.receive(DeltaRequest(type_url=ENDPOINT, subscribe=names))
        self.pump()

    def _wake(self) -> None:
        self.pending = True
        self._loop.call_soon(self.pump)

    def pump(self) -> None:
        self.pending = False
        while responses := self.session.take():
            for response in responses:
                if response.type_url == ENDPOINT and not self.acks:
                    continue
                error = self.nack if response.type_url == ENDPOINT else None
                self.session.receive(
                    DeltaRequest(
                        type_url=response.type_url, response_nonce=response.nonce, error_detail=error
                    )
                )

    def close(self) -> None:
        self.session.close()


@dataclass
class World:
    """Everything that a move touches. Plays the runtimes and the poller itself."""

    ports: tuple[int, ...] = (9001, 9002, 9003)
    other: tuple[int, ...] = ()
    loaded: dict[EndpointId, set[str]] = field(default_factory=dict)
    orders: list[tuple[str, str, str]] = field(default_factory=list)
    refusal: Exception | None = None
    on_order: Callable[[], None] | None = None
    on_poll: Callable[[], None] | None = None
    deaf: bool = False
    return_limit: float = 5.0
    hung: asyncio.Event | None = None

    def __post_init__(self) -> None:
        self.changed = asyncio.Event()
        self.mesh = Mesh(on_change=self.changed.set)
        self.hub = Hub(time.monotonic)
        self.builder = Builder(BuildOptions())
        self.publisher = Publisher(self.mesh, self.builder, self.hub)
        self.mover = Mover(
            self.mesh,
            self.hub,
            self.publisher,
            self,
            self.builder.assignments,
            runtimes=self,
            return_limit=self.return_limit,
        )
        self.configure(configuration(*self.ports, other=self.other))

    def configure(self, documents: Configuration) -> None:
        self.mesh.apply(ConfigurationReplaced(source="files", configuration=documents))

    def start(self, **models: str) -> World:
        """`m=1,2`: model m is READY on the first and the second endpoint. Publishes for the first time."""
        for port in self.ports:
            self.loaded[EndpointId(HOST, "127.0.0.1", port)] = set()
        for model, numbers in models.items():
            for number in filter(None, numbers.split(",")):
                self.loaded[self.id(int(number))].add(model)
        for each in self.loaded:
            self.report(each)
        self.publisher.start()
        return self

    def id(self, number: int) -> EndpointId:
        return EndpointId(HOST, "127.0.0.1", self.ports[number - 1])

    def at(self, number: int) -> str:
        return str(self.id(number))

    def assignments(self) -> list[str]:
        return [name for host in self.mesh.services() for name in self.builder.assignments(host)]

    def report(self, each: EndpointId, state: str = "READY") -> None:
        rows = tuple(ModelState(name, "1", state) for name in sorted(self.loaded[each]))
        self.mesh.apply(ModelsReported(endpoint=each, source="runtime", models=rows, at=time.time()))

    def fail(
        self, number: int, kind: FailureKind = FailureKind.REFUSED, error: str = "nobody listens"
    ) -> None:
        self.mesh.apply(
            ReportFailed(endpoint=self.id(number), source="runtime", kind=kind, error=error, at=time.time())
        )

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait for something that comes with a change of the mesh."""
        async with asyncio.timeout(5):
            while not true():
                self.changed.clear()
                await self.changed.wait()

    def routed(self, number: int) -> tuple[str, ...]:
        placed = self.mesh.service(HOST).endpoints[number - 1]
        assert placed.endpoint.id == self.id(number)
        return placed.models

    # The poller's and the runtime's part

    async def poll_now(self, endpoint: EndpointId) -> None:
        await asyncio.sleep(0)
        if self.on_poll is not None:
            self.on_poll()
        if endpoint not in self.loaded:
            raise LookupError(str(endpoint))
        self.report(endpoint)

    async def load(self, endpoint: Endpoint, pool: Pool, model: str, limit: float) -> None:
        await self._order("load", endpoint, pool, model, limit)
        if not self.deaf:
            self.loaded[endpoint.id].add(model)

    async def unload(self, endpoint: Endpoint, pool: Pool, model: str, limit: float) -> None:
        await self._order("unload", endpoint, pool, model, limit)
        if not self.deaf:
            self.loaded[endpoint.id].discard(model)

    async def _order(self, action: str, endpoint: Endpoint, pool: Pool, model: str, limit: float) -> None:
        assert pool.host == endpoint.id.service
        assert limit >= 0
        self.orders.append((action, str(endpoint.id), model))
        if self.on_order is not None:
            self.on_order()
        if self.hung is not None:
            await self.hung.wait()
        if self.refusal is not None:
            raise self.refusal


def refused(text: str = "the runtime refused: HTTP 500 boom") -> RuntimeRefusedError:
    return RuntimeRefusedError(text)
