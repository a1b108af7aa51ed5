"""ACK and NACK: what counts as held, what is not sent again, and how it is shown."""

from __future__ import annotations

import pytest

from tests.protocol.peer import Scene, bodies, names, only, removed
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE

PARTIAL = (ENDPOINT, ROUTE)
KIND = {CLUSTER: "cds", ENDPOINT: "eds", LISTENER: "lds", ROUTE: "rds"}
ALL = tuple(KIND)


def fill(scene: Scene, type_url: str, **contents: str) -> None:
    getattr(scene.world, KIND[type_url]).update(contents)
    scene.publish()


@pytest.mark.parametrize("type_url", ALL)
def test_rejected_content_is_not_sent_again_until_it_differs(scene: Scene, type_url: str) -> None:
    fill(scene, type_url, a="bad")
    peer = scene.peer()
    assert peer.nack(only(peer.ask(type_url, "a"))) == []
    scene.publish()
    assert peer.take() == []
    fill(scene, type_url, a="good")
    assert bodies(only(peer.settle(peer.take()))) == {"a": "good"}
    assert peer.status(type_url).state == "SYNCED"


@pytest.mark.parametrize("type_url", ALL)
def test_the_former_content_is_sent_after_a_rejection_since_a_part_may_have_been_applied(
    scene: Scene, type_url: str
) -> None:
    fill(scene, type_url, a="1")
    peer = scene.peer()
    peer.settle(peer.ask(type_url, "a"))
    fill(scene, type_url, a="bad")
    peer.nack(only(peer.take()))
    fill(scene, type_url, a="1")
    assert bodies(only(peer.settle(peer.take()))) == {"a": "1"}


def test_a_rejection_stops_neither_other_types_nor_other_clients(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="bad")
    fill(scene, ROUTE, r="1")
    sick, well = scene.peer(), scene.peer()
    sick.nack(only(sick.ask(ENDPOINT, "a")), "no such thing")
    assert names(only(sick.settle(sick.ask(ROUTE, "r")))) == ["r"]
    well.settle(well.ask(ENDPOINT, "a"))
    assert well.status(ENDPOINT).state == "SYNCED"
    assert sick.status(ENDPOINT).state == "ERROR"
    fill(scene, ROUTE, r="2")
    assert bodies(only(sick.take())) == {"r": "2"}


@pytest.mark.parametrize("type_url", PARTIAL)
def test_other_names_go_on_after_a_rejection(scene: Scene, type_url: str) -> None:
    fill(scene, type_url, a="bad")
    peer = scene.peer()
    peer.nack(only(peer.ask(type_url, "a")))
    fill(scene, type_url, b="1")
    assert names(only(peer.settle(peer.ask(type_url, "b")))) == ["b"]
    assert peer.status(type_url).state == "ERROR"
    assert peer.status(type_url).rejected_names == ("a",)


def test_a_whole_response_is_tried_again_once_any_of_it_differs(sotw: Scene) -> None:
    fill(sotw, CLUSTER, a="bad", b="1")
    peer = sotw.peer()
    peer.nack(only(peer.ask(CLUSTER)))
    fill(sotw, CLUSTER, b="2")
    assert bodies(only(peer.settle(peer.take()))) == {"a": "bad", "b": "2"}


def test_what_was_rejected_beside_a_bad_one_is_tried_again_without_it(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="bad", b="1", c="1")
    peer = scene.peer()
    peer.nack(only(peer.ask(ENDPOINT, "a", "b", "c")))
    fill(scene, ENDPOINT, a="good")
    replies = peer.settle(peer.take())
    assert [bodies(reply) for reply in replies] == [{"a": "good"}, {"b": "1", "c": "1"}]
    assert peer.status(ENDPOINT).state == "SYNCED"


def test_trying_again_ends_with_the_bad_one_alone(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="bad", b="1")
    peer = scene.peer()
    peer.nack(only(peer.ask(ENDPOINT, "a", "b")))
    fill(scene, ENDPOINT, b="2")
    retried = only(peer.ack(only(peer.take())))
    assert bodies(retried) == {"a": "bad"}
    assert peer.nack(retried) == []
    fill(scene, ENDPOINT, b="3")
    assert peer.ack(only(peer.take())) == []


def test_a_rejected_name_that_is_asked_for_anew_is_sent_again(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="bad")
    peer = scene.peer()
    peer.nack(only(peer.ask(ENDPOINT, "a")))
    peer.ask(ENDPOINT, drop=["a"])
    assert peer.status(ENDPOINT).state != "ERROR"
    assert bodies(only(peer.ask(ENDPOINT, "a"))) == {"a": "bad"}


def test_a_name_dropped_while_its_answer_was_out_is_not_held_against_the_client(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="bad")
    peer = scene.peer()
    reply = only(peer.ask(ENDPOINT, "a"))
    peer.ask(ENDPOINT, drop=["a"])
    peer.nack(reply)
    assert peer.status(ENDPOINT).state != "ERROR"


def test_a_rejected_whole_response_leaves_nothing_to_try_again(sotw: Scene) -> None:
    sotw.publish()
    peer = sotw.peer()
    peer.nack(only(peer.ask(CLUSTER, "*", "b", "c")))
    assert peer.settle(peer.ask(CLUSTER, "a", drop=["b"])) != []
    assert peer.take() == []
    assert peer.status(CLUSTER).state == "SYNCED"


def test_a_rejection_without_a_text_is_one(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="bad")
    peer = scene.peer()
    peer.nack(only(peer.ask(ENDPOINT, "a")), "")
    assert peer.status(ENDPOINT).state == "ERROR"


