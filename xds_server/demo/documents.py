"""The documents that the demo gives the server: the seed's two as they are, and two made for the replicas.

`write_with_subsets` and `write_without_subsets` change the same directory, which the running server reloads.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import yaml

from xds_server.demo.payload import DOCUMENTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

DESTINATION_RULE, VIRTUAL_SERVICE = "destination-rule.yaml", "virtual-service.yaml"
REPLICAS, POOL = "replicas.yaml", "model-pool.yaml"
HOST = "modelmesh-serving"
SUBSET_KEY = "modelmesh.asm.alibabacloud.com"
SEED_PORT = 8008
"""The gateway's port that the seed's VirtualService matches."""

INTERVAL, TIMEOUT = "1s", "5s"
"""How often a runtime is asked. MLServer answers nothing while it loads a scikit-learn model, up to 3 s."""


def _metadata() -> dict[str, str]:
    return {"name": HOST, "namespace": HOST}


def service_entry(endpoints: Sequence[Mapping[str, int | str]]) -> dict[str, Any]:
    """The replicas as a ServiceEntry. Each endpoint: `address`, `http` and `rest` (its discovery port)."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": _metadata(),
        "spec": {
            "hosts": [HOST],
            "resolution": "STATIC",
            "ports": [{"number": 8033, "name": "http", "protocol": "HTTP"}],
            "endpoints": [
                {"address": each["address"], "ports": {"http": each["http"], "rest": each["rest"]}}
                for each in endpoints
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


def write_with_subsets(directory: Path, port: int, endpoints: Sequence[Mapping[str, int | str]]) -> None:
    """Model-aware routing: the seed's two documents, the replicas, and how they tell their models."""
    write(
        directory,
        {
            REPLICAS: as_yaml(service_entry(endpoints)),
            POOL: as_yaml(model_pool()),
            DESTINATION_RULE: seed_document(DESTINATION_RULE),
            VIRTUAL_SERVICE: virtual_service(port),
        },
    )


def write_without_subsets(directory: Path, port: int, endpoints: Sequence[Mapping[str, int | str]]) -> None:
    """The same service as a plain one: the replicas, and a route that knows nothing of models."""
    write(
        directory,
        {REPLICAS: as_yaml(service_entry(endpoints)), VIRTUAL_SERVICE: plain_virtual_service(port)},
    )


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
