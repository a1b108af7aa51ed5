"""Bootstraps and renderings: what people read and what Envoy starts with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.resources_pictures import (
    GATEWAY,
    HOST,
    KEY,
    gateway,
    picture,
    placed,
    policy,
    pool,
    route,
    routing,
    services,
    virtual_service,
)
from xds_server.mesh.model import Locality
from xds_server.resources.bootstrap import Tls, bootstrap
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.resources.render import render
from xds_server.resources.validate import validate_with_envoy

if TYPE_CHECKING:
    from xds_server.mesh.model import ServicePicture
    from xds_server.resources.views import ViewCatalog

ENVOY_FILES = Path(__file__).parents[2] / "envoy"
TLS = "/etc/envoy/tls"


@pytest.mark.parametrize(
    ("name", "cluster", "admin"),
    [("gateway", "gateway", "127.0.0.1:9901"), ("sidecar", "sidecar", "127.0.0.1:9902")],
)
def test_the_files_in_the_envoy_folder_are_made_by_it(name: str, cluster: str, admin: str) -> None:
    text = (ENVOY_FILES / f"{name}.yaml").read_text()
    assert text == bootstrap(node_id=f"{name}-1", cluster=cluster, admin=admin)


def test_the_file_for_mutual_tls_is_made_by_it() -> None:
    tls = Tls(ca=f"{TLS}/ca.crt", certificate=f"{TLS}/tls.crt", key=f"{TLS}/tls.key")
    text = (ENVOY_FILES / "gateway-mtls.yaml").read_text()
    assert text == bootstrap("xds-server:18000", node_id="gateway-1", cluster="gateway", tls=tls)


def transport_socket(xds: str, **tls: str) -> dict[str, Any]:
    document = yaml.safe_load(bootstrap(xds, tls=Tls(ca="ca.pem", **tls)))
    found: dict[str, Any] = document["static_resources"]["clusters"][0]["transport_socket"]["typed_config"]
    return found


@pytest.mark.parametrize(
    ("xds", "name", "kind", "expected"),
    [
        ("10.0.0.5:18000", None, "IP_ADDRESS", "10.0.0.5"),
        ("xds.example:18000", None, "DNS", "xds.example"),
        ("10.0.0.5:18000", "xds.example", "DNS", "xds.example"),
        ("10.0.0.5:18000", "spiffe://mesh/xds", "URI", "spiffe://mesh/xds"),
    ],
)
def test_the_servers_name_is_checked_as_what_it_is(
    xds: str, name: str | None, kind: str, expected: str
) -> None:
    socket = transport_socket(xds, **({"server_name": name} if name else {}))
    (match,) = socket["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
    assert match == {"san_type": kind, "matcher": {"exact": expected}}
    assert socket.get("sni") == (expected if kind == "DNS" else None)
    assert socket["common_tls_context"]["alpn_protocols"] == ["h2"]
    assert "tls_certificates" not in socket["common_tls_context"]


def test_a_certificate_without_its_key_is_said_so() -> None:
    with pytest.raises(ValueError, match="belong together"):
        bootstrap(tls=Tls(ca="ca.pem", certificate="c.pem"))


def test_labels_are_where_the_server_reads_them() -> None:
    document = yaml.safe_load(bootstrap(labels={"b": "2", "a": "1"}))
    assert document["node"]["metadata"] == {"labels": {"a": "1", "b": "2"}}
    assert "metadata" not in yaml.safe_load(bootstrap())["node"]


@pytest.mark.parametrize("per_model", [False, True])
def test_a_zone_brings_the_cluster_that_makes_it_known(per_model: bool) -> None:
    document = yaml.safe_load(bootstrap(per_model=per_model, locality=Locality("eu", "a")))
    assert document["node"]["locality"] == {"region": "eu", "zone": "a"}
    more = {"enable_deferred_cluster_creation": True} if per_model else {}
    assert document["cluster_manager"] == {"local_cluster_name": "local"} | more
    _, local = document["static_resources"]["clusters"]
    (place,) = local["load_assignment"]["endpoints"]
    assert (local["name"], local["type"]) == ("local", "STATIC")
    assert place["locality"] == document["node"]["locality"]
    assert len(place["lb_endpoints"]) == 1


@pytest.mark.parametrize(("delta", "expected"), [(True, "DELTA_GRPC"), (False, "GRPC")])
def test_both_variants(delta: bool, expected: str) -> None:
    document = yaml.safe_load(bootstrap(delta=delta))
    assert document["dynamic_resources"]["ads_config"]["api_type"] == expected


@pytest.mark.parametrize(
    ("xds", "host", "kind"),
    [
        ("10.0.0.5:18000", "10.0.0.5", "STATIC"),
        ("[::1]:18000", "::1", "STATIC"),
        ("xds.example:18000", "xds.example", "STRICT_DNS"),
    ],
)
def test_a_host_name_is_resolved_by_envoy(xds: str, host: str, kind: str) -> None:
    (cluster,) = yaml.safe_load(bootstrap(xds=xds))["static_resources"]["clusters"]
    address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    assert cluster["type"] == kind
    assert address["socket_address"] == {"address": host, "port_value": 18000}


@pytest.mark.parametrize(
    "bad", ["host", ":1", "host:", "host:0", "host:65536", "host:x", "host:-1", "host:²"]
)
def test_an_address_that_is_none_is_said_so(bad: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        bootstrap(xds=bad)


def test_envoys_admin_port_needs_an_ip_address() -> None:
    with pytest.raises(ValueError, match="IP addresses only"):
        bootstrap(admin="localhost:9901")


def test_an_envoy_needs_a_name() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        bootstrap(node_id="")


def catalog_of(of: ServicePicture) -> ViewCatalog:
    implying = "ModelPool ns/p"
    chosen = routing(
        [of],
        [virtual_service(route(headers_implied_by=(implying,)))],
        [gateway(implied_by="VirtualService ns/vs")],
    )
    return Builder(BuildOptions()).build(chosen, services(of), 1)


IMPLIED = picture(placed(1, ["tf-mnist", "naïve/☃"]), policy=policy(implied_by="ModelPool ns/p"), pool=pool())


def test_json_and_yaml_say_the_same_and_any_is_written_out() -> None:
    catalog = catalog_of(IMPLIED)
    document = json.loads(render(catalog, GATEWAY, "json"))
    assert yaml.safe_load(render(catalog, GATEWAY, "yaml")) == document
    assert list(document) == ["node", "implied", "clusters", "endpoints", "listeners", "routes"]
    manager = document["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["@type"].endswith("HttpConnectionManager")
    assert manager["http_filters"][-1]["typed_config"]["@type"].endswith("router.v3.Router")
    assert len(manager["http_filters"][-1]["typed_config"]["upstream_log"]) == 1
    endpoint = document["endpoints"][0]["endpoints"][0]["lb_endpoints"][0]
    assert endpoint["metadata"]["filter_metadata"]["envoy.lb"] == {KEY: ["naïve/☃", "tf-mnist"]}
    assert "naïve/☃" in render(catalog, GATEWAY, "yaml")


def test_what_was_implied_is_listed_with_what_implied_it() -> None:
    implied = json.loads(render(catalog_of(IMPLIED), GATEWAY, "json"))["implied"]
    assert implied == {
        "policies": [
            {
                "host": HOST,
                "selectors": [{"keys": [KEY], "fallbackPolicy": "NO_FALLBACK"}],
                "impliedBy": "ModelPool ns/p",
            }
        ],
        "headerMappings": [
            {
                "virtualService": "ns/vs",
                "route": "default",
                "headerToDynamicSubsetKey": [{"header": "model", "key": KEY}],
                "impliedBy": ["ModelPool ns/p"],
            }
        ],
        "gateways": [{"name": "ns/gateway", "ports": [8008], "impliedBy": "VirtualService ns/vs"}],
    }


def test_a_withheld_assignment_is_named() -> None:
    document = json.loads(render(catalog_of(picture(pool=pool(), known=False)), GATEWAY, "json"))
    assert document["endpoints"] == []
    assert document["withheld"] == [f"{HOST}|8033"]


def test_an_envoy_that_cannot_be_run_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    (problem,) = validate_with_envoy(catalog_of(IMPLIED), GATEWAY, str(tmp_path / "no-envoy"))
    assert "cannot be run" in problem


def test_an_envoy_that_fails_silently_is_a_problem(tmp_path: Path) -> None:
    silent = tmp_path / "envoy"
    silent.write_text("#!/bin/sh\nexit 3\n")
    silent.chmod(0o755)
    assert validate_with_envoy(catalog_of(IMPLIED), GATEWAY, str(silent)) == [
        "Envoy ended with code 3 and said nothing about why"
    ]
