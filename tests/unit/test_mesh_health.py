"""What stays in force when runtimes fail: alone, together, and on the way back."""

from __future__ import annotations

from dataclasses import replace

from tests.mesh_events import (
    DISCOVERY,
    HOST,
    SOURCE,
    configured,
    eid,
    refused,
    reported,
    seen,
    status,
    timed_out,
    told,
)
from xds_server.mesh.events import FailureKind, ReportFailed
from xds_server.mesh.mesh import Failure, Mesh
from xds_server.mesh.model import Health

GONE = (Health.DOWN, "", False)


def serving(letters: str = "abc", at: float = 0.0) -> Mesh:
    """Each endpoint holds `m` and a model of its own name."""
    return told(configured(letters), *(reported(letter, f"m {letter}", at) for letter in letters))


def test_a_refusal_takes_the_models_at_once():
    mesh = serving()
    mesh.apply(refused("a", 5))
    assert seen(mesh, "a") == GONE
    assert seen(mesh, "b") == (Health.OK, "b m", True)
    assert status(mesh, "a").failure == Failure(FailureKind.REFUSED, "refused", 5, 5)
    assert status(mesh, "a").reported_at == 0
    mesh.apply(reported("a", "m", 6))
    assert seen(mesh, "a") == (Health.OK, "m", True)
    assert status(mesh, "a").failure is None


def test_a_timeout_keeps_the_models_for_the_grace_from_the_first_failure():
    mesh = serving()
    for at in (5, 8, 11, 14.9):
        mesh.apply(timed_out("a", at))
        assert seen(mesh, "a") == (Health.SUSPECT, "a m", True)
    assert status(mesh, "a").failure == Failure(FailureKind.TIMEOUT, "late", 5, 14.9)
    mesh.apply(timed_out("a", 15))
    assert seen(mesh, "a") == GONE


def test_a_bad_answer_has_the_grace_too():
    mesh = serving()
    mesh.apply(
        ReportFailed(endpoint=eid("a"), source=SOURCE, kind=FailureKind.BAD_ANSWER, error="no array", at=5)
    )
    assert seen(mesh, "a") == (Health.SUSPECT, "a m", True)
    assert mesh.next_deadline() == 15


def test_the_grace_also_ends_by_the_clock():
    mesh = serving()
    mesh.apply(timed_out("a", 5))
    before = mesh.service(HOST)
    mesh.take_dirty()
    assert mesh.next_deadline() == 15
    mesh.expire(14.9)
    assert mesh.service(HOST) is before
    assert not mesh.take_dirty()
    mesh.expire(15)
    assert mesh.take_dirty().services == {HOST}
    assert seen(mesh, "a") == GONE
    assert mesh.next_deadline() is None


def test_a_recovery_ends_the_deadline():
    mesh = serving()
    mesh.apply(timed_out("a", 5))
    mesh.apply(reported("a", "m", 6))
    assert mesh.next_deadline() is None


def test_a_refusal_within_the_grace_ends_it_and_a_later_timeout_does_not_bring_it_back():
    mesh = serving()
    mesh.apply(timed_out("a", 5))
    mesh.apply(refused("a", 6))
    assert seen(mesh, "a") == GONE
    mesh.apply(timed_out("a", 7))
    assert seen(mesh, "a") == GONE


def test_repeated_failures_of_a_lost_endpoint_change_nothing_but_its_status():
    mesh = serving()
    mesh.apply(refused("a", 5))
    before = mesh.service(HOST)
    mesh.take_dirty()
    mesh.apply(refused("a", 6))
    assert mesh.service(HOST) is before
    assert not mesh.take_dirty()
    assert status(mesh, "a").failure.last == 6


def test_an_endpoint_that_never_answered_is_unhealthy_once_it_refuses_or_its_grace_is_over():
    mesh = told(configured("abc"), reported("c", "m", 0), refused("a", 1), timed_out("b", 1))
    assert seen(mesh, "a") == GONE
    assert seen(mesh, "b") == (Health.SUSPECT, "", True)
    mesh.expire(11)
    assert seen(mesh, "b") == GONE


def test_when_all_fail_together_the_last_picture_stays():
    mesh = serving()
    healthy = mesh.service(HOST)
    mesh.apply(refused("a", 5))
    mesh.apply(timed_out("b", 5.5))
    assert seen(mesh, "a") == GONE
    mesh.apply(refused("c", 6))
    assert mesh.service(HOST) == healthy
    assert [seen(mesh, x) for x in "abc"] == [(Health.STALE, f"{x} m", True) for x in "abc"]
    mesh.expire(10_000)
    for at in range(7, 1000, 50):
        for letter in "abc":
            mesh.apply(refused(letter, at))
    assert mesh.service(HOST) == healthy


def test_a_recovery_of_one_does_not_drop_the_others_before_they_fail_again():
    mesh = serving()
    for letter, at in (("a", 5), ("b", 5.2), ("c", 5.4), ("a", 60), ("b", 60.2), ("c", 60.4)):
        mesh.apply(refused(letter, at))
    mesh.apply(reported("a", "m a", 61))
    assert [seen(mesh, x)[0] for x in "abc"] == [Health.OK, Health.STALE, Health.STALE]
    mesh.expire(61.1)
    mesh.apply(refused("b", 61.2))
    assert seen(mesh, "b") == GONE
    assert seen(mesh, "c") == (Health.STALE, "c m", True)
    mesh.apply(reported("c", "m c", 61.4))
    assert seen(mesh, "c") == (Health.OK, "c m", True)
    assert seen(mesh, "b") == GONE
    mesh.apply(reported("b", "m b", 62))
    assert seen(mesh, "b") == (Health.OK, "b m", True)


