"""Whom a report is about: a pod's name is unique in its namespace, and no further."""

import pytest

from tests.mesh_events import configuration, eid, endpoint
from xds_server.mesh.events import ConfigurationReplaced
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.model import Service, ServicePort
from xds_server.mesh.pools import Pool, Push
from xds_server.report_messages import Listing, ReportRequest, Row
from xds_server.sources.reports.source import ReportSource


@pytest.mark.parametrize(
    ("pod", "told"),
    [("one/triton-0", ["one"]), ("two/triton-0", ["two"]), ("triton-0", ["one", "two"]), ("one/", [])],
)
def test_pods_of_one_name_in_two_namespaces(pod, told):
    hosts = ("one", "two")
    whole = type(configuration())(
        services=tuple(Service(host, host, (ServicePort(80, "http"),)) for host in hosts),
        endpoints=(
            *(endpoint("a", host, pod="triton-0") for host in hosts),
            *(endpoint("b", host) for host in hosts),
        ),
        pools=tuple(Pool(f"{host}/pool", host, Push()) for host in hosts),
    )
    mesh = Mesh()
    mesh.apply(ConfigurationReplaced(source="files", configuration=whole))
    source = ReportSource(mesh.apply)
    source.set_targets(mesh.services())
    listing = Listing(rows=[Row(name="m", state="READY")])
    answer = source.take(object(), ReportRequest(pod=pod, listing=listing))
    assert answer == [f"{eid('a', host)} of {host}" for host in told]
    assert [host for host in hosts if mesh.status(host)[0].models] == told
