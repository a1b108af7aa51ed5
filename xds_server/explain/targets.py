"""What a request's name means, as the script in Envoy takes it (resources/names.lua)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
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
    from collections.abc import Callable, Iterator

    import envoy_data_plane.envoy.config.route.v3 as route_v3

    from xds_server.explain.request import Request

_VERSION = re.compile(r"/versions/([^/?:]+)")


@dataclass(frozen=True, slots=True)
class Target:
    """A name that a request may mean: `share` of such requests do.

    `sent_as`: the name that a replica is asked under, unless its endpoint tells another; `path_as`: the path
    that it then gets. `model` without a version; `means`: the models that make an endpoint go by the name.
    """

    name: str
    share: float
    sent_as: str
    model: str
    means: tuple[str, ...]
    path_as: Callable[[str], str] = field(compare=False)


def meant(
    names: Names, route: route_v3.Route, request: Request, model: str, beside: str = ""
) -> Iterator[Target]:
    """Each name that the request may mean: one, or a split's targets where they are drawn.

    `beside`: the version that a message names beside the model.
    """
    settings = settings_of(route)
    segment = segment_of(settings, request.path)
    here = None if segment is None else decoded(segment)
    start = -1 if segment is None else _end_of(settings, request.path, segment)
    version = _VERSION.match(request.path, start) if start >= 0 else None
    name = model
    if names.versions is not None:
        number = version[1] if version is not None and here == name else beside
        name = version_name(name, number) if number else name

    def path_as(known: str) -> str:
        if segment is None or here not in (model, model_and_version(model)[0]):
            return request.path
        stays = version if names.versions is not None or model_and_version(known)[1] else None
        return _path(request.path, (start - len(segment), start), known, here or "", stays)

    for target, share in _split(names, request, name):
        means = tuple(model_and_version(each)[0] for each in names.aliases.get(target, (target,)))
        yield Target(target, share, names.means(target), model_and_version(target)[0], means, path_as)


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
    """The path for `known`, in place of the segment `here` and of the version that stands `there`."""
    model, version = model_and_version(known)
    begin, end = segment
    rest = path[end if there is None else there.end() :]
    if version:
        same = there is not None and there[1] == version
        rest = f"/versions/{version if same else encoded(version)}{rest}"
    return f"{path[:begin]}{path[begin:end] if model == here else encoded(model)}{rest}"
