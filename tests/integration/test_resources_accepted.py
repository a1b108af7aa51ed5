"""A real Envoy accepts all kinds of resources that are made, and says clearly what it refuses."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.resources_pictures import (
    GATEWAY,
    HOST,
    KEY,
    SIDECAR,
    gateway,
    picture,
    placed,
    policy,
    pool,
    route,
    routing,
    service,
    services,
    virtual_service,
)
from tests.static_envoy import ENVOY
from xds_server.mesh.model import Protocol, ServicePicture, ServicePort
from xds_server.mesh.policies import (
    Balancer,
    ConnectionPool,
    Fallback,
    OutlierDetection,
    Selector,
    TcpKeepalive,
)
from xds_server.mesh.routing import (
    Destination,
    Gateway,
    HeaderToKey,
    MatchKind,
    Retries,
    RouteMatch,
    StringMatch,
)
from xds_server.resources.bootstrap import bootstrap
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.resources.validate import validate_with_envoy

if TYPE_CHECKING:
    from pathlib import Path

    from xds_server.mesh.routing import Route
    from xds_server.resources.views import ViewCatalog

ANY, NO, DEFAULT = Fallback.ANY_ENDPOINT, Fallback.NO_FALLBACK, Fallback.DEFAULT_SUBSET
ODD_NAMES = ("a/b", 'quo"te', "a b", "a%2Fb", "naïve-☃", "*", "{}", "a,b", "x" * 300)


def catalog(
    *pictures: ServicePicture, routes: tuple[Route, ...] = (), gateways: tuple[Gateway, ...] = (gateway(),)
) -> ViewCatalog:
    chosen = routing(pictures, [virtual_service(*routes, gateways=tuple(g.name for g in gateways))], gateways)
    return Builder(BuildOptions()).build(chosen, services(*pictures), 1)


POOLED = picture(placed(1, ["a"], {"stage": "prod"}), policy=policy(), pool=pool())

ACCEPTED = {
    "nothing": catalog(),
    "models": catalog(POOLED),
    "unknown-pool": catalog(picture(policy=policy(), pool=pool(), known=False)),
    "no-endpoints": catalog(picture(policy=policy(), pool=pool())),
    "odd-names": catalog(picture(placed(1, ODD_NAMES), policy=policy(), pool=pool())),
    "unhealthy": catalog(picture(placed(1, ["a"], healthy=False), policy=policy(), pool=pool())),
    "several-selectors": catalog(
        picture(
            placed(1, ["a"], {"stage": "prod", "version": "1"}),
            policy=policy(
                Selector((KEY,), ANY),
                Selector(("stage", "version"), NO),
                Selector(("stage",), DEFAULT),
                default_subset={"stage": "prod"},
            ),
            pool=pool(no_model=DEFAULT, not_loaded=NO),
        ),
        routes=(route(header_to_key=(HeaderToKey("model", KEY), HeaderToKey("stage", "stage"))),),
    ),
    "no-mapping": catalog(POOLED, routes=(route(header_to_key=()),)),
    "limits": catalog(
        picture(
            of=service(HOST, ServicePort(8033, "grpc", Protocol.GRPC)),
            policy=policy(
                connection_pool=ConnectionPool(1, 0.25, 60, TcpKeepalive(3, 7200, 0.4), 2, 3, 4, 5, 6.5, 7),
                outlier_detection=OutlierDetection(0, 3, True, 4, 1.5, 600, 50, 20),
            ),
        )
    ),
    "zeros": catalog(
        picture(
            policy=policy(
                connection_pool=ConnectionPool(
                    max_requests_per_connection=0, max_retries=0, max_concurrent_streams=0, idle_timeout=0
                ),
                outlier_detection=OutlierDetection(max_ejection_percent=0, min_health_percent=0),
            )
        )
    ),
    "matches": catalog(
        POOLED,
        picture(of=service("other", ServicePort(1, "h2", Protocol.HTTP2))),
        routes=(
            route(
                Destination(HOST, 8033, 30),
                Destination("other", 1, 70),
                Destination("gone", 1, 0),
                matches=(
                    RouteMatch(uri=StringMatch(MatchKind.REGEX, "/v2/models/[^/]+/infer")),
                    RouteMatch(
                        uri=StringMatch(MatchKind.EXACT, "/v2"),
                        headers=(
                            ("a", StringMatch(MatchKind.EXACT, "b")),
                            ("c", StringMatch(MatchKind.PREFIX, "d")),
                            ("e", StringMatch(MatchKind.REGEX, "f+")),
                            ("g", StringMatch(MatchKind.PRESENT)),
                        ),
                    ),
                ),
                timeout=10,
            ),
            route(retries=Retries(0)),
            route(retries=Retries(3, 0.5, "503,connect-failure")),
            route(Destination("gone", 1)),
        ),
    ),
    **{
        f"{balancer}-{'selected' if selected else 'plain'}": catalog(
            picture(policy=policy(balancer=balancer) if selected else None)
        )
        for balancer in Balancer
        for selected in (True, False)
    },
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_envoy_accepts(name: str) -> None:
    for node in (GATEWAY, SIDECAR):
        assert validate_with_envoy(ACCEPTED[name], node, ENVOY) == []


def test_what_envoy_refuses_is_told_in_its_words() -> None:
    broken = catalog(POOLED, routes=(route(matches=(RouteMatch(uri=StringMatch(MatchKind.REGEX, "(")),)),))
    problems = validate_with_envoy(broken, GATEWAY, ENVOY)
    assert len(problems) == 1
    assert "missing ): (" in problems[0]
    assert "static.json" not in problems[0]


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("xds", ["127.0.0.1:18000", "[::1]:18000", "xds.example:18000"])
def test_envoy_accepts_the_bootstrap_without_a_warning(tmp_path: Path, xds: str, delta: bool) -> None:
    path = tmp_path / "envoy.yaml"
    path.write_text(bootstrap(xds, labels={"zone": "a"}, delta=delta))
    command = [ENVOY, "--mode", "validate", "--disable-hot-restart", "-c", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "[warning]" not in run.stderr
