"""The models of documents as OpenAPI v3 schemas, in the structural form that a CRD needs.

What a model's validators check is repeated in the schema as far as the form can say it, so that an API server
refuses most mistakes at once. What it cannot say is still checked, and told in the object's status.
"""

from __future__ import annotations

import types
import typing
from enum import Enum
from typing import Any

from annotated_types import MinLen
from pydantic import AfterValidator, BaseModel, BeforeValidator

from xds_server.config.documents.base import Integer, OneOf, Seconds, Text

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Schema = dict[str, Any]
Rules = typing.Mapping[type[BaseModel], tuple[tuple[str, str], ...]]
"""CEL rules of a model: the rule, and what is said where it does not hold."""

_PLAIN: Mapping[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}
_ANY_TEXT: Mapping[str, Schema] = {r"(?s).+": {"minLength": 1}, r"(?s).*": {}}
_MAX_INT32 = 2**31 - 1
DURATION = r"^([0-9]+(\.[0-9]+)?(ms|h|m|s))+$"


class SchemaError(TypeError):
    """A model has a type that no schema is known for."""


def schema_of(model: type[BaseModel], rules: Rules) -> Schema:
    """The schema of a mapping with exactly the model's fields."""
    properties: Schema = {}
    required: list[str] = []
    for name, field in model.model_fields.items():
        alias = str(field.alias or name)
        properties[alias] = _typed(field.annotation, field.metadata, f"{model.__name__}.{name}", rules)
        if field.description:
            properties[alias] = {"description": field.description, **properties[alias]}
        if field.is_required():
            required.append(alias)
    schema: Schema = {"description": _said(model), "type": "object", "properties": properties}
    if required:
        schema["required"] = required
    if model in rules:
        schema["x-kubernetes-validations"] = [
            {"rule": rule, "message": message} for rule, message in rules[model]
        ]
    return schema


def _said(model: type[BaseModel]) -> str:
    """The first paragraph of the model's docstring."""
    return " ".join((model.__doc__ or "").strip().partition("\n\n")[0].split())


def _typed(annotation: Any, metadata: Iterable[Any], where: str, rules: Rules) -> Schema:
    """The schema of a type with what is said of it; the outermost checks are the last to be merged."""
    schema = _bare(annotation, where, rules)
    for each in metadata:
        schema |= _check(each, schema)
    return schema


def _bare(annotation: Any, where: str, rules: Rules) -> Schema:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _typed(arguments[0], arguments[1:], where, rules)
    if origin in (typing.Union, types.UnionType):
        return _union([each for each in arguments if each is not type(None)], where, rules)
    if origin in (list, tuple):
        return {"type": "array", "items": _bare(arguments[0], where, rules)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _bare(arguments[1], where, rules)}
    return _plain(annotation, where, rules)


def _plain(annotation: Any, where: str, rules: Rules) -> Schema:
    if typing.get_origin(annotation) is typing.Literal:
        return {"type": "string", "enum": list(typing.get_args(annotation))}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return schema_of(annotation, rules)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return {"type": "string", "enum": [each.value for each in annotation]}
    if annotation in _PLAIN:
        return {"type": _PLAIN[annotation]}
    raise SchemaError(f"{where}: no schema for {annotation}")


def _union(arguments: list[Any], where: str, rules: Rules) -> Schema:
    if len(arguments) == 1:
        return _bare(arguments[0], where, rules)
    kinds = {_bare(each, where, rules).get("type") for each in arguments}
    if kinds == {"string", "integer"}:
        return {"x-kubernetes-int-or-string": True}
    raise SchemaError(f"{where}: no schema for one of {arguments}")


def _check(check: Any, schema: Schema) -> Schema:
    """What a check adds to the schema of the value that it is about."""
    if isinstance(check, MinLen):
        names = {"array": "minItems", "object": "minProperties", "string": "minLength"}
        return {names[schema["type"]]: check.min_length}
    said = check.func if isinstance(check, BeforeValidator | AfterValidator) else None
    match said:
        case Text(pattern=pattern, longest=longest):
            return {**_ANY_TEXT.get(pattern, {"pattern": f"^(?:{pattern})$"}), "maxLength": longest}
        case Integer(low=low, high=high):
            sized = {"format": "int64"} if high > _MAX_INT32 else {}
            return {"type": "integer", **sized, "minimum": low, "maximum": high}
        case OneOf(choices=choices):
            return {"type": "string", "enum": [choice.value for choice in choices]}
        case Seconds():
            schema.pop("format", None)
            return {"type": "string", "pattern": DURATION, "maxLength": 64}
    return {}
