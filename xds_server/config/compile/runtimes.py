"""The ways to ask endpoints for their models: from documents to what the mesh knows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.config.documents.pool_runtimes import OpenInferencePart, RuntimePart, TensorFlowServingPart
from xds_server.config.problems import describe, join_or
from xds_server.mesh.pools import (
    Asked,
    KServe,
    LlamaCpp,
    Ollama,
    OpenAI,
    OpenInference,
    OpenVino,
    SecretHeader,
    TensorFlowServing,
    TorchServe,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xds_server.config.compile.context import Context
    from xds_server.config.documents.pool_modelmesh import ModelMeshPart
    from xds_server.config.documents.pool_models import ModelsPart
    from xds_server.config.problems import Path, Place
    from xds_server.mesh.model import Endpoint

_ALIKE: dict[str, type[Asked]] = {
    "openai": OpenAI,
    "llama_cpp": LlamaCpp,
    "ollama": Ollama,
    "torch_serve": TorchServe,
    "open_vino": OpenVino,
    "kserve": KServe,
}
"""The ways that have nothing of their own."""

RUNTIMES = ("open_inference", "tensorflow_serving", *_ALIKE)
"""The fields of ModelsPart that ask the endpoints' runtimes."""


def asked(models: ModelsPart | ModelMeshPart) -> tuple[str, Asked] | None:
    """The way that asks the endpoints, with the field that it stands in; None where nobody is asked."""
    for field in RUNTIMES:
        part: RuntimePart | None = getattr(models, field, None)
        if part is not None:
            return field, _asked(field, part)
    return None


def check_port(
    place: Place, path: Path, port: str | int | None, endpoints: Sequence[Endpoint], context: Context
) -> None:
    """A port's name must be known to every endpoint."""
    lacking = [endpoint for endpoint in endpoints if port not in endpoint.ports]
    if isinstance(port, str) and lacking:
        common = sorted(set.intersection(*(set(endpoint.ports) for endpoint in endpoints)))
        first = lacking[0].id
        problem = place.problem(
            path,
            f"{describe(port)}, which endpoint {first} of {first.service} has no port for",
            f"a name in the ports of every endpoint: {join_or(common)}",
        )
        context.problems.append(problem)


def _asked(field: str, part: RuntimePart) -> Asked:
    header = None if part.header is None else SecretHeader(part.header.name.lower(), part.header.value_file)
    common = (part.port, part.scheme.value, part.interval, part.timeout, part.grace, header)
    if isinstance(part, OpenInferencePart):
        return OpenInference(*common, protocol=part.protocol)
    if isinstance(part, TensorFlowServingPart):
        return TensorFlowServing(*common, models=tuple(sorted(part.models)))
    return _ALIKE[field](*common)
