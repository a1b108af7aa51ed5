"""All sessions, and what they should have: publishes catalogs, wakes those who lack something.

Single-threaded and never waits: what a client has not yet taken is marked in its session.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from xds_server.xds.convergence import Convergence
from xds_server.xds.model import CLUSTER, EMPTY_SNAPSHOT, Catalog, Node, Snapshot
from xds_server.xds.plan import Plans
from xds_server.xds.session import Session
from xds_server.xds.snapshot import Audience, Move, changed_names
from xds_server.xds.status import ClientStatus, HubStats, Progress, SyncState, state_of
from xds_server.xds.subscription import Index

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds_server.xds.convergence import Round
    from xds_server.xds.messages import Variant
    from xds_server.xds.watch import Watch


class Hub:
    """Where sessions and catalogs meet.

    Args:
        clock: monotonic seconds.
        ttl: seconds after which clients of the delta variant drop what is not renewed; None: never.
    """

    def __init__(self, clock: Callable[[], float], *, ttl: float | None = None) -> None:
        self.clock = clock
        self.ttl = ttl
        self.index = Index()
        self.stats = HubStats()
        self.convergence = Convergence(clock, self.stats.convergence)
        self.plans = Plans()
        """What was planned of the last publication, for all clients that are owed the same."""
        self.serial = 0
        """Of the last published catalog; 0 before the first, and nothing is sent till then."""
        self._catalog: Catalog | None = None
        self._sessions: dict[int, Session] = {}
        self._audiences: list[Audience] = []
        self._listeners: dict[int, Callable[[], None]] = {}
        self._numbers = 0

    def open(self, variant: Variant, type_url: str | None, peer: str, wake: Callable[[], None]) -> Session:
        """A new stream; `type_url` None: aggregated. `wake` is called, at once, when `take` may help."""
        self._numbers += 1
        session = Session(self, self._numbers, variant=variant, type_url=type_url, peer=peer, wake=wake)
        self._sessions[session.number] = session
        self.stats.streams_open += 1
        self.stats.streams_total += 1
        return session

    def leave(self, session: Session) -> None:
        """Called by a session as it closes."""
        del self._sessions[session.number]
        self.stats.streams_open -= 1
        self.notify()

    def seat(self, session: Session) -> None:
        """Called by a session as it learns whose it is: have it see what its node is entitled to."""
        if session.node is not None:
            snapshot = self.view_of(session.node)
            session.sit(self._audience(session.node, snapshot))

    def _audience(self, node: Node, snapshot: Snapshot) -> Audience:
        """Find those who see this snapshot. There are as many as kinds of nodes, which are few."""
        for audience in self._audiences:
            if audience.snapshot is snapshot:
                return audience
        made = Audience(node, snapshot)
        self._audiences.append(made)
        return made

    def view_of(self, node: Node) -> Snapshot:
        """What a node is entitled to now; nothing before the first catalog."""
        return self._catalog.snapshot_for(node) if self._catalog else EMPTY_SNAPSHOT

    def publish(self, catalog: Catalog, since: float | None = None) -> None:
        """Make `catalog` what clients should have, and wake the sessions that a change concerns.

        `since`: when the first of its changes happened, by the hub's clock; None: just now. Snapshots are
        compared once for each pair of old and new, however many clients share it. ValueError for a
        serial that does not grow.
        """
        if catalog.serial <= self.serial:
            raise ValueError(f"serial: found {catalog.serial}; the last published was {self.serial}")
        last, self._catalog = self._catalog, catalog
        self.serial = catalog.serial
        self.plans = Plans()
        self.stats.publications += 1
        made = self.convergence.begin(catalog.serial, since)
        concerned: set[int] = set()
        for move in self._moves(catalog, alike=last is not None and catalog.follows(last)):
            concerned |= self._mark(move, made)
        self.convergence.started(made)
        for number in sorted(concerned) if last is not None else list(self._sessions):
            self._sessions[number].wake()

    def _moves(self, catalog: Catalog, *, alike: bool) -> list[Move]:
        """Give every session its new view. `alike`: those that shared the old one share the new one.

        Then no session is looked at, however many there are.
        """
        self._audiences = [audience for audience in self._audiences if audience.sessions]
        if not alike:
            return self._seat_anew(catalog)
        moves = []
        for audience in self._audiences:
            if audience.node is not None:
                before, audience.snapshot = audience.snapshot, catalog.snapshot_for(audience.node)
                changes = changed_names(before, audience.snapshot)
                moves.append(Move(before, audience.snapshot, changes, audience.sessions))
        return moves

    def _seat_anew(self, catalog: Catalog) -> list[Move]:
        moves: dict[tuple[int, int], Move] = {}
        self._audiences = []
        for session in self._sessions.values():
            if session.node is None:
                continue
            before, after = session.snapshot, catalog.snapshot_for(session.node)
            move = moves.get((id(before), id(after)))
            if move is None:
                move = Move(before, after, changed_names(before, after), set())
                moves[id(before), id(after)] = move
            move.sessions.add(session.number)
            session.sit(self._audience(session.node, after))
        return list(moves.values())

    def _mark(self, move: Move, made: Round) -> set[int]:
        """Mark the watches that a move concerns. Returns the sessions to wake."""
        concerned: set[int] = set()
        for type_url, names in move.changes.items():
            for watch in self.index.wildcards(type_url):
                if watch.stream in move.sessions:
                    watch.concern(names, made)
                    concerned.add(watch.stream)
            for name in names:
                for watch in self.index.named(type_url, name):
                    if watch.stream in move.sessions:
                        watch.concern((name,), made)
                        concerned.add(watch.stream)
        if CLUSTER in move.changes:
            for number in concerned:
                self._sessions[number].retain(move)
        return concerned

    def progress(self, type_url: str, name: str, serial: int) -> Progress:
        """Who has accepted the content of `name` as published at `serial` or later.

        Counted are connected clients that subscribe to `name`, or to everything while it exists or
        they hold it. A client that accepted any later content has accepted this one too, so constant
        change makes nobody wait for ever.
        """
        acknowledged: list[str] = []
        waiting: list[str] = []
        rejected: list[tuple[str, str]] = []
        for watch in self._interested(type_url, name):
            session = self._sessions[watch.stream]
            ledger = watch.ledger
            rejection = ledger.rejected.get(name)
            if ledger.through.get(name, 0) >= serial:
                acknowledged.append(session.id)
            elif serial > self.serial or not watch.settled(name, session.snapshot):
                waiting.append(session.id)
            elif name in session.snapshot.of(type_url).withheld:
                waiting.append(session.id)  # there is nothing to send it now, and it may hold the old content
            elif rejection is not None:
                rejected.append((session.id, rejection.error))
            else:
                acknowledged.append(session.id)
        return Progress(tuple(acknowledged), tuple(waiting), tuple(rejected))

    def _interested(self, type_url: str, name: str) -> list[Watch]:
        watches = set(self.index.named(type_url, name))
        for watch in self.index.wildcards(type_url):
            view = self._sessions[watch.stream].snapshot.of(type_url)
            outstanding = watch.ledger.outstanding
            if (
                name in view.resources
                or name in watch.ledger.held
                or (outstanding is not None and name in outstanding.contents)
            ):
                watches.add(watch)
        return sorted(watches, key=lambda watch: watch.stream)

    def clients(self, *, with_names: bool = True) -> tuple[ClientStatus, ...]:
        """Every connected stream, the longest connected first; `with_names`: what it subscribes to, too."""
        return tuple(session.status(with_names=with_names) for session in self._sessions.values())

    def standing(self) -> Counter[tuple[str, SyncState]]:
        """How many clients stand how with each type URL; far cheaper than `clients`."""
        return Counter(
            (watch.type_url, state_of(watch, session.snapshot))
            for session in self._sessions.values()
            for watch in session.watches.values()
        )

    def add_listener(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every ACK, NACK and close. Returns what removes it again."""
        self._numbers += 1
        key = self._numbers
        self._listeners[key] = callback

        def remove() -> None:
            self._listeners.pop(key, None)

        return remove

    def notify(self) -> None:
        """Called by a session after an ACK or NACK."""
        if self._listeners:
            for callback in tuple(self._listeners.values()):
                callback()
