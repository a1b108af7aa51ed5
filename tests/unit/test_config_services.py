"""ServiceEntry and DestinationRule: every field, what it becomes, and its default."""

import pytest
from config_texts import SERVICE, document, errors, load

from xds_server.mesh.model import Endpoint, EndpointId, Locality, Protocol, ServicePort
from xds_server.mesh.policies import (
    Balancer,
    ConnectionPool,
    Fallback,
    OutlierDetection,
    Policy,
    Selector,
    TcpKeepalive,
)


class TestServiceEntry:
    def test_every_field(self, tmp_path):
        configuration = load(
            tmp_path,
            document(
                "ServiceEntry",
                """
hosts: [models, models.example.com]
resolution: STATIC
ports:
  - {number: 8033, name: http, protocol: HTTP, targetPort: 9001}
  - {number: 8034, name: grpc, protocol: GRPC}
  - {number: 8035, name: h2, protocol: HTTP2}
endpoints:
  - address: 10.0.0.2
  - address: "fd00::0:1"
    ports: {grpc: 7000, rest: 9101}
    labels: {stage: prod, app: a, xds-server.dev/pod: models-7}
    locality: eu/a/rack-1
    weight: 3
""",
            ),
        )
        assert [service.host for service in configuration.services] == ["models", "models.example.com"]
        assert configuration.services[0].namespace == "ml"
        assert configuration.services[0].ports == (
            ServicePort(8033, "http", Protocol.HTTP),
            ServicePort(8034, "grpc", Protocol.GRPC),
            ServicePort(8035, "h2", Protocol.HTTP2),
        )
        assert configuration.endpoints[:2] == (
            Endpoint(EndpointId("models", "10.0.0.2", 9001), {"http": 9001, "grpc": 8034, "h2": 8035}),
            Endpoint(
                EndpointId("models", "fd00::1", 9001),
                {"http": 9001, "grpc": 7000, "h2": 8035, "rest": 9101},
                {"app": "a", "stage": "prod", "xds-server.dev/pod": "models-7"},
                Locality("eu", "a", "rack-1"),
                3,
                "models-7",
            ),
        )
        assert {endpoint.id.service for endpoint in configuration.endpoints[2:]} == {"models.example.com"}

    @pytest.mark.parametrize(
        ("written", "locality"),
        [("eu", Locality("eu")), ("eu/a", Locality("eu", "a")), ("eu/a/1", Locality("eu", "a", "1"))],
    )
    def test_a_locality_has_up_to_three_parts(self, tmp_path, written, locality):
        text = SERVICE.replace("{address: 10.0.0.2}", f"{{address: 10.0.0.2, locality: {written}}}")
        assert load(tmp_path, text).endpoints[1].locality == locality

    def test_a_service_may_have_no_endpoints_yet(self, tmp_path):
        text = SERVICE[: SERVICE.index("  endpoints")]
        assert load(tmp_path, text).endpoints == ()

    def test_replicas_may_share_an_address_and_an_extra_port(self, tmp_path):
        text = SERVICE[: SERVICE.index("  endpoints")] + (
            "  endpoints:\n"
            "    - {address: 10.0.0.1, ports: {http: 1, x: 9}}\n"
            "    - {address: 10.0.0.1, ports: {http: 2, x: 9}}\n"
        )
        assert [str(endpoint.id) for endpoint in load(tmp_path, text).endpoints] == [
            "10.0.0.1:1",
            "10.0.0.1:2",
        ]

    @pytest.mark.parametrize(
        "address", ["fe80::1%eth0", "0.0.0.0", "::", "224.0.0.1", "10.0.0", "10.0.0.1:80"]
    )
    def test_what_is_no_address_of_a_replica(self, tmp_path, address):
        (error,) = errors(tmp_path, SERVICE.replace("10.0.0.2", f'"{address}"'))
        assert f'endpoints[1].address: found "{address}"; expected the IP address of a replica' in error

    def test_two_spellings_of_one_address_are_one_endpoint(self, tmp_path):
        text = SERVICE.replace("10.0.0.1", '"fd00::1"').replace(
            "{address: 10.0.0.2}", '{address: "fd00:0::1", ports: {http: 9001}}'
        )
        (error,) = errors(tmp_path, text)
        assert "spec.endpoints[1]: found fd00::1 with port 9001, which endpoints[0] is already" in error

    @pytest.mark.parametrize("host", ['"*.example.com"', "models:80", "/models", '""', "a..b"])
    def test_what_is_no_host(self, tmp_path, host):
        (error,) = errors(tmp_path, SERVICE.replace("[models]", f"[{host}]"))
        assert error.endswith("expected a host name without wildcard, port or path")


