"""Make before break on an aggregated stream, and that nothing can wait for ever."""

from __future__ import annotations

import pytest

from tests.protocol.peer import Scene, bodies, names, only, removed
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE
from xds_server.xds.order import HOLD_LIMIT


def gateway(scene: Scene) -> None:
    """A listener, its routes to cluster a, and the cluster with its assignment."""
    world = scene.world
    world.cds["a"] = world.eds["a"] = world.lds["l"] = world.rds["r"] = "1"
    world.requires[ROUTE, "r"] = [(CLUSTER, "a"), (ENDPOINT, "a")]
    scene.publish()


def move(scene: Scene) -> None:
    """Route to a new cluster b instead of a."""
    world = scene.world
    world.cds["b"] = world.eds["b"] = "1"
    del world.cds["a"], world.eds["a"]
    world.rds["r"] = "2"
    world.requires[ROUTE, "r"] = [(CLUSTER, "b"), (ENDPOINT, "b")]
    scene.publish()


def test_the_types_that_are_owed_come_in_order(scene: Scene) -> None:
    peer = scene.peer()
    for type_url, name in ((ROUTE, "r"), (LISTENER, "l"), (ENDPOINT, "a"), (CLUSTER, "a")):
        peer.ask(type_url, name)
    scene.world.cds["a"] = scene.world.eds["a"] = scene.world.lds["l"] = scene.world.rds["r"] = "1"
    scene.publish()
    assert [reply.type_url for reply in peer.take()] == [CLUSTER, ENDPOINT, LISTENER, ROUTE]


def test_the_start_of_an_envoy_does_not_wait_for_itself(scene: Scene) -> None:
    gateway(scene)
    peer = scene.peer()
    for type_url, asked in ((CLUSTER, ()), (ENDPOINT, ("a",)), (LISTENER, ()), (ROUTE, ("r",))):
        reply = only(peer.ask(type_url, *asked))
        assert reply.type_url == type_url
        assert peer.ack(reply) == []


def test_a_client_that_asks_for_everything_at_once_gets_routes_last(scene: Scene) -> None:
    gateway(scene)
    peer = scene.peer()
    replies = [*peer.ask(CLUSTER), *peer.ask(ENDPOINT, "a"), *peer.ask(LISTENER), *peer.ask(ROUTE, "r")]
    assert [reply.type_url for reply in replies] == [CLUSTER, ENDPOINT, LISTENER]
    assert peer.ack(replies[0]) == []
    assert [reply.type_url for reply in peer.ack(replies[1])] == [ROUTE]


def test_routes_move_to_a_new_cluster_before_the_old_one_goes(scene: Scene) -> None:
    gateway(scene)
    peer = scene.peer()
    peer.settle(peer.ask(CLUSTER))
    peer.settle(peer.ask(ENDPOINT, "a"))
    peer.settle(peer.ask(LISTENER))
    peer.settle(peer.ask(ROUTE, "r"))
    move(scene)
    clusters = next(reply for reply in peer.take() if reply.type_url == CLUSTER)
    assert "b" in names(clusters)
    assert removed(clusters) == ()
    if scene.variant == "sotw":
        assert names(clusters) == ["a", "b"]
    assert peer.ack(clusters) == []
    assignments = only(peer.ask(ENDPOINT, "b"))
    routes = only(peer.ack(assignments))
    assert bodies(routes) == {"r": "2"}
    last = only(peer.ack(routes))
    if scene.variant == "sotw":
        assert names(last) == ["b"]
    else:
        assert removed(last) == ("a",)
    assert peer.ask(ENDPOINT, drop=["a"]) == []
    assert peer.ack(last) == []


def test_an_assignment_is_told_absent_after_its_cluster_is_gone_from_the_client(delta: Scene) -> None:
    gateway(delta)
    peer = delta.peer()
    peer.settle(peer.ask(CLUSTER))
    peer.settle(peer.ask(ENDPOINT, "a"))
    del delta.world.cds["a"], delta.world.eds["a"]
    delta.publish()
    clusters = only(peer.take())
    assert clusters.type_url == CLUSTER
    assert removed(only(peer.ack(clusters))) == ("a",)


