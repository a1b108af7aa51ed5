"""What many clients are owed is made once: counted, not timed. Shared nonces stay unambiguous."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.protocol.peer import Peer, Scene, bodies, only
from tests.protocol.test_subscriptions import fill
from xds_server.transport.encoder import LARGE_RESPONSE, SharedEncoder
from xds_server.xds import plan
from xds_server.xds.messages import Response
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, Node, Resource

if TYPE_CHECKING:
    from tests.protocol.peer import Reply

CLIENTS = 7


def fleet(scene: Scene, type_url: str, *names: str) -> list[Peer]:
    """Clients in sync that all want the same."""
    peers = [scene.peer(node=Node(f"envoy-{number}", "gateway")) for number in range(CLIENTS)]
    for peer in peers:
        peer.settle(peer.ask(type_url, *names))
    return peers


@pytest.mark.parametrize("type_url", [CLUSTER, ENDPOINT, LISTENER])
def test_a_change_is_encoded_once_for_all_clients(scene: Scene, type_url: str) -> None:
    fill(scene, type_url, a="1", b="1")
    peers = fleet(scene, type_url, "a", "b")
    encoder = SharedEncoder(scene.hub)
    fill(scene, type_url, a="2")
    payloads = {id(encoder.encode(only(peer.take()))) for peer in peers}
    assert len(payloads) == 1
    assert scene.hub.stats.encoded[type_url] == 1
    assert scene.hub.stats.shared[type_url] == CLIENTS - 1


def test_the_first_answer_is_encoded_once_for_all_clients(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="1")
    encoder = SharedEncoder(scene.hub)
    for _ in range(CLIENTS):
        encoder.encode(only(scene.peer().ask(ENDPOINT, "a")))
    assert scene.hub.stats.encoded[ENDPOINT] == 1
    assert scene.hub.stats.shared[ENDPOINT] == CLIENTS - 1


def test_clients_that_are_owed_different_things_get_different_bytes(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="1", b="1")
    one, other = scene.peer(), scene.peer()
    encoder = SharedEncoder(scene.hub)
    replies = [only(one.ask(ENDPOINT, "a")), only(other.ask(ENDPOINT, "b"))]
    assert [bodies(reply) for reply in replies] == [{"a": "1"}, {"b": "1"}]
    assert len({encoder.encode(reply) for reply in replies}) == 2


def test_types_that_are_empty_alike_do_not_share_a_response(delta: Scene) -> None:
    delta.publish()
    peer = delta.peer()
    assert [only(peer.ask(url, "*")).type_url for url in (CLUSTER, LISTENER)] == [CLUSTER, LISTENER]


def test_a_resend_within_a_publication_has_a_nonce_of_its_own(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="1")
    peer = scene.peer()
    first = only(peer.ask(ENDPOINT, "a"))
    peer.ack(first)
    peer.ask(ENDPOINT, drop=["a"])
    second = only(peer.ask(ENDPOINT, "a"))
    assert bodies(second) == bodies(first)
    assert second.nonce != first.nonce
    peer.ack(first)
    assert peer.status(ENDPOINT).state == "STALE"
    peer.ack(second)
    assert peer.status(ENDPOINT).state == "SYNCED"


def test_nonces_differ_between_the_types_of_a_stream_also_of_unknown_types(delta: Scene) -> None:
    for type_url in (CLUSTER, ENDPOINT, LISTENER):
        fill(delta, type_url, a="1")
    peer = delta.peer()
    asked = (CLUSTER, ENDPOINT, LISTENER, "type.googleapis.com/one", "type.googleapis.com/other")
    replies = [reply for type_url in asked for reply in peer.settle(peer.ask(type_url, "a"))]
    assert {reply.type_url for reply in replies} == set(asked)
    assert len({reply.nonce for reply in replies}) == len(replies)


def test_one_client_that_is_ahead_by_a_resend_does_not_keep_the_next_change_from_being_shared(
    scene: Scene,
) -> None:
    fill(scene, ENDPOINT, a="1")
    peers = fleet(scene, ENDPOINT, "a")
    peers[0].ask(ENDPOINT, drop=["a"])
    peers[0].settle(peers[0].ask(ENDPOINT, "a"))
    fill(scene, ENDPOINT, a="2")
    assert len({only(peer.take()).nonce for peer in peers}) == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_nonce_that_a_client_brought_along_is_never_given_to_it(scene: Scene, count: int) -> None:
    fill(scene, ENDPOINT, a="1")
    before, nonce = scene.peer(), ""
    for _ in range(count):
        before.ask(ENDPOINT, drop=["a"])
        reply = only(before.ask(ENDPOINT, "a"))
        before.ack(reply)
        nonce = reply.nonce
    again = scene.peer()
    seen = [only(again.ask(ENDPOINT, "a", nonce=nonce))]
    for _ in range(count + 1):
        again.ack(seen[-1])
        again.ask(ENDPOINT, drop=["a"])
        seen.append(only(again.ask(ENDPOINT, "a")))
    nonces = [reply.nonce for reply in seen]
    assert nonce not in nonces
    assert len(set(nonces)) == len(nonces)


def test_an_answer_that_leaves_nothing_to_send_wakes_nobody(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="1")
    peer = scene.peer()
    reply = only(peer.ask(ENDPOINT, "a"))
    peer.woken = 0
    peer.ack(reply)
    assert peer.woken == 0


def test_earlier_publications_are_forgotten(scene: Scene) -> None:
    fill(scene, ENDPOINT, a="1")
    encoder = SharedEncoder(scene.hub)
    reply = only(scene.peer().ask(ENDPOINT, "a"))
    payload = encoder.encode(reply)
    assert encoder.encode(reply) is payload
    fill(scene, ENDPOINT, a="2")
    assert encoder.encode(reply) is not payload


def test_clients_that_each_want_something_else_do_not_fill_the_memory(scene: Scene) -> None:
    encoder = SharedEncoder(scene.hub, limit=2000)
    replies = [large(number, 800) for number in range(4)]
    payloads = [encoder.encode(reply) for reply in replies]
    assert encoder.encode(replies[3]) is payloads[3]
    assert encoder.encode(replies[0]) is not payloads[0]


def test_one_response_is_shared_however_large_it_is(scene: Scene) -> None:
    encoder = SharedEncoder(scene.hub, limit=10)
    reply = large(1, 800)
    assert encoder.encode(reply) is encoder.encode(reply)


def test_what_is_planned_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "REMEMBERED", 3)
    fill(scene, ENDPOINT, **dict.fromkeys("abcdef", "1"))
    for name in "abcdef":
        assert bodies(only(scene.peer().ask(ENDPOINT, name))) == {name: "1"}


def test_a_large_response_is_logged_when_it_has_grown_not_for_each_client(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = SharedEncoder(scene.hub)
    for number, size in enumerate((LARGE_RESPONSE, LARGE_RESPONSE + 10, LARGE_RESPONSE * 3 // 2)):
        encoder.encode(large(number, size))
    assert capsys.readouterr().out.count("large response") == 2


def large(number: int, size: int) -> Reply:
    resource = Resource(ENDPOINT, "a", bytes(size), "v")
    return Response(type_url=ENDPOINT, version="v", nonce=str(number), resources=(resource,))
