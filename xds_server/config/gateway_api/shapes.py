"""The specs of Gateway API objects, read once for each state of an object, and the last good one of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xds_server.config.objects import key_of
from xds_server.config.problems import Place
from xds_server.config.shape import shape_part

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds_server.config.problems import Problem

Shaped = tuple[Any, list["Problem"]]


class Shapes:
    """What was read. A wrong spec leaves the last good one in force, for as long as the object is there."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[object, Shaped]] = {}

    def of(self, value: Mapping[str, Any], model: type[Any]) -> Shaped:
        """The spec in force (None: there is none), and what is wrong with the object as it is now."""
        key, written = key_of(value), value.get("spec") or {}
        before = self._read.get(key)
        if before is not None and before[0] == written:
            return before[1]
        spec, problems = shape_part(Place("", 0), "spec", model, written)
        if spec is None and before is not None:
            spec = before[1][0]
        self._read[key] = written, (spec, problems)
        return spec, problems

    def keep(self, keys: Iterable[str]) -> None:
        """Forget all other objects."""
        for key in self._read.keys() - set(keys):
            del self._read[key]
