"""What models are called: aliases, versions, fallbacks and splits. Values, and pure functions of them.

An endpoint's list in Envoy's metadata holds names, and a name is all that a request brings. So a further
name of a model is one more entry of that list, and costs one more subset, but no route and no cluster:

- a version of a model is the name `MODEL/versions/VERSION`, as paths of both REST protocols write it;
- an alias stands on every endpoint that has one of the models that it means;
- a fallback stands on the endpoints of what it falls back to, while nobody has the name itself
  (name_index.py, since that depends on all endpoints of a pool).

A split is the exception: which of its targets a request means is decided for each request, by Envoy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from xds_server.mesh.events import ModelState

VERSION_MARK = "/versions/"
"""Between a model's name and a version of it, in the name of that version."""

_NONE: Mapping[str, Any] = MappingProxyType({})
_DIGITS = re.compile(r"(\d+)")


class DefaultVersion(StrEnum):
    """Which versions of a model its bare name stands for."""

    ANY = "ANY"
    """Whichever a replica has READY: it takes its own default."""
    LATEST = "LATEST"
    """The highest that is READY on any replica of the pool; replicas with older ones only are left out."""


@dataclass(frozen=True, slots=True)
class Versions:
    """Versions as names of their own. `pinned`: model to the one version that its bare name stands for."""

    default: DefaultVersion = DefaultVersion.ANY
    pinned: Mapping[str, str] = field(default_factory=lambda: _NONE, hash=False)


@dataclass(frozen=True, slots=True)
class Split:
    """A name that means one of several, by weight. `targets`: (name, weight), in the order written.

    `sticky_header`: requests with equal values of it mean the same target, while the weights stay.
    """

    targets: tuple[tuple[str, int], ...]
    sticky_header: str = ""


@dataclass(frozen=True, slots=True)
class Names:
    """All further names of a pool's models.

    `fallbacks`: name to the names that stand in for it, in order of preference. `adapter_fallback`: an
    adapter that nobody has loaded any more falls back to its base, as far as runtimes still tell of it.
    """

    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NONE, hash=False)
    versions: Versions | None = None
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NONE, hash=False)
    splits: Mapping[str, Split] = field(default_factory=lambda: _NONE, hash=False)
    adapter_fallback: bool = True

    @property
    def latest(self) -> bool:
        """Whether a bare name depends on the versions that other endpoints have."""
        return self.versions is not None and self.versions.default is DefaultVersion.LATEST

    @property
    def any(self) -> bool:
        """Whether anything is written here that requests may bring, or mean, beside models' own names."""
        return bool(self.aliases or self.fallbacks or self.splits) or self.versions is not None

    def means(self, name: str) -> str:
        """The one name that `name` means as it is written: an alias of exactly one, a pinned version."""
        targets = self.aliases.get(name, ())
        return self.pinned(targets[0] if len(targets) == 1 else name)

    def pinned(self, name: str) -> str:
        """The version that a model's bare name stands for, or the name itself."""
        version = self.versions.pinned.get(name) if self.versions is not None else None
        return name if version is None else version_name(name, version)


NO_NAMES = Names()


def version_name(model: str, version: str) -> str:
    """The name of one version of a model."""
    return f"{model}{VERSION_MARK}{version}"


