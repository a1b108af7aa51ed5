"""A real Triton (CPU), from an environment of its own, with models that only say who they are.

`XDS_TRITON` names the environment; without it, `.venv-triton` at the root of the checkout is used, which
`make test` installs. The server is the one that the pytriton wheel carries, started directly.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.integration.mlserver import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[2]
START_LIMIT = 60.0
STOP_LIMIT = 30.0

_CONFIG = """
backend: "python"
max_batch_size: 0
version_policy {{ specific {{ versions: {versions} }} }}
instance_group [{{ kind: KIND_CPU }}]
input [{{ name: "x" data_type: TYPE_FP32 dims: [-1] }}]
output [{{ name: "said" data_type: TYPE_STRING dims: [1] }}]
"""

_MODEL = """
import os, time
import numpy
import triton_python_backend_utils as utils

class TritonPythonModel:
    def initialize(self, args):
        self.said = "{name}:" + args["model_version"] + "@" + os.environ.get("REPLICA", "")
        if {broken}:
            raise RuntimeError("out of memory")

    def execute(self, requests):
        said = numpy.array([self.said.encode()], dtype=object)
        return [utils.InferenceResponse([utils.Tensor("said", said)]) for _ in requests]
"""


def environment() -> Path:
    """Where Triton is; RuntimeError that says how to get it."""
    found = Path(os.environ.get("XDS_TRITON") or ROOT / ".venv-triton")
    if not (found / "bin" / "python3").exists():
        raise RuntimeError(f"no Triton in {found}: run `make install-triton`, or set XDS_TRITON")
    return found


def write_model(repository: Path, name: str, versions: Iterable[int] = (1,), *, broken: bool = False) -> None:
    """Add a model to a repository."""
    versions = tuple(versions)
    directory = repository / name
    directory.mkdir(parents=True)
    (directory / "config.pbtxt").write_text(_CONFIG.format(versions=list(versions)))
    for version in versions:
        (directory / str(version)).mkdir()
        (directory / str(version) / "model.py").write_text(_MODEL.format(name=name, broken=broken))


class Triton:
    """One replica with nothing loaded. Use it as a context.

    Args:
        repository: the models, see write_model; several replicas may share it.
        work: a directory of this replica's own.
        name: what its models answer as their replica.
        options: more of the server's own.
    """

    def __init__(self, repository: Path, work: Path, name: str = "t1", options: Iterable[str] = ()) -> None:
        self.name = name
        self.address = "127.0.0.1"
        self.port, self.grpc_port = free_ports(2)
        self.url = f"http://{self.address}:{self.port}"
        work.mkdir(parents=True, exist_ok=True)
        self.log = work / f"{name}.log"
        where = environment()
        (site,) = (where / "lib").glob("python3.*/site-packages")
        python = site.parent.name.removeprefix("python")
        backends = _backends(site, work, python)
        libraries = [str(site / "nvidia_pytriton.libs"), _libraries(where)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(site / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
                    f"--model-repository={repository}",
                    "--model-control-mode=explicit",
                    f"--backend-directory={backends}",
                    *(f"--{kind}-address={self.address}" for kind in ("http", "grpc")),
                    f"--http-port={self.port}",
                    f"--grpc-port={self.grpc_port}",
                    "--allow-metrics=false",
                    f"--backend-config=python,shm-region-prefix-name=xds_{os.getpid()}_{self.port}_",
                    "--backend-config=python,shm-default-byte-size=1048576",
                    *options,
                ],
                cwd=work,
                env=os.environ
                | {
                    "LD_LIBRARY_PATH": ":".join(libraries),
                    "PATH": f"{where / 'bin'}:{os.environ['PATH']}",
                    "REPLICA": name,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        try:
            self._ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _ready(self) -> None:
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"Triton ended:\n{self.log.read_text()[-4000:]}"
            try:
                with urllib.request.urlopen(f"{self.url}/v2/health/live", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise AssertionError(f"Triton did not come up:\n{self.log.read_text()[-4000:]}")

    def call(self, path: str, body: object = None) -> tuple[int, Any]:
        """POST to it; the status and what it answered."""
        data = json.dumps({} if body is None else body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def load(self, *models: str) -> None:
        """Load models and wait until they are."""
        for model in models:
            status, answer = self.call(f"/v2/repository/models/{model}/load")
            assert status == 200, f"{self.name} would not load {model}: {answer}"

    def unload(self, *models: str) -> None:
        """Unload models, whether or not they are loaded; Triton answers before they are gone."""
        for model in models:
            status, answer = self.call(f"/v2/repository/models/{model}/unload")
            assert status == 200, f"{self.name} would not unload {model}: {answer}"

    def stop(self) -> None:
        """End it gracefully, by force if that takes too long."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _backends(site: Path, work: Path, python: str) -> Path:
    """The Python backend beside the stub for this interpreter; the wheel has them in two places."""
    folder = work / "backends"
    if not folder.exists():
        server = site / "pytriton" / "tritonserver"
        shutil.copytree(server / "backends" / "python", folder / "python")
        stub = server / "python_backend_stubs" / python / "triton_python_backend_stub"
        assert stub.exists(), f"Triton has no stub for Python {python}: set TRITON_PYTHON to another one"
        shutil.copy2(stub, folder / "python")
    return folder


def _libraries(where: Path) -> str:
    """Where the interpreter's shared library is: the stub links it."""
    program = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    done = subprocess.run([where / "bin" / "python3", "-c", program], check=True, capture_output=True)
    return done.stdout.decode().strip()
