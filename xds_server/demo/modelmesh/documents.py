"""The documents of the ModelMesh demo: the seed's three as they are, and what is needed beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from xds_server.demo import documents
from xds_server.demo.payload import DOCUMENTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SERVICES = "inference-services.yaml"
INFERENCE_SERVICE = "tf-mnist.yaml"
POD_LABEL = "xds-server.dev/pod"


def write_before(directory: Path, port: int, pods: Mapping[str, int]) -> None:
    """A ModelMesh behind plain Envoy: any pod is as good as another. `pods`: name to port."""
    documents.write(
        directory,
        {
            documents.REPLICAS: documents.as_yaml(_service_entry(pods)),
            documents.VIRTUAL_SERVICE: documents.plain_virtual_service(port),
        },
    )


def write_after(
    directory: Path, port: int, pods: Mapping[str, int], connection: Path, models: Sequence[str]
) -> None:
    """The seed's manifests, the pool that reads ModelMesh's registry, and the InferenceServices."""
    documents.write(
        directory,
        {
            documents.REPLICAS: documents.as_yaml(_service_entry(pods)),
            documents.POOL: documents.as_yaml(_model_pool(connection)),
            documents.DESTINATION_RULE: documents.seed_document(documents.DESTINATION_RULE),
            documents.VIRTUAL_SERVICE: documents.virtual_service(port),
            INFERENCE_SERVICE: (DOCUMENTS / INFERENCE_SERVICE).read_bytes(),
            SERVICES: "---\n".join(_inference_service(model) for model in models).encode(),
        },
    )


def _service_entry(pods: Mapping[str, int]) -> dict[str, Any]:
    endpoints: list[dict[str, int | str]] = [
        {"address": "127.0.0.1", "http": port, "rest": port} for port in pods.values()
    ]
    document = documents.service_entry(endpoints)
    for endpoint, pod in zip(document["spec"]["endpoints"], pods, strict=True):
        endpoint["labels"] = {POD_LABEL: pod}
    return document


def _model_pool(connection: Path) -> dict[str, Any]:
    """The registry; each runtime is asked as well, so that a load counts as soon as it is done."""
    document = documents.model_pool()
    document["spec"]["models"] = {
        "modelMesh": {
            "etcd": {"connectionFile": str(connection)},
            "openInference": {"port": "rest", "interval": "500ms", "timeout": "2s"},
        }
    }
    return document


def _inference_service(model: str) -> str:
    """The seed's InferenceService for another model."""
    document = yaml.safe_load((DOCUMENTS / INFERENCE_SERVICE).read_bytes())
    document["metadata"]["name"] = model
    document["spec"]["predictor"]["model"]["modelFormat"]["name"] = "sklearn"
    return yaml.safe_dump(document, sort_keys=False)
