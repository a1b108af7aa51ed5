"""What the mesh makes of configuration and good reports, and that it keeps what did not change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mesh_events import (
    DISCOVERY,
    HOST,
    SOURCE,
    configuration,
    configured,
    eid,
    endpoint,
    placed,
    refused,
    reported,
    seen,
    status,
    timed_out,
    told,
)
from xds_server.mesh.events import ConfigurationReplaced, ModelsReported, ModelState, ReportsForgotten
from xds_server.mesh.mesh import Dirty, Mesh
from xds_server.mesh.model import Endpoint, EndpointId, Health, Service, ServicePort
from xds_server.mesh.pools import StaticModels
from xds_server.mesh.routing import Configuration


def test_only_ready_rows_are_routed_and_all_are_shown():
    mesh = told(configured("a"), reported("a", "b=LOADING a c=UNAVAILABLE d=UNKNOWN e"))
    assert placed(mesh, "a").models == ("a", "e")
    shown = status(mesh, "a")
    assert shown.routed == ("a", "e")
    assert [row.name for row in shown.models] == ["b", "a", "c", "d", "e"]
    assert (shown.source, shown.reported_at, shown.failure) == (SOURCE, 1.0, None)


def test_a_name_is_ready_if_any_version_is():
    rows = (ModelState("m", "1", "UNAVAILABLE"), ModelState("m", "2"), ModelState("m", "3"))
    assert placed(told(configured("a"), reported("a", rows)), "a").models == ("m",)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True))
def test_names_of_any_characters_are_routed_sorted(names):
    rows = tuple(ModelState(name) for name in names)
    assert placed(told(configured("a"), reported("a", rows)), "a").models == tuple(sorted(names))


def test_a_report_that_came_before_the_configuration_is_joined():
    mesh = told(reported("a", "m"), configured("a"))
    assert seen(mesh, "a") == (Health.OK, "m", True)


def test_an_endpoint_that_was_never_asked_is_pending_and_usable():
    mesh = told(configured("ab"), reported("a", "m"))
    assert seen(mesh, "b") == (Health.PENDING, "", True)


def test_a_pool_is_unknown_until_the_first_good_report_of_any_endpoint():
    mesh = told(configured("ab"))
    assert not mesh.service(HOST).known
    mesh.apply(refused("a", 1))
    assert not mesh.service(HOST).known
    mesh.apply(reported("b", "", 2))
    assert mesh.service(HOST).known
    mesh.apply(refused("b", 3))
    assert mesh.service(HOST).known


def test_a_silent_endpoint_of_a_pool_that_begins_is_waited_for_so_that_it_keeps_its_models():
    mesh = told(configured("abc"), reported("a", "m", 1), timed_out("b", 2))
    assert not mesh.service(HOST).known, "b is slow, c was not asked yet"
    mesh.apply(refused("c", 2))
    assert not mesh.service(HOST).known
    mesh.take_dirty()
    mesh.apply(reported("b", "n", 4))
    assert mesh.take_dirty().services == {HOST}
    assert mesh.service(HOST).known
    mesh.apply(timed_out("b", 5))
    assert mesh.service(HOST).known
    assert mesh.next_deadline() == 12, "the grace of c"


@pytest.mark.parametrize(("grace", "until"), [(10, 11), (3, 4), (600, 11)])
def test_a_silent_endpoint_is_waited_for_during_its_grace_and_ten_seconds_at_most(grace, until):
    mesh = told(
        configured("ab", discovery=replace(DISCOVERY, grace=grace)),
        timed_out("b", 0.9),
        reported("a", "m", 1),
    )
    mesh.take_dirty()
    assert mesh.next_deadline() == min(until, 0.9 + grace)
    mesh.expire(until - 0.01)
    assert not mesh.service(HOST).known
    assert mesh.next_deadline() == until
    mesh.expire(until)
    assert mesh.take_dirty().services == {HOST}
    assert mesh.service(HOST).known


def test_an_endpoint_that_joins_a_known_pool_is_not_waited_for():
    mesh = told(configured("a"), reported("a", "m"), configured("ab"), timed_out("b", 5))
    assert mesh.service(HOST).known
    unheard = told(configured("a"), configured("ab"), timed_out("b", 5), reported("a", "m", 6))
    assert unheard.service(HOST).known


def test_a_pool_that_goes_from_fixed_placements_to_asking_waits_for_the_answers():
    mesh = told(configured("ab", discovery=StaticModels({})))
    assert mesh.service(HOST).known
    mesh.apply(configured("ab"))
    assert not mesh.service(HOST).known
    mesh.apply(reported("a", "m"))
    assert not mesh.service(HOST).known
    mesh.apply(reported("b", "m"))
    assert mesh.service(HOST).known


def test_what_was_once_known_stays_known_when_all_endpoints_are_replaced():
    mesh = told(configured("a"), reported("a", "m"), configured("bc"))
    assert mesh.service(HOST).known
    assert [seen(mesh, letter)[0] for letter in "bc"] == [Health.PENDING] * 2


@pytest.mark.parametrize(
    "event",
    [
        configured("", discovery=None),
        configured("a", discovery=None),
        configured(""),
        configured("a", discovery=StaticModels({})),
    ],
    ids=["no-endpoints", "no-pool", "pool-without-endpoints", "static"],
)
def test_what_needs_no_answer_is_known(event):
    assert told(event).service(HOST).known


def test_static_placements_by_any_port_and_any_spelling_of_an_address():
    one = Endpoint(EndpointId(HOST, "2001:db8::1", 8080), {"http": 8080, "rest": 9090})
    two = endpoint("b")
    listed = StaticModels(
        {"[2001:DB8:0::1]:9090": ("z", "a"), "[2001:db8::1]:8080": ("a",), "10.0.0.2:8080": ("b",)}
    )
    base = configuration("", discovery=listed)
    mesh = told(
        ConfigurationReplaced(
            source="files",
            configuration=Configuration(services=base.services, endpoints=(one, two), pools=base.pools),
        )
    )
    routed = {str(s.endpoint.id): (s.health, s.routed, s.source) for s in mesh.status(HOST)}
    assert routed == {
        "[2001:db8::1]:8080": (Health.OK, ("a", "z"), "static"),
        "10.0.0.2:8080": (Health.OK, ("b",), "static"),
    }


def test_find_endpoints_by_any_port():
    other = Configuration(
        services=(Service("other", "ns", (ServicePort(80, "http"),)),), endpoints=(endpoint("a", "other"),)
    )
    mesh = told(configured("ab"), ConfigurationReplaced(source="k8s", configuration=other))
    assert [e.id for e in mesh.find_endpoints("10.0.0.1:9090")] == [eid("a"), eid("a", "other")]
    assert [e.id for e in mesh.find_endpoints("10.0.0.1:8080", "other")] == [eid("a", "other")]
    assert mesh.find_endpoints("10.0.0.1:1") == ()
    assert mesh.find_endpoints("nonsense") == ()
    mesh.apply(configured("b"))
    assert mesh.find_endpoints("10.0.0.1:9090", HOST) == ()


def test_the_same_objects_while_nothing_changed():
    mesh = told(configured("ab"), reported("a", "m"), reported("b", "n"))
    before = mesh.service(HOST)
    assert mesh.services()[HOST] is before
    mesh.take_dirty()
    mesh.apply(reported("a", "m", 5))
    mesh.apply(configured("ab"))
    assert mesh.service(HOST) is before
    assert mesh.take_dirty() == Dirty()
    mesh.apply(reported("a", "m x", 6))
    after = mesh.service(HOST)
    assert after is not before
    assert after.endpoints[1] is before.endpoints[1]
    assert mesh.take_dirty() == Dirty(frozenset({HOST}))
    assert mesh.take_dirty() == Dirty()


def test_a_changed_configuration_keeps_what_is_equal():
    mesh = told(configured("ab"), reported("a", "m"), reported("b", "n"))
    mesh.take_dirty()
    before = mesh.service(HOST)
    routing = mesh.routing
    mesh.apply(configured("abc"))
    assert mesh.take_dirty() == Dirty(frozenset({HOST}))
    assert mesh.routing is routing
    assert mesh.service(HOST).endpoints[0] is before.endpoints[0]


def test_a_state_that_is_not_ready_may_change_without_a_new_picture():
    mesh = told(configured("a"), reported("a", "m n=LOADING"))
    before = mesh.service(HOST)
    mesh.take_dirty()
    mesh.apply(reported("a", "m n=UNAVAILABLE", 2))
    assert mesh.service(HOST) is before
    assert not mesh.take_dirty()
    assert status(mesh, "a").models[1].state == "UNAVAILABLE"


def test_equal_reports_do_not_call_back_and_changes_do_once():
    calls = []
    mesh = Mesh(lambda: calls.append(1))
    mesh.apply(configured("a"))
    mesh.apply(reported("a", "m", 1))
    mesh.take_dirty()
    calls.clear()
    mesh.apply(reported("a", "m", 2))
    assert not calls
    mesh.apply(reported("a", "n", 3))
    mesh.apply(reported("a", "o", 4))
    assert len(calls) == 1
    mesh.take_dirty()
    mesh.apply(reported("a", "p", 5))
    assert len(calls) == 2


def test_a_removed_service_shows_as_routing_and_is_unknown():
    mesh = told(configured("a"), reported("a", "m"))
    mesh.take_dirty()
    mesh.apply(ConfigurationReplaced(source="files", configuration=Configuration()))
    assert mesh.take_dirty() == Dirty(routing=True)
    assert dict(mesh.services()) == {}
    for lookup in (mesh.service, mesh.status):
        with pytest.raises(KeyError):
            lookup(HOST)


def test_what_is_forgotten_no_longer_counts():
    mesh = told(configured("ab"), reported("a", "m"), reported("b", "n"))
    mesh.apply(ReportsForgotten(endpoint=eid("a"), source=SOURCE))
    assert seen(mesh, "a") == (Health.PENDING, "", True)
    assert status(mesh, "a").source == ""


def test_of_two_sources_the_one_that_heard_last_is_right():
    mesh = told(configured("a"), reported("a", "m", 5))
    mesh.apply(ModelsReported(endpoint=eid("a"), source="other", models=(ModelState("old"),), at=4))
    assert seen(mesh, "a") == (Health.OK, "m", True)
    mesh.apply(ModelsReported(endpoint=eid("a"), source="other", models=(ModelState("new"),), at=6))
    assert seen(mesh, "a") == (Health.OK, "new", True)
    assert status(mesh, "a").source == "other"
    mesh.apply(reported("a", "m", 7))
    assert seen(mesh, "a") == (Health.OK, "m", True)
    mesh.apply(ModelsReported(endpoint=eid("a"), source="other", models=(ModelState("new"),), at=8))
    mesh.apply(ReportsForgotten(endpoint=eid("a"), source="other"))
    assert seen(mesh, "a") == (Health.OK, "m", True)


def test_a_refused_configuration_leaves_the_mesh_as_it_was():
    mesh = told(configured("a"), reported("a", "m"))
    before = mesh.service(HOST)
    with pytest.raises(AttributeError):
        mesh.apply(ConfigurationReplaced(source="files", configuration=None))
    assert mesh.service(HOST) is before
    mesh.apply(configured("ab"))
    assert len(mesh.service(HOST).endpoints) == 2
