"""Everything that runs while the demo does: models, replicas, the server, Envoy. Starts, awaits, switches.

What may not live here: what the demo shows with them (steps.py).
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from xds_server.demo import documents, placement
from xds_server.demo.access_log import FLUSH, AccessLog
from xds_server.demo.admin import Admin, answers, eventually, is_synced, routed
from xds_server.demo.forwarding import JSON
from xds_server.demo.models import MODELS
from xds_server.demo.options import MLSERVER, Options, variable
from xds_server.demo.payload import as_rest, seed_request
from xds_server.demo.processes import DemoError, Processes, busy, free_ports
from xds_server.demo.requests import Client

if TYPE_CHECKING:
    from collections.abc import Sequence

SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""More threads of a replica, or of the training, would only take the cores from the others."""

LOAD_TIMEOUT = 60.0

TRAINING = Path(__file__).with_name("train.py")
"""Run as a file: MLServer's own environment, which has to do it, does not know this project."""


def check_ports(options: Options) -> None:
    """Raises DemoError that names every port that is in use, and the option that changes it."""
    wanted = options.listeners()
    taken = set(busy(port for port, _, _ in wanted))
    if taken:
        lines = [
            f"  port {port}, wanted for {what}: choose another with --{option} or {variable(option)}=PORT"
            for port, what, option in wanted
            if port in taken
        ]
        raise DemoError("some ports are in use already:\n" + "\n".join(lines))


