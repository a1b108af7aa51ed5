"""ModelPool's `spec.request`: where requests name their model."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from xds_server.config.documents.base import HeaderName, Integer, NonEmpty, Once, OneOf, Part, expected
from xds_server.mesh.request import (
    JSON_PATHS,
    LEAST_BODY,
    MODEL_HEADERS,
    MODEL_PATHS,
    JsonBody,
    OnDisagreement,
)

_MOST_BODY = 64 << 20
_OURS = re.compile(r"x-xds-.*", re.IGNORECASE)


def _template(value: object) -> str:
    if isinstance(value, str) and value.startswith("/") and len(re.findall(r"\{model\}", value)) == 1:
        rest = value.replace("{model}", "")
        if not re.search(r"[?#\s]", value) and re.fullmatch(r"([^{}]|\{[a-z]+\})*", rest):
            return value
    raise expected('a path with one {model} in it, such as "/v2/models/{model}"')


def _path(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"/[^?#*\s]*(/\*)?|/\*", value):
        return value
    raise expected('a path that begins with "/", or all below one, such as "/status/*"')


def _header(value: str) -> str:
    if _OURS.fullmatch(value) or value.startswith(":"):
        raise expected("the name of a request header that clients set; x-xds-* are not theirs")
    return value.lower()


def _grpc(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise expected("true or false")


ModelHeader = Annotated[HeaderName, AfterValidator(_header)]
Template = Annotated[str, BeforeValidator(_template)]
ExactPath = Annotated[str, BeforeValidator(_path)]


class JsonPart(Part):
    """A field of a JSON body."""

    field: NonEmpty = "model"
    paths: Annotated[list[ExactPath], Field(min_length=1), AfterValidator(Once("path"))] = Field(
        default_factory=lambda: list(JSON_PATHS)
    )
    max_body_bytes: Annotated[int, BeforeValidator(Integer(LEAST_BODY, _MOST_BODY))] = JsonBody().max_bytes

    @model_validator(mode="after")
    def _steps(self) -> JsonPart:
        if "" in self.field.split("."):
            raise expected(
                'a field, or fields with dots between them, such as "input.model"', None, ("field",)
            )
        return self


class RequestPart(Part):
    """Where requests name their model: headers, then the path, then the body."""

    headers: Annotated[list[ModelHeader], AfterValidator(Once("header"))] = Field(
        default_factory=lambda: list(MODEL_HEADERS)
    )
    paths: Annotated[list[Template], AfterValidator(Once("path"))] = Field(
        default_factory=lambda: list(MODEL_PATHS)
    )
    without_model: Annotated[list[ExactPath], AfterValidator(Once("path"))] = Field(default_factory=list)
    json_body: JsonPart | None = Field(default_factory=JsonPart)
    grpc: Annotated[bool, BeforeValidator(_grpc)] = True
    on_disagreement: Annotated[OnDisagreement, BeforeValidator(OneOf(OnDisagreement))] = (
        OnDisagreement.PREFER_FIRST
    )

    @model_validator(mode="before")
    @classmethod
    def _no_bodies(cls, value: Any) -> Any:
        """`jsonBody: false` reads no bodies."""
        if isinstance(value, dict) and value.get("jsonBody") is False:
            return {**value, "jsonBody": None}
        return value
