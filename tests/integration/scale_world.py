"""A real Envoy on our server's own parts, all in this process, for the layouts: pools, moves, traffic.

Upstreams are in this process too: each answers with its name if the model of the path is loaded there,
and with 404 if it is not, as a runtime does. A request that Envoy sends to a replica without its model
is therefore seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

from tests.integration.envoy import Envoy
from tests.static_envoy import free_ports
from xds_server.mesh.events import (
    ConfigurationReplaced,
    ModelsReported,
    ModelState,
    WithdrawalCancelled,
    WithdrawalStarted,
)
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.misses import NO_MISSES, Misses
from xds_server.mesh.model import Endpoint, EndpointId, Locality, Service, ServicePort
from xds_server.mesh.policies import Policy, Selector
from xds_server.mesh.pools import DEFAULT_SUBSET_KEY, OpenInference, Pool
from xds_server.mesh.routing import (
    Configuration,
    Destination,
    Gateway,
    GatewayServer,
    HeaderToKey,
    Route,
    VirtualService,
)
from xds_server.moves.acknowledged import Watch, acknowledged
from xds_server.publisher import Publisher
from xds_server.resources.bootstrap import bootstrap
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.transport.server import XdsServer
from xds_server.xds.hub import Hub

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from xds_server.mesh.layout import PoolLayout
    from xds_server.mesh.policies import Fallback

KEY = DEFAULT_SUBSET_KEY
LIMIT = 30.0
SOURCE = "test"


class Replica:
    """One upstream: `models` are those that it answers for, after `delay` seconds; others get `without`.

    Written on bare connections, as the client is: 500 requests a second must leave the machine to Envoy.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.models: set[str] = set()
        self.port = 0
        self.answer_any = False
        self.without = b"418 Not Here"
        self.delay = 0.0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                _, found, rest = head.partition(b"\r\nmodel: ")
                model = rest.partition(b"\r\n")[0].decode() if found else ""
                ok = self.answer_any or model in self.models
                body = self.name.encode()
                status = b"200 OK" if ok else self.without
                if ok and self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
        writer.close()


