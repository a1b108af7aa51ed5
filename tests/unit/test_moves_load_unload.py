"""Loads and unloads through a runtime, on a real mesh, builder, publisher and hub."""

from __future__ import annotations

import asyncio

import pytest
from moves_world import HOST, OTHER, FakeEnvoy, World, configuration, refused

from xds_server.mesh.events import FailureKind
from xds_server.mesh.model import EndpointId
from xds_server.moves.errors import (
    HeldElsewhereError,
    MoveError,
    NoRuntimeError,
    NotAcknowledgedError,
    RuntimeRefusedError,
    RuntimeSilentError,
    RuntimeSlowError,
    UnknownEndpointError,
    WithdrawnError,
)
from xds_server.moves.mover import Mover

NOW = {"settle": 0.0, "drain": 0.0}


@pytest.fixture
async def world() -> World:
    return World().start(m="1,2", solo="3")


async def waiting_for_envoy(world: World, task: asyncio.Task[object]) -> None:
    """Return once the move listens to the hub, so that what happens next happens during its wait."""
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    assert world.mover.withdrawals()


# Unload


async def test_unload_withdraws_first_and_ends_when_the_model_is_gone(world: World) -> None:
    envoy = FakeEnvoy(world, "a")
    seen: list[tuple[str, ...]] = []
    world.on_order = lambda: seen.append(world.routed(1))
    done = await world.mover.unload("m", world.at(1), **NOW)
    assert seen == [()]
    assert world.orders == [("unload", world.at(1), "m")]
    assert done.acknowledged == (envoy.session.id,)
    assert done.seconds.unloaded is not None
    assert done.seconds.gone is not None
    assert done.seconds.acknowledged <= done.seconds.unloaded <= done.seconds.gone <= done.seconds.total
    assert world.mover.withdrawals() == ()
    assert world.routed(1) == ()
    assert world.mover.counts.done == {"withdraw": 0, "load": 0, "unload": 1}


async def test_unload_goes_on_from_a_withdrawal_that_stands(world: World) -> None:
    held = await world.mover.withdraw("m", world.at(1), **NOW)
    assert (await world.mover.unload("m", world.at(1), **NOW)).id == held.id
    assert world.mover.withdrawals() == ()


async def test_unload_does_not_meddle_with_a_withdrawal_under_way(world: World) -> None:
    task = asyncio.create_task(world.mover.withdraw("m", world.at(1), settle=30))
    await waiting_for_envoy(world, task)
    with pytest.raises(WithdrawnError, match="another request is withdrawing m"):
        await world.mover.unload("m", world.at(1), **NOW)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_runtime_that_refuses_keeps_its_model_routed(world: World) -> None:
    world.refusal = refused()
    with pytest.raises(
        RuntimeRefusedError, match=r"HTTP 500 boom; the withdrawal is cancelled and m is routed"
    ):
        await world.mover.unload("m", world.at(1), **NOW)
    assert world.routed(1) == ("m",)
    assert world.mover.withdrawals() == ()


async def test_a_refusal_does_not_end_a_withdrawal_that_stood_before(world: World) -> None:
    held = await world.mover.withdraw("m", world.at(1), **NOW)
    world.refusal = refused()
    with pytest.raises(RuntimeRefusedError, match=f"the withdrawal {held.id} stays"):
        await world.mover.unload("m", world.at(1), **NOW)
    assert world.routed(1) == ()


async def test_a_runtime_that_says_nothing_may_unload_yet(world: World) -> None:
    world.refusal = RuntimeSilentError("no answer")
    with pytest.raises(RuntimeSilentError, match="no answer; it may unload m yet, so the withdrawal"):
        await world.mover.unload("m", world.at(1), **NOW)
    assert world.routed(1) == ()
    assert len(world.mover.withdrawals()) == 1


async def test_a_runtime_that_does_not_do_what_it_said(world: World) -> None:
    world.deaf = True
    with pytest.raises(
        RuntimeSlowError, match=r"did not report m gone within 0\.01 s: .* READY in version 1; m stays"
    ):
        await world.mover.unload("m", world.at(1), runtime_timeout=0.01, **NOW)
    assert world.routed(1) == ()
    assert (await world.mover.cancel(world.mover.withdrawals()[0].id)).model == "m"


async def test_the_runtime_is_asked_again_until_the_model_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xds_server.moves.mover.FIRST_PAUSE", 0.001)
    world.deaf = True
    polls: list[int] = []

    def drop_at_the_third() -> None:
        polls.append(1)
        if len(polls) == 3:
            world.loaded[world.id(1)].clear()

    world.on_poll = drop_at_the_third
    await world.mover.unload("m", world.at(1), **NOW)
    assert len(polls) == 3


