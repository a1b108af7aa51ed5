"""What a server sees of a pool: its endpoints, and the Envoys that have been sent it."""

from __future__ import annotations

import pytest
from moves_world import HOST, FakeEnvoy, World

from xds_server.config.pool_status import common_status
from xds_server.sources.kubernetes.pool_report import PoolReporter
from xds_server.xds.messages import DeltaRequest, Variant
from xds_server.xds.model import CLUSTER, LISTENER, ROUTE, Node


@pytest.fixture
async def world() -> World:
    return World().start(m="1,2", n="3")


def seen(world: World, reporter: PoolReporter | None = None):
    found = reporter or PoolReporter(world.mesh, world.hub, world.builder.assignments, patience=0.0)
    return found.report(HOST, 4, found.begin())


async def test_endpoints_and_models(world: World) -> None:
    found = seen(world)
    assert (found.generation, found.endpoints, found.ready, found.telling) == (4, 3, 3, 3)
    assert (found.models, found.known) == (2, 2)
    world.report(world.id(3), state="LOADING")
    found = seen(world)
    assert (found.models, found.known) == (1, 2)


async def test_a_silent_endpoint_is_named(world: World) -> None:
    world.fail(2)
    found = seen(world)
    assert (found.endpoints, found.ready, found.telling) == (3, 2, 2)
    assert found.failure.startswith(f"{world.at(2)}: refused: ")


async def test_a_service_that_is_unknown() -> None:
    world = World().start()
    reporter = PoolReporter(world.mesh, world.hub, world.builder.assignments)
    found = reporter.report("", 0, reporter.begin())
    assert (found.generation, found.endpoints, found.envoys) == (0, 0, 0)


async def test_envoys_acknowledge(world: World) -> None:
    assert seen(world).envoys == 0
    envoys = [FakeEnvoy(world, "one"), FakeEnvoy(world, "two")]
    found = seen(world)
    assert (found.envoys, found.acknowledged, found.rejection) == (2, 2, "")
    envoys[0].close()
    assert (seen(world).envoys, seen(world).acknowledged) == (1, 1)


async def test_an_envoy_that_is_silent_is_waited_for(world: World) -> None:
    envoy = FakeEnvoy(world, "slow")
    envoy.acks = False
    world.loaded[world.id(3)].add("k")
    world.report(world.id(3))
    world.publisher.flush()
    envoy.pump()
    found = seen(world)
    assert (found.envoys, found.acknowledged, found.rejection) == (1, 0, "")


async def test_what_has_just_been_sent_is_not_held_against_anyone(world: World) -> None:
    """Models that come and go all the time must not make a status that flaps."""
    reporter = PoolReporter(world.mesh, world.hub, world.builder.assignments, patience=60.0)
    envoy = FakeEnvoy(world, "busy")
    assert seen(world, reporter).acknowledged == 1
    envoy.acks = False
    world.loaded[world.id(3)].add("k")
    world.report(world.id(3))
    world.publisher.flush()
    envoy.pump()
    found = seen(world, reporter)
    assert (found.envoys, found.acknowledged) == (1, 1)


async def test_a_rejection_is_quoted(world: World) -> None:
    envoy = FakeEnvoy(world, "picky")
    envoy.nack = "no such lb_policy"
    world.loaded[world.id(3)].add("k")
    world.report(world.id(3))
    world.publisher.flush()
    envoy.pump()
    found = seen(world)
    assert (found.envoys, found.acknowledged) == (1, 0)
    assert found.rejection.endswith(": no such lb_policy")
    status = common_status(4, (), [found.entry("server")])
    programmed = next(each for each in status["conditions"] if each["type"] == "Programmed")
    assert (programmed["status"], programmed["reason"]) == ("False", "Rejected")
    assert programmed["message"] == f"acknowledged by 0 of 1 Envoys; {found.rejection}"


@pytest.mark.parametrize("type_url", [ROUTE, LISTENER])
async def test_rejected_routes_are_told_to_the_pools_that_they_send_to(world: World, type_url: str) -> None:
    """The gateway's routes and listener have one name, and the routes say which clusters they use."""
    session = world.hub.open(Variant.DELTA, None, "10.0.0.2:1", lambda: None)
    node = Node("edge", "gateway")
    session.receive(DeltaRequest(type_url=CLUSTER, subscribe=("*",), node=node))
    session.receive(DeltaRequest(type_url=type_url, subscribe=("*",)))
    for _ in range(5):
        for response in session.take():
            error = "regex too big" if response.type_url == type_url else None
            session.receive(
                DeltaRequest(type_url=response.type_url, response_nonce=response.nonce, error_detail=error)
            )
    found = seen(world)
    assert found.acknowledged == 0
    assert found.rejection.endswith(": regex too big")
