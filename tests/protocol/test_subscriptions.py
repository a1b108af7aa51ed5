"""What is asked for, and what is told of it: names, absence, wildcards, nonces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.protocol.peer import Scene, bodies, names, only, removed
from xds_server.xds.messages import DeltaRequest, ProtocolError, Request, Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE, Node
from xds_server.xds.session import MAX_TYPES

if TYPE_CHECKING:
    from tests.protocol.peer import Peer, Reply

ALL = (CLUSTER, ENDPOINT, LISTENER, ROUTE)
KIND = {CLUSTER: "cds", ENDPOINT: "eds", LISTENER: "lds", ROUTE: "rds"}


def fill(scene: Scene, type_url: str, **contents: str) -> None:
    getattr(scene.world, KIND[type_url]).update(contents)
    scene.publish()


@pytest.mark.parametrize("type_url", ALL)
def test_named_resources_are_sent_and_an_ack_closes_the_exchange(scene: Scene, type_url: str) -> None:
    fill(scene, type_url, a="1", b="1", c="1")
    peer = scene.peer()
    reply = only(peer.ask(type_url, "a", "b"))
    assert bodies(reply) == {"a": "1", "b": "1"}
    assert peer.ack(reply) == []
    assert peer.take() == []


@pytest.mark.parametrize("type_url", ALL)
def test_a_change_is_sent_to_who_asked_for_it_and_wakes_nobody_else(scene: Scene, type_url: str) -> None:
    fill(scene, type_url, a="1", b="1")
    concerned, other = scene.peer(), scene.peer()
    concerned.settle(concerned.ask(type_url, "a"))
    other.settle(other.ask(type_url, "b"))
    before = concerned.woken, other.woken
    fill(scene, type_url, a="2")
    assert (concerned.woken, other.woken) == (before[0] + 1, before[1])
    assert bodies(only(concerned.take())) == {"a": "2"}
    assert other.take() == []


@pytest.mark.parametrize("type_url", [CLUSTER, LISTENER])
def test_an_empty_first_request_asks_for_everything(scene: Scene, type_url: str) -> None:
    fill(scene, type_url, a="1", b="1")
    peer = scene.peer()
    assert names(only(peer.settle(peer.ask(type_url)))) == ["a", "b"]
    fill(scene, type_url, c="1")
    assert "c" in names(only(peer.take()))


@pytest.mark.parametrize("type_url", [ENDPOINT, ROUTE])
def test_an_empty_first_request_asks_for_nothing_where_there_is_no_wildcard(
    scene: Scene, type_url: str
) -> None:
    fill(scene, type_url, a="1")
    peer = scene.peer()
    assert peer.ask(type_url) == []
    assert names(only(peer.ask(type_url, "a"))) == ["a"]


@pytest.mark.parametrize("type_url", [CLUSTER, LISTENER])
def test_a_wildcard_over_nothing_is_answered_once(scene: Scene, type_url: str) -> None:
    scene.publish()
    peer = scene.peer()
    reply = only(peer.ask(type_url))
    assert names(reply) == []
    assert peer.ack(reply) == []


@pytest.mark.parametrize("type_url", ALL)
def test_an_explicit_wildcard_mixes_with_names(scene: Scene, type_url: str) -> None:
    fill(scene, type_url, a="1", b="1")
    peer = scene.peer()
    replies = peer.settle(peer.ask(type_url, "*", "a", "later"))
    assert {name for reply in replies for name in names(reply)} == {"a", "b"}
    fill(scene, type_url, later="1")
    assert "later" in names(only(peer.take()))


def test_a_name_under_a_wildcard_that_is_unsubscribed_is_told_anew(delta: Scene) -> None:
    fill(delta, CLUSTER, a="1", b="1")
    peer = delta.peer()
    peer.settle(peer.ask(CLUSTER, "*", "a", "gone"))
    reply = only(peer.ask(CLUSTER, drop=["a", "gone"]))
    assert (names(reply), removed(reply)) == (["a"], ("gone",))


def test_the_wildcard_ends_and_names_stay(scene: Scene) -> None:
    fill(scene, CLUSTER, a="1", b="1")
    peer = scene.peer()
    peer.settle(peer.ask(CLUSTER, "*", "a"))
    assert peer.settle(peer.ask(CLUSTER, drop=["*"])) == []
    fill(scene, CLUSTER, b="2")
    assert peer.take() == []
    fill(scene, CLUSTER, a="2")
    assert bodies(only(peer.take())) == {"a": "2"}


def test_the_wildcard_of_an_empty_request_ends_with_the_first_name_in_sotw(sotw: Scene) -> None:
    fill(sotw, CLUSTER, a="1", b="1")
    peer = sotw.peer()
    peer.settle(peer.ask(CLUSTER))
    assert names(only(peer.settle(peer.ask(CLUSTER, "a")))) == ["a"]
    fill(sotw, CLUSTER, b="2")
    assert peer.take() == []


def test_the_wildcard_of_an_empty_request_stays_beside_names_in_delta(delta: Scene) -> None:
    fill(delta, CLUSTER, a="1", b="1")
    peer = delta.peer()
    peer.settle(peer.ask(CLUSTER))
    assert names(only(peer.settle(peer.ask(CLUSTER, "a")))) == ["a"]
    fill(delta, CLUSTER, b="2")
    assert names(only(peer.take())) == ["b"]


@pytest.mark.parametrize("type_url", ALL)
def test_an_absent_name_stays_subscribed(scene: Scene, type_url: str) -> None:
    scene.publish()
    peer = scene.peer()
    replies = peer.settle(peer.ask(type_url, "a"))
    assert all(names(reply) == [] for reply in replies)
    fill(scene, type_url, a="1")
    assert names(only(peer.settle(peer.take()))) == ["a"]


@pytest.mark.parametrize("type_url", ALL)
def test_delta_tells_what_does_not_exist(delta: Scene, type_url: str) -> None:
    fill(delta, type_url, a="1")
    peer = delta.peer()
    reply = only(peer.ask(type_url, "a", "b"))
    assert (names(reply), removed(reply)) == (["a"], ("b",))
    assert peer.ack(reply) == []


@pytest.mark.parametrize("type_url", ALL)
def test_a_removed_name_stays_subscribed_and_is_sent_when_it_is_back(scene: Scene, type_url: str) -> None:
    fill(scene, type_url, a="1", b="1")
    peer = scene.peer()
    peer.settle(peer.ask(type_url, "a", "b"))
    del getattr(scene.world, KIND[type_url])["a"]
    scene.publish()
    gone = peer.settle(peer.take())
    if scene.variant == "delta":
        assert removed(only(gone)) == ("a",)
    fill(scene, type_url, a="1")
    assert "a" in names(only(peer.settle(peer.take())))


@pytest.mark.parametrize("type_url", ALL)
def test_unsubscribed_then_subscribed_again_is_sent_again_at_the_same_version(
    scene: Scene, type_url: str
) -> None:
    fill(scene, type_url, a="1", b="1")
    peer = scene.peer()
    peer.settle(peer.ask(type_url, "a", "b"))
    assert peer.ask(type_url, drop=["a"]) == []
    assert "a" in names(only(peer.settle(peer.ask(type_url, "a"))))


def test_subscribed_again_while_the_answer_is_out_is_sent_again(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="1")
    peer = scene.peer()
    reply = only(peer.ask(ENDPOINT, "a"))
    assert peer.ask(ENDPOINT, drop=["a"]) == []
    assert peer.ask(ENDPOINT, "a") == []
    assert names(only(peer.ack(reply))) == ["a"]


def test_what_was_dropped_while_its_answer_was_out_is_not_taken_for_held(delta: Scene) -> None:
    fill(delta, CLUSTER, a="1")
    peer = delta.peer()
    reply = only(peer.ask(CLUSTER, "a"))
    assert peer.ask(CLUSTER, drop=["a"]) == []
    assert peer.ack(reply) == []
    assert names(only(peer.ask(CLUSTER, "*"))) == ["a"]


def test_the_wildcard_asked_for_again_is_answered_with_everything(scene: Scene) -> None:
    fill(scene, CLUSTER, a="1", b="1")
    peer = scene.peer()
    peer.settle(peer.ask(CLUSTER, "*", "b"))
    assert peer.settle(peer.ask(CLUSTER, drop=["*"])) == []
    assert "a" in names(only(peer.settle(peer.ask(CLUSTER, "*"))))


def test_delta_answers_a_name_that_is_named_again(delta: Scene) -> None:
    fill(delta, ENDPOINT, a="1")
    peer = delta.peer()
    peer.settle(peer.ask(ENDPOINT, "a"))
    assert names(only(peer.settle(peer.ask(ENDPOINT, "a")))) == ["a"]


def test_nothing_more_is_told_of_an_unsubscribed_name(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="1", b="1")
    peer = scene.peer()
    peer.settle(peer.ask(ENDPOINT, "a", "b"))
    peer.ask(ENDPOINT, drop=["a"])
    woken = peer.woken
    fill(scene, ENDPOINT, a="2")
    assert peer.woken == woken
    assert peer.take() == []


def test_a_stale_nonce_answers_nothing_yet_its_subscription_counts(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="1", b="1")
    peer = scene.peer()
    first = only(peer.ask(ENDPOINT, "a"))
    peer.ack(first)
    fill(scene, ENDPOINT, a="2")
    second = only(peer.take())
    assert peer.ask(ENDPOINT, "b", nonce=first.nonce) == []
    assert peer.status(ENDPOINT).state == "STALE"
    assert names(only(peer.ack(second))) == ["b"]


def test_another_subscription_with_the_last_nonce_is_no_stale_answer(scene: Scene) -> None:
    """SotW has no other way to change one; a nonce from before the last response is stale."""
    scene.world.eds = {"a": "1", "b": "1"}
    scene.publish()
    peer = scene.peer()
    first = only(peer.ask(ENDPOINT, "a"))
    peer.ack(first)
    stats = scene.hub.stats
    request = {"type_url": ENDPOINT, "response_nonce": first.nonce}
    if scene.variant is Variant.SOTW:
        peer.session.receive(Request(**request, resource_names=("a", "b")))
    else:
        peer.session.receive(DeltaRequest(**request, subscribe=("b",)))
    assert stats.stale[ENDPOINT] == 0
    peer.take()
    peer.session.receive(Request(**request) if scene.variant is Variant.SOTW else DeltaRequest(**request))
    assert stats.stale[ENDPOINT] == 1
    assert stats.requests[ENDPOINT] == 4


def test_a_stale_nack_rejects_nothing(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="1")
    peer = scene.peer()
    first = only(peer.ask(ENDPOINT, "a"))
    peer.ack(first)
    fill(scene, ENDPOINT, a="2")
    second = only(peer.take())
    peer.nack(first)
    assert peer.status(ENDPOINT).error == ""
    peer.ack(second)
    assert peer.status(ENDPOINT).state == "SYNCED"


def test_a_nonce_of_another_stream_answers_nothing(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="1")
    reply = only(scene.peer().ask(ENDPOINT, "a"))
    again = scene.peer()
    mine = only(again.ask(ENDPOINT, "a", nonce=reply.nonce))
    assert reply.nonce != mine.nonce
    again.ask(ENDPOINT, nonce=reply.nonce)
    assert again.status(ENDPOINT).state == "STALE"
    again.ack(mine)
    assert again.status(ENDPOINT).state == "SYNCED"


def test_at_most_one_response_is_outstanding_and_what_comes_meanwhile_is_merged(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="1", b="1")
    peer = scene.peer()
    reply = only(peer.ask(ENDPOINT, "a", "b"))
    for content in ("2", "3", "4"):
        fill(scene, ENDPOINT, a=content)
        assert peer.take() == []
    assert bodies(only(peer.ack(reply))) == {"a": "4"}


def test_a_change_that_is_taken_back_while_an_answer_is_out_is_not_sent(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="1")
    peer = scene.peer()
    reply = only(peer.ask(ENDPOINT, "a"))
    fill(scene, ENDPOINT, a="2")
    fill(scene, ENDPOINT, a="1")
    assert peer.ack(reply) == []


def test_the_node_of_the_first_request_lasts(scene: Scene) -> None:
    fill(scene, CLUSTER, a="1")
    peer = scene.peer(node=Node("one", "gateway"))
    peer.ask(CLUSTER)
    peer.node = Node("two", "sidecar")
    peer.ask(LISTENER)
    assert peer.session.id.startswith("one/")


def request_of(peer: Peer, type_url: str) -> list[Reply]:
    return peer.ask(type_url, "a")


def test_a_stream_of_one_type_serves_no_other(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="1")
    peer = scene.peer(ENDPOINT)
    with pytest.raises(ProtocolError, match="this stream serves"):
        request_of(peer, CLUSTER)


def test_a_stream_of_one_type_need_not_name_it(delta: Scene) -> None:
    fill(delta, ENDPOINT, a="1")
    peer = delta.peer(ENDPOINT)
    peer.session.receive(DeltaRequest(subscribe=("a",)))
    assert names(only(peer.take())) == ["a"]


def test_an_aggregated_request_names_its_type(scene: Scene) -> None:
    with pytest.raises(ProtocolError, match="type_url: empty"):
        request_of(scene.peer(), "")


def test_a_stream_cannot_ask_for_types_without_end(scene: Scene) -> None:
    peer = scene.peer()
    for number in range(MAX_TYPES):
        request_of(peer, f"type.googleapis.com/x{number}")
    with pytest.raises(ProtocolError, match="one type too many"):
        request_of(peer, "type.googleapis.com/another")


def test_a_type_that_is_not_served_is_told_absent(delta: Scene) -> None:
    delta.publish()
    reply = only(delta.peer().ask("type.googleapis.com/envoy.service.runtime.v3.Runtime", "a"))
    assert removed(reply) == ("a",)
