"""Names that depend on all endpoints of a pool: fallbacks, and the latest version. Kept up to date in place.

The cost of an update is that of the names that the endpoint gained or lost, and of the endpoints on which a
fallback begins or ends; never that of the pool.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from xds_server.mesh.names import model_and_version, version_key, version_name

if TYPE_CHECKING:
    from xds_server.mesh.model import EndpointId
    from xds_server.mesh.names import Names

_NOTHING: frozenset[str] = frozenset()
_NO_BASES: frozenset[tuple[str, str]] = frozenset()
T = TypeVar("T")


class NameIndex:
    """Who has which name of a pool, and who stands in for a name that nobody has."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._tracking = bool(names.fallbacks) or names.latest
        self._own: dict[EndpointId, tuple[str, ...]] = {}
        self._bases: dict[EndpointId, frozenset[tuple[str, str]]] = {}
        self._withdrawn: dict[EndpointId, frozenset[str]] = {}
        self._holders: dict[str, set[EndpointId]] = {}
        self._told: Counter[tuple[str, str]] = Counter()
        """How many endpoints tell that an adapter has a base."""
        self._chains: dict[str, tuple[str, ...]] = {}
        self._in_chains: dict[str, set[str]] = {}
        """For each name, the names whose fallback depends on it."""
        self._stands_in: dict[str, str] = {}
        """For a name that nobody has, the one whose endpoints stand in for it."""
        self._lent: dict[str, set[str]] = {}
        self._latest: dict[str, str] = {}
        self._versions: dict[str, set[str]] = {}
        for name, chain in names.fallbacks.items():
            self._set_chain(name, chain)

    def is_own(
        self,
        endpoint: EndpointId,
        own: tuple[str, ...],
        bases: frozenset[tuple[str, str]],
        withdrawn: frozenset[str],
    ) -> bool:
        """Whether an update with these would change nothing."""
        return (
            self._own.get(endpoint) == own
            and self._bases.get(endpoint, _NO_BASES) == bases
            and self._withdrawn.get(endpoint, _NOTHING) == withdrawn
        )

    def update(
        self,
        endpoint: EndpointId,
        own: tuple[str, ...],
        bases: frozenset[tuple[str, str]] = _NO_BASES,
        withdrawn: frozenset[str] = _NOTHING,
    ) -> set[EndpointId]:
        """Take what an endpoint has by itself; returns the others whose names have changed with it."""
        if bases and not self._tracking:
            self._track()
        before, self._own[endpoint] = self._own.get(endpoint, ()), own
        _keep(self._withdrawn, endpoint, withdrawn)
        if not self._tracking:
            return set()
        changed = set(before) ^ set(own)
        self._move(endpoint, changed, set(before))
        affected = self._follow_versions(changed)
        keys = {key for name in changed for key in self._in_chains.get(name, ())}
        keys |= self._learn(endpoint, bases)
        for key in keys:
            affected |= self._settle(key)
        affected.discard(endpoint)
        return affected

    def forget(self, endpoint: EndpointId) -> set[EndpointId]:
        """Take an endpoint that has left; returns the others whose names have changed with it."""
        affected = self.update(endpoint, ())
        self._own.pop(endpoint, None)
        return affected

    def names(self, endpoint: EndpointId) -> tuple[str, ...]:
        """All names of an endpoint, sorted: its own, and those that it stands in for."""
        own = self._own.get(endpoint, ())
        if not self._tracking:
            return own
        found = {name for name in own if not self._outdated(name, own)}
        lent = {key for name in own for key in self._lent.get(name, ())}
        found |= lent - self._withdrawn.get(endpoint, _NOTHING)
        return tuple(sorted(found)) if found != set(own) else own

    def own(self, endpoint: EndpointId) -> tuple[str, ...]:
        """The names that an endpoint has by itself."""
        return self._own.get(endpoint, ())

    def _track(self) -> None:
        """Begin to follow who has which name: not before something depends on it, since it costs memory."""
        self._tracking = True
        for endpoint, own in self._own.items():
            self._move(endpoint, set(own), set())

    def _move(self, endpoint: EndpointId, changed: set[str], before: set[str]) -> None:
        for name in changed:
            holders = self._holders.setdefault(name, set())
            holders.discard(endpoint) if name in before else holders.add(endpoint)
            if not holders:
                del self._holders[name]

    def stand_in(self, name: str) -> str | None:
        """The name whose endpoints answer for `name` while nobody has it; None if somebody has it."""
        return self._stands_in.get(name)

    def _outdated(self, name: str, own: tuple[str, ...]) -> bool:
        """Whether the endpoint has only older versions of a model than another one."""
        latest = self._latest.get(name)
        return latest is not None and latest not in own

    def _follow_versions(self, changed: set[str]) -> set[EndpointId]:
        """Find the latest version anew of each model of which a version came or went."""
        if not self._names.latest:
            return set()
        affected: set[EndpointId] = set()
        pinned = self._names.versions.pinned if self._names.versions else {}
        for name in changed:
            model, version = model_and_version(name)
            if not version or model in pinned:
                continue
            known = self._versions.setdefault(model, set())
            known.add(version) if name in self._holders else known.discard(version)
            latest = max(known, key=lambda each: (version_key(each), each), default=None)
            before = self._latest.pop(model, None)
            if latest is not None:
                self._latest[model] = version_name(model, latest)
            if before != self._latest.get(model):
                affected |= self._holders.get(model, set())
        return affected

    def _learn(self, endpoint: EndpointId, bases: frozenset[tuple[str, str]]) -> set[str]:
        """Take what an endpoint tells of adapters; returns those whose fallback is another now."""
        before = self._bases.get(endpoint, _NO_BASES)
        _keep(self._bases, endpoint, bases)
        changed: set[str] = set()
        for pair in before ^ bases:
            self._told[pair] += 1 if pair in bases else -1
            adapter, base = pair
            if adapter in self._names.fallbacks:
                continue
            chain = set(self._chains.get(adapter, ()))
            chain.add(base) if self._told[pair] > 0 else chain.discard(base)
            if not self._told[pair]:
                del self._told[pair]
            self._set_chain(adapter, tuple(sorted(chain)))
            changed.add(adapter)
        return changed

    def _set_chain(self, key: str, chain: tuple[str, ...]) -> None:
        for name in (key, *self._chains.pop(key, ())):
            users = self._in_chains.get(name, set())
            users.discard(key)
            if not users:
                self._in_chains.pop(name, None)
        if chain:
            self._chains[key] = chain
            for name in (key, *chain):
                self._in_chains.setdefault(name, set()).add(key)

    def _settle(self, key: str) -> set[EndpointId]:
        """Find who stands in for a name; returns the endpoints on which that begins or ends."""
        after = None
        if key not in self._holders:
            after = next((name for name in self._chains.get(key, ()) if name in self._holders), None)
        before = self._stands_in.pop(key, None)
        if after is not None:
            self._stands_in[key] = after
        if before == after:
            return set()
        affected: set[EndpointId] = set()
        if before is not None:
            self._lent[before].discard(key)
            if not self._lent[before]:
                del self._lent[before]
            affected |= self._holders.get(before, set())
        if after is not None:
            self._lent.setdefault(after, set()).add(key)
            affected |= self._holders[after]
        return affected


def _keep(kept: dict[EndpointId, frozenset[T]], endpoint: EndpointId, value: frozenset[T]) -> None:
    """Keep a value under an endpoint, and nothing for an empty one: almost all are."""
    if value:
        kept[endpoint] = value
    else:
        kept.pop(endpoint, None)
