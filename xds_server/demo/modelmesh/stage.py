"""What runs while the ModelMesh demo does: etcd, four pods, the server, Envoy."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xds_server.demo.admin import Admin, answers, eventually, is_synced
from xds_server.demo.documents import HOST, clear
from xds_server.demo.modelmesh import documents
from xds_server.demo.modelmesh.etcd import EtcdWriter, EtcdWriterError
from xds_server.demo.modelmesh.records import Registry, now_ms
from xds_server.demo.payload import seed_request
from xds_server.demo.processes import DemoError, free_ports
from xds_server.demo.requests import Client
from xds_server.demo.stage import SINGLE_THREAD, TRAINING

if TYPE_CHECKING:
    import aiohttp

    from xds_server.demo.processes import Child, Processes

ROOT = "modelmesh-serving"
PREFIX = f"{ROOT}/mm/modelmesh-serving/"
PODS = tuple(
    f"modelmesh-serving-mlserver-1.x-6f7d9c8b5-{end}" for end in ("4kx7q", "9mzt2", "b8wnf", "hd5rv")
)
PLACES = {"sklearn-mnist": (0, 1), "tf-mnist": (1, 2)}
"""Which pods have which model from the beginning; the fourth has none."""

STANDBY = "logistic-mnist"
"""Known to ModelMesh, and loaded nowhere until somebody asks for it."""


class Stage:
    """The running parts. `ids`: clients' names to the ids of the concrete models."""

    def __init__(
        self, directory: Path, envoy: Path, processes: Processes, session: aiohttp.ClientSession
    ) -> None:
        self.directory = directory
        self.processes = processes
        self.session = session
        self.ids: dict[str, str] = {}
        self._envoy = envoy
        self._config = directory / "modelmesh" / "config"
        self._connection = (directory / "modelmesh" / "etcd_connection").absolute()
        ports = free_ports(7 + len(PODS))
        self._etcd, self._peer, self.xds, self.admin_port, self.port, self.envoy_admin, _, *pods = ports
        self.pods = dict(zip(PODS, pods, strict=True))
        self.gateway = f"127.0.0.1:{self.port}"
        self.admin = Admin(f"127.0.0.1:{self.admin_port}", session)
        self._children: dict[str, Child] = {}
        self._writer = EtcdWriter(session, f"http://127.0.0.1:{self._etcd}")

    def client(self) -> Client:
        """A client of the gateway with the seed's digit."""
        return Client(self.gateway, seed_request())

    def name(self, pod: str) -> str:
        """A pod as it is shown."""
        return f"pod {pod[-5:]}" if pod else "none"

    async def train(self) -> None:
        """Train the models, unless an earlier run of a demo has."""
        trained = (self.directory / "models-embedded").absolute()
        await asyncio.to_thread(trained.mkdir, parents=True, exist_ok=True)
        child = await self.processes.start("train", [sys.executable, TRAINING, trained], SINGLE_THREAD)
        await self.processes.finished(child)

    async def start_etcd(self) -> None:
        """Start etcd on its data; returns when it answers."""
        client, peer = f"http://127.0.0.1:{self._etcd}", f"http://127.0.0.1:{self._peer}"
        binary = Path(sys.executable).with_name("etcd")
        command: list[str | Path] = [
            binary,
            "--data-dir",
            self.directory / "modelmesh" / "etcd",
            "--log-level",
            "error",
        ]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", f"default={peer}"]
        self._children["etcd"] = await self.processes.start("etcd", command)

        async def look() -> bool:
            try:
                await self._writer.revision()
            except EtcdWriterError:
                return False
            return True

        await eventually("etcd answers", look, self.processes.check)

    async def write_registry(self) -> None:
        """What ModelMesh has written long before the story begins."""
        registry = Registry(self._writer, PREFIX)
        for name, places in (*PLACES.items(), (STANDBY, ())):
            self.ids[name] = await registry.serve(name, "mt:sklearn", f"models/{name}")
            for place in places:
                await registry.enter(self.ids[name], PODS[place], now_ms() - 600_000)
        connection = {"endpoints": f"http://127.0.0.1:{self._etcd}", "root_prefix": ROOT}
        await asyncio.to_thread(self._connection.write_text, json.dumps(connection))
        await asyncio.to_thread(self._link)

    def _link(self) -> None:
        """The repository by concrete ids, as a ModelMesh runtime has it."""
        repository = self.directory / "modelmesh" / "models"
        for name, model in self.ids.items():
            (repository / model).mkdir(parents=True)
            file = self.directory / "models-embedded" / name / "model.joblib"
            (repository / model / "model.joblib").symlink_to(file.absolute())

    async def start_pod(self, pod: str) -> None:
        """Start a pod; returns when it answers, its models loaded."""
        number = PODS.index(pod)
        command = [sys.executable, "-m", "xds_server.demo.modelmesh.pod", "--pod", pod]
        command += [
            "--port",
            str(self.pods[pod]),
            "--repository",
            str(self.directory / "modelmesh" / "models"),
        ]
        command += ["--etcd", f"http://127.0.0.1:{self._etcd}", "--prefix", PREFIX]
        command += ["--names", *(f"{name}={model}" for name, model in self.ids.items())]
        command += ["--load", *(self.ids[name] for name, places in PLACES.items() if number in places)]
        command += ["--peers", *(f"127.0.0.1:{port}" for other, port in self.pods.items() if other != pod)]
        self._children[pod] = await self.processes.start(pod, command, SINGLE_THREAD)

        async def look() -> bool:
            return await answers(self.session, f"http://127.0.0.1:{self.pods[pod]}/v2/health/live")

        await eventually(f"{self.name(pod)} answers", look, self.processes.check)

    async def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop etcd or a pod on purpose."""
        await self.processes.end(self._children.pop(name), number)

    async def start_server(self) -> None:
        """The server on the documents of the time before."""
        clear(self._config)
        documents.write_before(self._config, self.port, self.pods)
        command = [sys.executable, "-m", "xds_server", "serve", "--config", str(self._config)]
        command += ["--xds", f"127.0.0.1:{self.xds}", "--admin", f"127.0.0.1:{self.admin_port}"]
        await self.processes.start("xds-server", [*command, "--log-format", "console"])
        await eventually("the server is ready", self.admin.ready, self.processes.check)

    async def start_envoy(self) -> None:
        """The gateway, by the server's own bootstrap."""
        command = [sys.executable, "-m", "xds_server", "bootstrap", "--xds", f"127.0.0.1:{self.xds}"]
        command += [
            "--node-id",
            "gateway",
            "--cluster",
            "gateway",
            "--admin",
            f"127.0.0.1:{self.envoy_admin}",
        ]
        printing = await self.processes.start("bootstrap", command)
        await self.processes.finished(printing)
        bootstrap = self.directory / "modelmesh" / "envoy.yaml"
        await asyncio.to_thread(shutil.copy, printing.log, bootstrap)
        await self.processes.start(
            "envoy", [self._envoy, "-c", bootstrap, "--disable-hot-restart", "--concurrency", "1"]
        )

        async def look() -> bool:
            async with self.client() as client:
                return (await client.send("tf-mnist")).ok

        await eventually("the gateway answers", look, self.processes.check)

    async def turn_on(self) -> None:
        """The seed's manifests and the pool; returns when every Envoy has what the registry says."""
        documents.write_after(
            self._config,
            self.port,
            self.pods,
            self._connection,
            [name for name in self.ids if name != "tf-mnist"],
        )
        expected = {
            name: sorted(self._address(PODS[place]) for place in places) for name, places in PLACES.items()
        }
        await self.routed(expected)

    async def routed(self, expected: dict[str, list[str]]) -> None:
        """Wait until each of these models is routed to exactly these endpoints, and Envoy has it."""

        async def look() -> bool:
            status = await self.admin.status()
            places = {m: sorted(p["endpoint"] for p in status["models"].get(m, [])) for m in expected}
            return places == expected and is_synced(status)

        await eventually(f"Envoy has {expected}", look, self.processes.check)

    def _address(self, pod: str) -> str:
        return f"127.0.0.1:{self.pods[pod]}"

    async def service(self) -> dict[str, Any]:
        """The service's part of the server's status."""
        status = await self.admin.status()
        found: dict[str, Any] | None = next((s for s in status["services"] if s["host"] == HOST), None)
        if found is None:
            raise DemoError(f"the server does not know {HOST}")
        return found