class Connection:
    """One connection to a gateway port, kept open; one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def get(
        self, model: str | None = None, path: str = "/", *, session: str | None = None
    ) -> tuple[int, str]:
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        named = b"" if model is None else b"model: %s\r\n" % model.encode()
        named += b"" if session is None else b"x-session: %s\r\n" % session.encode()
        self._writer.write(b"GET %s HTTP/1.1\r\nhost: pool\r\n%s\r\n" % (path.encode(), named))
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await self._reader.readexactly(size)
        if b"connection: close" in head:
            self.close()
        return int(head.split()[1]), body.decode()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class ScaleWorld:
    """Pools by name, each with its own gateway port; one publisher, one Envoy that has them all.

    Args:
        replicas: how many upstreams.
        linger: seconds that former clusters stay.
        knows: what the server says of models that no replica has.
        per_model: Envoy has the bootstrap that is meant for a cluster for each model.
        zones: of the replicas, in order; `zone`: Envoy's own, empty for none.
    """

    def __init__(
        self,
        replicas: int = 3,
        *,
        linger: float = 1.0,
        per_model: bool = False,
        zones: Sequence[str] = (),
        zone: str = "",
        knows: Callable[[str, str], bool] | None = None,
    ) -> None:
        self.replicas = [Replica(f"r{number}") for number in range(replicas)]
        self.mesh = Mesh(on_change=self._changed)
        self.hub = Hub(time.monotonic)
        self.builder = Builder(BuildOptions(access_log=False))
        self.publisher = Publisher(self.mesh, self.builder, self.hub, linger=linger)
        self.server = XdsServer(self.hub, "127.0.0.1:0", knows=knows)
        self.port: dict[str, int] = {}
        self._per_model = per_model
        self._zones = zones or ("",) * replicas
        self._locality = Locality(zone=zone) if zone else None
        self._pools: dict[str, tuple[Pool, Policy]] = {}
        self._placed: dict[str, tuple[int, ...]] = {}
        self._withdrawn = 0

    async def __aenter__(self) -> Self:
        self._stack = contextlib.AsyncExitStack()
        for replica in self.replicas:
            await replica.start()
            self._stack.push_async_callback(replica.close)
        self._xds = await self.server.start()
        self._stack.push_async_callback(self.server.stop, 1.0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start(self) -> None:
        """Publish for the first time and start Envoy; all pools are there by then."""
        self.publisher.start()
        self.server.serving(ready=True)
        self._task = asyncio.create_task(self.publisher.run())
        self._stack.callback(self._task.cancel)
        text = bootstrap(
            xds=f"127.0.0.1:{self._xds}",
            admin=f"127.0.0.1:{free_ports(1)[0]}",
            per_model=self._per_model,
            locality=self._locality,
        )
        self.envoy = await asyncio.to_thread(Envoy, text)
        self._stack.push_async_callback(asyncio.to_thread, self.envoy.stop)
        for name in self.port:
            await self.until(lambda name=name: self._listens(name), f"{name} to listen")

    async def _listens(self, name: str) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port[name])
        except OSError:
            return False
        writer.close()
        return True

    def add(
        self,
        name: str,
        layout: PoolLayout,
        fallback: Fallback,
        *,
        no_model: Fallback | None = None,
        not_loaded: Fallback | None = None,
        replicas: Iterable[int] | None = None,
        labels: dict[str, str] | None = None,
        misses: Misses = NO_MISSES,
        **rule: Any,
    ) -> None:
        """A pool on a gateway port of its own. `rule`: more fields of its policy."""
        while name not in self.port:
            port = free_ports(1)[0]
            if port not in self.port.values():  # drawn one at a time, a port can come up twice
                self.port[name] = port
        pool = Pool(
            f"ns/{name}",
            name,
            OpenInference(),
            no_model=no_model,
            not_loaded=not_loaded,
            layout=layout,
            misses=misses,
        )
        policy = Policy(
            f"ns/{name}", name, selectors=(Selector((KEY,), fallback),), default_subset=labels or {}, **rule
        )
        self._pools[name] = pool, policy
        self._placed[name] = tuple(range(len(self.replicas)) if replicas is None else replicas)

    def configure(self) -> None:
        """Tell the mesh of the pools as they are now."""
        services = tuple(
            Service(name, "ns", (ServicePort(self.port[name], "http"),)) for name in sorted(self._pools)
        )
        endpoints = tuple(
            Endpoint(
                self.id(name, number),
                {"http": self.replicas[number].port},
                {"n": str(number)},
                Locality(zone=self._zones[number]),
            )
            for name in sorted(self._pools)
            for number in self._placed[name]
        )
        configuration = Configuration(
            services=services,
            endpoints=endpoints,
            pools=tuple(pool for pool, _ in self._pools.values()),
            policies=tuple(policy for _, policy in self._pools.values()),
            gateways=tuple(
                Gateway(f"ns/{name}", (GatewayServer(self.port[name], "http"),)) for name in self._pools
            ),
            virtual_services=tuple(_virtual_service(name, self.port[name]) for name in self._pools),
        )
        self.mesh.apply(ConfigurationReplaced(source=SOURCE, configuration=configuration))

    def id(self, name: str, number: int) -> EndpointId:
        return EndpointId(name, "127.0.0.1", self.replicas[number].port)

    def report(self, name: str, number: int, models: Iterable[str]) -> None:
        """What a replica says it holds for a pool."""
        rows = tuple(ModelState(model) for model in sorted(models))
        self.mesh.apply(
            ModelsReported(endpoint=self.id(name, number), source=SOURCE, models=rows, at=time.time())
        )

    async def withdraw(self, name: str, number: int, model: str) -> str:
        """Take a model off a replica and wait for Envoy's word, as a move does. Returns what cancels it."""
        self._withdrawn += 1
        identity = f"w{self._withdrawn}"
        self.mesh.apply(
            WithdrawalStarted(id=identity, endpoint=self.id(name, number), model=model, at=time.time())
        )
        await self.published(name, model)
        return identity

    def cancel(self, identity: str) -> None:
        self.mesh.apply(WithdrawalCancelled(id=identity))

    async def published(self, name: str, model: str) -> None:
        serial = self.publisher.flush()
        names = self.builder.assignments(name, model)
        await acknowledged(self.hub, names, serial, timeout=LIMIT, watch=Watch(), return_limit=0.1)

    def memory(self) -> int:
        """Bytes that Envoy's allocator has handed out."""
        return int(self.envoy.stats("server.memory_allocated")["server.memory_allocated"])

    def connection(self, name: str) -> Connection:
        made = Connection(self.port[name])
        self._stack.callback(made.close)
        return made

    async def spread(self, name: str, model: str | None, count: int = 40) -> Counter[str]:
        """Who answered how often; the status where it is not 200."""
        connection = self.connection(name)
        found = [await connection.get(model) for _ in range(count)]
        return Counter(text if status == 200 else str(status) for status, text in found)

    @staticmethod
    async def until(check: Callable[[], Awaitable[bool]], what: str, limit: float = LIMIT) -> None:
        deadline = time.monotonic() + limit
        while not await check():
            assert time.monotonic() < deadline, f"not within {limit:g} s: {what}"
            await asyncio.sleep(0.02)

    def _changed(self) -> None:
        self.publisher.notify()


def _virtual_service(name: str, port: int) -> VirtualService:
    route = Route("default", (), (Destination(name, port),), (HeaderToKey("model", KEY),))
    return VirtualService(f"ns/{name}", ("*",), (f"ns/{name}",), (route,))
