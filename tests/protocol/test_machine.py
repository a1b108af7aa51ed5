"""Any client against any change: random histories of one client, in both dialects."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.protocol.catalogs import KINDS, Clock, World
from tests.protocol.model_client import WHOLE, ModelClient
from xds_server.xds.hub import Hub
from xds_server.xds.messages import Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE

NAMES = ("a", "b", "c")
KIND_NAMES = st.sampled_from(sorted(KINDS))
SOME = st.frozensets(st.sampled_from(NAMES), max_size=3)


class Machine(RuleBasedStateMachine):
    """The server's world changes, the client does what clients do; then the client settles."""

    variant: Variant

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.hub = Hub(self.clock)
        self.world = World()
        self.world.requires = {
            (ROUTE, "a"): [(CLUSTER, "a"), (ENDPOINT, "a")],
            (ROUTE, "b"): [(CLUSTER, "b"), (CLUSTER, "c")],
            (LISTENER, "a"): [(CLUSTER, "b"), (ROUTE, "a")],
        }
        self.client = ModelClient(self.hub, self.variant)

    # The world

    @initialize(full=st.booleans())
    def start(self, full: bool) -> None:
        """From nothing, or from a world in which everything depends on something at once."""
        if full:
            for kind in KINDS:
                getattr(self.world, kind).update(dict.fromkeys(NAMES, "1"))
            self.publish()

    @rule(kind=KIND_NAMES, name=st.sampled_from(NAMES), content=st.sampled_from(["1", "2", None]))
    def change(self, kind: str, name: str, content: str | None) -> None:
        contents: dict[str, str] = getattr(self.world, kind)
        if content is None:
            contents.pop(name, None)
        else:
            contents[name] = content

    @rule(kind=KIND_NAMES, names=SOME)
    def withhold(self, kind: str, names: frozenset[str]) -> None:
        self.world.withheld[kind] = set(names)

    @rule()
    def publish(self) -> None:
        self.world.publish(self.hub.publish)

    @rule(seconds=st.sampled_from([0.5, 5.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # The client

    @rule(kind=KIND_NAMES, names=SOME, wildcard=st.booleans())
    def begin(self, kind: str, names: frozenset[str], wildcard: bool) -> None:
        url = KINDS[kind]
        if url not in self.client.interests:
            self.client.begin(url, names, wildcard=wildcard and url in WHOLE)

    @precondition(lambda self: self.client.interests)
    @rule(data=st.data(), add=SOME, drop=SOME, stale=st.booleans())
    def subscribe(self, data: Any, add: frozenset[str], drop: frozenset[str], stale: bool) -> None:
        url = data.draw(st.sampled_from(sorted(self.client.interests)))
        earlier = self.client.interests[url].nonces[:-1]
        self.client.change(url, add, drop, earlier[-1] if stale and earlier else "")

    @precondition(lambda self: self.client.interests)
    @rule(data=st.data(), refuse=st.sampled_from([False, False, True]))
    def answer(self, data: Any, refuse: bool) -> None:
        url = data.draw(st.sampled_from(sorted(self.client.interests)))
        if refuse:
            self.client.nack(url)
        else:
            self.client.ack(url)

    @rule(versions=st.booleans())
    def reconnect(self, versions: bool) -> None:
        self.client.reconnect(versions=versions)

    @rule()
    def listen(self) -> None:
        self.client.listen()

    @rule()
    def settle(self) -> None:
        """A client that acknowledges everything ends with what the server has."""
        for _ in range(200):
            came = self.client.listen()
            waiting = [url for url, each in self.client.interests.items() if each.pending]
            for url in waiting:
                self.client.ack(url)
            if came or waiting:
                continue
            deadline = self.client.session.next_deadline()
            if deadline is None:
                break
            self.clock.now = max(self.clock.now, deadline)
        else:
            raise AssertionError("the exchange never ends")
        if self.hub.serial:
            self._agrees()

    def _agrees(self) -> None:
        snapshot = self.client.session.snapshot
        pinned = any(
            self.client.interests[url].rejected for url in (LISTENER, ROUTE) if url in self.client.interests
        )
        for url, interest in self.client.interests.items():
            view = snapshot.of(url)
            if self.variant is Variant.SOTW and url in WHOLE and any(map(interest.covers, view.withheld)):
                continue  # a whole response cannot leave a name open, so there is none
            covered = set(view.resources) | set(interest.held) if interest.wildcard else interest.names
            for name in sorted(covered - view.withheld):
                resource = view.resources.get(name)
                version = resource.version if resource else None
                if name in interest.rejected and interest.rejected[name] == version:
                    continue
                if version is None and self._cannot_be_told(url, name, pinned=pinned):
                    continue
                assert interest.held.get(name) == version, f"{url} {name}: {interest.held} {version}"

    def _cannot_be_told(self, url: str, name: str, *, pinned: bool) -> bool:
        if url == CLUSTER and pinned:
            return True
        if url == ENDPOINT:
            clusters = self.client.interests.get(CLUSTER)
            kept = clusters is not None and name in clusters.held | clusters.rejected
            if kept or name in self.client.session.snapshot.of(CLUSTER).resources:
                return True
        return self.variant is Variant.SOTW and url not in WHOLE

    @invariant()
    def one_outstanding_response_at_most(self) -> None:
        for watch in self.client.session.watches.values():
            sent = watch.ledger.outstanding
            pending = self.client.interests[watch.type_url].pending
            assert (sent is None) == (pending is None)
            assert sent is None or pending is None or sent.nonce == pending.nonce

    @invariant()
    def the_index_holds_what_is_subscribed_to(self) -> None:
        subscribed = [watch.subscription for watch in self.client.session.watches.values()]
        assert len(self.hub.index) == sum(len(each.names) + each.wildcard for each in subscribed)

    def teardown(self) -> None:
        self.settle()
        self.client.session.close()
        assert len(self.hub.index) == 0


class SotwMachine(Machine):
    variant = Variant.SOTW


class DeltaMachine(Machine):
    variant = Variant.DELTA


LIMITS = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

TestSotw = SotwMachine.TestCase
TestSotw.settings = LIMITS
TestDelta = DeltaMachine.TestCase
TestDelta.settings = LIMITS
