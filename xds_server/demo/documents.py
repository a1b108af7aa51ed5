"""The documents that the demo gives the server: the seed's two as they are, and those made for the replicas.

`Parts.with_subsets` and `Parts.without_subsets` go into the same directory, which the running server reloads.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from xds_server.demo.payload import DOCUMENTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Endpoints = Sequence[Mapping[str, int | str]]

DESTINATION_RULE, VIRTUAL_SERVICE = "destination-rule.yaml", "virtual-service.yaml"
REPLICAS, POOL, GRPC = "replicas.yaml", "model-pool.yaml", "grpc.yaml"
HOST = "modelmesh-serving"
SUBSET_KEY = "modelmesh.asm.alibabacloud.com"
SEED_PORT = 8008
"""The gateway's port that the seed's VirtualService matches."""

REST_PORT, GRPC_PORT = 8033, 8034
"""The service's ports: the one that the seed's VirtualService routes to, and one for gRPC beside it."""

PATHS = ["/v2/models/{model}/infer", "/v2/models/{model}/ready"]
"""Where a request's path names its model. Other paths may then leave it to the body."""

INTERVAL, TIMEOUT = "1s", "5s"
"""How often a runtime is asked. MLServer answers nothing while it loads a scikit-learn model, up to 3 s."""


def _metadata() -> dict[str, str]:
    return {"name": HOST, "namespace": HOST}


def service_entry(endpoints: Endpoints, *, grpc: bool = False) -> dict[str, Any]:
    """The replicas as a ServiceEntry.

    Each endpoint: `address`, `http`, `rest` (its discovery port), and `grpc` where the service has that port.
    """
    ports = [{"number": REST_PORT, "name": "http", "protocol": "HTTP"}]
    if grpc:
        ports.append({"number": GRPC_PORT, "name": "grpc", "protocol": "GRPC"})
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": _metadata(),
        "spec": {
            "hosts": [HOST],
            "resolution": "STATIC",
            "ports": ports,
            "endpoints": [
                {
                    "address": each["address"],
                    "ports": {name: port for name, port in each.items() if name != "address"},
                }
                for each in endpoints
            ],
        },
    }


def request_names(body_path: str) -> dict[str, Any]:
    """A pool's `spec.request`: requests to `body_path` name their model in the JSON body."""
    return {"paths": PATHS, "jsonBody": {"paths": [body_path]}}


def grpc_virtual_service(port: int) -> dict[str, Any]:
    """Route gRPC from the gateway's `port` to the service's; the pool implies where the name is."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": f"{HOST}-grpc", "namespace": HOST},
        "spec": {
            "gateways": ["grpc-gateway"],
            "hosts": ["*"],
            "http": [
                {
                    "match": [{"port": port}],
                    "route": [{"destination": {"host": HOST, "port": {"number": GRPC_PORT}}}],
                }
            ],
        },
    }


def model_pool() -> dict[str, Any]:
    """How the replicas tell which models they have."""
    return {
        "apiVersion": "xds-server.dev/v1alpha1",
        "kind": "ModelPool",
        "metadata": _metadata(),
        "spec": {
            "host": HOST,
            "subsetKey": SUBSET_KEY,
            "models": {"openInference": {"port": "rest", "interval": INTERVAL, "timeout": TIMEOUT}},
        },
    }


def seed_document(name: str) -> bytes:
    """One of the seed's documents, byte for byte."""
    return (DOCUMENTS / name).read_bytes()


def virtual_service(port: int) -> bytes:
    """The seed's VirtualService: as it is, or with another port where the gateway is not on the seed's."""
    written = seed_document(VIRTUAL_SERVICE)
    return written if port == SEED_PORT else written.replace(b"port: 8008", f"port: {port}".encode())


def plain_virtual_service(port: int) -> bytes:
    """The same route without the mapping of the header: any replica is as good as another."""
    document = yaml.safe_load(virtual_service(port))
    for route in document["spec"]["http"]:
        del route["headerToDynamicSubsetKey"]
    return as_yaml(document)


def as_yaml(document: Mapping[str, Any]) -> bytes:
    """A document as YAML, in the order in which it was written."""
    return yaml.safe_dump(document, sort_keys=False).encode()


@dataclass(frozen=True)
class Parts:
    """What the documents are made of: the gateway's ports, and the path that leaves the name to the body."""

    port: int
    grpc_port: int
    body_path: str

    def with_subsets(self, endpoints: Endpoints) -> dict[str, bytes]:
        """Model-aware routing: the seed's two documents, the replicas, and how they tell their models."""
        pool = model_pool()
        pool["spec"]["request"] = request_names(self.body_path)
        return {
            **self._replicas(endpoints),
            POOL: as_yaml(pool),
            DESTINATION_RULE: seed_document(DESTINATION_RULE),
            VIRTUAL_SERVICE: virtual_service(self.port),
        }

    def without_subsets(self, endpoints: Endpoints) -> dict[str, bytes]:
        """The same service as a plain one: the replicas, and routes that know nothing of models."""
        return {**self._replicas(endpoints), VIRTUAL_SERVICE: plain_virtual_service(self.port)}

    def _replicas(self, endpoints: Endpoints) -> dict[str, bytes]:
        return {
            REPLICAS: as_yaml(service_entry(endpoints, grpc=True)),
            GRPC: as_yaml(grpc_virtual_service(self.grpc_port)),
        }


def clear(directory: Path) -> None:
    """Makes an empty directory, so that nothing of an earlier run is loaded."""
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Makes these the only documents of the directory. Each is replaced at once, never seen half written."""
    for name, content in files.items():
        unfinished = directory / f".{name}.new"
        unfinished.write_bytes(content)
        unfinished.replace(directory / name)
    for path in directory.glob("*.yaml"):
        if path.name not in files:
            path.unlink()
