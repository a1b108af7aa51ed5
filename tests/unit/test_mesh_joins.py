"""Several sources about one endpoint: which count for a pool's way, and how they join."""

from __future__ import annotations

import pytest

from tests.mesh_events import (
    DISCOVERY,
    HOST,
    SOURCE,
    configured,
    eid,
    lost,
    placed,
    refused,
    reported,
    seen,
    status,
    timed_out,
    told,
    withdrawn,
)
from xds_server.mesh.events import ReportsForgotten
from xds_server.mesh.model import Health
from xds_server.mesh.origins import Origin, origin_of
from xds_server.mesh.pools import Annotations, ModelMesh, Push

ONE, TWO, REPORT, REGISTRY = "annotation/one", "annotation/two", "report", "modelmesh"
MESH = ModelMesh("file", "mm/", 30)
CONFIRMED = ModelMesh("file", "mm/", 30, DISCOVERY)
REPORTED = ModelMesh("file", "mm/", 30, None, push=Push(5))


@pytest.mark.parametrize(
    ("source", "origin"),
    [
        (SOURCE, Origin.ASKED),
        ("tensorflow-serving", Origin.ASKED),
        ("annotation", Origin.ANNOTATION),
        (ONE, Origin.ANNOTATION),
        (REPORT, Origin.REPORT),
        (REGISTRY, Origin.REGISTRY),
    ],
)
def test_a_name_tells_its_kind(source, origin):
    assert origin_of(source) is origin


def test_only_the_sources_of_the_pools_way_count():
    events = [reported("a", "asked", 9), reported("a", "one", 1, ONE), reported("a", "pushed", 1, REPORT)]
    for discovery, model in ((DISCOVERY, "asked"), (Annotations(), "one"), (Push(), "pushed")):
        mesh = told(configured("a", discovery=discovery), *events)
        assert seen(mesh, "a") == (Health.OK, model, True)
        assert [each.rows for each in status(mesh, "a").sources] == [1]


def test_annotations_of_several_writers_are_joined():
    mesh = told(
        configured("a", discovery=Annotations()),
        reported("a", "", 1, "annotation"),
        reported("a", "m n", 1, ONE),
        reported("a", "n=UNAVAILABLE o", 2, TWO),
    )
    assert seen(mesh, "a") == (Health.OK, "m n o", True), "READY by one is READY, whatever another says"
    mesh.apply(ReportsForgotten(endpoint=eid("a"), source=ONE))
    assert seen(mesh, "a") == (Health.OK, "o", True)


def test_a_pod_that_was_seen_without_any_annotation_is_heard_and_has_none():
    mesh = told(configured("ab", discovery=Annotations()), reported("a", "", 1, "annotation"))
    assert not mesh.service(HOST).known
    mesh.apply(reported("b", "m", 1, ONE))
    assert mesh.service(HOST).known
    assert seen(mesh, "a") == (Health.OK, "", True)


@pytest.mark.parametrize(("discovery", "source"), [(Annotations(), ONE), (Push(), REPORT), (MESH, REGISTRY)])
def test_what_is_out_of_reach_loses_freshness_but_no_model_for_as_long_as_it_takes(discovery, source):
    mesh = told(configured("ab", discovery=discovery))
    for letter in "ab":
        mesh.apply(
            reported(letter, "m@0", 1, source) if source == REGISTRY else reported(letter, "m", 1, source)
        )
    before = mesh.service(HOST)
    mesh.apply(lost("a", 5, source))
    mesh.expire(100_000)
    assert seen(mesh, "a") == (Health.STALE, "m", True)
    assert seen(mesh, "b") == (Health.OK, "m", True)
    assert mesh.service(HOST) is before
    assert mesh.next_deadline() is None
    assert (status(mesh, "a").failure.since, status(mesh, "a").reported_at) == (5, 1)
    mesh.apply(reported("a", "n", 100_001, source))
    assert seen(mesh, "a") == (Health.OK, "n", True)


def test_a_reporter_says_what_it_finds_and_its_grace_begins_when_it_is_back():
    mesh = told(
        configured("ab", discovery=Push(10)), reported("a", "m", 1, REPORT), reported("b", "m", 1, REPORT)
    )
    mesh.apply(lost("a", 5, REPORT))
    mesh.apply(timed_out("a", 100, source=REPORT))
    assert seen(mesh, "a") == (Health.SUSPECT, "m", True)
    assert mesh.next_deadline() == 110
    mesh.expire(110)
    assert seen(mesh, "a") == (Health.DOWN, "", False)
    mesh.apply(refused("b", 111, REPORT))
    assert seen(mesh, "b") == (Health.DOWN, "", False), (
        "each reporter is beside its runtime: no common failure"
    )
    mesh.apply(lost("b", 112, REPORT))
    assert seen(mesh, "b") == (Health.DOWN, "", False)


