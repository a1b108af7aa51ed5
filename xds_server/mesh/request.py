"""The values of a pool's requests: where the model's name may be, and in which order it is looked for.

Headers first, then the path, then the body (a JSON field, or the gRPC message's own field).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from xds_server.mesh.misses import NO_MISSES, Misses
from xds_server.mesh.names import NO_NAMES, Names

MODEL_HEADERS = ("model", "mm-model-id", "mm-vmodel-id")
"""Of these the first that a request has names its model: the seed's own, then ModelMesh's."""

MODEL_HEADER = "x-xds-model"
"""The request header that holds the model's name, wherever it was found. Clients cannot set it."""

MODEL_PATHS = (
    "/v2/models/{model}",
    "/v1/models/{model}:predict",
    "/v1/models/{model}:classify",
    "/v1/models/{model}:regress",
    "/v1/models/{model}:explain",
    "/v1/models/{model}",
)
"""The Open Inference Protocol's paths, and those of TensorFlow Serving and KServe V1."""

JSON_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/moderations",
    "/v1/rerank",
    "/v1/score",
    "/v1/audio/speech",
    "/v1/images/generations",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
)
"""Paths of OpenAI's protocol, and of Ollama's, on which the body names the model."""

PATHS_WITHOUT_MODEL = (
    "/v2",
    "/v2/",
    "/v2/health/*",
    "/v2/models",
    "/v2/models/",
    "/v2/models/stats",
    "/v2/repository/*",
    "/v1/models",
    "/v1/models/",
    "/v1/config",
    "/v1/config/*",
    "/health",
    "/healthz",
    "/livez",
    "/readyz",
    "/ping",
    "/metrics",
    "/version",
    "/models",
    "/api/ps",
    "/api/tags",
    "/api/version",
)
"""Paths that concern a replica and no model: any replica may answer. `/*` at the end stands for all below."""

LEAST_BODY = 1 << 20
"""Bytes that Envoy holds of a body anyway; no smaller limit can be kept."""


class OnDisagreement(StrEnum):
    """What becomes of a request that names two models in two places."""

    PREFER_FIRST = "PREFER_FIRST"
    REJECT = "REJECT"


@dataclass(frozen=True, slots=True)
class JsonBody:
    """`field`: the steps to the name in the body; `paths`: where bodies are read; `max_bytes` of them."""

    field: tuple[str, ...] = ("model",)
    paths: tuple[str, ...] = JSON_PATHS
    max_bytes: int = 4 << 20


@dataclass(frozen=True, slots=True)
class RequestNames:
    """Where requests name their model, in order of preference within each place.

    `paths` are templates with one `{model}` each; they match whole segments, and what follows is free.
    `json` None reads no JSON body; `grpc` reads the name from the Open Inference Protocol's messages.
    """

    headers: tuple[str, ...] = MODEL_HEADERS
    paths: tuple[str, ...] = MODEL_PATHS
    without_model: tuple[str, ...] = PATHS_WITHOUT_MODEL
    json: JsonBody | None = field(default_factory=JsonBody)
    grpc: bool = True
    on_disagreement: OnDisagreement = OnDisagreement.PREFER_FIRST


@dataclass(frozen=True, slots=True)
class Naming:
    """What a route to pools does with a request's model: `keys` are the subset keys that get its name.

    `further`: what else the pool's models are called; of several pools, those of the first. `others`: by
    host, of the pools that have others.
    `misses`: what callers are told where nobody has it. `hosts`: of the pools, in order.

    `transcode`: the replicas speak gRPC, so that REST requests are translated for them.

    `renames`: a replica may have to be asked under another name than the request's.
    """

    names: RequestNames
    keys: tuple[str, ...]
    transcode: bool = False
    further: Names = NO_NAMES
    others: tuple[tuple[str, Names], ...] = ()
    misses: Misses = NO_MISSES
    hosts: tuple[str, ...] = ()
    renames: bool = False