class TestDestinationRule:
    def test_every_field(self, tmp_path):
        rule = document(
            "DestinationRule",
            """
host: models
trafficPolicy:
  loadBalancer:
    simple: ROUND_ROBIN
    dynamicSubset:
      subsetSelectors:
        - {keys: [stage, version], fallbackPolicy: DEFAULT_SUBSET, defaultSubset: {stage: prod}}
        - {keys: [stage], fallbackPolicy: ANY_ENDPOINT}
        - {keys: [version], fallbackPolicy: NO_FALLBACK}
        - {keys: [tier]}
  connectionPool:
    tcp:
      maxConnections: 100
      connectTimeout: 250ms
      maxConnectionDuration: 1h
      tcpKeepalive: {probes: 3, time: 1m30s, interval: 10s}
    http:
      http1MaxPendingRequests: 1
      http2MaxRequests: 2
      maxRequestsPerConnection: 3
      maxRetries: 4
      idleTimeout: 1.5s
      maxConcurrentStreams: 5
  outlierDetection:
    consecutive5xxErrors: 5
    consecutiveGatewayErrors: 6
    splitExternalLocalOriginErrors: true
    consecutiveLocalOriginFailures: 7
    interval: 10s
    baseEjectionTime: 30s
    maxEjectionPercent: 50
    minHealthPercent: 20
""",
        )
        assert load(tmp_path, SERVICE, rule).policies == (
            Policy(
                name="ml/models",
                host="models",
                balancer=Balancer.ROUND_ROBIN,
                selectors=(
                    Selector(("stage", "version"), Fallback.DEFAULT_SUBSET),
                    Selector(("stage",), Fallback.ANY_ENDPOINT),
                    Selector(("version",), Fallback.NO_FALLBACK),
                    Selector(("tier",), Fallback.NO_FALLBACK),
                ),
                default_subset={"stage": "prod"},
                connection_pool=ConnectionPool(
                    max_connections=100,
                    connect_timeout=0.25,
                    max_connection_duration=3600.0,
                    tcp_keepalive=TcpKeepalive(probes=3, time=90.0, interval=10.0),
                    http1_max_pending_requests=1,
                    http2_max_requests=2,
                    max_requests_per_connection=3,
                    max_retries=4,
                    idle_timeout=1.5,
                    max_concurrent_streams=5,
                ),
                outlier_detection=OutlierDetection(
                    consecutive_5xx_errors=5,
                    consecutive_gateway_errors=6,
                    split_external_local_origin_errors=True,
                    consecutive_local_origin_failures=7,
                    interval=10.0,
                    base_ejection_time=30.0,
                    max_ejection_percent=50,
                    min_health_percent=20,
                ),
            ),
        )

    def test_a_rule_needs_only_its_host(self, tmp_path):
        (policy,) = load(tmp_path, SERVICE, document("DestinationRule", "host: models")).policies
        assert policy == Policy("ml/models", "models", Balancer.LEAST_REQUEST, default_subset={})

    def test_the_default_subset_may_stand_beside_the_selectors(self, tmp_path):
        rule = """
host: models
trafficPolicy:
  loadBalancer:
    dynamicSubset:
      defaultSubset: {stage: prod}
      subsetSelectors: [{keys: [stage], fallbackPolicy: DEFAULT_SUBSET}]
"""
        (policy,) = load(tmp_path, SERVICE, document("DestinationRule", rule)).policies
        assert policy.default_subset == {"stage": "prod"}
        assert policy.selectors == (Selector(("stage",), Fallback.DEFAULT_SUBSET),)

    def test_a_default_subset_that_is_not_used_is_an_error(self, tmp_path):
        rule = """
host: models
trafficPolicy:
  loadBalancer:
    dynamicSubset: {subsetSelectors: [{keys: [stage], defaultSubset: {stage: prod}}]}
"""
        (error,) = errors(tmp_path, SERVICE, document("DestinationRule", rule))
        assert error.endswith(
            "subsetSelectors[0].defaultSubset: found one beside fallbackPolicy NO_FALLBACK; "
            "expected defaultSubset only beside fallbackPolicy DEFAULT_SUBSET"
        )
