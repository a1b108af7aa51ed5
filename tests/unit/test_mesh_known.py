"""Whether anybody knows a name: what tells a model that is loaded nowhere from one that there is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mesh_events import HOST, configuration, configured, eid, endpoint, reported
from xds_server.mesh.events import (
    ConfigurationReplaced,
    EndpointsChanged,
    Event,
    ModelsKnown,
    ModelState,
    ReportFailed,
    ReportsForgotten,
)
from xds_server.mesh.events import FailureKind as Kind
from xds_server.mesh.known import DeclaredModel, Known, KnownModel, KnownNames, named_by
from xds_server.mesh.listed import Listed
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.misses import Choice, Misses
from xds_server.mesh.names import Names, Split, Versions
from xds_server.mesh.pools import ModelMesh, OpenInference, Pool, StaticModels, TensorFlowServing

SOURCE = "open-inference"


def heard(*events: Event) -> Mesh:
    """A mesh of two replicas that has taken the events and settled."""
    mesh = Mesh()
    mesh.apply(configured())
    for event in events:
        mesh.apply(event)
    mesh.expire(100.0)
    mesh.take_dirty()
    return mesh


def test_what_a_replica_lists_in_any_state_is_known():
    mesh = heard(reported("a", "up failed=UNAVAILABLE later@7"), reported("b", ""))
    assert [mesh.knows(HOST, name) for name in ("up", "failed", "later")] == [True, True, True]
    assert not mesh.knows(HOST, "up2")
    assert not mesh.knows(HOST, "")


def test_a_version_of_a_known_model_is_known():
    mesh = heard(reported("a", "m"), reported("b", ""))
    assert mesh.knows(HOST, "m/versions/9")
    assert not mesh.knows(HOST, "n/versions/1")


def test_a_name_is_known_for_as_long_as_any_replica_lists_it():
    mesh = heard(reported("a", "m"), reported("b", "m n"))
    mesh.apply(reported("a", "", at=2.0))
    assert mesh.knows(HOST, "m")
    mesh.apply(reported("b", "n m=UNAVAILABLE", at=3.0))
    assert mesh.knows(HOST, "m")
    mesh.apply(reported("b", "n", at=4.0))
    assert not mesh.knows(HOST, "m")
    mesh.apply(ReportsForgotten(endpoint=eid("b"), source=SOURCE))
    assert not mesh.knows(HOST, "n")


def test_what_a_failing_replica_listed_last_stays_known():
    failed = ReportFailed(endpoint=eid("a"), source=SOURCE, kind=Kind.REFUSED, error="refused", at=2.0)
    mesh = heard(reported("a", "m"), reported("b", ""), failed)
    assert mesh.knows(HOST, "m")


def test_nothing_is_unknown_where_nobody_can_tell():
    mesh = Mesh()
    assert mesh.knows(HOST, "m")
    mesh.apply(configured())
    assert mesh.knows(HOST, "m")
    mesh.expire(0.0)
    mesh.take_dirty()
    assert mesh.knows(HOST, "m"), "no replica was heard"
    mesh.apply(reported("a", ""))
    mesh.apply(reported("b", ""))
    mesh.expire(1.0)
    mesh.take_dirty()
    assert not mesh.knows(HOST, "m")
    mesh.apply(configured(""))
    mesh.take_dirty()
    assert mesh.knows(HOST, "m"), "there is no replica"


def test_a_service_without_a_pool_knows_nothing_of_models():
    mesh = Mesh()
    mesh.apply(ConfigurationReplaced(source="files", configuration=replace(configuration(), pools=())))
    mesh.take_dirty()
    assert mesh.knows(HOST, "m")


NAMES = Names(
    aliases={"best": ("m", "n")},
    fallbacks={"old": ("new", "newer/versions/2")},
    splits={"draw": Split((("left", 1), ("right", 0)))},
    versions=Versions(pinned={"pinned": "3"}),
)


@pytest.mark.parametrize(
    ("pool", "names"),
    [
        (Pool("ns/p", HOST, OpenInference()), ""),
        (
            Pool("ns/p", HOST, OpenInference(), names=NAMES),
            "best m n old new newer newer/versions/2 draw left right pinned",
        ),
        (Pool("ns/p", HOST, OpenInference(), misses=Misses(fallback_model="base")), "base"),
        (Pool("ns/p", HOST, StaticModels({"10.0.0.9:1": ("x", "y")})), "x y"),
        (Pool("ns/p", HOST, TensorFlowServing(models=("t",))), "t"),
    ],
    ids=["nothing", "names", "fallback-model", "static", "asked-by-name"],
)
def test_what_the_pools_document_names_is_known(pool: Pool, names: str) -> None:
    assert named_by(pool) == frozenset(names.split())
    mesh = Mesh()
    mesh.apply(ConfigurationReplaced(source="files", configuration=replace(configuration(), pools=(pool,))))
    mesh.apply(reported("a", "other", source=SOURCE))
    mesh.apply(reported("b", "", source="tensorflow-serving"))
    mesh.expire(100.0)
    mesh.take_dirty()
    assert all(mesh.knows(HOST, name) for name in names.split())
    assert not mesh.knows(HOST, "nowhere")


def test_what_a_modelmeshs_registry_and_documents_name_is_known():
    declared = tuple(DeclaredModel(ns, KnownModel(f"in-{ns}", Known.PENDING)) for ns in ("ns", "elsewhere"))
    discovery = ModelMesh("/etc/etcd", "mm/modelmesh-serving/")
    pool = Pool("ns/p", HOST, discovery, misses=Misses(unknown=Choice.NOT_FOUND))
    mesh = Mesh()
    whole = replace(configuration(), pools=(pool,), declared=declared)
    mesh.apply(ConfigurationReplaced(source="files", configuration=whole))
    for letter in "ab":
        mesh.apply(reported(letter, "", source="modelmesh"))
    told = (KnownModel("registered", Known.STANDBY),)
    mesh.apply(ModelsKnown(service=HOST, source="modelmesh", models=told))
    mesh.expire(100.0)
    mesh.take_dirty()
    assert [mesh.knows(HOST, name) for name in ("in-ns", "registered", "in-elsewhere")] == [True, True, False]
    mesh.apply(ModelsKnown(service=HOST, source="modelmesh", models=()))
    mesh.apply(ConfigurationReplaced(source="files", configuration=replace(whole, declared=())))
    mesh.take_dirty()
    assert [mesh.knows(HOST, name) for name in ("in-ns", "registered")] == [False, False]


def test_nothing_is_remembered_of_services_that_are_gone():
    names = KnownNames()
    for number in range(100):
        names.tell(f"host-{number}", "modelmesh", (KnownModel("m", Known.STANDBY),))
        assert names.has(f"host-{number}", "ns", "m")
        names.tell(f"host-{number}", "modelmesh", ())
        assert names.told(f"host-{number}") == []
    assert not names._told
    assert not names._names


ROWS = st.lists(st.builds(ModelState, st.sampled_from("abc"), st.sampled_from(["", "1", "2"])), max_size=4)


@given(st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 2), ROWS)))
def test_the_index_is_what_counting_anew_would_find(changes):
    listed = Listed()
    rows: dict[tuple[str, int], list[ModelState]] = {}
    for service, number, after in changes:
        listed.replace(service, rows.get((service, number), []), after)
        rows[service, number] = after
    for service in "xy":
        found = {row.name for (of, _), each in rows.items() for row in each if of == service}
        assert {name for name in "abcd" if listed.has(service, name)} == found


def test_a_replica_that_comes_later_is_heard_for_itself():
    mesh = heard(reported("a", "m"), reported("b", ""))
    mesh.apply(EndpointsChanged(source="pods", service=HOST, declared=(endpoint("c"),)))
    mesh.apply(reported("c", "n", at=2.0))
    assert mesh.knows(HOST, "n")
