"""Clusters: the subset policy with both fallbacks, and a rule's limits under Envoy's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster

from tests.resources_pictures import HOST, KEY, policy, pool
from xds_server.mesh.model import Protocol, ServicePort
from xds_server.mesh.policies import (
    WARMING_UP,
    Balancer,
    ConnectionPool,
    ConsistentHash,
    Fallback,
    HashTable,
    OutlierDetection,
    Policy,
    Selector,
    TcpKeepalive,
    Warmup,
)
from xds_server.resources.balancing import without_criteria
from xds_server.resources.clusters import ClusterEncoder
from xds_server.resources.naming import ANY_KEY
from xds_server.resources.parts import resource
from xds_server.resources.rendered import as_dict
from xds_server.resources.shards import Shard
from xds_server.xds.model import CLUSTER

if TYPE_CHECKING:
    from xds_server.mesh.pools import Pool

ANY, NO, DEFAULT = Fallback.ANY_ENDPOINT, Fallback.NO_FALLBACK, Fallback.DEFAULT_SUBSET
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def made(policy: Policy | None = None, pool: Pool | None = None, protocol: str = "HTTP") -> dict[str, Any]:
    port = ServicePort(8033, "http", Protocol(protocol))
    body = ClusterEncoder().encode(Shard(HOST, 8033), port, policy, pool)
    assert bytes(Cluster.parse(body)) == body
    return as_dict(resource(CLUSTER, f"{HOST}|8033", body))


def balancing(cluster: dict[str, Any]) -> dict[str, Any]:
    (only,) = cluster["load_balancing_policy"]["policies"]
    return only["typed_extension_config"]["typed_config"]


def test_endpoints_come_over_the_same_stream_under_the_clusters_own_name() -> None:
    cluster = made()
    assert (cluster["name"], cluster["type"]) == (f"{HOST}|8033", "EDS")
    assert cluster["eds_cluster_config"] == {
        "eds_config": {"ads": {}, "resource_api_version": "V3"},
        "service_name": f"{HOST}|8033",
    }


def test_the_older_fields_are_not_used() -> None:
    cluster = made(policy(), pool())
    assert not {
        "lb_policy",
        "lb_subset_config",
        "http2_protocol_options",
        "max_requests_per_connection",
    } & set(cluster)


def test_a_subset_policy_compares_several_holders_and_tolerates_other_keys() -> None:
    subset = balancing(made(policy(), pool()))
    assert subset["@type"].endswith("subset.v3.Subset")
    assert subset["list_as_any"] is True
    assert subset["allow_redundant_keys"] is True
    child = balancing({"load_balancing_policy": subset["subset_lb_policy"]})
    assert child["@type"].endswith("least_request.v3.LeastRequest")
    assert child["choice_count"] == 4
    assert "selection_method" not in child  # a full scan would draw a failing replica again and again


@pytest.mark.parametrize(
    ("balancer", "expected"),
    [
        (Balancer.LEAST_REQUEST, "least_request.v3.LeastRequest"),
        (Balancer.ROUND_ROBIN, "round_robin.v3.RoundRobin"),
        (Balancer.RANDOM, "random.v3.Random"),
    ],
)
def test_without_selectors_the_balancer_stands_alone(balancer: Balancer, expected: str) -> None:
    alone = balancing(made(Policy("ns/dr", HOST, balancer)))
    assert alone["@type"].endswith(expected)
    below = balancing(made(policy(balancer=balancer)))["subset_lb_policy"]
    assert balancing({"load_balancing_policy": below}) == alone


@pytest.mark.parametrize("balancer", sorted(WARMING_UP))
def test_a_warmup_under_envoys_names_alone_and_in_a_subset(balancer: Balancer) -> None:
    warmup = Warmup(30.0, minimum_percent=20, aggression=1.5)
    alone = balancing(made(Policy("ns/dr", HOST, balancer, warmup=warmup)))
    assert alone["slow_start_config"] == {
        "slow_start_window": "30s",
        "aggression": {"default_value": 1.5, "runtime_key": "load_balancing.warmup.aggression"},
        "min_weight_percent": {"value": 20.0},
    }
    below = balancing(made(policy(balancer=balancer, warmup=warmup)))["subset_lb_policy"]
    assert balancing({"load_balancing_policy": below}) == alone
    least = balancing(made(Policy("ns/dr", HOST, balancer, warmup=Warmup(0.5))))
    assert least["slow_start_config"] == {"slow_start_window": "0.500s"}
    assert "slow_start_config" not in balancing(made(Policy("ns/dr", HOST, balancer)))


def test_rules_that_differ_in_their_pick_alone_do_not_share_their_clusters_bytes() -> None:
    encoder, port = ClusterEncoder(), ServicePort(8033, "http")
    warmups = (None, Warmup(1.0), Warmup(2.0), Warmup(2.0, 5), Warmup(2.0, 5, 2.0))
    hashes = [ConsistentHash("s", table, size) for table in HashTable for size in (None, 1021)]
    rules = [policy(warmup=each) for each in warmups] + [policy(consistent_hash=each) for each in hashes]
    rules.append(policy(own_zone_first=True))
    bodies = {encoder.encode(Shard(HOST, 8033), port, rule, pool()) for rule in rules}
    assert len(bodies) == len(rules)
    assert bodies == {ClusterEncoder().encode(Shard(HOST, 8033), port, rule, pool()) for rule in rules}


@pytest.mark.parametrize("balancer", Balancer)
def test_the_own_zone_is_forced_however_few_endpoints_are_there(balancer: Balancer) -> None:
    alone = balancing(made(Policy("ns/dr", HOST, balancer, own_zone_first=True)))
    assert alone["locality_lb_config"] == {
        "zone_aware_lb_config": {
            "routing_enabled": {"value": 95.0},
            "min_cluster_size": 1,
            "force_local_zone": {"min_size": 1},
        }
    }
    below = balancing(made(policy(balancer=balancer, own_zone_first=True), pool()))["subset_lb_policy"]
    assert balancing({"load_balancing_policy": below}) == alone
    assert "locality_lb_config" not in balancing(made(Policy("ns/dr", HOST, balancer)))


@pytest.mark.parametrize(
    ("hashed", "expected"),
    [
        (ConsistentHash("s"), {"maximum_ring_size": 16384}),
        (
            ConsistentHash("s", HashTable.RING_HASH, 64),
            {"minimum_ring_size": 64, "maximum_ring_size": 16384},
        ),
        (ConsistentHash("s", HashTable.MAGLEV), {}),
        (ConsistentHash("s", HashTable.MAGLEV, 1021), {"table_size": 1021}),
    ],
)
def test_a_hash_among_the_endpoints_of_a_subset(hashed: ConsistentHash, expected: dict[str, int]) -> None:
    alone = balancing(made(Policy("ns/dr", HOST, consistent_hash=hashed)))
    kind = {HashTable.RING_HASH: "ring_hash.v3.RingHash", HashTable.MAGLEV: "maglev.v3.Maglev"}
    assert alone.pop("@type").endswith(kind[hashed.table])
    assert {name: int(value) for name, value in alone.items()} == expected
    below = balancing(made(policy(consistent_hash=hashed), pool()))["subset_lb_policy"]
    assert balancing({"load_balancing_policy": below})["@type"].endswith(kind[hashed.table])


def test_selectors_are_sorted_each_with_its_own_fallback() -> None:
    rule = policy(
        Selector(("version", "stage"), DEFAULT),
        Selector(("model",), ANY),
        Selector(("stage", "version"), NO),
        default_subset={"stage": "prod", "a": "b"},
    )
    subset = balancing(made(rule))
    assert subset["subset_selectors"] == [
        {"keys": ["model"], "fallback_policy": "ANY_ENDPOINT"},
        {"keys": ["stage", "version"], "fallback_policy": "DEFAULT_SUBSET"},
    ]
    assert list(subset["default_subset"].items()) == [("a", "b"), ("stage", "prod")]
    assert "fallback_policy" not in subset  # NO_FALLBACK is the enum's 0


@pytest.mark.parametrize(
    ("rule", "of", "expected"),
    [
        (policy(Selector((KEY,), ANY)), None, ANY),
        (policy(Selector((KEY,), ANY), Selector(("stage",), ANY)), None, ANY),
        (policy(Selector((KEY,), ANY), Selector(("stage",), NO)), None, NO),
        (policy(Selector((KEY,), ANY)), pool(no_model=NO), NO),
        (policy(Selector((KEY,), NO)), pool(no_model=DEFAULT), DEFAULT),
        (policy(Selector((KEY,), ANY)), pool(not_loaded=NO), ANY),
        (policy(Selector((KEY,), ANY), implied_by="ModelPool ns/p"), pool(not_loaded=ANY), NO),
        (policy(Selector((KEY,), ANY), implied_by="ModelPool ns/p"), pool(no_model=ANY), ANY),
    ],
)
def test_a_request_without_any_key_meets_a_fallback_chosen_on_purpose(
    rule: Policy, of: Pool | None, expected: Fallback
) -> None:
    assert without_criteria(rule, of) is expected
    assert balancing(made(rule, of)).get("fallback_policy", "NO_FALLBACK") == expected.value


def test_a_pools_word_on_models_not_loaded_is_for_selectors_with_its_key() -> None:
    rule = policy(Selector((KEY,), ANY), Selector((KEY, "stage"), ANY), Selector(("stage",), ANY))
    selectors = balancing(made(rule, pool(not_loaded=NO)))["subset_selectors"]
    assert {tuple(each["keys"]): each["fallback_policy"] for each in selectors} == {
        (KEY,): "NO_FALLBACK",
        (KEY, "stage"): "NO_FALLBACK",
        ("stage",): "ANY_ENDPOINT",
        (ANY_KEY,): "ANY_ENDPOINT",  # for requests that concern no model
    }


def test_one_cluster_that_carries_all_models_is_not_held_to_the_limits_of_one_service() -> None:
    cluster = made()
    assert cluster["circuit_breakers"]["thresholds"] == [
        {
            "max_connections": 65536,
            "max_pending_requests": 65536,
            "max_requests": 65536,
            "retry_budget": {"budget_percent": {"value": 50.0}, "min_retry_concurrency": 64},
        }
    ]
    assert cluster["connect_timeout"] == "1s"
    assert cluster["common_lb_config"]["healthy_panic_threshold"] == {}  # 0 percent


def test_a_connection_pool_under_envoys_names() -> None:
    limits = ConnectionPool(
        max_connections=1,
        connect_timeout=0.25,
        max_connection_duration=60,
        tcp_keepalive=TcpKeepalive(3, 7200, 0.4),
        http1_max_pending_requests=2,
        http2_max_requests=3,
        max_requests_per_connection=4,
        max_retries=5,
        idle_timeout=6.5,
        max_concurrent_streams=7,
    )
    cluster = made(policy(connection_pool=limits), protocol="GRPC")
    assert cluster["circuit_breakers"]["thresholds"] == [
        {"max_connections": 1, "max_pending_requests": 2, "max_requests": 3, "max_retries": 5}
    ]
    assert cluster["connect_timeout"] == "0.250s"
    assert cluster["upstream_connection_options"]["tcp_keepalive"] == {
        "keepalive_probes": 3,
        "keepalive_time": 7200,
        "keepalive_interval": 1,
    }
    options = cluster["typed_extension_protocol_options"][OPTIONS]
    assert options["common_http_protocol_options"] == {
        "idle_timeout": "6.500s",
        "max_connection_duration": "60s",
        "max_requests_per_connection": 4,
    }
    assert options["explicit_http_config"] == {"http2_protocol_options": {"max_concurrent_streams": 7}}


def test_zero_requests_per_connection_means_no_limit() -> None:
    cluster = made(policy(connection_pool=ConnectionPool(max_requests_per_connection=0)))
    options = cluster["typed_extension_protocol_options"][OPTIONS]
    assert options["common_http_protocol_options"] == {"idle_timeout": "3s"}


def test_an_idle_connection_is_closed_before_a_runtime_on_uvicorn_closes_it() -> None:
    asked = made(policy(connection_pool=ConnectionPool(idle_timeout=60)))
    for cluster, expected in ((made(policy()), "3s"), (asked, "60s")):
        options = cluster["typed_extension_protocol_options"][OPTIONS]
        assert options["common_http_protocol_options"]["idle_timeout"] == expected


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("HTTP", "http_protocol_options"),
        ("HTTP2", "http2_protocol_options"),
        ("GRPC", "http2_protocol_options"),
    ],
)
def test_the_protocol_of_the_port_is_spoken_upstream(protocol: str, expected: str) -> None:
    options = made(protocol=protocol)["typed_extension_protocol_options"][OPTIONS]
    assert options["explicit_http_config"] == {expected: {}}


def test_outlier_detection_under_envoys_names() -> None:
    outlier = OutlierDetection(
        consecutive_5xx_errors=0,
        consecutive_gateway_errors=3,
        split_external_local_origin_errors=True,
        consecutive_local_origin_failures=4,
        interval=1.5,
        base_ejection_time=30,
        max_ejection_percent=50,
        min_health_percent=20,
    )
    cluster = made(policy(outlier_detection=outlier))
    assert cluster["outlier_detection"] == {
        "consecutive_5xx": 0,
        "enforcing_consecutive_5xx": 0,
        "consecutive_gateway_failure": 3,
        "enforcing_consecutive_gateway_failure": 100,
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 4,
        "enforcing_consecutive_local_origin_failure": 100,
        "interval": "1.500s",
        "base_ejection_time": "30s",
        "max_ejection_percent": 50,
        "always_eject_one_host": True,
        "enforcing_success_rate": 0,
    }
    assert cluster["common_lb_config"]["healthy_panic_threshold"] == {"value": 20.0}


@pytest.mark.parametrize(("percent", "ejects"), [(None, True), (10, True), (0, False)])
def test_a_small_cluster_can_eject_one_endpoint_unless_the_rule_forbids_it(
    percent: int | None, ejects: bool
) -> None:
    cluster = made(policy(outlier_detection=OutlierDetection(max_ejection_percent=percent)))
    assert cluster["outlier_detection"]["always_eject_one_host"] is ejects
    assert "outlier_detection" not in made(policy())
