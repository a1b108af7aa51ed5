"""ModelPool's `spec.models`: how the endpoints of a pool tell which models they hold."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, model_validator
from pydantic.alias_generators import to_camel

from xds_server.config.documents.base import Duration, NonEmpty, Once, OneOf, Part, Seconds, expected
from xds_server.config.problems import join_or

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


class OpenInferencePart(Part):
    """The repository index of the Open Inference Protocol (KServe V2)."""

    port: Annotated[str | int, BeforeValidator(_port_or_name)] | None = None
    scheme: Annotated[Scheme, BeforeValidator(OneOf(Scheme))] = Scheme.HTTP
    interval: Annotated[float, BeforeValidator(Seconds(0.01))] = 1.0
    timeout: Annotated[float, BeforeValidator(Seconds(0.01))] = 2.0
    grace: Duration = 10.0


WAYS = ("open_inference", "static")
"""The fields of ModelsPart of which exactly one is given."""

ALL_DEFAULTS = frozenset({"openInference"})
"""Those that mean something with nothing under them."""

ModelNames = Annotated[list[NonEmpty], AfterValidator(Once("model"))]


class ModelsPart(Part):
    """Exactly one way to learn what is loaded where."""

    open_inference: OpenInferencePart | None = None
    static: dict[NonEmpty, ModelNames] | None = None

    @model_validator(mode="before")
    @classmethod
    def _empty_means_defaults(cls, value: object) -> object:
        """A way with nothing under it, such as `openInference:`, is that one with all of its defaults."""
        if isinstance(value, dict):
            return {key: {} if each is None and key in ALL_DEFAULTS else each for key, each in value.items()}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> ModelsPart:
        ways = {to_camel(name): getattr(self, name) for name in WAYS}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            raise expected(f"one of {join_or(list(ways))}", " and ".join(given) or "none of them")
        return self