def test_a_poll_that_began_before_the_recovery_and_times_out_after_it_drops_nothing():
    """The timeouts under way when a network comes back end one after the other."""
    mesh = serving("ab")
    for at in (5, 30, 58):
        mesh.apply(timed_out("a", at, at - 2))
        mesh.apply(timed_out("b", at + 0.5, at - 1.5))
    mesh.apply(reported("a", "m", 60))
    mesh.apply(timed_out("b", 61.5, 59.5))
    assert seen(mesh, "b") == (Health.STALE, "b m", True)
    mesh.apply(timed_out("b", 63.5, 61.5))
    assert seen(mesh, "b") == GONE


def test_after_the_recovery_a_failure_that_is_old_enough_has_no_second_grace():
    mesh = serving("ab")
    for at in (5, 30, 59):
        mesh.apply(timed_out("a", at))
        mesh.apply(timed_out("b", at + 0.5))
    mesh.apply(reported("a", "m", 60))
    assert seen(mesh, "b") == (Health.STALE, "b m", True)
    mesh.apply(timed_out("b", 61))
    assert seen(mesh, "b") == GONE


def test_a_single_replica_keeps_its_last_picture():
    mesh = serving("a")
    mesh.apply(refused("a", 5))
    assert seen(mesh, "a") == (Health.STALE, "a m", True)
    mesh.apply(reported("a", "", 9))
    assert seen(mesh, "a") == (Health.OK, "", True)


def test_a_replica_that_was_lost_long_before_does_not_come_back_with_the_others():
    mesh = serving()
    for at in range(100, 3700, 100):
        mesh.apply(refused("a", at))
        mesh.apply(reported("b", "m b", at + 1))
        mesh.apply(reported("c", "m c", at + 2))
    mesh.apply(refused("b", 3700))
    mesh.apply(refused("c", 3701))
    assert seen(mesh, "a") == GONE
    assert [seen(mesh, x) for x in "bc"] == [(Health.STALE, f"{x} m", True) for x in "bc"]
    mesh.apply(refused("a", 3750))
    mesh.apply(reported("b", "m b", 3751))
    assert [seen(mesh, x)[0] for x in "abc"] == [Health.DOWN, Health.OK, Health.STALE]


def test_removing_the_replica_that_works_does_not_bring_back_the_lost_ones():
    mesh = serving()
    mesh.apply(refused("b", 5))
    mesh.apply(refused("c", 5))
    mesh.apply(reported("a", "m a", 3600))
    mesh.apply(configured("bc"))
    assert [seen(mesh, x) for x in "bc"] == [GONE, GONE]


def test_the_window_is_two_polls_or_the_grace():
    """Discovery: interval 1, timeout 2, grace 10; so ten seconds."""
    for apart, first in ((9, Health.STALE), (11, Health.DOWN)):
        mesh = serving("ab")
        mesh.apply(refused("a", 100))
        mesh.apply(reported("b", "m b", 100 + apart - 0.5))
        mesh.apply(refused("b", 100 + apart))
        assert seen(mesh, "a")[0] is first
        assert seen(mesh, "b") == (Health.STALE, "b m", True)


def test_an_endpoint_that_is_new_says_nothing_about_a_common_failure():
    mesh = serving("ab")
    mesh.apply(refused("a", 5))
    mesh.apply(refused("b", 5.5))
    mesh.apply(configured("abcd"))
    mesh.apply(refused("c", 3600))
    assert [seen(mesh, x)[0] for x in "abcd"] == [Health.STALE, Health.STALE, Health.DOWN, Health.PENDING]
    mesh.apply(reported("d", "m", 3601))
    assert [seen(mesh, x)[0] for x in "abcd"] == [Health.STALE, Health.STALE, Health.DOWN, Health.OK]
    mesh.apply(refused("a", 3602))
    assert seen(mesh, "a") == GONE


def test_the_first_answer_ever_of_one_that_failed_so_far_is_a_recovery():
    mesh = serving("ab")
    mesh.apply(configured("abc"))
    for letter, at in (("a", 5), ("b", 5.5), ("c", 3600), ("a", 3600), ("b", 3600.5)):
        mesh.apply(refused(letter, at))
    mesh.apply(reported("c", "m", 3601))
    assert [seen(mesh, x)[0] for x in "abc"] == [Health.STALE, Health.STALE, Health.OK]
    mesh.apply(refused("a", 3602))
    assert [seen(mesh, x)[0] for x in "abc"] == [Health.DOWN, Health.STALE, Health.OK]


def test_rolling_restarts_that_do_not_overlap_are_no_common_failure():
    mesh = serving("ab")
    mesh.apply(refused("a", 5))
    mesh.apply(reported("a", "m a", 8))
    mesh.apply(refused("b", 8.5))
    assert seen(mesh, "b") == GONE


def test_a_shorter_grace_in_the_documents_applies_to_a_run_that_has_begun():
    mesh = serving("ab")
    mesh.apply(timed_out("a", 5))
    mesh.apply(configured("ab", discovery=replace(DISCOVERY, grace=3)))
    assert mesh.next_deadline() == 8
    mesh.expire(8)
    assert seen(mesh, "a") == GONE
