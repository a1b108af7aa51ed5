"""Real MLServer processes for tests, from an environment of their own, with models that need no library.

`XDS_MLSERVER` names the `mlserver` command; without it, `.venv-mlserver/bin/mlserver` at the root of the
checkout is used, which `make test` installs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[2]
MODELS = Path(__file__).parent / "mlserver_models"
START_LIMIT = 60.0
"""Seconds that an MLServer has to come up: it takes some two, but four may start at once on two cores."""
STOP_LIMIT = 20.0


def command() -> str:
    """The `mlserver` to run; RuntimeError that says how to get one."""
    found = os.environ.get("XDS_MLSERVER") or str(ROOT / ".venv-mlserver" / "bin" / "mlserver")
    if shutil.which(found) is None:
        raise RuntimeError(f"no MLServer at {found}: run `make install-mlserver`, or set XDS_MLSERVER")
    return found


def write_model(repository: Path, name: str, kind: str = "Said", folder: str = "", **extra: Any) -> None:
    """Add a model to a repository. `kind` is a class of mlserver_models/said.py."""
    settings = {
        "name": name,
        "implementation": f"said.{kind}",
        "parameters": {"version": "v1", "extra": extra},
    }
    directory = repository / (folder or name)
    directory.mkdir(parents=True)
    (directory / "model-settings.json").write_text(json.dumps(settings))


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that were free just now, each another."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class MLServer:
    """One replica. Starts at construction without waiting; use it as a context, or call ready and stop.

    Args:
        repository: the models, see write_model; several replicas may share it. Nothing is loaded, unless
            `at_startup` says that all of them are.
        work: a directory of this replica's own, for its log.
        name: what its models answer as their replica.
    """

    def __init__(self, repository: Path, work: Path, name: str = "r1", *, at_startup: bool = False) -> None:
        self.name = name
        self.address = "127.0.0.1"
        self.port, self.grpc_port, metrics = free_ports(3)
        self.url = f"http://{self.address}:{self.port}"
        self.log = work / f"{name}.log"
        work.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "MLSERVER_HOST": self.address,
            "MLSERVER_HTTP_PORT": str(self.port),
            "MLSERVER_GRPC_PORT": str(self.grpc_port),
            "MLSERVER_METRICS_PORT": str(metrics),
            "MLSERVER_LOAD_MODELS_AT_STARTUP": str(at_startup).lower(),
            "MLSERVER_PARALLEL_WORKERS": "0",
            "MLSERVER_DEBUG": "false",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(MODELS),
            "REPLICA": name,
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [command(), "start", str(repository)],
                cwd=work,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        try:
            self.ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ready(self, limit: float = START_LIMIT) -> None:
        """Return when it answers; AssertionError with its log if it ends or takes longer than `limit`."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"MLServer ended:\n{self.log.read_text()}"
            try:
                with urllib.request.urlopen(f"{self.url}/v2/health/live", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise AssertionError(f"MLServer did not come up within {limit:g} s:\n{self.log.read_text()}")

    def call(self, path: str, body: object = None) -> tuple[int, Any]:
        """POST to it; the status and what it answered."""
        data = json.dumps({} if body is None else body).encode()
        request = urllib.request.Request(
            f"{self.url}{path}", data, {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def loaded(self) -> set[str]:
        """The models that are READY, as it says itself."""
        _, rows = self.call("/v2/repository/index")
        return {row["name"] for row in rows if row["state"] == "READY"}

    def hold(self, models: Iterable[str]) -> None:
        """Load and unload until exactly `models` are READY."""
        before, wanted = self.loaded(), set(models)
        for action, names in (("load", wanted - before), ("unload", before - wanted)):
            for name in names:
                status, answer = self.call(f"/v2/repository/models/{name}/{action}")
                assert status == 200, f"{self.name} would not {action} {name}: {answer}"

    def pause(self) -> None:
        """Stop it where it is: it accepts connections and says nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; nobody listens on its port any more."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it gracefully, by force if that takes too long."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