async def test_an_unload_under_way_is_carried_through_without_its_caller(world: World) -> None:
    world.hung = asyncio.Event()
    asked = asyncio.Event()
    world.on_order = asked.set
    task = asyncio.create_task(world.mover.unload("m", world.at(1), **NOW))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.routed(1) == ()
    with pytest.raises(WithdrawnError, match="already been asked to unload"):
        await world.mover.cancel(world.mover.withdrawals()[0].id)
    gone = asyncio.Event()
    world.on_poll = gone.set
    world.hung.set()
    await gone.wait()
    await asyncio.sleep(0)
    assert world.mover.withdrawals() == ()
    counts = world.mover.counts
    assert (counts.done["unload"], counts.failed["unload"]) == (1, 0)


async def test_close_waits_for_unloads_without_callers(world: World) -> None:
    world.hung = asyncio.Event()
    asked = asyncio.Event()
    world.on_order = asked.set
    task = asyncio.create_task(world.mover.unload("m", world.at(1), **NOW))
    await asked.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await world.mover.close()
    assert world.routed(1) == ()


async def test_an_endpoint_removed_during_its_unload(world: World) -> None:
    def remove() -> None:
        world.configure(configuration(9002, 9003))
        del world.loaded[world.id(1)]

    world.on_poll = remove
    with pytest.raises(UnknownEndpointError, match="removed from the documents"):
        await world.mover.unload("m", world.at(1), **NOW)


async def test_a_runtime_that_serves_another_service_too() -> None:
    world = World(other=(9001,)).start(m="1,2")
    world.loaded[EndpointId(OTHER, "127.0.0.1", 9001)] = {"m"}
    world.report(EndpointId(OTHER, "127.0.0.1", 9001))
    with pytest.raises(HeldElsewhereError, match=r"also through other\.example"):
        await world.mover.unload("m", world.at(1), service=HOST, **NOW)
    await world.mover.withdraw("m", world.at(1), service=OTHER, force=True, **NOW)
    await world.mover.unload("m", world.at(1), service=HOST, **NOW)
    assert world.orders == [("unload", world.at(1), "m")]


@pytest.mark.parametrize("action", ["load", "unload"])
async def test_a_fixed_list_has_no_runtime(world: World, action: str) -> None:
    with pytest.raises(NoRuntimeError, match=r"ModelPool ns/static lists its models itself"):
        await getattr(world.mover, action)("fixed", "127.0.0.1:7001")
    assert world.orders == []


# Load


async def test_load_ends_when_every_envoy_routes_there(world: World) -> None:
    envoy = FakeEnvoy(world, "a")
    done = await world.mover.load("new", world.at(2))
    assert world.routed(2) == ("m", "new")
    assert done.acknowledged == (envoy.session.id,)
    assert done.seconds.loaded <= done.seconds.ready <= done.seconds.acknowledged <= done.seconds.total
    assert (done.model, done.endpoint, done.service) == ("new", world.at(2), HOST)


async def test_load_that_was_published_meanwhile_counts_as_acknowledged(world: World) -> None:
    envoy = FakeEnvoy(world, "a")

    def publish_first() -> None:
        world.report(world.id(2))
        world.publisher.flush()
        envoy.pump()

    world.on_poll = publish_first
    assert (await world.mover.load("new", world.at(2), timeout=1)).acknowledged == (envoy.session.id,)


async def test_load_that_the_runtime_refuses(world: World) -> None:
    world.refusal = refused("the runtime refused: HTTP 404 no such model")
    with pytest.raises(RuntimeRefusedError, match="HTTP 404 no such model"):
        await world.mover.load("new", world.at(2))
    assert world.mover.counts.failed["load"] == 1


async def test_load_that_never_gets_ready(world: World) -> None:
    world.deaf = True
    with pytest.raises(
        RuntimeSlowError, match=r"did not report new READY within 0\.01 s: .* does not list it$"
    ):
        await world.mover.load("new", world.at(2), runtime_timeout=0.01)


async def test_load_that_an_envoy_does_not_acknowledge(world: World) -> None:
    FakeEnvoy(world, "silent").acks = False
    with pytest.raises(
        NotAcknowledgedError, match=r"new is READY on .*:9002, but not acknowledged .* silent"
    ):
        await world.mover.load("new", world.at(2), timeout=0.01)


async def test_load_of_what_is_withdrawn(world: World) -> None:
    held = await world.mover.withdraw("m", world.at(1), **NOW)
    with pytest.raises(WithdrawnError, match=f"by withdrawal {held.id}: cancel that first"):
        await world.mover.load("m", world.at(1))
    assert world.orders == []


async def test_every_error_is_a_move_error_with_one_line(world: World) -> None:
    with pytest.raises(MoveError) as caught:
        await world.mover.withdraw("absent", world.at(1), **NOW)
    assert "\n" not in str(caught.value)


def test_the_real_runtimes_are_the_default(world: World) -> None:
    mover = Mover(world.mesh, world.hub, world.publisher, world, world.builder.assignments)
    assert mover.withdrawals() == ()


async def test_a_timeout_of_the_runtime_counts_its_models_for_a_while(world: World) -> None:
    world.fail(2, FailureKind.TIMEOUT, "no answer within 2 s")
    assert (await world.mover.withdraw("m", world.at(1), **NOW)).model == "m"
