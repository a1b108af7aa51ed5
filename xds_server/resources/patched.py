"""Resources by name as a value of which a changed copy shares almost all, for types with many of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xds_server.xds.model import Resource

SMALL = 1024
"""Resources that are copied: up to some thousand, that costs less than what is saved."""

Named = Mapping[str, "Resource"]


class Patched(Named):
    """`base` with the resources of `patch` in place of its own; None in it: there is none of that name."""

    __slots__ = ("_length", "base", "patch")

    def __init__(self, base: Mapping[str, Resource], patch: Mapping[str, Resource | None]) -> None:
        self.base = base
        self.patch = patch
        self._length = len(base) + sum((each is not None) - (name in base) for name, each in patch.items())

    def __getitem__(self, name: str) -> Resource:
        if name not in self.patch:
            return self.base[name]
        found = self.patch[name]
        if found is None:
            raise KeyError(name)
        return found

    def __contains__(self, name: object) -> bool:
        return self.patch[name] is not None if name in self.patch else name in self.base  # type: ignore[index]

    def __iter__(self) -> Iterator[str]:
        """By name."""
        if all(name in self.base for name in self.patch):
            return (name for name in self.base if name in self)
        return iter(sorted(name for name in self.base.keys() | self.patch.keys() if name in self))

    def __len__(self) -> int:
        return self._length


def patched(known: Named, changes: Mapping[str, Resource | None]) -> Named:
    """Put these resources among the known, which are sorted by name; None takes one away.

    Of N resources that costs as much as some sqrt(N) of them, but for one time in as many, when all are
    copied.
    """
    base, patch = (known.base, known.patch) if isinstance(known, Patched) else (known, {})
    patch = {**patch, **changes}
    if len(base) > SMALL and len(patch) < isqrt(len(base)):
        return Patched(base, patch)
    copied = {**base, **{name: each for name, each in patch.items() if each is not None}}
    for name, each in patch.items():
        if each is None:
            copied.pop(name, None)
    return copied if all(name in base for name in patch) else dict(sorted(copied.items()))