def test_a_cluster_stays_while_the_new_routes_are_rejected(scene: Scene) -> None:
    gateway(scene)
    peer = scene.peer()
    peer.settle(peer.ask(CLUSTER))
    peer.settle(peer.ask(ROUTE, "r"))
    move(scene)
    clusters = only(peer.take())
    routes = only(peer.ack(clusters))
    assert peer.nack(routes) == []
    scene.world.rds["r"] = "3"
    scene.publish()
    replies = peer.settle(peer.take())
    assert [reply.type_url for reply in replies] == [ROUTE, CLUSTER]
    assert removed(replies[1]) == ("a",) or names(replies[1]) == ["b"]


def test_a_cluster_stays_while_routes_to_it_are_on_their_way_though_they_are_taken_back(scene: Scene) -> None:
    gateway(scene)
    scene.world.cds["b"] = "1"
    scene.publish()
    peer = scene.peer()
    peer.settle(peer.ask(CLUSTER))
    peer.settle(peer.ask(ROUTE, "r"))
    scene.world.rds["r"] = "to b"
    scene.publish()
    to_b = only(peer.take())
    scene.world.rds["r"] = "1"
    del scene.world.cds["b"]
    scene.publish()
    assert peer.take() == []
    back = only(peer.ack(to_b))
    assert bodies(back) == {"r": "1"}
    assert only(peer.ack(back)).type_url == CLUSTER


def test_a_cluster_that_is_back_before_it_was_removed_is_an_ordinary_one(sotw: Scene) -> None:
    gateway(sotw)
    peer = sotw.peer()
    peer.settle(peer.ask(CLUSTER))
    peer.settle(peer.ask(ROUTE, "r"))
    move(sotw)
    clusters = only(peer.take())
    sotw.world.cds["a"] = "9"
    sotw.publish()
    after = [reply for reply in peer.ack(clusters) if reply.type_url == CLUSTER]
    assert bodies(only(after)) == {"a": "9", "b": "1"}
    assert only(after).version == sotw.world.snapshot().of(CLUSTER).version


def test_what_is_kept_for_now_has_a_version_of_its_own(sotw: Scene) -> None:
    gateway(sotw)
    peer = sotw.peer()
    peer.settle(peer.ask(CLUSTER))
    peer.settle(peer.ask(ROUTE, "r"))
    move(sotw)
    versions = [reply.version for reply in peer.settle(peer.take()) if reply.type_url == CLUSTER]
    assert len(set(versions)) == 2
    assert versions[-1] == sotw.world.snapshot().of(CLUSTER).version


def test_assignments_are_never_held_back(scene: Scene) -> None:
    scene.world.requires[ENDPOINT, "a"] = [(CLUSTER, "a")]
    scene.world.cds["a"] = scene.world.eds["a"] = "1"
    scene.publish()
    peer = scene.peer()
    peer.ask(CLUSTER)
    assert names(only(peer.ask(ENDPOINT, "a"))) == ["a"]


@pytest.mark.parametrize("type_url", [LISTENER, ROUTE])
def test_a_client_that_never_answers_for_clusters_gets_the_rest_after_a_while(
    scene: Scene, type_url: str
) -> None:
    kind = {LISTENER: scene.world.lds, ROUTE: scene.world.rds}[type_url]
    scene.world.cds["a"] = kind["x"] = kind["y"] = "1"
    scene.world.requires[type_url, "x"] = [(CLUSTER, "a")]
    scene.world.requires[type_url, "y"] = [(CLUSTER, "a")]
    scene.publish()
    peer = scene.peer()
    peer.ask(CLUSTER)
    assert peer.ask(type_url, "x") == []
    assert peer.session.next_deadline() == scene.clock.now + HOLD_LIMIT
    scene.clock.advance(HOLD_LIMIT)
    assert names(only(peer.take())) == ["x"]
    assert peer.session.next_deadline() is None


def test_a_whole_response_waits_once_however_many_of_its_parts_wait(sotw: Scene) -> None:
    sotw.world.cds["a"] = sotw.world.lds["x"] = "1"
    sotw.world.requires[LISTENER, "x"] = sotw.world.requires[LISTENER, "y"] = [(CLUSTER, "a")]
    sotw.publish()
    peer = sotw.peer()
    peer.ask(CLUSTER)
    peer.ask(LISTENER)
    sotw.clock.advance(HOLD_LIMIT - 1)
    sotw.world.lds["y"] = "1"
    sotw.publish()
    assert peer.take() == []
    sotw.clock.advance(1)
    assert names(only(peer.take())) == ["x", "y"]


