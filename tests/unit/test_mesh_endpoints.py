"""Endpoints that come, change and go one by one: at the cost of those alone, and in any order of arrival."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mesh_events import (
    HOST,
    configured,
    eid,
    endpoint,
    placed,
    reported,
    seen,
    told,
    withdrawn,
)
from tests.unit.test_mesh_order import woven
from xds_server.mesh.events import ConfigurationReplaced, EndpointsChanged
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.model import Condition, Health
from xds_server.mesh.pools import StaticModels
from xds_server.mesh.routing import Configuration

SERVICE = configured("")


def declared(*endpoints, source="kubernetes"):
    return EndpointsChanged(source=source, service=HOST, declared=endpoints)


def removed(*letters, source="kubernetes"):
    return EndpointsChanged(source=source, service=HOST, removed=tuple(map(eid, letters)))


def letters_of(mesh):
    return [str(each.endpoint.id) for each in mesh.service(HOST).endpoints]


def test_endpoints_come_and_go():
    mesh = told(SERVICE, declared(endpoint("b"), endpoint("a")))
    assert letters_of(mesh) == [str(eid("a")), str(eid("b"))]
    mesh.apply(declared(endpoint("c")))
    mesh.apply(removed("a"))
    assert letters_of(mesh) == [str(eid("b")), str(eid("c"))]
    assert mesh.find_endpoints("10.0.0.1:8080") == ()
    assert [each.id for each in mesh.find_endpoints("10.0.0.3:9090")] == [eid("c")]


def test_endpoints_of_a_service_that_nobody_knows_yet_wait_for_it():
    mesh = told(declared(endpoint("a")))
    assert mesh.services() == {}
    mesh.apply(SERVICE)
    assert letters_of(mesh) == [str(eid("a"))]


def test_a_change_makes_one_new_object_and_keeps_all_others():
    mesh = told(SERVICE, declared(*map(endpoint, "abc")))
    before = mesh.service(HOST).endpoints
    mesh.take_dirty()
    mesh.apply(declared(endpoint("b", labels={"x": "1"})))
    assert mesh.take_dirty().services == {HOST}
    after = mesh.service(HOST).endpoints
    assert [one is other for one, other in zip(before, after, strict=True)] == [True, False, True]
    mesh.apply(declared(endpoint("b", labels={"x": "1"})))
    assert not mesh.take_dirty()


@pytest.mark.parametrize("condition", [Condition.NOT_READY, Condition.TERMINATING])
def test_a_replica_that_takes_no_requests_has_no_models_for_envoy(condition):
    mesh = told(SERVICE, declared(*map(endpoint, "ab")), reported("a", "m"), reported("b", "m"))
    mesh.apply(declared(endpoint("a", condition=condition)))
    assert seen(mesh, "a") == (Health(condition.value), "", False)
    assert seen(mesh, "b") == (Health.OK, "m", True)
    mesh.apply(declared(endpoint("a")))
    assert seen(mesh, "a") == (Health.OK, "m", True)


def test_a_pools_first_picture_does_not_wait_for_a_replica_that_is_going():
    going = endpoint("b", condition=Condition.TERMINATING)
    mesh = told(declared(endpoint("a"), going), SERVICE, reported("a", "m", 1.0))
    assert mesh.service(HOST).known
    assert not told(declared(*map(endpoint, "ab")), SERVICE, reported("a", "m", 1.0)).service(HOST).known


def test_a_withdrawal_ends_with_its_endpoint():
    mesh = told(SERVICE, declared(endpoint("a")), reported("a", "m"), withdrawn("a", "m"))
    mesh.apply(removed("a"))
    assert mesh.withdrawals() == ()


def test_static_models_find_endpoints_that_come_later():
    models = StaticModels({"10.0.0.1:8080": ("m",)})
    mesh = told(configured("", discovery=models), declared(endpoint("a")))
    assert placed(mesh, "a").models == ("m",)


def test_where_two_sources_declare_an_endpoint_the_first_by_name_is_right():
    one, other = endpoint("a", labels={"by": "one"}), endpoint("a", labels={"by": "other"})
    for order in ((one, "a"), (other, "b")), ((other, "b"), (one, "a")):
        mesh = told(SERVICE, *(declared(each, source=source) for each, source in order))
        assert placed(mesh, "a").endpoint is one
        mesh.apply(removed("a", source="a"))
        assert placed(mesh, "a").endpoint is other


VARIANTS = [
    {},
    {"labels": {"x": "1"}},
    {"condition": Condition.TERMINATING},
    {"condition": Condition.NOT_READY},
    {"pod": "p"},
]


@st.composite
def histories(draw):
    """By key: the configuration; each endpoint's comings and goings; each one's reports."""
    without_pool = replace(SERVICE.configuration, pools=())
    configurations = [
        SERVICE,
        ConfigurationReplaced(source="files", configuration=Configuration()),
        ConfigurationReplaced(source="files", configuration=without_pool),
    ]
    found = [[*draw(st.lists(st.sampled_from(configurations), max_size=2)), SERVICE]]
    for letter in "abc":
        steps = draw(st.lists(st.one_of(st.none(), st.sampled_from(VARIANTS)), max_size=4))
        last = draw(st.sampled_from(VARIANTS))
        found.append(
            [
                removed(letter) if step is None else declared(endpoint(letter, **step))
                for step in (*steps, last)
            ]
        )
        times = sorted(draw(st.lists(st.integers(0, 60), min_size=1, max_size=4, unique=True)))
        found.append([reported(letter, draw(st.sampled_from(["", "m", "m n"])), at) for at in times])
    return found


@settings(max_examples=200)
@given(histories(), st.data())
def test_any_order_ends_in_the_same_picture_whether_looked_at_or_not(found, data):
    one = told(*woven(found, data))
    other = Mesh()
    for event in woven(found, data):
        other.apply(event)
        other.services()
    for mesh in (one, other):
        mesh.expire(100)
    assert one.services() == other.services()
    assert one.status(HOST) == other.status(HOST)
    ports = [f"10.0.0.{number}:{port}" for number in (1, 2, 3) for port in (8080, 9090)]
    assert [*map(one.find_endpoints, ports)] == [*map(other.find_endpoints, ports)]
