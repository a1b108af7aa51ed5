"""What one client has asked for, of one type. Not what it was told: that is the ledger's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from xds_server.xds.model import CLUSTER, LISTENER

if TYPE_CHECKING:
    from collections.abc import Collection

    from xds_server.xds.watch import Watch

_K = TypeVar("_K")

WILDCARD = "*"
"""The name that stands for every resource of a type."""

LEGACY_WILDCARD_TYPES = frozenset({CLUSTER, LISTENER})
"""Types whose first request on a stream asks for everything when it names nothing.

For the others it asks for nothing: a client that has dropped its last cluster may reconnect with an
empty EDS request.
"""


@dataclass(slots=True)
class Subscription:
    """Names asked for, and whether everything is asked for besides.

    `legacy` marks a wildcard that came from an empty first request: in SotW it ends with the first
    request that names something, while `*` lasts as long as it is repeated.
    """

    names: set[str] = field(default_factory=set)
    wildcard: bool = False
    legacy: bool = False

    def covers(self, name: str) -> bool:
        """Whether the client wants to hear of `name`."""
        return self.wildcard or name in self.names

    def described(self) -> tuple[str, ...]:
        """Every name in order, `*` first where everything is asked for."""
        return ((WILDCARD,) if self.wildcard else ()) + tuple(sorted(self.names))


class Index:
    """Who subscribes to what, over all clients: a change finds the few it concerns.

    Kept by the watches themselves; nothing stays behind when a watch withdraws.
    """

    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str], set[Watch]] = {}
        self._wildcards: dict[str, set[Watch]] = {}

    def __len__(self) -> int:
        """How many subscriptions are held, for tests that nothing leaks."""
        return sum(map(len, self._by_name.values())) + sum(map(len, self._wildcards.values()))

    def add(self, watch: Watch, name: str) -> None:
        """`watch` has subscribed to `name`, which may be `*`."""
        if name == WILDCARD:
            self._wildcards.setdefault(watch.type_url, set()).add(watch)
        else:
            self._by_name.setdefault((watch.type_url, name), set()).add(watch)

    def discard(self, watch: Watch, name: str) -> None:
        """`watch` no longer subscribes to `name`, which may be `*`."""
        if name == WILDCARD:
            _discard(self._wildcards, watch.type_url, watch)
        else:
            _discard(self._by_name, (watch.type_url, name), watch)

    def wildcards(self, type_url: str) -> Collection[Watch]:
        """The watches that ask for everything of a type. Not to be kept."""
        return self._wildcards.get(type_url, ())

    def named(self, type_url: str, name: str) -> Collection[Watch]:
        """The watches that name `name`, whether or not they ask for everything besides. Not to be kept."""
        return self._by_name.get((type_url, name), ())


def _discard(table: dict[_K, set[Watch]], key: _K, watch: Watch) -> None:
    watches = table.get(key)
    if watches is not None:
        watches.discard(watch)
        if not watches:
            del table[key]
