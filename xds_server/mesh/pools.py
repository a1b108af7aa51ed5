"""The values of a pool: which service holds models, under which key, and how its endpoints tell them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from xds_server.mesh.layout import AUTO, PoolLayout
from xds_server.mesh.misses import NO_MISSES, Misses
from xds_server.mesh.names import NO_NAMES, Names
from xds_server.mesh.request import MODEL_HEADERS, RequestNames

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.mesh.policies import Fallback

DEFAULT_SUBSET_KEY = "modelmesh.asm.alibabacloud.com"
"""The `envoy.lb` metadata key that holds an endpoint's models unless a pool names another."""

DEFAULT_MODEL_HEADER = MODEL_HEADERS[0]
"""The request header that names the model on a route that maps no header itself."""


@dataclass(frozen=True, slots=True)
class SecretHeader:
    """A request header whose value is in a file, read by this server at each question."""

    name: str
    file: str


@dataclass(frozen=True, slots=True)
class Asked:
    """Discovery by asking each endpoint's runtime; what it speaks is the subclass.

    `port`: a name in the endpoint's ports, a number, or None for the traffic port.
    Times in seconds. `grace`: how long a replica that times out keeps its models.
    """

    source: ClassVar[str] = ""
    """The name under which the mesh keeps what such a runtime tells."""

    port: str | int | None = None
    scheme: str = "http"
    interval: float = 1.0
    timeout: float = 2.0
    grace: float = 10.0
    header: SecretHeader | None = None


class OpenInferenceProtocol(StrEnum):
    """How the Open Inference Protocol's repository API is spoken to."""

    REST = "REST"
    GRPC = "GRPC"


@dataclass(frozen=True, slots=True)
class OpenInference(Asked):
    """The repository index of the Open Inference Protocol (KServe V2): MLServer, Triton."""

    source: ClassVar[str] = "open-inference"
    protocol: OpenInferenceProtocol = OpenInferenceProtocol.REST


@dataclass(frozen=True, slots=True)
class OpenAI(Asked):
    """The list of models and adapters of OpenAI-style servers: vLLM, SGLang."""

    source: ClassVar[str] = "openai"


@dataclass(frozen=True, slots=True)
class LlamaCpp(Asked):
    """The router mode of llama.cpp's server."""

    source: ClassVar[str] = "llama-cpp"


@dataclass(frozen=True, slots=True)
class Ollama(Asked):
    """Ollama's list of what is in memory."""

    source: ClassVar[str] = "ollama"


@dataclass(frozen=True, slots=True)
class TensorFlowServing(Asked):
    """TensorFlow Serving, which lists nothing: `models` are asked for one by one."""

    source: ClassVar[str] = "tensorflow-serving"
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TorchServe(Asked):
    """TorchServe's management API."""

    source: ClassVar[str] = "torch-serve"


@dataclass(frozen=True, slots=True)
class OpenVino(Asked):
    """OpenVINO Model Server's configuration API."""

    source: ClassVar[str] = "open-vino"


@dataclass(frozen=True, slots=True)
class KServe(Asked):
    """KServe's own Python server."""

    source: ClassVar[str] = "kserve"


@dataclass(frozen=True, slots=True)
class StaticModels:
    """Fixed placements: endpoint (HOST:PORT) to the models it holds."""

    models: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Annotations:
    """The pods' annotations say it, one for each writer."""


@dataclass(frozen=True, slots=True)
class Push:
    """A reporter beside each runtime says it. `grace`: as above, for what the reporter finds; seconds."""

    grace: float = 10.0


@dataclass(frozen=True, slots=True)
class ModelMesh:
    """ModelMesh's registry in etcd says it; a copy counts `loaded_after` seconds after its load began.

    `connection_file`: the `etcd_connection` JSON; `prefix`: of the service's keys, below the file's
    root_prefix, with a slash at its end. `confirm` and `push`: runtimes that are asked, and reporters,
    which make it exact.
    """

    connection_file: str
    prefix: str
    loaded_after: float = 30.0
    confirm: Asked | None = None
    push: Push | None = None


Discovery = Asked | StaticModels | Annotations | Push | ModelMesh


@dataclass(frozen=True, slots=True)
class Pool:
    """A ModelPool: which service holds models, under which key, and how its endpoints tell them.

    `no_model` and `not_loaded` are None where the document leaves them to the DestinationRule
    (or, without one, to the safe default NO_FALLBACK).
    """

    name: str
    host: str
    discovery: Discovery
    subset_key: str = DEFAULT_SUBSET_KEY
    no_model: Fallback | None = None
    not_loaded: Fallback | None = None
    names: Names = NO_NAMES
    layout: PoolLayout = AUTO
    request: RequestNames = field(default_factory=RequestNames)
    misses: Misses = NO_MISSES

    @property
    def renames(self) -> bool:
        """Whether a replica may have to be asked under another name than the request's."""
        tells_adapters = self.names.adapter_fallback and isinstance(self.discovery, OpenAI)
        return self.names.any or tells_adapters or self.misses.fallback_model is not None
