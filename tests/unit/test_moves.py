"""Moves on a real mesh, builder, publisher and hub: what waits for what, what every failure leaves behind."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moves_world import HOST, FakeEnvoy, World, configuration

from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.model import EndpointId
from xds_server.mesh.names import Names
from xds_server.moves.errors import (
    AmbiguousEndpointError,
    CancelledMoveError,
    LastHolderError,
    MoveError,
    NotAcknowledgedError,
    NotHeldError,
    UnknownEndpointError,
    UnknownWithdrawalError,
)
from xds_server.moves.ports import Withdrawn

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


# Withdraw


async def test_a_withdrawal_waits_for_the_acknowledgement_of_every_envoy(world: World) -> None:
    quick, late = FakeEnvoy(world, "quick"), FakeEnvoy(world, "late")
    late.acks = False
    task = asyncio.create_task(world.mover.withdraw("m", world.at(1), **NOW))
    await waiting_for_envoy(world, task)
    assert world.routed(1) == ()
    late.acks = True
    late.session.close()
    again = FakeEnvoy(world, "late")
    done = await task
    assert done.acknowledged == tuple(sorted((quick.session.id, again.session.id)))
    assert (done.model, done.endpoint, done.service) == ("m", world.at(1), HOST)
    assert done.left == ()
    assert [each.id for each in world.mover.withdrawals()] == [done.id]


async def test_a_withdrawal_waits_for_the_shards_of_all_names_that_go_with_the_model() -> None:
    world = World()
    documents = configuration(*world.ports)
    models = replace(
        documents.pools[0],
        names=Names(aliases={"best": ("m",)}, fallbacks={"spare": ("best",)}),
        layout=PoolLayout(LayoutKind.SHARDED, 64),
    )
    world.configure(replace(documents, pools=(models, *documents.pools[1:])))
    world.start(m="1,2")
    for name in ("m", "best", "spare"):
        late = FakeEnvoy(world, "late", world.builder.assignments(HOST, name))
        late.acks = False
        task = asyncio.create_task(world.mover.withdraw("m", world.at(1), **NOW))
        await waiting_for_envoy(world, task)
        late.acks = True
        late.session.close()
        FakeEnvoy(world, "late", world.builder.assignments(HOST, name))
        await world.mover.cancel((await task).id)


async def test_no_envoy_is_waited_for_where_none_is_connected(world: World) -> None:
    done = await world.mover.withdraw("m", "127.0.0.1:9101", **NOW)
    assert done.acknowledged == ()
    assert done.endpoint == "127.0.0.1:9001"
    assert asdict(done)["seconds"]["total"] >= 0


async def test_settle_and_drain_pass_after_the_acknowledgement(world: World) -> None:
    FakeEnvoy(world, "a")
    done = await world.mover.withdraw("m", world.at(1), settle=0.03, drain=0.02)
    assert done.seconds.acknowledged < 0.03
    assert done.seconds.total >= 0.05


async def test_the_last_holder_stays_unless_forced(world: World) -> None:
    with pytest.raises(LastHolderError, match=r"127\.0\.0\.1:9003 is the last endpoint .* that has solo"):
        await world.mover.withdraw("solo", world.at(3), **NOW)
    assert world.routed(3) == ("solo",)
    assert world.mover.withdrawals() == ()
    await world.mover.withdraw("solo", world.at(3), force=True, **NOW)
    assert world.routed(3) == ()


async def test_two_withdrawals_at_once_leave_one_holder(world: World) -> None:
    results = await asyncio.gather(
        world.mover.withdraw("m", world.at(1), settle=0.01, drain=0.0),
        world.mover.withdraw("m", world.at(2), settle=0.01, drain=0.0),
        return_exceptions=True,
    )
    assert [type(result).__name__ for result in results] == ["Withdrawn", "LastHolderError"]
    assert (world.routed(1), world.routed(2)) == ((), ("m",))


async def test_a_holder_that_is_down_is_no_other_holder(world: World) -> None:
    world.fail(2)
    with pytest.raises(LastHolderError):
        await world.mover.withdraw("m", world.at(1), **NOW)


async def test_what_is_not_routed_there_is_not_withdrawn(world: World) -> None:
    with pytest.raises(
        NotHeldError, match=r"solo is not routed to .*:9001: the runtime does not list it.*: m"
    ):
        await world.mover.withdraw("solo", world.at(1), **NOW)
    done = await world.mover.withdraw("m", world.at(1), **NOW)
    with pytest.raises(NotHeldError, match=rf"already withdrawn .* by withdrawal {done.id}"):
        await world.mover.withdraw("m", world.at(1), **NOW)


async def test_an_unknown_endpoint_is_answered_with_those_there_are(world: World) -> None:
    with pytest.raises(UnknownEndpointError, match=r"no endpoint 127\.0\.0\.1:1; .*127\.0\.0\.1:9001"):
        await world.mover.withdraw("m", "127.0.0.1:1", **NOW)
    with pytest.raises(
        UnknownEndpointError, match=r"in service static\.example; there is: 127\.0\.0\.1:7001$"
    ):
        await world.mover.withdraw("m", world.at(1), service="static.example", **NOW)
    with pytest.raises(UnknownEndpointError, match=r"no service 'nope'; there is: models\.example"):
        await world.mover.withdraw("m", world.at(1), service="nope", **NOW)


async def test_an_endpoint_of_two_services_must_be_told_apart() -> None:
    world = World(other=(9001,)).start(m="1,2")
    with pytest.raises(AmbiguousEndpointError, match=r"models\.example .*, other\.example .*say which"):
        await world.mover.withdraw("m", world.at(1), **NOW)
    assert (await world.mover.withdraw("m", world.at(1), service=HOST, **NOW)).service == HOST


async def test_an_envoy_that_stays_silent_ends_the_withdrawal(world: World) -> None:
    envoy = FakeEnvoy(world, "silent")
    envoy.acks = False
    with pytest.raises(NotAcknowledgedError) as caught:
        await world.mover.withdraw("m", world.at(1), timeout=0.02, **NOW)
    assert f"not acknowledged within 0.02 s by {envoy.session.id}" in str(caught.value)
    assert "the withdrawal is cancelled and m is routed to 127.0.0.1:9001 again" in str(caught.value)
    assert world.routed(1) == ("m",)
    assert world.mover.withdrawals() == ()


async def test_an_envoy_that_rejects_ends_the_withdrawal_at_once_and_is_quoted(world: World) -> None:
    envoy = FakeEnvoy(world, "strict")
    envoy.nack = "Proto constraint validation failed"
    with pytest.raises(NotAcknowledgedError, match=r"strict.* rejected the change: Proto constraint"):
        await world.mover.withdraw("m", world.at(1), timeout=30, **NOW)
    assert world.routed(1) == ("m",)


async def test_with_keep_the_withdrawal_stays(world: World) -> None:
    envoy = FakeEnvoy(world, "silent")
    envoy.acks = False
    with pytest.raises(NotAcknowledgedError, match="stays"):
        await world.mover.withdraw("m", world.at(1), timeout=0.01, keep=True, **NOW)
    assert world.routed(1) == ()
    assert len(world.mover.withdrawals()) == 1


async def test_an_envoy_that_does_not_come_back_is_named_as_left() -> None:
    world = World(return_limit=0.02).start(m="1,2")
    silent, other = FakeEnvoy(world, "silent"), FakeEnvoy(world, "other")
    silent.acks = False
    task = asyncio.create_task(world.mover.withdraw("m", world.at(1), **NOW))
    await waiting_for_envoy(world, task)
    silent.close()
    done = await task
    assert done.left == (silent.session.id,)
    assert done.acknowledged == (other.session.id,)
    assert done.seconds.acknowledged >= 0.02


async def test_an_envoy_that_leaves_is_late_when_the_time_is_over_first(world: World) -> None:
    silent = FakeEnvoy(world, "silent")
    silent.acks = False
    task = asyncio.create_task(world.mover.withdraw("m", world.at(1), timeout=0.02, **NOW))
    await waiting_for_envoy(world, task)
    silent.close()
    with pytest.raises(NotAcknowledgedError, match=silent.session.id):
        await task


async def test_the_caller_going_away_ends_the_withdrawal(world: World) -> None:
    envoy = FakeEnvoy(world, "silent")
    envoy.acks = False
    task = asyncio.create_task(world.mover.withdraw("m", world.at(1)))
    await waiting_for_envoy(world, task)
    before = world.hub.serial
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.routed(1) == ("m",)
    assert world.hub.serial == before + 1
    assert world.mover.counts.failed["withdraw"] == 1


async def test_the_caller_going_away_while_draining_ends_the_withdrawal(world: World) -> None:
    task = asyncio.create_task(world.mover.withdraw("m", world.at(1), settle=30))
    await waiting_for_envoy(world, task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.routed(1) == ("m",)


async def test_a_withdrawal_ends_when_the_runtime_reports_the_model_gone(world: World) -> None:
    done = await world.mover.withdraw("m", world.at(1), **NOW)
    world.loaded[world.id(1)].clear()
    world.report(world.id(1))
    assert world.mover.withdrawals() == ()
    with pytest.raises(UnknownWithdrawalError, match=done.id):
        await world.mover.cancel(done.id)


async def test_cancel_routes_the_model_again(world: World) -> None:
    done = await world.mover.withdraw("m", world.at(1), **NOW)
    before = world.hub.serial
    assert (await world.mover.cancel(done.id)).model == "m"
    assert world.routed(1) == ("m",)
    assert world.hub.serial == before + 1


@pytest.mark.parametrize("connected", [True, False], ids=["waiting for Envoy", "draining"])
async def test_cancel_ends_the_move_that_waits(world: World, *, connected: bool) -> None:
    if connected:
        FakeEnvoy(world, "silent").acks = False
    task = asyncio.create_task(world.mover.withdraw("m", world.at(1), settle=30))
    await waiting_for_envoy(world, task)
    await world.mover.cancel(world.mover.withdrawals()[0].id)
    with pytest.raises(CancelledMoveError):
        await task
    assert world.routed(1) == ("m",)


async def test_a_model_that_came_back_meanwhile_is_not_called_withdrawn(world: World) -> None:
    task = asyncio.create_task(world.mover.withdraw("m", world.at(1), settle=0.02, drain=0.0))
    await waiting_for_envoy(world, task)
    world.loaded[world.id(1)].clear()
    world.report(world.id(1))
    world.loaded[world.id(1)].add("m")
    world.report(world.id(1))
    with pytest.raises(CancelledMoveError, match="loaded it again"):
        await task


@pytest.mark.parametrize("action", ["withdraw", "unload"])
@pytest.mark.parametrize("force", [False, True])
async def test_the_other_holder_may_be_lost_while_this_one_drains(
    world: World, action: str, *, force: bool
) -> None:
    """Else it would be called safe to unload the model that is then nowhere."""
    move = getattr(world.mover, action)
    task = asyncio.create_task(move("m", world.at(1), settle=0, drain=0.05, force=force))
    await world.until(lambda: world.routed(1) == ())
    world.fail(2)
    if force:
        await task
        assert world.routed(1) == ()
    else:
        with pytest.raises(LastHolderError, match=r"last endpoint.*m is routed to .* again"):
            await task
        assert world.routed(1) == ("m",)
        assert world.orders == []
    assert len(world.mover.withdrawals()) == (force and action == "withdraw")


async def test_an_endpoint_removed_while_it_drains_is_withdrawn_for_good(world: World) -> None:
    task = asyncio.create_task(world.mover.withdraw("m", world.at(1), settle=0, drain=0.05))
    await world.until(lambda: world.routed(1) == ())
    world.configure(configuration(9003))
    assert (await task).endpoint == world.at(1)
    assert world.mover.withdrawals() == ()


async def test_an_endpoint_removed_before_the_acknowledgement_is_not_called_routed_again(
    world: World,
) -> None:
    FakeEnvoy(world, "silent").acks = False
    task = asyncio.create_task(world.mover.withdraw("m", world.at(1), settle=0, drain=0, timeout=0.05))
    await world.until(lambda: world.routed(1) == ())
    world.configure(configuration(9002, 9003))
    with pytest.raises(NotAcknowledgedError, match="had ended before"):
        await task


async def test_before_the_first_publication_nothing_is_left_behind() -> None:
    world = World()
    for port in world.ports:
        world.loaded[EndpointId(HOST, "127.0.0.1", port)] = {"m"}
        world.report(EndpointId(HOST, "127.0.0.1", port))
    with pytest.raises(RuntimeError, match="not been heard"):
        await world.mover.withdraw("m", world.at(1), **NOW)
    assert world.mover.withdrawals() == ()


# Whatever is asked for at the same time


class Asked(NamedTuple):
    replica: int
    action: str
    settle: float
    give_up_after: float | None


ASKED = st.builds(
    Asked,
    st.integers(1, 3),
    st.sampled_from(["withdraw", "unload"]),
    st.sampled_from([0.0, 0.002]),
    st.sampled_from([None, 0.0, 0.001]),
)


@settings(max_examples=20, deadline=None)
@given(asked=st.lists(ASKED, min_size=1, max_size=6), silent=st.booleans())
def test_no_mixture_of_moves_leaves_a_model_without_a_replica(asked: list[Asked], silent: bool) -> None:
    async def scenario() -> None:
        world = World().start(m="1,2,3")
        FakeEnvoy(world, "a").acks = not silent

        async def move(each: Asked) -> object:
            act = getattr(world.mover, each.action)
            async with asyncio.timeout(each.give_up_after):
                return await act("m", world.at(each.replica), settle=each.settle, drain=0.0, timeout=0.02)

        results = await asyncio.gather(*map(move, asked), return_exceptions=True)
        assert all(isinstance(r, Withdrawn | MoveError | TimeoutError) for r in results), results
        await world.mover.close()
        assert any(world.routed(number) for number in (1, 2, 3))
        standing = {each.id for each in world.mover.withdrawals()}
        assert standing <= {result.id for result in results if isinstance(result, Withdrawn)}
        for number in (1, 2, 3):
            loaded = "m" in world.loaded[world.id(number)]
            held = any(each.endpoint == world.id(number) for each in world.mover.withdrawals())
            assert (world.routed(number) == ("m",)) == (loaded and not held)

    asyncio.run(scenario())
