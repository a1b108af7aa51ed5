"""The runtimes that a pool's endpoints may be: what is asked of each, and how often."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from xds_server.config.documents.base import (
    Duration,
    HeaderName,
    NonEmpty,
    Once,
    OneOf,
    Part,
    Seconds,
    expected,
)
from xds_server.mesh.pools import OpenInferenceProtocol

_LAST_PORT = 65535


class Scheme(StrEnum):
    """How a runtime's API is spoken to."""

    HTTP = "http"
    HTTPS = "https"


def _port_or_name(value: object) -> str | int:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LAST_PORT:
        return value
    raise expected("a name in the endpoints' ports, or a port number from 1 to 65535")


def _at_least_one(value: object) -> object:
    if isinstance(value, list) and value:
        return value
    raise expected("a list with at least one model")


class HeaderPart(Part):
    """A header of each question: its value is in a file on this server, and is read each time."""

    name: HeaderName
    value_file: NonEmpty


class RuntimePart(Part):
    """What all runtimes have: where the API is, how often and how long it is asked."""

    port: Annotated[str | int, BeforeValidator(_port_or_name)] | None = None
    scheme: Annotated[Scheme, BeforeValidator(OneOf(Scheme))] = Scheme.HTTP
    interval: Annotated[float, BeforeValidator(Seconds(0.01))] = 1.0
    timeout: Annotated[float, BeforeValidator(Seconds(0.01))] = 2.0
    grace: Duration = 10.0
    header: HeaderPart | None = None


class OpenInferencePart(RuntimePart):
    """The repository index of the Open Inference Protocol (KServe V2)."""

    protocol: Annotated[OpenInferenceProtocol, BeforeValidator(OneOf(OpenInferenceProtocol))] = (
        OpenInferenceProtocol.REST
    )


class OpenAIPart(RuntimePart):
    """The list of models and adapters of OpenAI-style servers."""


class LlamaCppPart(RuntimePart):
    """llama.cpp's server in router mode."""


class OllamaPart(RuntimePart):
    """Ollama's list of what is in memory."""


class TensorFlowServingPart(RuntimePart):
    """TensorFlow Serving, which lists nothing: the models to ask for."""

    models: Annotated[list[NonEmpty], BeforeValidator(_at_least_one), AfterValidator(Once("model"))]


class TorchServePart(RuntimePart):
    """TorchServe's management API."""


class OpenVinoPart(RuntimePart):
    """OpenVINO Model Server's configuration API."""


class KServePart(RuntimePart):
    """KServe's own Python server."""