def test_a_copy_in_the_registry_counts_from_its_age_on_without_another_event():
    mesh = told(
        configured("a", discovery=MESH), reported("a", "m@40 n@35 old@2 bad=UNAVAILABLE", 10, REGISTRY)
    )
    assert seen(mesh, "a") == (Health.OK, "old", True)
    assert mesh.next_deadline() == 35
    mesh.expire(35)
    assert placed(mesh, "a").models == ("n", "old")
    assert mesh.next_deadline() == 40
    mesh.expire(40)
    assert placed(mesh, "a").models == ("m", "n", "old")
    assert mesh.next_deadline() is None
    rows = {row.name: (row.state, row.reason) for row in status(mesh, "a").models}
    assert rows == {
        "m": ("READY", "by age"),
        "n": ("READY", "by age"),
        "old": ("READY", "by age"),
        "bad": ("UNAVAILABLE", ""),
    }


@pytest.mark.parametrize(("discovery", "source"), [(CONFIRMED, SOURCE), (REPORTED, REPORT)])
def test_a_fresh_confirmation_is_exact_both_ways(discovery, source):
    mesh = told(
        configured("a", discovery=discovery),
        reported("a", "m:m-1@40 n:n-1@2", 10, REGISTRY),
        reported("a", "m-1 n-1=LOADING stray", 11, source),
    )
    assert seen(mesh, "a") == (Health.OK, "m", True)
    assert [row.reason for row in status(mesh, "a").models] == ["confirmed", ""]
    mesh.expire(1000)
    assert placed(mesh, "a").models == ("m",), "age does not count beside a runtime that says otherwise"
    mesh.apply(reported("a", "m-1 n-1", 1001, source))
    assert placed(mesh, "a").models == ("m", "n"), "and what the registry does not list never counts"


def test_without_a_fresh_confirmation_what_it_last_said_and_the_age_count():
    mesh = told(
        configured("ab", discovery=REPORTED),
        reported("a", "m:m-1@40 n:n-1@20", 10, REGISTRY),
        reported("a", "m-1", 11, REPORT),
        reported("b", "o@5", 10, REGISTRY),
    )
    assert (seen(mesh, "a")[1], seen(mesh, "b")[1]) == ("m", "o"), "b has no reporter: the age rule"
    mesh.apply(lost("a", 12, REPORT))
    mesh.expire(20)
    assert placed(mesh, "a").models == ("m", "n")


def test_a_runtime_that_is_gone_loses_its_models_though_the_registry_still_lists_it():
    mesh = told(configured("ab", discovery=CONFIRMED))
    for letter in "ab":
        mesh.apply(reported(letter, "m:m-1@2", 10, REGISTRY))
        mesh.apply(reported(letter, "m-1", 10))
    mesh.apply(refused("a", 11))
    assert seen(mesh, "a") == (Health.DOWN, "", False)
    mesh.apply(refused("b", 11.5))
    assert seen(mesh, "a") == seen(mesh, "b") == (Health.OK, "m", True), "all at once is our own trouble"


def test_a_reporter_that_confirms_and_cannot_read_its_runtime_has_the_grace_of_push():
    mesh = told(
        configured("a", discovery=REPORTED),
        reported("a", "m:m-1@2", 10, REGISTRY),
        reported("a", "m-1", 10, REPORT),
        timed_out("a", 20, source=REPORT),
    )
    assert seen(mesh, "a") == (Health.OK, "m", True)
    assert mesh.next_deadline() == 25
    mesh.expire(25)
    assert seen(mesh, "a") == (Health.DOWN, "", False)


def test_a_confirming_runtime_that_never_answered_says_nothing():
    mesh = told(configured("ab", discovery=CONFIRMED))
    for letter in "ab":
        mesh.apply(reported(letter, "m:m-1@2", 10, REGISTRY))
        mesh.apply(refused(letter, 10))
    assert seen(mesh, "a") == seen(mesh, "b") == (Health.OK, "m", True)


def test_a_pool_is_known_only_by_what_lists_and_waits_for_what_confirms():
    mesh = told(configured("a", discovery=CONFIRMED), reported("a", "m-1", 1))
    assert not mesh.service(HOST).known, "the runtimes alone do not tell clients' names"
    mesh.apply(reported("a", "m:m-1@40", 2, REGISTRY))
    assert mesh.service(HOST).known
    waiting = told(configured("a", discovery=REPORTED), reported("a", "m@0", 2, REGISTRY))
    assert not waiting.service(HOST).known
    assert waiting.next_deadline() == 12
    waiting.expire(12)
    assert waiting.service(HOST).known


def test_a_confirming_runtime_does_not_end_a_withdrawal_of_a_name_that_it_does_not_know():
    mesh = told(
        configured("a", discovery=CONFIRMED),
        reported("a", "m:m-1@2", 10, REGISTRY),
        reported("a", "m-1", 10),
        withdrawn("a", "m", 11),
        reported("a", "m-1", 12),
    )
    assert placed(mesh, "a").models == ()
    mesh.apply(reported("a", "", 13, REGISTRY))
    assert mesh.withdrawals() == ()