def test_a_rejection_is_shown_with_the_client_s_words_version_names_and_time(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="bad")
    peer = scene.peer()
    reply = only(peer.ask(ENDPOINT, "a"))
    scene.clock.advance(3)
    peer.nack(reply, "malformed address")
    status = peer.status(ENDPOINT)
    assert (status.error, status.rejected_version, status.rejected_names, status.rejected_at) == (
        "malformed address",
        reply.version,
        ("a",),
        scene.clock.now,
    )
    assert scene.hub.stats.nacks[ENDPOINT] == 1


def test_states_from_not_sent_to_synced(scene: Scene) -> None:
    peer = scene.peer()
    peer.ask(ENDPOINT, "a")
    assert peer.status(ENDPOINT).state == "NOT_SENT"
    fill(scene, ENDPOINT, a="1")
    reply = only(peer.take())
    assert peer.status(ENDPOINT).state == "STALE"
    scene.clock.advance(1)
    peer.ack(reply)
    status = peer.status(ENDPOINT)
    assert (status.state, status.acked_version, status.acked_at) == ("SYNCED", reply.version, scene.clock.now)
    fill(scene, ENDPOINT, a="2")
    assert peer.status(ENDPOINT).state == "STALE"


class TestWithheld:
    """A name that is known to exist, but not well enough to be sent."""

    @pytest.mark.parametrize("type_url", PARTIAL)
    def test_gets_no_answer_until_it_is_released(self, scene: Scene, type_url: str) -> None:
        scene.world.withheld[KIND[type_url]] = {"a"}
        scene.publish()
        peer = scene.peer()
        assert peer.ask(type_url, "a") == []
        scene.world.withheld[KIND[type_url]] = set()
        fill(scene, type_url, a="1")
        assert bodies(only(peer.take())) == {"a": "1"}

    def test_leaves_what_the_client_has_in_force(self, scene: Scene) -> None:
        fill(scene, ENDPOINT, a="1")
        peer = scene.peer()
        peer.settle(peer.ask(ENDPOINT, "a"))
        del scene.world.eds["a"]
        scene.world.withheld["eds"] = {"a"}
        scene.publish()
        assert peer.take() == []
        assert peer.status(ENDPOINT).state == "SYNCED"

    def test_does_not_stop_others(self, scene: Scene) -> None:
        scene.world.withheld["eds"] = {"a"}
        fill(scene, ENDPOINT, b="1")
        assert names(only(scene.peer().ask(ENDPOINT, "a", "b"))) == ["b"]

    def test_subscribed_again_while_withheld_is_answered_after_it(self, scene: Scene) -> None:
        fill(scene, ENDPOINT, a="1")
        peer = scene.peer()
        peer.settle(peer.ask(ENDPOINT, "a"))
        scene.world.withheld["eds"] = {"a"}
        scene.publish()
        peer.ask(ENDPOINT, drop=["a"])
        assert peer.ask(ENDPOINT, "a") == []
        scene.world.withheld["eds"] = set()
        scene.publish()
        assert names(only(peer.take())) == ["a"]

    def test_holds_a_whole_response_whose_omission_would_remove_it(self, sotw: Scene) -> None:
        sotw.world.withheld["cds"] = {"a"}
        fill(sotw, CLUSTER, b="1")
        peer = sotw.peer()
        assert peer.ask(CLUSTER) == []
        sotw.world.withheld["cds"] = set()
        fill(sotw, CLUSTER, a="1")
        assert names(only(peer.take())) == ["a", "b"]

    def test_makes_nobody_spin_though_a_part_of_the_response_waited(self, sotw: Scene) -> None:
        sotw.world.cds["a"] = sotw.world.lds["x"] = "1"
        sotw.world.requires[LISTENER, "x"] = [(CLUSTER, "a")]
        sotw.publish()
        peer = sotw.peer()
        peer.ask(CLUSTER)
        assert peer.ask(LISTENER) == []
        sotw.world.withheld["lds"] = {"y"}
        sotw.publish()
        assert peer.take() == []
        assert peer.session.next_deadline() is None

    def test_a_first_wildcard_answer_does_not_claim_that_nothing_exists(self, delta: Scene) -> None:
        delta.world.withheld["cds"] = {"a"}
        delta.publish()
        assert delta.peer().ask(CLUSTER) == []


class TestAssignments:
    """Of a cluster that exists, no assignment is ever told absent: Envoy would keep its hosts."""

    def test_is_not_told_absent_while_its_cluster_exists(self, delta: Scene) -> None:
        delta.world.cds["a"] = "1"
        fill(delta, ENDPOINT, a="1")
        peer = delta.peer()
        peer.settle(peer.ask(CLUSTER))
        peer.settle(peer.ask(ENDPOINT, "a"))
        del delta.world.eds["a"]
        delta.publish()
        assert peer.take() == []
        fill(delta, ENDPOINT, a="1")
        assert peer.settle(peer.take()) == []

    def test_is_told_absent_once_its_cluster_is_gone(self, delta: Scene) -> None:
        fill(delta, CLUSTER, a="1")
        peer = delta.peer(ENDPOINT)
        assert peer.ask(ENDPOINT, "a") == []
        del delta.world.cds["a"]
        delta.publish()
        assert removed(only(peer.take())) == ("a",)

    def test_an_empty_one_is_content(self, scene: Scene) -> None:
        fill(scene, ENDPOINT, a="host")
        peer = scene.peer()
        peer.settle(peer.ask(ENDPOINT, "a"))
        fill(scene, ENDPOINT, a="")
        assert bodies(only(peer.take())) == {"a": ""}
