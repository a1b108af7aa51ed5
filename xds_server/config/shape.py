"""Raw values to documents: the envelope (apiVersion, kind, metadata) and the shape of the spec.

Turns what pydantic reports into problems in the user's words. No reference is followed here.
"""

from __future__ import annotations

import difflib
import types
import typing
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from xds_server.config.documents import KINDS, Document, Kind
from xds_server.config.documents.base import ObjectMeta, Part
from xds_server.config.problems import Path, Place, Problem, describe, join_or

if typing.TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails

_Model = typing.TypeVar("_Model", bound=BaseModel)

_ENVELOPE = ("apiVersion", "kind", "metadata", "spec", "status")
_REQUIRED = "a value, since the field is required"
_WHAT = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "list_type": "a list",
    "model_type": "a mapping",
    "string_type": "a string",
    "too_short": "at least one entry",
}
"""Pydantic's error types that can occur, in words; all other checks bring their own."""


def shape_document(place: Place, value: object) -> tuple[list[Document[Part]], list[Problem]]:
    """The documents in one YAML document (several if it is a List), and what is wrong with their shape."""
    if not isinstance(value, dict):
        found = f"{describe(value)} as the document"
        return [], [place.problem((), found, "a mapping with apiVersion, kind, metadata and spec")]
    if value.get("kind") == "List" and value.get("apiVersion") == "v1":
        return _shape_list(place, value)
    place = replace(place, subject=subject_of(value))
    kind, problems = _kind(place, value)
    problems += [
        place.problem((key,), *_unknown(key, list(_ENVELOPE), frozenset()))
        for key in value
        if key not in _ENVELOPE
    ]
    metadata = _part(place, "metadata", ObjectMeta, value, problems)
    spec = _part(place, "spec", kind.spec, value, problems) if kind else None
    if problems or metadata is None or spec is None:
        return [], problems
    return [Document(place, value["kind"], metadata, spec, value.get("status"))], []


def _shape_list(place: Place, value: dict[str, Any]) -> tuple[list[Document[Part]], list[Problem]]:
    items = value.get("items")
    if not isinstance(items, list):
        found = "nothing" if items is None else describe(items)
        return [], [replace(place, subject="List").problem(("items",), found, "a list of documents")]
    documents, problems = [], []
    for index, item in enumerate(items):
        more, wrong = shape_document(replace(place, base=(*place.base, "items", index)), item)
        documents += more
        problems += wrong
    return documents, problems


def subject_of(value: Any) -> str:
    """Kind namespace/name, as far as the document says them."""
    if not isinstance(value, dict):
        return ""
    metadata = value.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    kind, name = value.get("kind"), metadata.get("name")
    if not isinstance(kind, str) or not isinstance(name, str):
        return kind if isinstance(kind, str) else ""
    return f"{kind} {metadata.get('namespace', 'default')}/{name}"


def _kind(place: Place, value: dict[str, Any]) -> tuple[Kind | None, list[Problem]]:
    name, version = value.get("kind"), value.get("apiVersion")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        found = "nothing" if name is None else describe(name)
        return None, [place.problem(("kind",), found, _nearest(name, KINDS))]
    if version not in kind.versions:
        found = "nothing" if version is None else describe(version)
        return kind, [place.problem(("apiVersion",), found, _nearest(version, kind.versions))]
    return kind, []


def _part(
    place: Place, key: str, model: type[BaseModel], value: dict[str, Any], problems: list[Problem]
) -> Any:
    """The value under `key` as a `model`, or None and its problems added to `problems`."""
    if value.get(key) is None:
        problems.append(place.problem((key,), "nothing" if key not in value else "null", _REQUIRED))
        return None
    part, wrong = shape_part(place, key, model, value[key])
    problems += wrong
    return part


def shape_part(
    place: Place, key: str | int, model: type[_Model], value: object
) -> tuple[_Model | None, list[Problem]]:
    """One value at `key` of its document as a `model`, or None and what is wrong with it."""
    try:
        return model.model_validate(value), []
    except ValidationError as error:
        return None, [_explain(place, key, model, details) for details in error.errors(include_url=False)]


def _explain(place: Place, key: str | int, model: type[BaseModel], details: ErrorDetails) -> Problem:
    context = details.get("ctx", {})
    location = [part for part in details["loc"] if part != "[key]"]
    path: Path = (key, *location, *context.get("at", ()))
    if details["type"] == "extra_forbidden":
        part = _part_at(model, location[:-1])
        allowed = [str(field.alias) for field in part.model_fields.values()]
        istio_only = part.istio_only if issubclass(part, Part) else frozenset[str]()
        return place.problem(path, *_unknown(str(location[-1]), allowed, istio_only))
    if details["type"] == "missing":
        return place.problem(path, "nothing", _REQUIRED)
    found = context.get("found") or describe(details["input"])
    what = context.get("expected") or _WHAT.get(details["type"], details["msg"])
    return place.problem(path, found, what)


def _unknown(name: str, allowed: list[str], istio_only: frozenset[str]) -> tuple[str, str]:
    if name in istio_only:
        return "a field of Istio's that is not supported here", join_or(sorted(allowed), len(allowed))
    return "an unknown field", _nearest(name, sorted(allowed))


def _nearest(name: object, allowed: Iterable[str]) -> str:
    """What is allowed, and which of it was probably meant."""
    names = list(allowed)
    if not names:
        return "no field: it has none"
    near = difflib.get_close_matches(name, names, n=1) if isinstance(name, str) and len(names) > 1 else []
    return join_or(names, len(names)) + (f" (did you mean {near[0]}?)" if near else "")


def _part_at(model: type[BaseModel], location: list[str | int]) -> type[BaseModel]:
    """The model of the mapping at `location`: found by following the fields' types."""
    annotation: Any = model
    for step in location:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            fields = annotation.model_fields.values()
            annotation = next(field.annotation for field in fields if field.alias == step)
        else:
            annotation = typing.get_args(annotation)[-1]
        annotation = _bare(annotation)
    assert isinstance(annotation, type)  # noqa: S101 - only mappings have unknown fields
    return annotation


def _bare(annotation: Any) -> Any:
    """`X` of `X | None` and of `Annotated[X, ...]`."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (typing.Union, types.UnionType):
            annotation = next(arg for arg in typing.get_args(annotation) if arg is not type(None))
        else:
            return annotation
