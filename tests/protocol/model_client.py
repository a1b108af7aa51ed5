"""A client that believes what it is sent, and checks that it was owed it. Speaks both dialects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.catalogs import NODE
from xds_server.xds.messages import DeltaRequest, DeltaResponse, Request, Response, Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER
from xds_server.xds.order import HOLD_LIMIT, rank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.xds.hub import Hub
    from xds_server.xds.model import Node
    from xds_server.xds.session import Session

WHOLE = (CLUSTER, LISTENER)
Reply = Response | DeltaResponse


class Interest:
    """One type: what was asked for, what is held, and which repetitions are in order."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.wildcard = False
        self.held: dict[str, str] = {}
        self.rejected: dict[str, str | None] = {}
        self.pending: Reply | None = None
        self.nonces: list[str] = []
        self.excused: set[str] = set()
        self.touched = False
        """The subscription was changed since the last response."""

    def covers(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def drop(self, name: str) -> None:
        """What a client does that unsubscribes: it forgets."""
        self.names.discard(name)
        if not self.wildcard:
            self.held.pop(name, None)
            self.rejected.pop(name, None)
        self.excused.add(name)
        self.touched = True


class ModelClient:
    """One client over as many streams as a test opens, one at a time."""

    def __init__(self, hub: Hub, variant: Variant) -> None:
        self.hub = hub
        self.variant = variant
        self.interests: dict[str, Interest] = {}
        self.session: Session = self._open()
        self.said_who = False

    def _open(self) -> Session:
        return self.hub.open(self.variant, None, "peer", lambda: None)

    # What it says

    def begin(self, type_url: str, names: frozenset[str], *, wildcard: bool) -> None:
        """The first request for a type."""
        interest = self.interests[type_url] = Interest()
        interest.names, interest.wildcard = set(names), wildcard
        self._first(type_url, {})

    def _first(self, type_url: str, versions: Mapping[str, str]) -> None:
        interest = self.interests[type_url]
        interest.touched = True
        interest.excused |= interest.names
        asked = sorted(interest.names | ({"*"} if interest.wildcard and interest.names else set()))
        if self.variant is Variant.DELTA:
            if not asked and not interest.wildcard and type_url in WHOLE:
                asked = ["*"]
                interest.wildcard = True
            self._send(
                DeltaRequest(
                    type_url=type_url,
                    subscribe=tuple(asked),
                    initial_resource_versions=versions,
                    node=self._node(),
                )
            )
        else:
            if not asked and type_url in WHOLE:
                interest.wildcard = True
            self._send(Request(type_url=type_url, resource_names=tuple(asked), node=self._node()))

    def change(self, type_url: str, add: frozenset[str], drop: frozenset[str], nonce: str = "") -> None:
        """Change the subscription, without answering anything unless `nonce` is current."""
        interest = self.interests[type_url]
        drop = (drop & interest.names) - add
        if self.variant is Variant.SOTW and not (interest.names | add) - drop and interest.wildcard:
            drop = frozenset()
        for name in drop:
            interest.drop(name)
        if self.variant is Variant.SOTW:
            add -= interest.names
        interest.names |= add
        interest.excused |= add
        interest.touched |= bool(add)
        for name in add:
            interest.rejected.pop(name, None)
        self._request(type_url, add, drop, nonce, None)

    def ack(self, type_url: str) -> None:
        """Apply the pending response."""
        interest = self.interests[type_url]
        reply = interest.pending
        if reply is None:
            return
        interest.pending = None
        contents = {each.name: each.version for each in reply.resources if interest.covers(each.name)}
        if isinstance(reply, Response) and type_url in WHOLE:
            interest.held = contents
            interest.rejected.clear()
        else:
            interest.held |= contents
            removed = reply.removed if isinstance(reply, DeltaResponse) else ()
            for name in removed:
                interest.held.pop(name, None)
            for name in (*contents, *removed):
                interest.rejected.pop(name, None)
        self._request(type_url, frozenset(), frozenset(), reply.nonce, None)

    def nack(self, type_url: str) -> None:
        """Refuse the pending response."""
        interest = self.interests[type_url]
        reply = interest.pending
        if reply is None:
            return
        interest.pending = None
        told: dict[str, str | None] = {each.name: each.version for each in reply.resources}
        if isinstance(reply, DeltaResponse):
            told |= dict.fromkeys(reply.removed)
        elif type_url in WHOLE:
            told |= {name: None for name in interest.held if name not in told}
        told = {name: version for name, version in told.items() if interest.covers(name)}
        interest.rejected |= told
        interest.excused |= told.keys()
        interest.touched = True
        self._request(type_url, frozenset(), frozenset(), reply.nonce, "refused")

    def reconnect(self, *, versions: bool) -> None:
        """A new stream; the client names what it holds, unless it has lost it."""
        self.session.close()
        self.session = self._open()
        self.said_who = False
        for type_url, interest in self.interests.items():
            interest.pending = None
            interest.nonces.clear()
            interest.rejected.clear()
            if not versions:
                interest.held.clear()
            if self.variant is Variant.SOTW:
                interest.excused |= interest.held.keys()
            held = dict(interest.held) if self.variant is Variant.DELTA else {}
            self._first(type_url, held)

    def _request(
        self, type_url: str, add: frozenset[str], drop: frozenset[str], nonce: str, error: str | None
    ) -> None:
        interest = self.interests[type_url]
        if self.variant is Variant.DELTA:
            self._send(
                DeltaRequest(
                    type_url=type_url,
                    subscribe=tuple(sorted(add)),
                    unsubscribe=tuple(sorted(drop)),
                    response_nonce=nonce,
                    error_detail=error,
                )
            )
            return
        names = interest.names | ({"*"} if interest.wildcard and interest.names else set())
        nonce = nonce or (interest.nonces[-1] if interest.nonces and interest.pending is None else "")
        self._send(
            Request(
                type_url=type_url,
                resource_names=tuple(sorted(names)),
                response_nonce=nonce,
                error_detail=error,
            )
        )

    def _send(self, request: Request | DeltaRequest) -> None:
        self.session.receive(request)

    def _node(self) -> Node | None:
        first, self.said_who = not self.said_who, True
        return NODE if first else None

    # What it hears

    def listen(self) -> int:
        """Take what is there and check it. Returns how many responses came."""
        overdue = self._overdue()
        replies = self.session.take()
        deadline = self.session.next_deadline()
        assert deadline is None or deadline > self.hub.clock(), (
            "a writer would spin on a deadline that is over"
        )
        for reply in replies:
            interest = self.interests[reply.type_url]
            assert interest.pending is None, "a second response while one is outstanding"
            assert reply.nonce not in interest.nonces, "a nonce was used twice"
            self._owed(reply, interest)
            if reply.type_url not in overdue:
                self._in_order(reply, interest)
            interest.pending = reply
            interest.nonces.append(reply.nonce)
            interest.touched = False
            told = {each.name for each in reply.resources}
            interest.excused -= told
            if reply.type_url == CLUSTER and ENDPOINT in self.interests:
                self.interests[ENDPOINT].excused |= told
        return len(replies)

    def _overdue(self) -> set[str]:
        """Types that have waited for others as long as they may."""
        now = self.hub.clock()
        return {
            url
            for url, watch in self.session.watches.items()
            if any(since + HOLD_LIMIT <= now for since in watch.held_back.values())
        }

    def _in_order(self, reply: Reply, interest: Interest) -> None:
        """What a resource depends on was answered before it came. Assignments depend on nothing."""
        if reply.type_url == ENDPOINT:
            return
        news = [each for each in reply.resources if interest.held.get(each.name) != each.version]
        for url, name in {needed for each in news for needed in each.requires}:
            needed, view = self.interests.get(url), self.session.snapshot.of(url)
            if needed is None or not needed.covers(name) or rank(url) >= rank(reply.type_url):
                continue
            if name in view.resources and name not in view.withheld:
                version = view.resources[name].version
                answered = version in (needed.held.get(name), needed.rejected.get(name))
                assert answered, f"{reply.type_url} came before {url} {name}"

    def _owed(self, reply: Reply, interest: Interest) -> None:
        """Nothing that was accepted comes again, except where the protocol asks for it."""
        contents = {each.name: each.version for each in reply.resources}
        assert all(interest.covers(name) for name in contents), "a resource that nobody asked for"
        if isinstance(reply, Response) and reply.type_url in WHOLE:
            assert interest.touched or contents != interest.held, "a whole response without news"
            return
        for name, version in contents.items():
            known = interest.held.get(name) == version and name not in interest.rejected
            assert not known or name in interest.excused, f"{name} was sent again"
