"""Registries and reporters in `/status` and `/metrics`."""

from __future__ import annotations

from xds_server.admin import told
from xds_server.mesh.pools import ModelMesh
from xds_server.sources.modelmesh.changes import Change
from xds_server.sources.modelmesh.registry import Registry
from xds_server.sources.modelmesh.source import Reader, Target
from xds_server.sources.reports.source import Reporter, Subject


def reader(**fields: object) -> Reader:
    found = Reader("models", Target(ModelMesh("/file", "mm/"), {}), Registry(30.0), **fields)
    found.registry.apply(Change("registry/m", b"no json"))
    return found


def test_a_registry_with_its_age_and_what_cannot_be_read():
    (record,) = told.registries(
        [reader(connected=True, endpoint="e:1", heard_at=90.0, listings=2, error="")], 100
    )
    assert (record["heard_age_seconds"], record["lost_seconds"], record["listings"]) == (10.0, None, 2)
    assert list(record["unreadable"]) == ["registry/m"]
    (lost,) = told.registries([reader(lost_at=70.0, heard_at=60.0, error="away")], 100)
    assert (lost["connected"], lost["lost_seconds"], lost["error"]) == (False, 30.0, "away")


def test_reporters_and_figures():
    there, gone = (
        Reporter(Subject("p", "", ""), heard_at=99.0),
        Reporter(Subject("q", "", ""), lost="end", lost_at=98.0),
    )
    assert [each["lost_seconds"] for each in told.reporters([there, gone], 100)] == [None, 2.0]
    found = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for metric in told.metrics([reader(heard_at=90.0, listings=3)], [there, gone], 100)
        for sample in metric.samples
    }
    assert found["xds_server_modelmesh_heard_age_seconds", ("models",)] == 10
    assert found["xds_server_modelmesh_listings_total", ("models",)] == 3
    assert found["xds_server_modelmesh_unreadable_records", ("models",)] == 1
    assert found["xds_server_modelmesh_connected", ("models",)] == 0
    assert (found["xds_server_reporters", ("connected",)], found["xds_server_reporters", ("lost",)]) == (1, 1)
