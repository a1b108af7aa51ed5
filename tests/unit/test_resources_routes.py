"""Routes and listeners: which domains, which matches, where to, and what the filters are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration

from tests.resources_pictures import (
    HOST,
    KEY,
    SIDECAR,
    gateway,
    one,
    picture,
    policy,
    pool,
    route,
    routing,
    service,
    services,
    the_listener,
    the_routes,
    virtual_service,
)
from xds_server.mesh.model import Protocol, ServicePort
from xds_server.mesh.policies import ConsistentHash
from xds_server.mesh.routing import (
    Destination,
    Gateway,
    GatewayServer,
    HeaderToKey,
    MatchKind,
    Retries,
    RouteMatch,
    StringMatch,
    Tls,
)
from xds_server.resources.actions import RouteTimes
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.resources.domains import intersection, matches
from xds_server.resources.routes import Claim, RouteEncoder, claimed
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE

if TYPE_CHECKING:
    from xds_server.mesh.model import ServicePicture
    from xds_server.mesh.routing import Route, VirtualService
    from xds_server.resources.views import ViewCatalog

FILTER = "envoy.filters.http.header_to_metadata"


def built(
    *virtual_services: VirtualService,
    gateways: tuple[Gateway, ...] | None = None,
    of: tuple[ServicePicture, ...] = (),
    access_log: bool = True,
) -> ViewCatalog:
    pictures = of or (picture(policy=policy(), pool=pool()),)
    chosen = routing(pictures, virtual_services, (gateway(),) if gateways is None else gateways)
    return Builder(BuildOptions(access_log=access_log)).build(chosen, services(*pictures), 1)


def only_route(of: Route) -> dict[str, Any]:
    (made,) = the_routes(built(virtual_service(of)))["*"]
    return made


def test_a_plain_route_takes_everything_and_times_nothing_out() -> None:
    made = only_route(route())
    assert made["name"] == "ns/vs/default"
    assert made["match"] == {"prefix": "/"}
    action = made["route"]
    assert (action["cluster"], action["timeout"], action["idle_timeout"]) == (f"{HOST}|8033", "0s", "300s")
    retry = action["retry_policy"]
    assert retry["retry_on"] == "connect-failure,refused-stream,reset-before-request"
    assert retry["num_retries"] == 3
    assert retry["host_selection_retry_max_attempts"] == "200"
    assert retry["retry_back_off"] == {"base_interval": "0.050s", "max_interval": "0.500s"}
    assert [each["name"] for each in retry["retry_host_predicate"]] == [
        "envoy.retry_host_predicates.previous_hosts"
    ]


def test_a_longer_timeout_is_not_cut_short_by_the_idle_limit() -> None:
    action = only_route(route(timeout=900.5))["route"]
    assert (action["timeout"], action["idle_timeout"]) == ("900.500s", "900.500s")
    assert only_route(route(timeout=5))["route"]["idle_timeout"] == "300s"


def test_no_attempts_mean_no_retries() -> None:
    assert "retry_policy" not in only_route(route(retries=Retries(0)))["route"]


def test_retries_as_written_with_status_codes_in_envoys_own_field() -> None:
    retry = only_route(route(retries=Retries(3, 0.5, "503, connect-failure,502")))["route"]["retry_policy"]
    assert retry["retry_on"] == "connect-failure,retriable-status-codes"
    assert retry["retriable_status_codes"] == [502, 503]
    assert (retry["num_retries"], retry["per_try_timeout"]) == (3, "0.500s")


def test_headers_become_subset_metadata_in_the_order_written() -> None:
    mapping = (HeaderToKey("Stage", "stage"), HeaderToKey("model", KEY))
    rules = only_route(route(header_to_key=mapping))["typed_per_filter_config"][FILTER]["request_rules"]
    assert rules == [
        {"header": "stage", "on_header_present": {"metadata_namespace": "envoy.lb", "key": "stage"}},
        {"header": "model", "on_header_present": {"metadata_namespace": "envoy.lb", "key": KEY}},
    ]


def test_a_route_that_maps_no_header_brings_no_rules() -> None:
    assert "typed_per_filter_config" not in only_route(route(header_to_key=()))


def test_weights_are_added_up_by_cluster_and_zero_is_nothing() -> None:
    other = picture(of=service("other"))
    made = route(
        Destination(HOST, 8033, 20),
        Destination("other", 8033, 70),
        Destination(HOST, 8033, 10),
        Destination("none", 8033, 0),
    )
    catalog = built(virtual_service(made), of=(picture(policy=policy(), pool=pool()), other))
    action = the_routes(catalog)["*"][0]["route"]
    assert action["weighted_clusters"]["clusters"] == [
        {"name": f"{HOST}|8033", "weight": 30},
        {"name": "other|8033", "weight": 70},
    ]


def test_a_lone_destination_needs_no_weight() -> None:
    assert only_route(route(Destination(HOST, 8033, 0)))["route"]["cluster"] == f"{HOST}|8033"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (StringMatch(MatchKind.EXACT, "/v2"), {"path": "/v2"}),
        (StringMatch(MatchKind.PREFIX, "/v2/"), {"prefix": "/v2/"}),
        (StringMatch(MatchKind.REGEX, "/v2/.*"), {"safe_regex": {"regex": "/v2/.*"}}),
    ],
)
def test_paths(uri: StringMatch, expected: dict[str, Any]) -> None:
    assert only_route(route(matches=(RouteMatch(uri=uri),)))["match"] == expected


def test_headers() -> None:
    headers = (
        ("X-Stage", StringMatch(MatchKind.EXACT, "prod")),
        ("a", StringMatch(MatchKind.PREFIX, "b")),
        ("c", StringMatch(MatchKind.REGEX, "d+")),
        ("e", StringMatch(MatchKind.PRESENT)),
    )
    match = only_route(route(matches=(RouteMatch(headers=headers),)))["match"]
    assert match["headers"] == [
        {"name": "x-stage", "string_match": {"exact": "prod"}},
        {"name": "a", "string_match": {"prefix": "b"}},
        {"name": "c", "string_match": {"safe_regex": {"regex": "d+"}}},
        {"name": "e", "present_match": True},
    ]


def test_a_match_on_a_port_is_on_that_ports_listener_only() -> None:
    two = Gateway("ns/gateway", (GatewayServer(8008, "a"), GatewayServer(8009, "b")))
    first = route(name="first", matches=(RouteMatch(port=8008), RouteMatch(port=8009)))
    second = route(name="second", matches=(RouteMatch(port=8009),))
    catalog = built(virtual_service(first, second), gateways=(two,))
    assert [each["name"] for each in the_routes(catalog, 8008)["*"]] == ["ns/vs/first"]
    assert [each["name"] for each in the_routes(catalog, 8009)["*"]] == ["ns/vs/first", "ns/vs/second"]


def test_one_domain_claimed_twice_is_merged_in_order_of_name() -> None:
    catalog = built(
        virtual_service(name="ns/b", hosts=("both", "b")),
        virtual_service(name="ns/a", hosts=("Both", "a", "a2")),
    )
    hosts = one(catalog, ROUTE, "gateway|8008")["virtual_hosts"]
    assert [each["domains"] for each in hosts] == [["a", "a2"], ["b"], ["both"]]
    assert [each["name"] for each in hosts[2]["routes"]] == ["ns/a/default", "ns/b/default"]


def test_a_route_hashes_requests_on_the_header_of_its_destinations_rule() -> None:
    hashed = policy(consistent_hash=ConsistentHash("x-session"))
    (only,) = the_routes(built(virtual_service(route()), of=(picture(policy=hashed, pool=pool()),)))["*"]
    assert only["route"]["hash_policy"] == [{"header": {"header_name": "x-session"}}]
    assert "hash_policy" not in only_route(route())["route"]


def test_a_retry_draws_longer_where_the_own_zone_comes_first() -> None:
    zoned = (picture(policy=policy(own_zone_first=True), pool=pool()), picture(of=service("other")))
    for destination, attempts in ((Destination(HOST, 8033), "1000"), (Destination("other", 8033), "200")):
        (only, *_) = the_routes(built(virtual_service(route(destination)), of=zoned))["*"]
        assert only["route"]["retry_policy"]["host_selection_retry_max_attempts"] == attempts


def test_destinations_hashed_on_different_headers_are_told_apart_before_the_hash() -> None:
    hashed = policy(consistent_hash=ConsistentHash("x-session"))
    pictures = (picture(policy=hashed, pool=pool()), picture(of=service("other")))
    made = route(Destination(HOST, 8033, 30), Destination("other", 8033, 70))
    first, second = the_routes(built(virtual_service(made), of=pictures))["*"]
    assert first["match"]["runtime_fraction"]["default_value"]["numerator"] == 300000
    assert first["route"]["cluster"] == f"{HOST}|8033"
    assert first["route"]["hash_policy"] == [{"header": {"header_name": "x-session"}}]
    assert second["route"]["cluster"] == "other|8033"
    assert "hash_policy" not in second["route"]


def test_a_changed_hash_header_or_zone_is_another_route() -> None:
    domains = claimed((Claim(("a",), virtual_service(route())),), 8008)
    encoder = RouteEncoder(RouteTimes())
    bodies = []
    for hashed in ({}, {HOST: "x-session"}, {HOST: "x-user"}):
        encoder = encoder.successor(hashed=hashed)
        bodies.append(encoder.encode("gateway|8008", 8008, domains).body)
        assert (
            bodies[-1] == RouteEncoder(RouteTimes(), hashed=hashed).encode("gateway|8008", 8008, domains).body
        )
        assert bodies[-1] == bytes(RouteConfiguration.parse(bodies[-1]))
    bodies.append(encoder.successor(zoned=frozenset({HOST})).encode("gateway|8008", 8008, domains).body)
    assert len(set(bodies)) == 4


def test_the_spliced_bytes_are_the_librarys_own_and_remembered_routes_do_not_show() -> None:
    first = virtual_service(route(name="1"), route(name="2", timeout=5), name="ns/a", hosts=("a", "b"))
    second = virtual_service(route(name="3", header_to_key=()), name="ns/b", hosts=("b", "*"))
    encoder = RouteEncoder(RouteTimes())
    bodies = []
    for owners in ((first,), (first, second), (second,)):
        domains = claimed((Claim(owner.hosts, owner) for owner in owners), 8008)
        bodies.append(encoder.encode("gateway|8008", 8008, domains).body)
        assert bodies[-1] == RouteEncoder(RouteTimes()).encode("gateway|8008", 8008, domains).body
        assert bodies[-1] == bytes(RouteConfiguration.parse(bodies[-1]))
        encoder = encoder.successor()
    assert len(set(bodies)) == 3


def test_a_virtual_service_without_a_route_on_the_port_claims_nothing_there() -> None:
    elsewhere = route(matches=(RouteMatch(port=1),))
    assert the_routes(built(virtual_service(elsewhere))) == {}


@pytest.mark.parametrize(
    ("hosts", "served", "expected"),
    [
        (("*",), ("*",), ("*",)),
        (("*",), ("a.example",), ("a.example",)),
        (("A.example", "b.test"), ("*.EXAMPLE",), ("a.example",)),
        (("*.example",), ("*.a.example", "example"), ("*.a.example",)),
        (("a",), ("b",), ()),
    ],
)
def test_a_servers_hosts_narrow_a_virtual_services(
    hosts: tuple[str, ...], served: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert intersection(hosts, served) == expected
    assert intersection(served, hosts) == expected


def test_a_wildcard_stands_for_at_least_one_character() -> None:
    assert matches("*.example", "a.example")
    assert not matches("*.example", ".example")
    assert not matches("*.example", "example")
    assert not matches("a", "*")


def test_a_gateways_listener() -> None:
    listener = the_listener(built())
    assert listener["address"]["socket_address"] == {"address": "0.0.0.0", "port_value": 8008}
    ((manager,),) = [chain["filters"] for chain in listener["filter_chains"]]
    config = manager["typed_config"]
    assert config["rds"] == {
        "config_source": {"ads": {}, "resource_api_version": "V3"},
        "route_config_name": "gateway|8008",
    }
    filters = {each["name"]: each.get("disabled", False) for each in config["http_filters"]}
    assert [name for name, dormant in filters.items() if not dormant] == [FILTER, "envoy.filters.http.router"]
    assert list(filters)[-1] == "envoy.filters.http.router"
    assert config["use_remote_address"] is True
    assert config["normalize_path"] is True
    assert config["path_with_escaped_slashes_action"] == "KEEP_UNCHANGED"
    assert "codec_type" not in config  # AUTO is the enum's 0
    (log,) = config["access_log"]
    assert log["typed_config"]["log_format"]["json_format"]["subset"] == "%DYNAMIC_METADATA(envoy.lb)%"


def test_the_access_log_can_be_left_out() -> None:
    listener = the_listener(built(access_log=False))
    assert "access_log" not in listener["filter_chains"][0]["filters"][0]["typed_config"]


def test_tls_with_and_without_client_certificates() -> None:
    server = GatewayServer(8008, "https", Protocol.HTTP2, tls=Tls("/c.pem", "/k.pem"))
    socket = the_listener(built(gateways=(Gateway("ns/gateway", (server,)),)))["filter_chains"][0]
    context = socket["transport_socket"]["typed_config"]
    assert context["common_tls_context"] == {
        "tls_certificates": [
            {"certificate_chain": {"filename": "/c.pem"}, "private_key": {"filename": "/k.pem"}}
        ],
        "alpn_protocols": ["h2", "http/1.1"],
    }
    assert "require_client_certificate" not in context
    server = GatewayServer(8008, "https", tls=Tls("/c.pem", "/k.pem", "/ca.pem"))
    socket = the_listener(built(gateways=(Gateway("ns/gateway", (server,)),)))["filter_chains"][0]
    context = socket["transport_socket"]["typed_config"]
    assert context["require_client_certificate"] is True
    assert context["common_tls_context"]["validation_context"] == {"trusted_ca": {"filename": "/ca.pem"}}


def sidecar_domains(catalog: ViewCatalog, port: int = 8033) -> dict[str, dict[str, Any]]:
    configuration = one(catalog, ROUTE, f"sidecar|{port}", SIDECAR)
    return {domain: each for each in configuration["virtual_hosts"] for domain in each["domains"]}


def test_a_sidecar_has_a_loopback_listener_for_each_service_port_with_plain_routes() -> None:
    two = service("two", ServicePort(8033, "http"), ServicePort(9000, "other"))
    catalog = built(of=(picture(policy=policy(), pool=pool()), picture(of=two)), gateways=())
    listeners = catalog.snapshot_for(SIDECAR).of(LISTENER).resources
    assert list(listeners) == ["sidecar|8033", "sidecar|9000"]
    address = one(catalog, LISTENER, "sidecar|9000", SIDECAR)["address"]["socket_address"]
    assert address == {"address": "127.0.0.1", "port_value": 9000}
    shared = sidecar_domains(catalog)
    assert list(shared) == [HOST, "two"]  # two services: a request for another host is nobody's
    script = shared[HOST]["routes"][-1]["typed_per_filter_config"]["envoy.filters.http.lua"]
    settings = script["filter_context"]
    assert (settings["headers"][0], settings["keys"]) == ("model", [KEY])
    assert "typed_per_filter_config" not in shared["two"]["routes"][0]
    assert set(sidecar_domains(catalog, 9000)) == {"*", "two"}


def test_mesh_virtual_services_take_the_place_of_plain_routes() -> None:
    two = picture(of=service("two"))
    mine = virtual_service(route(name="mine"), name="ns/m", hosts=("two",), gateways=("mesh",))
    catalog = built(mine, of=(picture(policy=policy(), pool=pool()), two), gateways=())
    found = sidecar_domains(catalog)
    assert found["two"]["routes"][0]["name"] == "ns/m/mine"
    assert found[HOST]["routes"][-1]["name"] == f"{HOST}/default"


def test_a_mesh_virtual_service_for_all_hosts_leaves_no_plain_route() -> None:
    all_hosts = virtual_service(route(name="mine"), name="ns/m", gateways=("mesh", "ns/gateway"))
    assert list(sidecar_domains(built(all_hosts))) == ["*"]


def test_a_mesh_virtual_service_is_not_on_ports_that_its_service_lacks() -> None:
    other = picture(of=service("other", ServicePort(9000, "http")))
    mine = virtual_service(
        route(Destination("other", 9000)), name="ns/m", hosts=("other",), gateways=("mesh",)
    )
    catalog = built(mine, of=(picture(policy=policy(), pool=pool()), other), gateways=())
    assert set(sidecar_domains(catalog)) == {"*", HOST}


def test_routes_wait_for_their_clusters_and_assignments() -> None:
    made = route(Destination(HOST, 8033), Destination("gone", 8033))
    routes = built(virtual_service(made)).snapshot_for(SIDECAR).of(ROUTE).resources["gateway|8008"]
    name = f"{HOST}|8033"
    assert routes.requires == {(CLUSTER, name), (ENDPOINT, name)}
