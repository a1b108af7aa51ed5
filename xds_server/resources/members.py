"""Who is in which shard: an endpoint in the shards of its models, with those models alone.

Told of one changed endpoint, it answers with the shards that this touches; nothing here looks at the
others. Endpoints that a miss may reach are in every shard, without models where they hold none of it.
Requests that name no model have a cluster of their own, with every endpoint and without models.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xds_server.mesh.layout import LayoutKind
from xds_server.resources.shards import Layout, shard_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xds_server.mesh.model import PlacedEndpoint
    from xds_server.resources.layouts import Misses

Key = int | str
"""A shard within its layout: its index, or the only model that it has."""

REST = -1
"""The shard of a split pool that has every endpoint and no model."""

Part = tuple["PlacedEndpoint | None", "PlacedEndpoint | None"]
"""An endpoint as a shard had it and is to have it; None where it was or is not in it."""


def key_of(layout: Layout, model: str) -> Key:
    """Find the shard of a model."""
    return model if layout.kind is LayoutKind.PER_MODEL else shard_of(model, layout.count)


def parts(
    layout: Layout, misses: Misses, before: PlacedEndpoint | None, after: PlacedEndpoint | None
) -> Iterator[tuple[Key, Part]]:
    """Go through the shards to which `after` in place of `before` makes a difference."""
    old = {} if before is None else _held(layout, before)
    new = {} if after is None else _held(layout, after)
    for key in _keys(layout, misses, before, old) | _keys(layout, misses, after, new):
        was = None if before is None else _part(before, old, key, misses)
        now = None if after is None else _part(after, new, key, misses)
        if was != now:
            yield key, (was, now)


def _held(layout: Layout, placed: PlacedEndpoint) -> Mapping[Key, tuple[str, ...]]:
    """The models of an endpoint by shard, each shard's in their order."""
    match layout.kind:
        case LayoutKind.SINGLE:
            return {0: placed.models}
        case LayoutKind.PER_MODEL:
            return {REST: (), **dict.fromkeys(placed.models, ())}
        case _:
            held: dict[Key, list[str]] = {REST: []}
            for model in placed.models:
                held.setdefault(shard_of(model, layout.count), []).append(model)
            return {index: tuple(models) for index, models in held.items()}


def _keys(
    layout: Layout, misses: Misses, placed: PlacedEndpoint | None, held: Mapping[Key, tuple[str, ...]]
) -> set[Key]:
    found = set(held)
    if placed is not None and layout.kind is LayoutKind.SHARDED and misses.take(placed):
        found.update(range(layout.count))
    return found


def _part(
    placed: PlacedEndpoint, held: Mapping[Key, tuple[str, ...]], key: Key, misses: Misses
) -> PlacedEndpoint | None:
    models = held.get(key)
    if models is None:
        if isinstance(key, str) or not misses.take(placed):
            return None
        models = ()
    if models == placed.models:
        return placed
    shown = (key,) if isinstance(key, str) else models
    known = tuple(pair for pair in placed.known_as if pair[0] in shown)
    return replace(placed, models=models, known_as=known)


def withdraws(part: Part) -> bool:
    """Whether a change takes something from a shard that requests may be sent to."""
    was, now = part
    if was is None:
        return False
    if now is None or (was.healthy and not now.healthy):
        return True
    return was.endpoint is not now.endpoint or not set(was.models) <= set(now.models)
