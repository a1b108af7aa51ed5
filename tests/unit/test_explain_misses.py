"""What explain says of a model that is loaded nowhere: whether anybody knows it, and what is answered."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from tests.mesh_events import HOST, configuration, reported
from xds_server.admin.explaining import lines
from xds_server.explain.answer import Known, explain
from xds_server.explain.request import usual
from xds_server.mesh.events import ConfigurationReplaced, ModelsReported
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.misses import Choice, Misses
from xds_server.mesh.model import Endpoint, EndpointId, Service, ServicePort
from xds_server.mesh.pools import OpenInference, Pool
from xds_server.mesh.routing import Destination, Gateway, GatewayServer, Route, VirtualService
from xds_server.publisher import Publisher
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.xds.hub import Hub

OTHER = "others"


def known(misses: Misses, *, other: bool = False) -> Known:
    """Two replicas, of which one lists `idle`; with `other` a second pool on the route knows `there`."""
    hosts = [HOST, *([OTHER] if other else [])]
    one = configuration()
    whole = replace(
        one,
        services=(*one.services, Service(OTHER, "ns", (ServicePort(80, "http"),))),
        endpoints=(*one.endpoints, Endpoint(EndpointId(OTHER, "10.0.1.1", 8080), {"http": 8080})),
        pools=tuple(Pool(f"ns/{host}", host, OpenInference(), misses=misses) for host in hosts),
        gateways=(Gateway("ns/gateway", (GatewayServer(80, "http"),)),),
        virtual_services=(
            VirtualService(
                "ns/all",
                ("*",),
                ("ns/gateway",),
                (Route("r", (), tuple(Destination(host, 80, weight=50) for host in hosts)),),
            ),
        ),
    )
    mesh, hub = Mesh(), Hub(time.monotonic)
    mesh.apply(ConfigurationReplaced(source="files", configuration=whole))
    mesh.apply(reported("a", "up idle=UNAVAILABLE"))
    mesh.apply(reported("b", ""))
    there = reported("a", "there=UNAVAILABLE").models
    mesh.apply(
        ModelsReported(
            endpoint=EndpointId(OTHER, "10.0.1.1", 8080), source="open-inference", models=there, at=1.0
        )
    )
    mesh.expire(100.0)
    Publisher(mesh, Builder(BuildOptions()), hub).start()
    return Known(mesh, hub, 100.0)


def targets(of: Known, model: str) -> list[dict[str, Any]]:
    (route,) = explain(of, usual(model))["routes"]
    return route["targets"]


APART = Misses(not_loaded=Choice.UNAVAILABLE, unknown=Choice.NOT_FOUND)


NOBODY = ", and nobody there knows it"


@pytest.mark.parametrize(
    ("misses", "model", "told", "why"),
    [
        (APART, "idle", ("notLoaded", "UNAVAILABLE", 503), ""),
        (APART, "nowhere", ("unknown", "NOT_FOUND", 404), NOBODY),
        (Misses(), "idle", ("notLoaded", "NO_FALLBACK", 503), ""),
        (Misses(), "nowhere", ("notLoaded", "NO_FALLBACK", 503), NOBODY),
        (Misses(unknown=Choice.NO_FALLBACK), "nowhere", ("unknown", "NO_FALLBACK", 503), NOBODY),
    ],
)
def test_what_is_unknown_is_told_from_what_is_not_loaded(misses, model, told, why):
    (target,) = targets(known(misses), model)
    assert target["outcome"] == "MISS"
    assert (target["miss"], target["policy"], target["status"]) == told
    assert target["why"] == f"{model} is READY on no replica of {HOST}{why}"


def test_it_is_said_in_words():
    of = known(APART)
    document = {
        "request": {"method": "POST", "path": "/", "headers": []},
        "expected": None,
        **explain(of, usual("nowhere")),
    }
    assert (
        f"miss      unknown: nowhere is READY on no replica of {HOST}, and nobody there knows it; "
        "policy NOT_FOUND, so Envoy answers 404"
    ) in list(lines(document))


def test_a_route_to_two_pools_asks_both():
    of = known(APART, other=True)
    assert {target["miss"] for target in targets(of, "there")} == {"notLoaded"}
    assert {target["miss"] for target in targets(of, "nowhere")} == {"unknown"}
    assert {target["miss"] for target in targets(known(APART), "there")} == {"unknown"}
