"""Many clients: who is woken, who has accepted what, and that nothing is left of who went."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from tests.protocol.catalogs import OneCatalog
from tests.protocol.peer import Scene, bodies, names, only
from xds_server.xds import hub as hub_module
from xds_server.xds.messages import DeltaRequest
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE, Node
from xds_server.xds.session import Session
from xds_server.xds.snapshot import changed_names
from xds_server.xds.status import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.xds.model import Snapshot


def test_a_serial_has_to_grow(scene: Scene) -> None:
    scene.publish()
    scene.world.serial = 0
    with pytest.raises(ValueError, match=r"found 1; the last published was 1"):
        scene.publish()


def test_snapshots_are_compared_once_however_many_clients_share_them(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[Snapshot, Snapshot]] = []

    def count(old: Snapshot, new: Snapshot) -> Mapping[str, frozenset[str]]:
        compared.append((old, new))
        return changed_names(old, new)

    scene.world.eds["a"] = "1"
    scene.publish()
    for _ in range(50):
        peer = scene.peer()
        peer.settle(peer.ask(ENDPOINT, "a"))
    monkeypatch.setattr(hub_module, "changed_names", count)
    scene.world.eds["a"] = "2"
    scene.publish()
    assert len(compared) == 1


def test_an_unchanged_publication_wakes_nobody(scene: Scene) -> None:
    scene.world.cds["a"] = scene.world.eds["a"] = "1"
    scene.publish()
    peer = scene.peer()
    peer.settle(peer.ask(CLUSTER))
    peer.settle(peer.ask(ENDPOINT, "a"))
    woken = peer.woken
    scene.publish()
    assert peer.woken == woken
    assert peer.take() == []


def test_each_node_gets_its_own_view_and_follows_it_elsewhere(scene: Scene) -> None:
    world = scene.world
    world.lds["shared"] = "1"
    gateway = world.snapshot()
    world.lds["mesh"] = "1"
    sidecar = world.snapshot()
    scene.hub.publish(OneCatalog(gateway, {"sidecar": sidecar}))
    one, other = scene.peer(), scene.peer(node=Node("two", "sidecar"))
    assert names(only(one.settle(one.ask(LISTENER)))) == ["shared"]
    assert names(only(other.settle(other.ask(LISTENER)))) == ["mesh", "shared"]
    del world.lds["mesh"]
    woken = one.woken
    scene.hub.publish(OneCatalog(world.snapshot()))
    assert one.woken == woken
    only(other.settle(other.take()))
    assert one.take() == []


class TestProgress:
    """Who has accepted what: a move waits for it."""

    def test_waits_for_the_ack(self, scene: Scene) -> None:
        scene.world.eds["a"] = "1"
        scene.publish()
        peer = scene.peer()
        peer.settle(peer.ask(ENDPOINT, "a"))
        scene.world.eds["a"] = "2"
        scene.publish()
        serial = scene.hub.serial
        assert scene.hub.progress(ENDPOINT, "a", serial).waiting == (peer.session.id,)
        reply = only(peer.take())
        assert scene.hub.progress(ENDPOINT, "a", serial).waiting == (peer.session.id,)
        peer.ack(reply)
        progress = scene.hub.progress(ENDPOINT, "a", serial)
        assert (progress.acknowledged, progress.waiting) == ((peer.session.id,), ())

    def test_an_ack_of_what_was_sent_before_does_not_count(self, scene: Scene) -> None:
        scene.world.eds["a"] = "1"
        scene.publish()
        peer = scene.peer()
        reply = only(peer.ask(ENDPOINT, "a"))
        scene.world.eds["a"] = "2"
        scene.publish()
        later = only(peer.ack(reply))
        assert scene.hub.progress(ENDPOINT, "a", scene.hub.serial).waiting == (peer.session.id,)
        peer.ack(later)
        assert scene.hub.progress(ENDPOINT, "a", scene.hub.serial).waiting == ()

    def test_constant_change_makes_nobody_wait_for_ever(self, scene: Scene) -> None:
        scene.publish()
        peer = scene.peer()
        peer.settle(peer.ask(ENDPOINT, "a"))
        scene.world.eds["a"] = "0"
        scene.publish()
        asked = scene.hub.serial
        reply = only(peer.take())
        for content in "12345":
            scene.world.eds["a"] = content
            scene.publish()
            reply = only(peer.ack(reply))
        assert scene.hub.progress(ENDPOINT, "a", asked).acknowledged == (peer.session.id,)
        assert scene.hub.progress(ENDPOINT, "a", scene.hub.serial).waiting == (peer.session.id,)

    def test_unchanged_content_needs_no_new_ack(self, scene: Scene) -> None:
        scene.world.eds["a"] = "1"
        scene.publish()
        peer = scene.peer()
        peer.settle(peer.ask(ENDPOINT, "a"))
        scene.publish()
        assert scene.hub.progress(ENDPOINT, "a", scene.hub.serial).acknowledged == (peer.session.id,)

    def test_a_rejection_is_told_with_the_client_s_words(self, scene: Scene) -> None:
        scene.world.eds["a"] = "bad"
        scene.publish()
        peer = scene.peer()
        peer.nack(only(peer.ask(ENDPOINT, "a")), "no such host")
        progress = scene.hub.progress(ENDPOINT, "a", scene.hub.serial)
        assert progress.rejected == ((peer.session.id, "no such host"),)
        scene.world.eds["a"] = "good"
        scene.publish()
        progress = scene.hub.progress(ENDPOINT, "a", scene.hub.serial)
        assert (progress.rejected, progress.waiting) == ((), (peer.session.id,))

    def test_who_does_not_subscribe_or_is_gone_is_not_listed(self, scene: Scene) -> None:
        scene.world.eds["a"] = scene.world.eds["b"] = "1"
        scene.publish()
        other, gone = scene.peer(), scene.peer()
        other.ask(ENDPOINT, "b")
        gone.ask(ENDPOINT, "a")
        gone.session.close()
        progress = scene.hub.progress(ENDPOINT, "a", scene.hub.serial)
        assert progress == Progress()

    def test_a_wildcard_counts(self, scene: Scene) -> None:
        scene.world.cds["a"] = "1"
        scene.publish()
        peer = scene.peer()
        reply = only(peer.ask(CLUSTER))
        assert scene.hub.progress(CLUSTER, "a", scene.hub.serial).waiting == (peer.session.id,)
        peer.ack(reply)
        assert scene.hub.progress(CLUSTER, "a", scene.hub.serial).acknowledged == (peer.session.id,)
        assert scene.hub.progress(CLUSTER, "no such", scene.hub.serial).acknowledged == ()
        del scene.world.cds["a"]
        scene.publish()
        reply = only(peer.take())
        assert scene.hub.progress(CLUSTER, "a", scene.hub.serial).waiting == (peer.session.id,)
        peer.ack(reply)
        assert scene.hub.progress(CLUSTER, "a", scene.hub.serial) == Progress()

    def test_what_is_withheld_is_waited_for_since_the_client_may_hold_other_content(
        self, scene: Scene
    ) -> None:
        scene.world.eds["a"] = "1"
        scene.publish()
        peer = scene.peer()
        peer.settle(peer.ask(ENDPOINT, "a"))
        del scene.world.eds["a"]
        scene.world.withheld["eds"] = {"a"}
        scene.publish()
        serial = scene.hub.serial
        assert scene.hub.progress(ENDPOINT, "a", serial).waiting == (peer.session.id,)
        scene.world.eds["a"] = "2"
        scene.world.withheld["eds"] = set()
        scene.publish()
        peer.settle(peer.take())
        assert scene.hub.progress(ENDPOINT, "a", serial).acknowledged == (peer.session.id,)

    def test_what_is_not_yet_published_is_waited_for(self, scene: Scene) -> None:
        scene.world.eds["a"] = "1"
        scene.publish()
        peer = scene.peer()
        peer.settle(peer.ask(ENDPOINT, "a"))
        assert scene.hub.progress(ENDPOINT, "a", scene.hub.serial + 1).waiting == (peer.session.id,)


def test_listeners_hear_of_every_answer_and_close_until_they_are_removed(scene: Scene) -> None:
    heard: list[int] = []
    remove = scene.hub.add_listener(lambda: heard.append(1))
    scene.world.eds["a"] = "1"
    scene.publish()
    peer = scene.peer()
    reply = only(peer.ask(ENDPOINT, "a"))
    assert heard == []
    peer.ack(reply)
    assert len(heard) == 1
    scene.world.eds["a"] = "2"
    scene.publish()
    peer.nack(only(peer.take()))
    assert len(heard) == 2
    peer.session.close()
    assert len(heard) == 3
    remove()
    remove()
    scene.peer().session.close()
    assert len(heard) == 3


def test_clients_are_told_apart_and_described(scene: Scene) -> None:
    scene.world.cds["a"] = "1"
    scene.publish()
    one, two = scene.peer(), scene.peer(CLUSTER)
    one.settle(one.ask(CLUSTER))
    scene.clock.advance(1)
    two.ask(CLUSTER, "a")
    first, second = scene.hub.clients()
    assert first.id != second.id
    assert (first.aggregated, second.aggregated) == (True, False)
    assert first.types[0].subscribed == ("*",)
    assert second.types[0].subscribed == ("a",)
    assert (first.variant, first.peer, first.connected_since) == (scene.variant, "127.0.0.1:1", 100.0)


def test_nothing_is_left_of_thousands_of_streams(scene: Scene) -> None:
    scene.world.cds["a"] = scene.world.eds["a"] = scene.world.rds["r"] = "1"
    scene.publish()
    gc.collect()
    before = sum(isinstance(each, Session) for each in gc.get_objects())
    for number in range(3000):
        peer = scene.peer()
        replies = [
            *peer.ask(CLUSTER),
            *peer.ask(ENDPOINT, "a", f"absent-{number}"),
            *peer.ask(ROUTE, "*", "r"),
        ]
        if number % 3 == 0:
            peer.settle(replies)
        elif number % 3 == 1:
            peer.nack(replies[0])
        peer.session.close()
        peer.session.close()
        assert peer.take() == []
    del peer, replies
    gc.collect()
    assert len(scene.hub.index) == 0
    assert scene.hub.clients() == ()
    assert (scene.hub.stats.streams_open, scene.hub.stats.streams_total) == (0, 3000)
    assert sum(isinstance(each, Session) for each in gc.get_objects()) == before
    scene.world.cds["a"] = "2"
    scene.publish()


def test_a_closed_session_reads_nothing(scene: Scene) -> None:
    peer = scene.peer()
    peer.session.close()
    with pytest.raises(RuntimeError, match="closed"):
        peer.session.receive(DeltaRequest(type_url=CLUSTER))


def test_a_slow_client_costs_one_merged_response_and_delays_nobody(scene: Scene) -> None:
    scene.world.eds.update({f"s{n}": "first" for n in range(10)})
    scene.publish()
    slow, quick = scene.peer(), scene.peer()
    stuck = only(slow.ask(ENDPOINT, *scene.world.eds))
    quick.settle(quick.ask(ENDPOINT, *scene.world.eds))
    for number in range(100):
        scene.world.eds[f"s{number % 10}"] = str(number)
        scene.publish()
        assert bodies(only(quick.settle(quick.take()))) == {f"s{number % 10}": str(number)}
        assert slow.take() == []
    assert bodies(only(slow.settle(slow.ack(stuck)))) == scene.world.eds
