"""What a request's name means, as the script in Envoy takes it (resources/names.lua)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds_server.explain.naming import segment_of, settings_of
from xds_server.explain.request import decoded, encoded
from xds_server.mesh.names import (
    Names,
    model_and_version,
    split_target,
    sticky_share,
    version_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import envoy_data_plane.envoy.config.route.v3 as route_v3

    from xds_server.explain.request import Request

_VERSION = re.compile(r"/versions/([^/?:]+)")


@dataclass(frozen=True, slots=True)
class Target:
    """A name that a request may mean: `share` of such requests do.

    `sent_as`: the name that the replica is asked by where that can be said; `path`: the one it gets.
    `model` without a version; `means`: the models that make an endpoint go by the name.
    """

    name: str
    share: float
    sent_as: str
    path: str
    model: str
    means: tuple[str, ...]


def meant(names: Names, route: route_v3.Route, request: Request, model: str) -> Iterator[Target]:
    """Each name that the request may mean: one, or a split's targets where they are drawn."""
    settings = settings_of(route)
    segment = segment_of(settings, request.path)
    here = None if segment is None else decoded(segment)
    start = -1 if segment is None else _end_of(settings, request.path, segment)
    version = _VERSION.match(request.path, start) if start >= 0 else None
    name = model
    if names.versions is not None and version is not None and here == name:
        name = version_name(name, version[1])
    for target, share in _split(names, request, name):
        known = names.means(target)
        path = request.path
        if segment is not None and here in (name, model_and_version(name)[0]):
            path = _path(request.path, (start - len(segment), start), known, here or "", version)
        means = tuple(model_and_version(each)[0] for each in names.aliases.get(target, (target,)))
        yield Target(target, share, known, path, model_and_version(target)[0], means)


def _split(names: Names, request: Request, name: str) -> Iterator[tuple[str, float]]:
    split = names.splits.get(name)
    if split is None:
        yield name, 1.0
        return
    total = sum(weight for _, weight in split.targets)
    value = request.value(split.sticky_header) if split.sticky_header else None
    if value:
        yield split_target(split, sticky_share(value, total)), 1.0
        return
    for target, weight in split.targets:
        if weight:
            yield target, weight / total


def _end_of(settings: dict[str, object], path: str, segment: str) -> int:
    """Where the segment ends that names the model: it is the last of its pattern's literal beginning."""
    at = 0
    while (at := path.find(segment, at)) >= 0:
        if segment_of(settings, path[:at] + "\x00" + path[at + len(segment) :]) == "\x00":
            return at + len(segment)
        at += 1
    return -1


def _path(path: str, segment: tuple[int, int], known: str, here: str, there: re.Match[str] | None) -> str:
    model, version = model_and_version(known)
    if model == here and (not version or (there is not None and there[1] == version)):
        return path
    rest = path[segment[1] :]
    if version:
        rest = f"/versions/{encoded(version)}{_VERSION.sub('', rest, count=1) if there else rest}"
    return f"{path[: segment[0]]}{encoded(model)}{rest}"
