"""From a route to pools to Envoy's routes: one for each place where a request's model may be named.

Each switches on only what its place needs (resources/filters.py), and all but the one for requests without
a model lead through the script, which puts the name where Envoy's balancer looks for it.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.filters.http.json_to_metadata.v3 as json_to_metadata
import envoy_data_plane.envoy.extensions.filters.http.lua.v3 as lua
import envoy_data_plane.envoy.type.matcher.v3 as matcher
from envoy_data_plane.google.protobuf import Any, ListValue, Struct, Value

from xds_server.known_messages import IS_KNOWN_PATH
from xds_server.mesh.misses import Choice
from xds_server.mesh.request import JSON_PATHS, OnDisagreement
from xds_server.resources.bootstrap import XDS_CLUSTER
from xds_server.resources.direct import places
from xds_server.resources.filters import (
    ANSWERS,
    GRPC_FIELDS,
    GRPC_NAME_FIELDS,
    GRPC_WITHOUT_MODEL,
    INFERENCE_SERVICE,
    JSON_NAMESPACE,
    JSON_TO_METADATA,
    KNOWN_AS_HEADER,
    LUA,
    RENAMES,
    TRANSCODER,
    TRANSLATED_BYTES,
)
from xds_server.resources.parts import digest, packed
from xds_server.resources.variant import RouteVariant, absent, chunks, is_grpc, path_is

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds_server.mesh.names import Names, Split
    from xds_server.mesh.request import JsonBody, Naming

ANY_KEY = "xds-server.dev/any"
"""A subset key that no endpoint has, with a fallback to any: for requests that concern no model."""

_JSON_TYPES = r"(?i)\s*application/([a-z0-9.+-]+\+)?json\s*(;.*)?"
_CAPTURE = "([^/?]+)"
_LUA_MAGIC = re.compile(r"([-^$()%.\[\]*+?])")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_SEEN = {"from": "none"}


def variants(naming: Naming | None, *, reroute: bool, direct: bool) -> Iterable[RouteVariant]:
    """List a route's variants in order: the first that matches is taken. Without pools it is one.

    `reroute`: the cluster depends on the model, so the route is looked for again once that is known.
    `direct`: it can be found without the script's help (direct.py).
    """
    if naming is None:
        yield RouteVariant()
        return
    names = naming.names
    script = _settings(naming, reroute=reroute)
    renaming = _renaming(naming) if naming.renames else {}
    renames = _renames_of_others(naming) if naming.renames else {}
    # A body is held here to be renamed only: where a header has named its model.
    held = names.json.max_bytes if renaming and names.json is not None else None
    if direct and _names_stand_for_themselves(naming):
        for place in places(naming):
            filters = {LUA: _script(script, ANSWERS), **renaming}
            suffix = f"#{place.words.partition(' ')[0]}"
            yield RouteVariant(suffix, place.conditions, filters, held, renames=renames, named=place)
    unnamed = () if names.on_disagreement is OnDisagreement.REJECT else tuple(map(absent, names.headers))
    if names.grpc:
        methods = "|".join(GRPC_NAME_FIELDS)
        path = path_is(f"/{re.escape(INFERENCE_SERVICE)}/({methods})")
        filters = {LUA: _script(script), GRPC_FIELDS: enabled(), **renaming}
        yield RouteVariant("#grpc", (is_grpc(), path, *unnamed), filters, renames=renames)
    if names.json is not None and not naming.transcode:
        body = names.json
        filters = {
            LUA: _script({**script, "max_bytes": body.max_bytes}),
            JSON_TO_METADATA: _json_rules(body),
            **(_renaming(naming, inserts=True) if naming.renames else {}),
        }
        others = _renames_of_others(naming, inserts=True) if naming.renames else {}
        for paths in chunks(body.paths):
            conditions = (path_is(paths), *unnamed)
            yield RouteVariant("#json", conditions, filters, body.max_bytes, _SEEN, others)
    if naming.transcode:
        translated = _script({**script, "transcode": True, "max_bytes": TRANSLATED_BYTES})
        filters = {LUA: translated, TRANSCODER: enabled(), **renaming}
        yield RouteVariant("#rest", (is_grpc(inverted=True),), filters, TRANSLATED_BYTES, _SEEN, renames)
    yield RouteVariant("", (), {LUA: _script(script), **renaming}, held, renames=renames)


def enabled() -> Any:
    """Switch a filter on for a route, with the settings that it has in the chain."""
    return packed(route_v3.FilterConfig(config=Any()))


def lua_pattern(template: str) -> str:
    """Translate a path template to Lua's patterns: `{model}` is what it captures, of one segment."""
    literals = [_LUA_MAGIC.sub(r"%\1", part) for part in _PLACEHOLDER.split(template)]
    pattern = "^" + literals[0]
    for placeholder, literal in zip(_PLACEHOLDER.findall(template), literals[1:], strict=True):
        pattern += (_CAPTURE if placeholder == "{model}" else "[^/?]+") + literal
    return pattern


def _settings(naming: Naming, *, reroute: bool) -> dict[str, object]:
    names = naming.names
    settings: dict[str, object] = {
        "keys": list(naming.keys),
        "headers": list(names.headers),
        "paths": [lua_pattern(template) for template in names.paths],
        "any_key": ANY_KEY,
        "without": [*names.without_model, *(f"{start}*" for start in GRPC_WITHOUT_MODEL)],
        "openai": list(names.json.paths if names.json is not None else JSON_PATHS),
    }
    if further := _further(naming.further):
        settings["names"] = further
    if names.on_disagreement is OnDisagreement.REJECT:
        settings["reject"] = True
    if reroute:
        settings["reroute"] = True
    settings.update(_misses(naming))
    return settings