def model_and_version(name: str) -> tuple[str, str]:
    """The model of a version's name, and the version; empty for a name that has none."""
    model, mark, version = name.rpartition(VERSION_MARK)
    return (model, version) if mark and model and version else (name, "")


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Order versions as people do: `10` after `9`, `v2.10` after `v2.9`, none before all.

    Digits are compared as text by length: `int` refuses thousands of them, which a runtime may send.
    """
    return tuple(_part_key(part) for part in _DIGITS.split(version) if part)


def _part_key(part: str) -> tuple[int, int, str]:
    if not part.isdecimal():
        return 0, 0, part
    digits = part.lstrip("0")
    return 1, len(digits), digits


def own_names(
    names: Names,
    models: tuple[str, ...],
    rows: Iterable[ModelState],
    withdrawn: frozenset[str] = frozenset(),
) -> tuple[str, ...]:
    """The names that an endpoint has by itself, sorted.

    Args:
        names: the pool's.
        models: those READY on it, sorted.
        rows: what is known of them, for their versions; rows of other models do not count.
        withdrawn: names that it is to get no requests for. Who withdraws a model withdraws all that
            stands for it here.
    """
    if names.versions is None and not names.aliases and not withdrawn:
        return models
    ready = set(models) - withdrawn
    found = set(ready) if names.versions is None else _with_versions(names.versions, ready, rows, withdrawn)
    for alias, means in names.aliases.items():
        if alias not in withdrawn and not found.isdisjoint(means):
            found.add(alias)
    return tuple(sorted(found))


def _with_versions(
    versions: Versions, ready: set[str], rows: Iterable[ModelState], withdrawn: frozenset[str]
) -> set[str]:
    """The models and their versions. A model of which every version is withdrawn, or not the pinned, goes."""
    by_model: dict[str, set[str]] = {}
    for row in rows:
        if row.name in ready and row.ready and row.version:
            by_model.setdefault(row.name, set()).add(row.version)
    found: set[str] = set()
    for model in ready:
        told = by_model.get(model, set())
        left = {version for version in told if version_name(model, version) not in withdrawn}
        found.update(version_name(model, version) for version in left)
        pinned = versions.pinned.get(model)
        if (pinned in left) if pinned is not None else (left or not told):
            found.add(model)
    return found


def known_as(
    names: Names,
    listed: tuple[str, ...],
    own: tuple[str, ...],
    models: tuple[str, ...],
    stands_in: Callable[[str], str | None],
) -> tuple[tuple[str, str], ...]:
    """Under which name an endpoint has to be asked for a name of its, where that is not `Names.means`.

    Args:
        names: the pool's.
        listed: all names that the endpoint is routed under.
        own: those of them that it has by itself (`own_names`).
        models: those READY on it.
        stands_in: for a name that nobody has, the one whose endpoints stand in for it.

    Returns:
        Pairs in the order of `listed`, none for almost all names: aliases of several models, models that
        are called like an alias, and what the endpoint stands in for.
    """
    if listed is own and not names.aliases:
        return ()
    has = frozenset(own)
    ready = frozenset(models)

    def known(name: str) -> str:
        if name in ready or name not in names.aliases:
            return names.pinned(name)
        return next((known(each) for each in names.aliases[name] if each in has), name)

    found = []
    for name in listed:
        if name in names.aliases or name not in has:
            its = known(name if name in has else stands_in(name) or name)
            if its != names.means(name):
                found.append((name, its))
    return tuple(found)


def for_any_other(
    names: Names, listed: tuple[str, ...], known: tuple[tuple[str, str], ...], fallback: str
) -> tuple[tuple[str, str], ...]:
    """The same of all `listed` names of an endpoint, and `fallback` for every name that it does not have."""
    its = {name: names.means(name) for name in listed} | dict(known)
    return (("", its[fallback]), *its.items())


def bases(names: Names, rows: Iterable[ModelState]) -> frozenset[tuple[str, str]]:
    """The adapters that an endpoint tells of, in whatever state, each with its base."""
    if not names.adapter_fallback:
        return frozenset()
    return frozenset((row.name, row.base) for row in rows if row.base)


STICKY_PRIME = 2147483647
STICKY_FACTOR = 257
STICKY_MIX = 48271
"""Constants of `sticky_share`. Products stay below 2**53, so that Envoy's Lua computes the same."""


def sticky_share(value: str, total: int) -> int:
    """A number from 0 to total - 1 that depends on `value` alone, as the script in Envoy computes it."""
    state = 0
    for byte in value.encode():
        state = (state * STICKY_FACTOR + byte + 1) % STICKY_PRIME
    for _ in range(3):
        state = (state * STICKY_MIX + 1) % STICKY_PRIME
    return state % total


def split_target(split: Split, share: int) -> str:
    """The target that has `share`, a number from 0 to the sum of the weights - 1."""
    for (name, _), end in zip(split.targets, accumulate(weight for _, weight in split.targets), strict=True):
        if share < end:
            return name
    raise ValueError(f"share {share} of a split whose weights sum up to less")
