"""Which runtimes are asked, and under which address."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.mesh_events import DISCOVERY, configured, eid, endpoint, told
from xds_server.mesh.model import Endpoint, EndpointId
from xds_server.mesh.pools import OpenInference, StaticModels
from xds_server.sources.runtimes.targets import Target, runtime_url, targets


def test_one_target_for_each_endpoint_of_a_pool_that_is_asked():
    mesh = told(configured("ab"))
    assert targets(mesh.routing, mesh.services()) == {
        eid("a"): Target("http://10.0.0.1:8080", 1, 2),
        eid("b"): Target("http://10.0.0.2:8080", 1, 2),
    }


@pytest.mark.parametrize("discovery", [None, StaticModels({})])
def test_nobody_else_is_asked(discovery):
    mesh = told(configured("ab", discovery=discovery))
    assert targets(mesh.routing, mesh.services()) == {}


@pytest.mark.parametrize(("port", "number"), [(None, 8080), ("rest", 9090), (7, 7), ("http", 8080)])
def test_the_port_by_name_by_number_or_the_traffic_port(port, number):
    assert runtime_url(endpoint("a"), replace(DISCOVERY, port=port)) == f"http://10.0.0.1:{number}"


def test_ipv6_and_scheme():
    six = Endpoint(EndpointId("models", "2001:db8::1", 8080), {"http": 8080})
    assert runtime_url(six, OpenInference(scheme="https")) == "https://[2001:db8::1]:8080"


def test_a_port_name_that_the_endpoint_lacks():
    with pytest.raises(LookupError, match="no port named 'grpc'; it has http, rest"):
        runtime_url(endpoint("a"), OpenInference(port="grpc"))