def _renaming(naming: Naming, *, inserts: bool = False) -> dict[str, Any]:
    """Switch on what renames models on the way to a replica, with what the pool's document says of it.

    What depends on the replica is in its endpoint's metadata. `inserts`: the body is one that names its
    model, so that a fallback's name belongs there where it has none.
    """
    return {KNOWN_AS_HEADER: enabled(), RENAMES: _renames(naming, naming.further, inserts=inserts)}


def _renames_of_others(naming: Naming, *, inserts: bool = False) -> dict[str, Any]:
    """The same settings for the hosts of pools that have other names than the route's first."""
    return {host: _renames(naming, names, inserts=inserts) for host, names in naming.others}


def _renames(naming: Naming, names: Names, *, inserts: bool) -> Any:
    named = {*names.aliases, *(names.versions.pinned if names.versions is not None else ())}
    settings: dict[str, object] = {
        "key": naming.keys[0],
        "paths": [lua_pattern(template) for template in naming.names.paths],
        "known": {name: names.means(name) for name in named if names.means(name) != name},
    }
    if names.versions is not None:
        settings["versions"] = True
    if naming.names.json is not None and len(naming.names.json.field) == 1:
        settings["json_key"] = naming.names.json.field[0]
    if inserts:
        settings["inserts"] = True
    return _script(settings)


def _further(names: Names) -> dict[str, object]:
    """What the script has to know of further names to tell which one a request means."""
    further: dict[str, object] = {}
    if names.splits:
        further["splits"] = {name: _split(split) for name, split in names.splits.items()}
    if names.versions is not None:
        further["versions"] = True
    return further


def _split(split: Split) -> dict[str, object]:
    ends = list(accumulate(weight for _, weight in split.targets))
    told: dict[str, object] = {"names": [name for name, _ in split.targets], "ends": ends, "total": ends[-1]}
    if split.sticky_header:
        told["sticky"] = split.sticky_header
    return told


def _misses(naming: Naming) -> dict[str, object]:
    """What the script tells callers of a miss, and the model that stands in for one that is missing."""
    misses = naming.misses
    told = {
        "noModel": _answer(misses.no_model, misses.retry_after),
        "notLoaded": _answer(misses.not_loaded, misses.retry_after),
        "unknown": _unknown(naming),
        "holdersDown": _answer(misses.holders_down, misses.retry_after),
    }
    settings: dict[str, object] = {"misses": {kind: answer for kind, answer in told.items() if answer}}
    if misses.fallback_model is not None:
        settings["fallback"] = {
            "model": misses.fallback_model,
            "no_model": misses.no_model is Choice.FALLBACK_MODEL,
            "not_loaded": misses.falls_back,
        }
    return settings


def _unknown(naming: Naming) -> dict[str, object]:
    """What the script tells of a model that nobody knows, and whom it asks whether that is so."""
    misses = naming.misses
    if misses.unknown is None:
        return {}
    answer = _answer(misses.unknown, misses.retry_after)
    return {**answer, "cluster": XDS_CLUSTER, "path": IS_KNOWN_PATH, "hosts": list(naming.hosts)}


def _answer(choice: Choice | None, retry_after: int) -> dict[str, object]:
    match choice:
        case Choice.NOT_FOUND:
            return {"status": "404"}
        case Choice.UNAVAILABLE:
            return {"status": "503", "retry_after": str(retry_after)}
        case Choice.NO_FALLBACK:
            return {"status": "503"}
        case _:
            return {}


def _names_stand_for_themselves(naming: Naming) -> bool:
    """Whether the first name that a request has is what the balancer is asked for, and nothing else."""
    first = naming.names.on_disagreement is OnDisagreement.PREFER_FIRST
    return first and not _further(naming.further) and not naming.misses.falls_back


def _script(settings: Mapping[str, object], name: str | None = None) -> Any:
    """Give a script a route's settings, and an id of them by which each worker takes them apart once."""
    named = digest(json.dumps(settings, sort_keys=True).encode()).hex()
    return packed(lua.LuaPerRoute(name=name, filter_context=_struct({**settings, "id": named})))


def _struct(values: Mapping[str, object]) -> Struct:
    return Struct(fields={key: _value(values[key]) for key in sorted(values)})


def _value(value: object) -> Value:
    match value:
        case bool():
            return Value(bool_value=value)
        case int():
            return Value(number_value=float(value))
        case list():
            return Value(list_value=ListValue(values=[_value(each) for each in value]))
        case dict():
            return Value(struct_value=_struct(value))
        case _:
            return Value(string_value=str(value))


def _json_rules(body: JsonBody) -> Any:
    def told(key: str, value: Value | None = None) -> json_to_metadata.JsonToMetadataKeyValuePair:
        return json_to_metadata.JsonToMetadataKeyValuePair(
            metadata_namespace=JSON_NAMESPACE, key=key, value=value
        )

    yes = Value(bool_value=True)
    rule = json_to_metadata.JsonToMetadataRule(
        selectors=[json_to_metadata.JsonToMetadataSelector(key=step) for step in body.field],
        on_present=told("model"),
        on_missing=told("missing", yes),
        on_error=told("error", yes),
    )
    return packed(
        json_to_metadata.JsonToMetadata(
            request_rules=json_to_metadata.JsonToMetadataMatchRules(
                rules=[rule], allow_content_types_regex=matcher.RegexMatcher(regex=_JSON_TYPES)
            )
        )
    )
