"""How long a change takes to be accepted by all: what begins, answers and ends a round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.protocol.catalogs import OneCatalog
from tests.protocol.peer import only
from xds_server.xds.convergence import MAX_ROUNDS
from xds_server.xds.histogram import Histogram
from xds_server.xds.model import CLUSTER, ENDPOINT
from xds_server.xds.status import SyncState

if TYPE_CHECKING:
    from tests.protocol.peer import Peer, Scene


def observed(scene: Scene) -> tuple[int, float]:
    histogram = scene.hub.stats.convergence
    return sum(histogram.counts), histogram.total


def subscribed(scene: Scene) -> Peer:
    peer = scene.peer()
    peer.settle(peer.ask(ENDPOINT, "a"))
    return peer


@pytest.fixture
def settled(scene: Scene) -> Scene:
    scene.world.eds = {"a": "1", "b": "1"}
    scene.publish()
    return scene


def test_a_round_lasts_from_the_change_to_the_last_acknowledgement(settled: Scene) -> None:
    first, second = subscribed(settled), subscribed(settled)
    before = observed(settled)
    settled.world.eds["a"] = "2"
    since = settled.clock()
    settled.clock.advance(1)
    settled.hub.publish(OneCatalog(settled.world.snapshot()), since)
    settled.clock.advance(2)
    first.ack(only(first.take()))
    assert observed(settled) == before
    settled.clock.advance(4)
    second.ack(only(second.take()))
    assert observed(settled) == (before[0] + 1, before[1] + 7)
    assert settled.hub.convergence.open == 0


def test_a_change_that_concerns_nobody_is_no_round(settled: Scene) -> None:
    subscribed(settled)
    before = observed(settled)
    settled.world.eds["b"] = "2"
    settled.publish()
    assert (observed(settled), settled.hub.convergence.open) == (before, 0)


@pytest.mark.parametrize("end", ["nack", "close", "newer", "back"])
def test_what_else_ends_a_round(settled: Scene, end: str) -> None:
    peer = subscribed(settled)
    count = observed(settled)[0]
    settled.world.eds["a"] = "2"
    settled.publish()
    assert settled.hub.convergence.open == 1
    if end == "nack":
        peer.nack(only(peer.take()))
    elif end == "close":
        peer.session.close()
    elif end == "newer":
        settled.world.eds["a"] = "3"
        settled.publish()
        peer.ack(only(peer.take()))
        count += 1
    else:
        settled.world.eds["a"] = "1"
        settled.publish()
        assert peer.take() == []
        count += 1
    assert observed(settled)[0] == count + 1
    assert settled.hub.convergence.open == 0


def test_an_answer_to_an_older_publication_leaves_the_newer_one_open(settled: Scene) -> None:
    peer = subscribed(settled)
    settled.world.eds["a"] = "2"
    settled.publish()
    older = only(peer.take())
    settled.world.eds["a"] = "3"
    settled.publish()
    newer = only(peer.ack(older))
    assert settled.hub.convergence.open == 1
    peer.ack(newer)
    assert settled.hub.convergence.open == 0


def test_a_client_that_never_answers_costs_no_more_with_each_change(settled: Scene) -> None:
    peer = subscribed(settled)
    for number in range(3 * MAX_ROUNDS):
        settled.world.eds["a"] = f"again {number}"
        settled.publish()
        peer.take()
    assert settled.hub.convergence.open == MAX_ROUNDS
    assert len(peer.session.watches[ENDPOINT].rounds) == MAX_ROUNDS


def test_how_clients_stand_is_counted_without_describing_them(settled: Scene) -> None:
    subscribed(settled)
    peer = subscribed(settled)
    settled.world.eds["a"] = "2"
    settled.publish()
    only(peer.take())
    peer.ask(CLUSTER, "x")
    described = [(each.type_url, each.state) for client in settled.hub.clients() for each in client.types]
    assert settled.hub.standing() == {key: described.count(key) for key in described}
    assert settled.hub.standing()[ENDPOINT, SyncState.STALE] == 2


def test_a_histogram_counts_what_is_at_most_each_bound() -> None:
    histogram = Histogram((1.0, 5.0))
    for value in (0.5, 1.0, 3.0, 7.0):
        histogram.observe(value)
    assert histogram.cumulative() == [("1.0", 2), ("5.0", 3), ("+Inf", 4)]
    assert histogram.total == 11.5
