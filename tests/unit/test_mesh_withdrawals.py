"""A withdrawn model gets no new requests on an endpoint until it is gone there, or cancelled."""

from __future__ import annotations

from tests.mesh_events import (
    HOST,
    configured,
    eid,
    placed,
    refused,
    reported,
    status,
    told,
    withdrawn,
)
from xds_server.mesh.events import WithdrawalCancelled
from xds_server.mesh.mesh import Withdrawal
from xds_server.mesh.pools import StaticModels


def test_a_withdrawal_takes_the_model_off_one_endpoint_only():
    mesh = told(configured("ab"), reported("a", "m n"), reported("b", "m"))
    before = mesh.service(HOST)
    mesh.take_dirty()
    mesh.apply(withdrawn("a", "m"))
    assert mesh.take_dirty().services == {HOST}
    assert placed(mesh, "a").models == ("n",)
    assert placed(mesh, "b") is before.endpoints[1]
    shown = status(mesh, "a")
    assert (shown.routed, shown.withdrawn) == (("n",), ("m",))
    assert mesh.withdrawals() == (Withdrawal("w", eid("a"), "m", 2.0),)


def test_it_holds_while_the_runtime_says_ready_or_nothing():
    mesh = told(configured("ab"), reported("a", "m"), withdrawn("a", "m"))
    for event in (reported("a", "m", 3), refused("a", 4), reported("a", "m", 5)):
        mesh.apply(event)
        assert placed(mesh, "a").models == ()
        assert mesh.withdrawals()


def test_it_ends_when_the_runtime_reports_the_model_gone():
    for report in (reported("a", "n", 3), reported("a", "m=UNAVAILABLE n", 3)):
        mesh = told(configured("a"), reported("a", "m n"), withdrawn("a", "m"), report)
        assert mesh.withdrawals() == ()
        mesh.apply(reported("a", "m n", 4))
        assert placed(mesh, "a").models == ("m", "n")


def test_a_report_from_before_its_start_does_not_end_it():
    mesh = told(configured("a"), reported("a", "m n", 0), reported("a", "n", 1), withdrawn("a", "m", 2))
    assert mesh.withdrawals()
    mesh.apply(reported("a", "n", 2))
    assert mesh.withdrawals()
    mesh.apply(reported("a", "n", 3))
    assert not mesh.withdrawals()


def test_a_withdrawal_that_arrives_after_the_report_that_ends_it_never_holds():
    mesh = told(configured("a"), reported("a", "m", 1), reported("a", "", 3), reported("a", "m", 4))
    mesh.apply(withdrawn("a", "m", 2))
    assert mesh.withdrawals() == ()
    assert placed(mesh, "a").models == ("m",)


def test_it_ends_when_it_is_cancelled():
    mesh = told(configured("a"), reported("a", "m"), withdrawn("a", "m"))
    mesh.apply(WithdrawalCancelled(id="other"))
    assert placed(mesh, "a").models == ()
    mesh.apply(WithdrawalCancelled(id="w"))
    assert placed(mesh, "a").models == ("m",)
    assert mesh.withdrawals() == ()


def test_two_withdrawals_of_one_model_both_have_to_end():
    mesh = told(configured("a"), reported("a", "m"), withdrawn("a", "m"), withdrawn("a", "m", 2.5, "v"))
    assert [w.id for w in mesh.withdrawals()] == ["v", "w"]
    mesh.apply(WithdrawalCancelled(id="w"))
    assert placed(mesh, "a").models == ()
    mesh.apply(WithdrawalCancelled(id="v"))
    assert placed(mesh, "a").models == ("m",)


def test_it_ends_with_its_endpoint():
    mesh = told(configured("ab"), reported("a", "m"), withdrawn("a", "m"))
    mesh.apply(configured("b"))
    assert mesh.withdrawals() == ()
    mesh.apply(configured("ab"))
    assert placed(mesh, "a").models == ("m",)


def test_it_works_on_fixed_placements():
    static = StaticModels({"10.0.0.1:8080": ("m", "n")})
    mesh = told(configured("a", discovery=static), withdrawn("a", "m"))
    assert placed(mesh, "a").models == ("n",)
    mesh.apply(WithdrawalCancelled(id="w"))
    assert placed(mesh, "a").models == ("m", "n")


def test_a_stale_endpoint_can_be_withdrawn_from():
    mesh = told(configured("a"), reported("a", "m n"), refused("a", 2), withdrawn("a", "m", 3))
    assert placed(mesh, "a").models == ("n",)
