"""Where a request names its model, found as the script in Envoy finds it (resources/request.lua).

The script's settings are read from the route that the request takes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 as header_to_metadata
import envoy_data_plane.envoy.extensions.filters.http.json_to_metadata.v3 as json_to_metadata
import envoy_data_plane.envoy.extensions.filters.http.lua.v3 as lua

from xds_server.explain.request import decoded
from xds_server.resources.filters import (
    GRPC_FIELDS,
    GRPC_NAME_FIELDS,
    HEADER_TO_METADATA,
    JSON_TO_METADATA,
    LUA,
)
from xds_server.resources.parts import LB_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Collection

    import envoy_data_plane.envoy.config.route.v3 as route_v3
    from envoy_data_plane.google.protobuf import Struct, Value

    from xds_server.explain.request import Request

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_GRPC_HEAD = 5
"""Bytes before a gRPC message: whether it is compressed, and its length."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Named:
    """What a request says of its model.

    `model` None: it names none. `concerns_none`: its path concerns no model, any replica may answer.
    `problem`: it is answered with 400 and these words. `keys`: other subset keys with their values.
    `version`: the model's, which a gRPC message names beside it.
    """

    model: str | None = None
    place: str = ""
    key: str = ""
    concerns_none: bool = False
    problem: str = ""
    keys: tuple[tuple[str, str], ...] = ()
    version: str = ""


def named(route: route_v3.Route, request: Request) -> Named:
    """Find the model that a request names on its way along a route."""
    settings = settings_of(route) if LUA in route.typed_per_filter_config else {}
    # What a rule copies to the pool's own key is the name that the script finds (resources/direct.py).
    keys = _mapped(route, request, settings.get("keys", ()))
    if not settings.get("keys"):
        return Named(keys=keys)
    path = request.path
    if any(_is(each, path) for each in settings.get("without", ())):
        return Named(concerns_none=True, keys=keys)
    offers = [*_in_headers(settings, request), *_in_path(settings, path), *_in_body(route, request)]
    found = _chosen(offers, settings, keys)
    return replace(found, version=_in_message(request)[1]) if found.place == "grpc" else found


def _is(pattern: str, path: str) -> bool:
    """Whether a path is the one written, its query apart, or begins with one that has `*` at its end."""
    if pattern.endswith("*"):
        return path.startswith(pattern[:-1])
    return path.partition("?")[0] == pattern


def settings_of(route: route_v3.Route) -> dict[str, Any]:
    """The settings that a route gives the script."""
    context = lua.LuaPerRoute.parse(route.typed_per_filter_config[LUA].value).filter_context
    return {} if context is None else _plain(context)


def _chosen(
    offers: list[tuple[str, str]], settings: dict[str, Any], keys: tuple[tuple[str, str], ...]
) -> Named:
    """The first offer counts. One with an empty place is a fault, which ends the search where it is met."""
    found: tuple[str, str] | None = None
    for name, place in offers:
        if not place:
            return Named(problem=name, keys=keys)
        if found is None:
            found = name, place
            if not settings.get("reject"):
                break
        elif name != found[0]:
            text = f"the request names two models: {found[0]} ({found[1]}) and {name} ({place})"
            return Named(problem=text, keys=keys)
    key = settings["keys"][0]
    fallback = settings.get("fallback", {})
    if found is None and fallback.get("no_model"):
        found = fallback["model"], "fallback"
    if found is None:
        return Named(key=key, keys=keys)
    if _CONTROL.search(found[0]):
        return Named(problem="the model's name has a control character in it", keys=keys)
    return Named(found[0], found[1], key, keys=keys)


def _in_headers(settings: dict[str, Any], request: Request) -> list[tuple[str, str]]:
    return [
        (value, f"header {header}")
        for header in settings.get("headers", ())
        for value in request.values(header)
        if value
    ]


def _in_path(settings: dict[str, Any], path: str) -> list[tuple[str, str]]:
    segment = segment_of(settings, path)
    if not segment:
        return []
    name = decoded(segment)
    if name is None:
        return [("the model's name in the path has a malformed percent-encoding", "")]
    return [(name, "path")]


