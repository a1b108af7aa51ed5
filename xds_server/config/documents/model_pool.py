"""ModelPool: which service holds models, and how its endpoints tell which."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from xds_server.config.documents.base import (
    Duration,
    Host,
    NonEmpty,
    Once,
    OneOf,
    Part,
    Seconds,
    expected,
)
from xds_server.mesh.model import DEFAULT_SUBSET_KEY

_LAST_PORT = 65535


class Scheme(StrEnum):
    """How a runtime's API is spoken to."""

    HTTP = "http"
    HTTPS = "https"


class MissPolicy(StrEnum):
    """What becomes of a request that no endpoint matches."""

    ANY_ENDPOINT = "ANY_ENDPOINT"
    NO_FALLBACK = "NO_FALLBACK"


def _port_or_name(value: object) -> str | int:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LAST_PORT:
        return value
    raise expected("a name in the endpoints' ports, or a port number from 1 to 65535")


class OpenInferencePart(Part):
    """The repository index of the Open Inference Protocol (KServe V2)."""

    port: Annotated[str | int, BeforeValidator(_port_or_name)] | None = None
    scheme: Annotated[Scheme, BeforeValidator(OneOf(Scheme))] = Scheme.HTTP
    interval: Annotated[float, BeforeValidator(Seconds(0.01))] = 1.0
    timeout: Annotated[float, BeforeValidator(Seconds(0.01))] = 2.0
    grace: Duration = 10.0


ModelNames = Annotated[list[NonEmpty], AfterValidator(Once("model"))]


class ModelsPart(Part):
    """Exactly one way to learn what is loaded where."""

    open_inference: OpenInferencePart | None = None
    static: dict[NonEmpty, ModelNames] | None = None

    @model_validator(mode="before")
    @classmethod
    def _empty_means_defaults(cls, value: object) -> object:
        """`openInference:` with nothing under it is the discovery with all of its defaults."""
        if isinstance(value, dict) and "openInference" in value and value["openInference"] is None:
            return {**value, "openInference": {}}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> ModelsPart:
        if self.open_inference is None and self.static is None:
            raise expected("one of openInference or static", "neither openInference nor static")
        if self.open_inference is not None and self.static is not None:
            raise expected("one of openInference or static", "both openInference and static")
        return self


class OnMissPart(Part):
    """What becomes of a request that names no model, or one that is loaded nowhere."""

    no_model: Annotated[MissPolicy, BeforeValidator(OneOf(MissPolicy))] | None = None
    not_loaded: Annotated[MissPolicy, BeforeValidator(OneOf(MissPolicy))] | None = None


class ModelPoolSpec(Part):
    """The models of one service."""

    host: Host
    subset_key: NonEmpty = DEFAULT_SUBSET_KEY
    models: ModelsPart
    on_miss: OnMissPart = Field(default_factory=OnMissPart)
