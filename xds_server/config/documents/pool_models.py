"""ModelPool's `spec.models`: how the endpoints of a pool tell which models they hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, model_validator
from pydantic.alias_generators import to_camel

from xds_server.config.documents.base import NonEmpty, Once, expected
from xds_server.config.documents.pool_annotations import AnnotationsPart
from xds_server.config.documents.pool_modelmesh import ModelMeshPart, PushPart
from xds_server.config.documents.pool_names import NamesPart
from xds_server.config.documents.pool_runtimes import (
    KServePart,
    LlamaCppPart,
    OllamaPart,
    OpenAIPart,
    OpenInferencePart,
    OpenVinoPart,
    TensorFlowServingPart,
    TorchServePart,
)
from xds_server.config.problems import join_or

WAYS = (
    "open_inference",
    "openai",
    "llama_cpp",
    "ollama",
    "tensorflow_serving",
    "torch_serve",
    "open_vino",
    "kserve",
    "model_mesh",
    "push",
    "annotations",
    "static",
)
"""The fields of ModelsPart of which exactly one is given."""

ALL_DEFAULTS = frozenset(
    {
        "openInference",
        "openai",
        "llamaCpp",
        "ollama",
        "torchServe",
        "openVino",
        "kserve",
        "push",
        "annotations",
    }
)
"""Those that mean something with nothing under them."""

_MAY_BE_EMPTY = ALL_DEFAULTS | {"versions"}

ModelNames = Annotated[list[NonEmpty], AfterValidator(Once("model"))]


class ModelsPart(NamesPart):
    """Exactly one way to learn what is loaded where, and what else the models are called."""

    open_inference: OpenInferencePart | None = None
    openai: OpenAIPart | None = None
    llama_cpp: LlamaCppPart | None = None
    ollama: OllamaPart | None = None
    tensorflow_serving: TensorFlowServingPart | None = None
    torch_serve: TorchServePart | None = None
    open_vino: OpenVinoPart | None = None
    kserve: KServePart | None = None
    model_mesh: ModelMeshPart | None = None
    push: PushPart | None = None
    annotations: AnnotationsPart | None = None
    static: dict[NonEmpty, ModelNames] | None = None

    @model_validator(mode="before")
    @classmethod
    def _empty_means_defaults(cls, value: object) -> object:
        """A way with nothing under it, such as `openInference:`, is that one with all of its defaults."""
        if isinstance(value, dict):
            return {key: {} if each is None and key in _MAY_BE_EMPTY else each for key, each in value.items()}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> ModelsPart:
        ways = {to_camel(name): getattr(self, name) for name in WAYS}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            raise expected(f"one of {join_or(list(ways))}", " and ".join(given) or "none of them")
        return self