def test_what_was_kept_back_with_a_part_that_has_gone_since_is_not_forgotten(sotw: Scene) -> None:
    sotw.world.cds["a"] = sotw.world.lds["old"] = "1"
    sotw.world.requires[LISTENER, "waits"] = [(CLUSTER, "a")]
    sotw.publish()
    peer = sotw.peer()
    peer.settle(peer.ask(LISTENER))
    peer.ask(CLUSTER)
    sotw.world.lds["waits"] = sotw.world.lds["new"] = "1"
    sotw.publish()
    assert peer.take() == []
    del sotw.world.lds["waits"]
    sotw.publish()
    assert names(only(peer.take())) == ["new", "old"]


def test_what_does_not_wait_goes_on_in_delta(delta: Scene) -> None:
    delta.world.cds["a"] = delta.world.lds["free"] = delta.world.lds["waits"] = "1"
    delta.world.requires[LISTENER, "waits"] = [(CLUSTER, "a")]
    delta.publish()
    peer = delta.peer()
    clusters = only(peer.ask(CLUSTER))
    listeners = only(peer.ask(LISTENER))
    assert names(listeners) == ["free"]
    assert peer.ack(listeners) == []
    assert names(only(peer.ack(clusters))) == ["waits"]


def test_what_is_gone_is_waited_for_no_longer(scene: Scene) -> None:
    gateway(scene)
    peer = scene.peer()
    peer.ask(CLUSTER)
    assert peer.ask(ROUTE, "r") == []
    assert peer.session.next_deadline() is not None
    del scene.world.rds["r"]
    scene.publish()
    peer.settle(peer.take())
    assert peer.session.next_deadline() is None


def test_a_rejected_requirement_is_settled(scene: Scene) -> None:
    gateway(scene)
    peer = scene.peer()
    clusters = only(peer.ask(CLUSTER))
    assert peer.ask(ROUTE, "r") == []
    assert names(only(peer.nack(clusters))) == ["r"]


def test_streams_of_one_type_wait_for_nothing(scene: Scene) -> None:
    gateway(scene)
    clusters, routes = scene.peer(CLUSTER), scene.peer(ROUTE)
    clusters.ask(CLUSTER)
    assert names(only(routes.ask(ROUTE, "r"))) == ["r"]


class TestWarming:
    """A changed cluster warms until its assignment comes again (go-control-plane 583, envoy 13009)."""

    def test_the_assignment_follows_with_the_same_bytes(self, scene: Scene) -> None:
        gateway(scene)
        scene.world.cds["other"] = scene.world.eds["other"] = "1"
        scene.publish()
        peer = scene.peer()
        peer.settle(peer.ask(CLUSTER))
        peer.settle(peer.ask(ENDPOINT, "a", "other"))
        scene.world.cds["a"] = "2"
        scene.publish()
        clusters, assignments = peer.take()
        assert clusters.type_url == CLUSTER
        assert bodies(assignments) == {"a": "1"}
        assert peer.ack(clusters, assignments) == []

    def test_it_follows_though_an_older_answer_is_out(self, scene: Scene) -> None:
        gateway(scene)
        peer = scene.peer()
        peer.settle(peer.ask(CLUSTER))
        earlier = only(peer.ask(ENDPOINT, "a"))
        scene.world.cds["a"] = "2"
        scene.publish()
        only(peer.take())
        assert bodies(only(peer.ack(earlier))) == {"a": "1"}

    def test_it_is_found_by_its_own_name(self, scene: Scene) -> None:
        scene.world.cds["a"] = scene.world.eds["assignment-of-a"] = "1"
        scene.world.requires[CLUSTER, "a"] = [(ENDPOINT, "assignment-of-a")]
        scene.publish()
        peer = scene.peer()
        peer.settle(peer.ask(CLUSTER))
        peer.settle(peer.ask(ENDPOINT, "assignment-of-a"))
        scene.world.cds["a"] = "2"
        scene.publish()
        assert [names(reply) for reply in peer.take()] == [["a"], ["assignment-of-a"]]

    def test_a_rejected_one_does_not_follow(self, scene: Scene) -> None:
        gateway(scene)
        peer = scene.peer()
        peer.settle(peer.ask(CLUSTER))
        peer.nack(only(peer.ask(ENDPOINT, "a")))
        scene.world.cds["a"] = "2"
        scene.publish()
        assert names(only(peer.settle(peer.take()))) == ["a"]
