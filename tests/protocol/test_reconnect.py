"""New streams of clients that hold something already, and the first moments of a server."""

from __future__ import annotations

import pytest

from tests.protocol.peer import Scene, bodies, names, only, removed
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE

KIND = {CLUSTER: "cds", ENDPOINT: "eds", LISTENER: "lds", ROUTE: "rds"}
ALL = tuple(KIND)


def fill(scene: Scene, type_url: str, **contents: str) -> None:
    getattr(scene.world, KIND[type_url]).update(contents)
    scene.publish()


def versions(scene: Scene, type_url: str, *held: str) -> dict[str, str]:
    resources = scene.world.snapshot().of(type_url).resources
    return {name: resources[name].version for name in held}


@pytest.mark.parametrize("type_url", ALL)
def test_nothing_is_sent_before_the_first_catalog(scene: Scene, type_url: str) -> None:
    peer = scene.peer()
    assert peer.ask(type_url, "a") == []
    fill(scene, type_url, a="1")
    assert peer.woken
    assert names(only(peer.take())) == ["a"]


@pytest.mark.parametrize("type_url", ALL)
def test_what_the_client_holds_is_not_sent(delta: Scene, type_url: str) -> None:
    fill(delta, type_url, a="1", b="1")
    held = versions(delta, type_url, "a", "b")
    peer = delta.peer()
    assert peer.ask(type_url, "a", "b", held=held) == []
    assert peer.status(type_url).state == "SYNCED"
    fill(delta, type_url, a="2")
    assert bodies(only(peer.take())) == {"a": "2"}


@pytest.mark.parametrize("type_url", ALL)
def test_what_differs_is_sent_and_what_is_gone_is_removed(delta: Scene, type_url: str) -> None:
    fill(delta, type_url, a="1", b="1", new="1")
    held = versions(delta, type_url, "a") | {"b": "other", "gone": "old"}
    peer = delta.peer(type_url)
    reply = only(peer.ask(type_url, "a", "b", "gone", "new", held=held))
    assert (names(reply), removed(reply)) == (["b", "new"], ("gone",))


@pytest.mark.parametrize("type_url", [CLUSTER, LISTENER])
def test_a_wildcard_removes_what_is_gone(delta: Scene, type_url: str) -> None:
    fill(delta, type_url, a="1")
    peer = delta.peer(type_url)
    reply = only(peer.ask(type_url, held=versions(delta, type_url, "a") | {"gone": "old"}))
    assert (names(reply), removed(reply)) == ([], ("gone",))


@pytest.mark.parametrize("type_url", [CLUSTER, LISTENER])
def test_a_wildcard_that_lacks_nothing_is_not_answered(delta: Scene, type_url: str) -> None:
    fill(delta, type_url, a="1")
    peer = delta.peer()
    assert peer.ask(type_url, held=versions(delta, type_url, "a")) == []


def test_what_is_held_but_not_asked_for_is_forgotten(delta: Scene) -> None:
    fill(delta, ENDPOINT, a="1", b="1")
    peer = delta.peer()
    assert peer.ask(ENDPOINT, "a", held=versions(delta, ENDPOINT, "a", "b")) == []
    assert names(only(peer.ask(ENDPOINT, "*"))) == ["b"]


def test_an_assignment_that_is_missing_is_not_removed_while_its_cluster_exists(delta: Scene) -> None:
    fill(delta, CLUSTER, a="1")
    assert delta.peer().ask(ENDPOINT, "a", held={"a": "old"}) == []


@pytest.mark.parametrize("order", [(CLUSTER, ENDPOINT), (ENDPOINT, CLUSTER)], ids=["clusters", "assignments"])
def test_a_cluster_that_changed_meanwhile_gets_its_unchanged_assignment_again(
    delta: Scene, order: tuple[str, str]
) -> None:
    """Envoy warms the changed cluster until then, 15 s, whichever of the two it asks for first."""
    delta.world.eds.update(a="1", b="1")
    fill(delta, CLUSTER, a="2", b="1")
    held = {
        CLUSTER: {"a": "old"} | versions(delta, CLUSTER, "b"),
        ENDPOINT: versions(delta, ENDPOINT, "a", "b"),
    }
    peer = delta.peer()
    sent = [reply for t in order for reply in peer.ask(t, "a", "b", held=held[t])]
    assert [(reply.type_url, names(reply)) for reply in sent] == [(CLUSTER, ["a"]), (ENDPOINT, ["a"])]
    assert peer.settle(sent) == sent


def test_a_later_request_s_versions_are_no_news(delta: Scene) -> None:
    fill(delta, ENDPOINT, a="1", b="1")
    peer = delta.peer()
    peer.settle(peer.ask(ENDPOINT, "a"))
    assert names(only(peer.ask(ENDPOINT, "b", held=versions(delta, ENDPOINT, "b")))) == ["b"]


@pytest.mark.parametrize("type_url", ALL)
def test_another_server_with_the_same_state_sends_the_same_versions(scene: Scene, type_url: str) -> None:
    other = Scene(scene.variant)
    fill(scene, type_url, a="1", b="1")
    other.publish()
    fill(other, type_url, b="1", a="1")
    one, two = only(scene.peer().ask(type_url, "a", "b")), only(other.peer().ask(type_url, "a", "b"))
    assert one.version == two.version
    assert [r.version for r in one.resources] == [r.version for r in two.resources]


def test_a_cluster_from_an_earlier_stream_stays_until_the_new_routes_are_in(delta: Scene) -> None:
    fill(delta, ROUTE, r="2")
    peer = delta.peer()
    assert peer.ask(CLUSTER, held={"gone": "old"}) == []
    routes = only(peer.ask(ROUTE, "r", held={"r": "old"}))
    assert routes.type_url == ROUTE
    assert removed(only(peer.ack(routes))) == ("gone",)


def test_a_client_that_asks_for_clusters_alone_is_told_after_a_while(delta: Scene) -> None:
    delta.publish()
    peer = delta.peer()
    assert peer.ask(CLUSTER, held={"gone": "old"}) == []
    deadline = peer.session.next_deadline()
    assert deadline is not None
    scene_time = deadline - delta.clock.now
    assert 0 < scene_time <= 5
    delta.clock.advance(scene_time)
    assert removed(only(peer.take())) == ("gone",)
    assert peer.session.next_deadline() is None


def test_a_client_that_is_slow_with_its_routes_makes_nobody_spin(delta: Scene) -> None:
    fill(delta, ROUTE, r="2")
    peer = delta.peer()
    assert peer.ask(CLUSTER, held={"gone": "old"}) == []
    routes = only(peer.ask(ROUTE, "r"))
    delta.clock.advance(60)
    assert peer.take() == []
    assert peer.session.next_deadline() is None
    assert removed(only(peer.ack(routes))) == ("gone",)