def segment_of(settings: dict[str, Any], path: str) -> str | None:
    """The segment of the path that names the model, as it stands there; None where none does."""
    for pattern in settings.get("paths", ()):
        found = re.match(_from_lua(pattern) + r"(?=[/?]|$)", path)
        if found:
            return found[1]
    return None


def _from_lua(pattern: str) -> str:
    """The patterns that naming.py writes use two of Lua's constructs: a set of characters, and escapes."""
    return re.sub(r"%(.)", lambda found: re.escape(found[1]), pattern)


def _in_body(route: route_v3.Route, request: Request) -> list[tuple[str, str]]:
    filters = route.typed_per_filter_config
    if GRPC_FIELDS in filters:
        name, _ = _in_message(request)
        return [(name, "grpc")] if name else []
    return _in_json(route, request) if JSON_TO_METADATA in filters and request.body else []


def _in_json(route: route_v3.Route, request: Request) -> list[tuple[str, str]]:
    filters = route.typed_per_filter_config
    rules = json_to_metadata.JsonToMetadata.parse(filters[JSON_TO_METADATA].value).request_rules
    if rules is None:
        return []
    # A body of another type counts as one that cannot be read.
    if not _is_json(rules, request.value("content-type") or ""):
        return [("the body is not JSON", "")]
    try:
        found = json.loads(request.body)
    except (ValueError, RecursionError):
        return [("the body is not JSON", "")]
    for step in rules.rules[0].selectors:
        found = found.get(step.key) if isinstance(found, dict) else None
    if isinstance(found, str):
        return [(found, "json")] if found else []
    return [] if found is None else [("the model's name in the body is not a string", "")]


def _is_json(rules: json_to_metadata.JsonToMetadataMatchRules, content_type: str) -> bool:
    regex = rules.allow_content_types_regex
    allowed = content_type in (rules.allow_content_types or ["application/json"])
    return allowed or (regex is not None and re.fullmatch(regex.regex, content_type) is not None)


def _in_message(request: Request) -> tuple[str, str]:
    """The strings in fields 1 and 2 of the first message: the model's name and its version."""
    found = {1: "", 2: ""}
    if request.path.rpartition("/")[2] not in GRPC_NAME_FIELDS:
        return "", ""
    message = memoryview(request.body)[_GRPC_HEAD:]
    at = 0
    try:
        while at < len(message):
            tag, at = _varint(message, at)
            if tag & 7 == _VARINT:
                _, at = _varint(message, at)
            elif tag & 7 == _BYTES:
                length, at = _varint(message, at)
                if tag >> 3 in found:
                    found[tag >> 3] = bytes(message[at : at + length]).decode(errors="replace")
                at += length
            else:
                at += {_FIXED64: 8, _FIXED32: 4}[tag & 7]
    except (IndexError, KeyError):
        pass  # as far as it can be read
    return found[1], found[2]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, at
        shift += 7


def _mapped(route: route_v3.Route, request: Request, apart: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Subset keys that the route maps from headers by itself, but for `apart`."""
    config = route.typed_per_filter_config.get(HEADER_TO_METADATA)
    if config is None:
        return ()
    found: dict[str, str] = {}
    for rule in header_to_metadata.Config.parse(config.value).request_rules:
        value = request.value(rule.header)
        told = rule.on_header_present
        if value is None or told is None or told.metadata_namespace != LB_NAMESPACE or told.key in apart:
            continue
        found[told.key] = value
    return tuple(sorted(found.items()))


def _plain(struct: Struct) -> dict[str, Any]:
    return {key: _value(value) for key, value in struct.fields.items()}


def _value(value: Value) -> Any:
    if value.list_value is not None:
        return [_value(each) for each in value.list_value.values]
    if value.struct_value is not None:
        return _plain(value.struct_value)
    for plain in (value.string_value, value.number_value, value.bool_value):
        if plain is not None:
            return plain
    return None
