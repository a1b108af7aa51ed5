"""Resources with a time to live: renewed in time, whatever else goes on, and never when it is off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryResponse

from tests.protocol.catalogs import OneCatalog, resource
from tests.protocol.peer import Peer, Scene, names, only
from xds_server.transport.codec import encode_response
from xds_server.xds.hub import Hub
from xds_server.xds.messages import DeltaResponse, Variant
from xds_server.xds.model import CLUSTER, ENDPOINT

if TYPE_CHECKING:
    from tests.protocol.peer import Reply

TTL = 30.0


@pytest.fixture
def living() -> Scene:
    scene = Scene(Variant.DELTA)
    scene.hub = Hub(scene.clock, ttl=TTL)
    scene.world.cds = {"a": "1", "b": "1"}
    scene.world.eds = {"a": "1", "b": "1"}
    scene.publish()
    return scene


def renewed(reply: Reply) -> list[str]:
    """What this response keeps from ending."""
    assert isinstance(reply, DeltaResponse)
    assert reply.ttl == TTL
    return sorted([name for name, _ in reply.renewed] + names(reply))


def subscribed(scene: Scene) -> Peer:
    peer = scene.peer()
    peer.settle(peer.ask(CLUSTER))
    peer.settle(peer.ask(ENDPOINT, "a", "b"))
    return peer


def test_what_is_held_is_renewed_thrice_within_its_time(living: Scene) -> None:
    peer = subscribed(living)
    for _ in range(4):
        assert peer.take() == []
        assert peer.session.next_deadline() == living.clock() + TTL / 3
        living.clock.advance(TTL / 3)
        replies = peer.take()
        assert [(reply.type_url, renewed(reply)) for reply in replies] == [
            (CLUSTER, ["a", "b"]),
            (ENDPOINT, ["a", "b"]),
        ]
        peer.ack(*replies)


def test_a_renewal_has_no_bodies_and_costs_no_resource(living: Scene) -> None:
    peer = subscribed(living)
    before = dict(living.hub.stats.resources)
    living.clock.advance(TTL / 3)
    replies = peer.take()
    assert [names(reply) for reply in replies] == [[], []]
    assert living.hub.stats.resources == before


def test_constant_change_of_one_resource_does_not_let_the_others_end(living: Scene) -> None:
    peer = subscribed(living)
    last = living.clock()
    for number in range(60):
        living.clock.advance(TTL / 20)
        living.world.eds["a"] = f"again {number}"
        living.publish()
        for reply in peer.settle(peer.take()):
            if reply.type_url == ENDPOINT and "b" in renewed(reply):
                last = living.clock()
        assert living.clock() - last < TTL / 2


def test_a_client_that_answers_late_is_renewed_as_soon_as_it_has(living: Scene) -> None:
    peer = subscribed(living)
    living.world.eds["a"] = "2"
    living.publish()
    late = only(peer.take())
    living.clock.advance(TTL / 2)
    peer.ack(*peer.take())
    assert peer.session.next_deadline() is not None
    (reply,) = peer.ack(late)
    assert (reply.type_url, "b" in renewed(reply)) == (ENDPOINT, True)


def test_what_was_rejected_is_not_renewed_and_what_stood_beside_it_is(living: Scene) -> None:
    peer = subscribed(living)
    living.world.eds["a"] = "bad"
    living.publish()
    assert peer.nack(only(peer.take())) == []
    living.clock.advance(TTL / 3)
    assert renewed(peer.take()[-1]) == ["b"]


def test_a_client_that_comes_back_is_renewed_at_once(living: Scene) -> None:
    """Nothing is sent that it has, yet its time runs on from the stream before."""
    peer = living.peer()
    reply = only(peer.ask(ENDPOINT, "a", held={"a": resource(ENDPOINT, "a").version}))
    assert (names(reply), renewed(reply)) == ([], ["a"])


def test_what_is_withheld_goes_on_with_what_the_client_has(living: Scene) -> None:
    del living.world.eds["a"]
    living.world.withheld["eds"] = {"a"}
    living.publish()
    reply = only(living.peer().ask(ENDPOINT, "a", held={"a": "v7"}))
    assert isinstance(reply, DeltaResponse)
    assert reply.renewed == (("a", "v7"),)


def test_in_sotw_there_is_none_since_envoy_crashes_at_its_end() -> None:
    scene = Scene(Variant.SOTW)
    scene.hub = Hub(scene.clock, ttl=TTL)
    scene.world.cds = {"a": "1"}
    scene.publish()
    peer = scene.peer()
    peer.settle(peer.ask(CLUSTER))
    assert peer.session.next_deadline() is None
    scene.clock.advance(TTL)
    assert peer.take() == []


def test_without_a_time_to_live_nothing_is_renewed(scene: Scene) -> None:
    scene.world.eds = {"a": "1"}
    scene.hub.publish(OneCatalog(scene.world.snapshot()))
    peer = scene.peer()
    (reply,) = peer.ask(ENDPOINT, "a")
    assert getattr(reply, "ttl", None) is None
    peer.ack(reply)
    assert peer.session.next_deadline() is None
    scene.clock.advance(1e6)
    assert peer.take() == []


@pytest.mark.parametrize("ttl", [1.5, 30.0, 0.25])
def test_on_the_wire_a_resource_has_its_time_to_live(ttl: float) -> None:
    one = resource(CLUSTER, "a")
    delta = DeltaDiscoveryResponse.parse(
        encode_response(
            DeltaResponse(
                type_url=CLUSTER,
                version="v",
                nonce="1",
                resources=(one,),
                removed=(),
                ttl=ttl,
                renewed=(("b", "7"),),
            )
        )
    )
    sent, again = delta.resources
    assert sent.resource is not None
    assert (sent.name, sent.version, sent.resource.value, again.name, again.version, again.resource) == (
        "a",
        one.version,
        one.body,
        "b",
        "7",
        None,
    )
    for each in (sent, again):
        assert each.ttl is not None
        assert each.ttl.total_seconds() == ttl
