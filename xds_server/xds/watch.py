"""One client's interest in one type: its subscription, its ledger, and what has to be looked at.

SotW and delta share all of it. A watch is marked, never queued for: marks merge by name, so a client
that does not answer costs a set of names, whatever happens meanwhile.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from xds_server.xds.convergence import Unanswered
from xds_server.xds.ledger import ABSENT, Ledger, Rejection
from xds_server.xds.messages import Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ORDER, Resource, Snapshot, TypeSnapshot
from xds_server.xds.status import counted_as
from xds_server.xds.subscription import LEGACY_WILDCARD_TYPES, WILDCARD, Index, Subscription

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds_server.xds.convergence import Round

WHOLE_TYPES = frozenset({CLUSTER, LISTENER})
"""Types whose SotW response carries everything: what it omits, the client removes."""


class Verdict(Enum):
    """What a client lacks about one name."""

    NOTHING = auto()
    CONTENT = auto()
    ABSENCE = auto()


class Watch:
    """What one client wants of one type, and what it has. Compared by identity."""

    __slots__ = (
        "__weakref__",
        "_all_dirty",
        "_dirty",
        "_index",
        "_kind",
        "_nonces",
        "_resend",
        "counted",
        "foreign_nonce",
        "fresh",
        "held_back",
        "inherited",
        "ledger",
        "marked",
        "retained",
        "rounds",
        "stream",
        "subscription",
        "tells_absence",
        "type_url",
        "unanswered",
        "variant",
        "whole",
    )

    def __init__(self, stream: int, type_url: str, variant: Variant, index: Index) -> None:
        self.stream = stream
        self.variant = variant
        self.type_url = type_url
        self.counted = counted_as(type_url)
        """Its key in HubStats."""
        self.whole = variant is Variant.SOTW and type_url in WHOLE_TYPES
        self.tells_absence = variant is Variant.DELTA or self.whole
        self.subscription = Subscription()
        self.ledger = Ledger()
        self.rounds = Unanswered()
        """Publications that concern it and that it has not answered."""
        self.fresh = True
        """No request has been read yet."""
        self.unanswered = False
        """The client waits for a first answer even if there is nothing to tell."""
        self.held_back: dict[str, float] = {}
        """Names that wait for another type, with the time since when."""
        self.retained: dict[str, Resource] = {}
        """Resources that are gone but have to stay in whole responses for now."""
        self.inherited: frozenset[str] = frozenset()
        """Names that the client brought from an earlier stream."""
        self.foreign_nonce = ""
        """The nonce with which the client came: of another stream, and never given to it on this one."""
        self._nonces = 0, 0
        """The publication of the last response, and how many it had before it."""
        self._kind = str(ORDER.index(type_url)) if type_url in ORDER else type_url
        self._index = index
        self.marked = False
        """There may be something to look at."""
        self._dirty: set[str] = set()
        self._all_dirty = False
        self._resend: set[str] = set()

    # What the client asks for

    def begin(self, *, names_nothing: bool) -> None:
        """Read the first request: naming nothing, it asks for everything of some types."""
        self.fresh = False
        if names_nothing and self.type_url in LEGACY_WILDCARD_TYPES:
            self.subscribe_all()
            self.subscription.legacy = True
        self.unanswered |= self.whole
        self.marked |= self.unanswered

    def inherit(self, versions: Mapping[str, str]) -> None:
        """Take over what the client says it holds from an earlier stream."""
        self.ledger.held.update(versions)
        self.inherited = frozenset(versions)

    def disinherit(self) -> None:
        """Drop what was inherited without being asked for on this stream."""
        for name in self.inherited:
            if not self.subscription.covers(name):
                self.ledger.forget(name)

    def subscribe(self, name: str, *, resend: bool = True) -> None:
        """Add a name. It is answered even where the client may have its content (go-control-plane 431)."""
        if name == WILDCARD:
            self.subscribe_all()
            return
        if name not in self.subscription.names:
            self.subscription.names.add(name)
            self._index.add(self, name)
        self.ledger.rejected.pop(name, None)
        self._dirty.add(name)
        self.marked = True
        if resend:
            self._resend.add(name)

    def unsubscribe(self, name: str) -> None:
        """Drop a name. Under a wildcard the client loses its copy and is told anew (envoy PR 16861)."""
        if name == WILDCARD:
            self.unsubscribe_all()
            return
        if name not in self.subscription.names:
            return
        self.subscription.names.discard(name)
        self._index.discard(self, name)
        if self.subscription.wildcard:
            self._dirty.add(name)
            self.marked = True
            self._resend.add(name)
        else:
            self._forget(name)

    def subscribe_all(self) -> None:
        """Ask for every resource of the type."""
        self.subscription.legacy = False
        if self.subscription.wildcard:
            return
        self.subscription.wildcard = True
        self._index.add(self, WILDCARD)
        self._all_dirty = self.marked = True
        self.unanswered = self.tells_absence and not self.inherited

    def unsubscribe_all(self) -> None:
        """End the wildcard; names asked for stay."""
        if not self.subscription.wildcard:
            return
        self.subscription.wildcard = self.subscription.legacy = False
        self._index.discard(self, WILDCARD)
        everything = self.ledger.held.keys() | self.ledger.rejected.keys() | self.retained.keys()
        for name in everything - self.subscription.names:
            self._forget(name)

    def withdraw(self) -> None:
        """The stream is over: leave the index."""
        self.rounds.leave()
        for name in self.subscription.names:
            self._index.discard(self, name)
        self._index.discard(self, WILDCARD)

    def _forget(self, name: str) -> None:
        self.ledger.forget(name)
        self.retained.pop(name, None)
        self.held_back.pop(name, None)
        self._resend.discard(name)

    # What the client has answered

    def acknowledge(self, now: float) -> None:
        """The outstanding response was accepted."""
        sent, retry = self.ledger.acknowledge(now)
        if retry:
            self._dirty |= retry
            self.marked = True
        if sent.contents.keys() <= self.subscription.names:
            return
        for name, version in sent.contents.items():
            if name in self.subscription.names:
                continue
            if version == ABSENT or not self.subscription.wildcard:
                self.ledger.forget(name)

    def reject(self, error: str, now: float) -> Rejection:
        """The outstanding response was refused. Names no longer asked for are not held against it."""
        rejection = self.ledger.reject(error, now)
        for name in rejection.sent.contents:
            if not self.subscription.covers(name):
                self.ledger.forget(name)
        return rejection

    # What has to be looked at

    def mark(self, names: Iterable[str], *, resend: bool = False) -> None:
        """Look at these names again; `resend`: whatever the client has of them."""
        names = [name for name in names if self.subscription.covers(name)]
        if names:
            self._dirty.update(names)
            self.marked = True
            if resend:
                self._resend.update(names)

    def concern(self, names: Iterable[str], made: Round) -> None:
        """A publication has changed these names, to all of which it subscribes."""
        self._dirty.update(names)
        self.marked = True
        self.rounds.expect(made)

    def lone(self) -> str | None:
        """The name to look at, where it is the only one and nothing else is the matter; else None.

        What such a watch is owed depends on nothing but that name and what it holds of it.
        """
        dirty = self._dirty
        if len(dirty) != 1 or self._all_dirty or self.unanswered or self._resend or self.held_back:
            return None
        name = next(iter(dirty))
        if self.whole or self.ledger.rejected or not self.subscription.covers(name):
            return None
        return name

    def candidates(self, view: TypeSnapshot) -> list[str]:
        """The names to look at, in order."""
        if not self._all_dirty:
            return sorted(self._dirty) if len(self._dirty) > 1 else list(self._dirty)
        names = self.subscription.names | self._dirty
        if self.subscription.wildcard:
            names |= view.resources.keys() | self.ledger.held.keys()
        return sorted(names)

    def looked(self, remaining: Iterable[str]) -> None:
        """Everything was looked at; `remaining` has to be looked at again."""
        self._all_dirty = False
        self._dirty.clear()
        self._dirty.update(remaining)
        self.marked = bool(self._dirty) or self.unanswered
        if self.held_back:
            self.held_back = {name: at for name, at in self.held_back.items() if name in self._dirty}

    def hold(self, name: str, now: float) -> float:
        """Note that `name` waits for another type. Since when: of a whole response, since its first name."""
        since = self.held_back.setdefault(name, now)
        return min(self.held_back.values()) if self.whole else since

    def told(self, names: Iterable[str]) -> None:
        """These names are in the response that goes out now."""
        if self.unanswered:
            self.unanswered = False
            self.marked = self._all_dirty or bool(self._dirty)
        if self._resend:
            self._resend.difference_update(names)
        for name in names if self.held_back else ():
            self.held_back.pop(name, None)

    def count_response(self, serial: int) -> int:
        """Number the response that goes out now among those of publication `serial`, from 0.

        The first response of a publication has the same number at every client, so that clients that are
        owed the same get the very same bytes; a further one at this client has another.
        """
        last, number = self._nonces
        number = number + 1 if last == serial else 0
        if self.foreign_nonce and self.nonce(serial, number) == self.foreign_nonce:
            number += 1
        self._nonces = serial, number
        return number

    def nonce(self, serial: int, number: int) -> str:
        """Name a response by its publication and its number there."""
        return f"{serial}.{self._kind}.{number}"

    def verdict(self, name: str, snapshot: Snapshot) -> Verdict:
        """What the client lacks about `name`, whether or not it may be sent now.

        Nothing, while the name is withheld, or while its content is what the client rejected.
        """
        view = snapshot.of(self.type_url)
        return self.verdict_on(name, view.resources.get(name), view, snapshot)

    def verdict_on(
        self, name: str, resource: Resource | None, view: TypeSnapshot, snapshot: Snapshot
    ) -> Verdict:
        """Judge as `verdict`, for who has the type's view and its resource of that name at hand."""
        if not self.subscription.covers(name) or name in view.withheld:
            return Verdict.NOTHING
        version = ABSENT if resource is None else resource.version
        rejection = self.ledger.rejected.get(name)
        if rejection is not None and rejection.of(name) == version:
            return Verdict.NOTHING
        if resource is None and not self._may_tell_absence(name, snapshot):
            return Verdict.NOTHING
        if name not in self._resend and self.ledger.held.get(name) == version:
            return Verdict.NOTHING
        return Verdict.ABSENCE if resource is None else Verdict.CONTENT

    def _may_tell_absence(self, name: str, snapshot: Snapshot) -> bool:
        """Whether the client can be, and wants to be, told that `name` does not exist.

        Never of an assignment whose cluster still exists: Envoy would keep the hosts (envoy 13009).
        """
        if not self.tells_absence:
            return False
        if self.type_url == ENDPOINT and name in snapshot.of(CLUSTER).resources:
            return False
        return name in self.subscription.names or name in self.ledger.held or name in self._resend

    def lapse(self, name: str) -> None:
        """`name` vanished and the client cannot be told: whenever it is back it is sent."""
        self.ledger.held.pop(name, None)

    def owes(self, snapshot: Snapshot) -> bool:
        """Whether anything is still to be sent."""
        view = snapshot.of(self.type_url)
        return any(self.verdict(name, snapshot) is not Verdict.NOTHING for name in self.candidates(view))

    def settled(self, name: str, snapshot: Snapshot) -> bool:
        """Whether the client has accepted or rejected all that there is to say about `name`."""
        outstanding = self.ledger.outstanding
        if outstanding is not None and name in outstanding.contents:
            return False
        return self.verdict(name, snapshot) is Verdict.NOTHING