class Stage:
    """The running parts. `placement` is what has been loaded where, kept up to date by the steps."""

    def __init__(self, options: Options, processes: Processes, session: aiohttp.ClientSession) -> None:
        self.options = options
        self.processes = processes
        self.admin = Admin(options.admin, session)
        self.placement = placement.first(MODELS, options.replicas)
        self.body = as_rest(seed_request()) if options.runtime == MLSERVER else seed_request()
        self._session = session
        self._access_log: AccessLog | None = None
        self._config = options.directory / "config"
        self._documents = documents.Parts(options.port, options.grpc_port, options.body_path)
        python = options.mlserver.parent / "python" if options.runtime == MLSERVER else Path(sys.executable)
        self._trainer = python
        self.repository = (options.directory / f"models-{options.runtime}").absolute()

    @property
    def access_log(self) -> AccessLog:
        """Envoy's access log."""
        if self._access_log is None:
            raise RuntimeError("Envoy has not been started")
        return self._access_log

    def client(self) -> Client:
        """A client of the gateway with the seed's digit in the form that the runtime takes."""
        return Client(self.options.gateway, self.body)

    def name(self, address: str) -> str:
        """What a replica is called, from its HOST:PORT or its proxy's."""
        names = dict(zip(self.options.replicas, self.options.names, strict=True))
        names.update(zip(self.options.replicas_grpc, self.options.names, strict=True))
        names.update(zip(self.options.proxies, self.options.names, strict=False))
        return names.get(address, address or "none")

    async def train(self) -> str:
        """Trains the models unless an earlier run has; returns what the training said."""
        self.repository.mkdir(parents=True, exist_ok=True)
        child = await self.processes.start("train", [self._trainer, TRAINING, self.repository], SINGLE_THREAD)
        await self.processes.finished(child)
        return child.log.read_text(encoding="utf-8").strip()

    async def start_replicas(self) -> None:
        """Starts the replicas and returns when each has its models."""
        start = self._start_mlserver if self.options.runtime == MLSERVER else self._start_embedded
        for name, address, grpc in zip(
            self.options.names, self.options.replicas, self.options.replicas_grpc, strict=True
        ):
            await start(name, address, grpc.rpartition(":")[2])
        await asyncio.gather(*(self._loaded(address) for address in self.options.replicas))
        for name, address, proxy in zip(
            self.options.names, self.options.replicas, self.options.proxies, strict=False
        ):
            others = [each for each in self.options.proxies if each != proxy]
            port = proxy.rpartition(":")[2]
            command = [sys.executable, "-m", "xds_server.demo.proxy", "--name", name, "--port", port]
            await self.processes.start(f"proxy-{name}", [*command, "--replica", address, "--peers", *others])
        for proxy in self.options.proxies:
            await self._live(proxy)

    async def _start_embedded(self, name: str, address: str, grpc: str) -> None:
        command = [sys.executable, "-m", "xds_server.demo.runtime", "--name", name]
        command += ["--port", address.rpartition(":")[2], "--grpc-port", grpc]
        command += ["--repository", str(self.repository)]
        command += ["--load", *placement.loaded_on(self.placement, address)]
        command += ["--peers", *(other for other in self.options.replicas if other != address)]
        await self.processes.start(name, command, SINGLE_THREAD)

    async def _start_mlserver(self, name: str, address: str, grpc: str) -> None:
        host, _, port = address.rpartition(":")
        (metrics,) = free_ports(1)
        directory = self.options.directory / "mlserver" / name
        directory.mkdir(parents=True, exist_ok=True)
        environment = {
            **SINGLE_THREAD,
            "MLSERVER_HOST": host,
            "MLSERVER_HTTP_PORT": port,
            "MLSERVER_GRPC_PORT": grpc,
            "MLSERVER_METRICS_PORT": str(metrics),
            "MLSERVER_LOAD_MODELS_AT_STARTUP": "false",
            # One process: its workers cannot start with a current uvloop (SeldonIO/MLServer issue 2286).
            "MLSERVER_PARALLEL_WORKERS": "0",
            "MLSERVER_DEBUG": "false",
        }
        command: list[str | Path] = [self.options.mlserver.absolute(), "start", self.repository]
        await self.processes.start(name, command, environment, directory)

    async def _live(self, address: str) -> None:
        async def look() -> bool:
            return await answers(self._session, f"http://{address}/v2/health/live")

        await eventually(f"{address} answers /v2/health/live", look, self.processes.check)

    async def _loaded(self, address: str) -> None:
        """Waits for a replica, and loads its first models where it has not done so itself."""
        await self._live(address)
        if self.options.runtime != MLSERVER:
            return
        timeout = aiohttp.ClientTimeout(total=LOAD_TIMEOUT)
        for model in placement.loaded_on(self.placement, address):
            url = f"http://{address}/v2/repository/models/{model}/load"
            async with self._session.post(url, data=b"{}", headers=JSON, timeout=timeout) as answer:
                if answer.status != 200:
                    raise DemoError(f"{url}: {answer.status} {await answer.text()}")

    async def start_server(self) -> None:
        """Writes the documents and starts the server."""
        documents.clear(self._config)
        documents.write(self._config, self._documents.with_subsets(self._endpoints(proxied=False)))
        command = [sys.executable, "-m", "xds_server", "serve", "--config", str(self._config)]
        command += ["--xds", self.options.xds, "--admin", self.options.admin, "--log-format", "console"]
        await self.processes.start("xds-server", command)
        await eventually("the server is ready", self.admin.ready, self.processes.check)

    async def start_envoy(self) -> None:
        """Prints a bootstrap with the server's own command and starts the gateway."""
        command = [sys.executable, "-m", "xds_server", "bootstrap", "--xds", self.options.xds]
        command += ["--node-id", "demo-gateway", "--cluster", "gateway", "--admin", self.options.envoy_admin]
        printing = await self.processes.start("bootstrap", command)
        await self.processes.finished(printing)
        bootstrap = self.options.directory / "envoy.yaml"
        bootstrap.write_bytes(printing.log.read_bytes())
        flags = ["--disable-hot-restart", "--concurrency", "1", "--file-flush-interval-msec", str(FLUSH)]
        envoy = await self.processes.start("envoy", [self.options.envoy, "-c", bootstrap, *flags])
        self._access_log = AccessLog(envoy.log)
        await self.routed()

    async def routed(self) -> None:
        """Waits until Envoy has acknowledged that every model is where `placement` says."""

        async def look() -> bool:
            status = await self.admin.status()
            return is_synced(status) and routed(status) == self.placement

        await eventually("Envoy has the first placement", look, self.processes.check)
        await self.answering()

    async def answering(self) -> None:
        """Waits until the gateway answers for every model."""
        async with self.client() as client:

            async def look() -> bool:
                return all([(await client.send(model)).ok for model in self.placement])

            await eventually("the gateway answers", look, self.processes.check)

    def _endpoints(self, *, proxied: bool) -> Sequence[dict[str, int | str]]:
        """The replicas as the ServiceEntry lists them; `proxied`: traffic goes to the proxies, if any."""
        traffic = self.options.proxies if proxied and self.options.proxies else self.options.replicas
        found: list[dict[str, int | str]] = []
        for address, *replica in zip(traffic, self.options.replicas, self.options.replicas_grpc, strict=True):
            host, _, port = address.rpartition(":")
            rest, grpc = (int(each.rpartition(":")[2]) for each in replica)
            found.append({"address": host, "http": int(port), "rest": rest, "grpc": grpc})
        return found

    async def without_subsets(self, model: str) -> None:
        """Turns model-aware routing off by its documents; returns when requests for `model` are forwarded."""
        documents.write(self._config, self._documents.without_subsets(self._endpoints(proxied=True)))
        await self._until(model, forwarded=True)

    async def with_subsets(self, model: str) -> None:
        """Turns model-aware routing on by its documents; returns when none for `model` is forwarded."""
        documents.write(self._config, self._documents.with_subsets(self._endpoints(proxied=True)))
        await self._until(model, forwarded=False)

    async def _until(self, model: str, *, forwarded: bool) -> None:
        async with self.client() as client:

            async def look() -> bool:
                samples = [await client.send(model) for _ in range(20)]
                some = any(sample.forwarded_by for sample in samples)
                return all(sample.ok for sample in samples) and some == forwarded

            await eventually("the gateway routes by the changed documents", look, self.processes.check)
