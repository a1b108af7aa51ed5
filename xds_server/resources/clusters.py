"""Clusters: how Envoy connects to a shard and which of its endpoints it may pick.

A cluster changes when its documents do, never with a model or a replica: that churn belongs to the
assignment, because every changed cluster is warmed again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.cluster.v3 as cluster
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.upstreams.http.v3 as upstreams
from envoy_data_plane.envoy.type.v3 import Percent

from xds_server.mesh.model import Protocol
from xds_server.mesh.policies import ConnectionPool, OutlierDetection
from xds_server.resources.balancing import balancing
from xds_server.resources.parts import duration, over_ads, packed
from xds_server.wire import field, string, uint

if TYPE_CHECKING:
    from xds_server.mesh.model import ServicePort
    from xds_server.mesh.policies import Policy, TcpKeepalive
    from xds_server.mesh.pools import Pool
    from xds_server.resources.shards import Shard

CONNECT_TIMEOUT = 1.0
"""Seconds: replicas are near, and a dead one is retried elsewhere."""

NO_LIMIT = 65536
"""Envoy's default of 1024 is meant for one service of many; this cluster carries all models at once."""

HTTP1_IDLE_TIMEOUT = 3.0
"""Seconds after which an idle HTTP/1.1 connection to a runtime is closed, by Envoy, unless a rule says else.

A runtime on uvicorn (MLServer, vLLM, KServe) closes it after 5 s, and a request that Envoy puts on it at
that moment is lost: 503 with flag UC, since an inference request that may have begun is not tried again.
"""

RETRIES_UNDER_WAY = 64
"""Retries that may be under way at once, for all models together, however few requests there are."""

RETRY_SHARE = 50.0
"""Percent of the requests under way that may be retries beyond those."""

UNREACHABLE = OutlierDetection(
    consecutive_5xx_errors=0,
    consecutive_gateway_errors=0,
    split_external_local_origin_errors=True,
    consecutive_local_origin_failures=5,
    interval=1.0,
    base_ejection_time=2.0,
    max_ejection_percent=50,
)
"""Of a pool's endpoints, where no rule says else: one that cannot be reached is left out for some seconds.

Without it, LEAST_REQUEST draws a replica that refuses connections before all others, since it has the
fewest requests. Not after fewer failures: a runtime that breaks off on one caller's odd request would be
left out for all models. What replicas answer does not count: a model that fails would take replicas from
others.
"""

_ALWAYS = 100
_NEVER = 0


class ClusterEncoder:
    """Encodes clusters, and what they have in common once only.

    A cluster takes the message library milliseconds, and most services share one rule. The tests hold the
    joined bytes equal to the library's own.
    """

    def __init__(self) -> None:
        self._common: dict[tuple[object, ...], bytes] = {}

    def encode(self, shard: Shard, port: ServicePort, policy: Policy | None, pool: Pool | None) -> bytes:
        """Encode the Cluster of a shard."""
        key = (port.protocol, _of_policy(policy), _of_pool(pool))
        common = self._common.get(key)
        if common is None:
            common = self._common[key] = bytes(_common(port.protocol, policy, pool))
        return _identity(shard.name) + common


def _of_policy(policy: Policy | None) -> tuple[object, ...]:
    """List all of a policy that a cluster is made from; not its name or its host."""
    if policy is None:
        return ()
    return (
        policy.balancer,
        policy.warmup,
        policy.consistent_hash,
        policy.own_zone_first,
        policy.selectors,
        tuple(sorted(policy.default_subset.items())),
        policy.connection_pool,
        policy.outlier_detection,
        policy.implied_by is None,
    )


def _of_pool(pool: Pool | None) -> tuple[object, ...]:
    return () if pool is None else (pool.subset_key, pool.no_model, pool.not_loaded, pool.misses.falls_back)


def _identity(name: str) -> bytes:
    """Encode the first fields of a Cluster: name, type, and where its endpoints come from.

    No initial_fetch_timeout of 0 here: an assignment that does not come would block the cluster for good,
    since this one is itself delivered over xDS (envoy 13009).
    """
    eds = cluster.ClusterEdsClusterConfig(eds_config=over_ads(), service_name=name)
    return string(1, name) + uint(2, int(cluster.ClusterDiscoveryType.EDS)) + field(3, bytes(eds))


def _common(protocol: Protocol, policy: Policy | None, pool: Pool | None) -> cluster.Cluster:
    """Build all other fields of a Cluster."""
    limits = (policy.connection_pool if policy else None) or ConnectionPool()
    outlier = policy.outlier_detection if policy else None
    if outlier is None and pool is not None:
        outlier = UNREACHABLE
    options = upstreams.HttpProtocolOptions(
        common_http_protocol_options=_common_http(protocol, limits),
        explicit_http_config=_explicit_http(protocol, limits),
    )
    return cluster.Cluster(
        connect_timeout=duration(
            CONNECT_TIMEOUT if limits.connect_timeout is None else limits.connect_timeout
        ),
        common_lb_config=cluster.ClusterCommonLbConfig(healthy_panic_threshold=_panic_threshold(outlier)),
        circuit_breakers=_circuit_breakers(limits),
        load_balancing_policy=balancing(policy, pool),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(options)
        },
        outlier_detection=_outlier_detection(outlier) if outlier else None,
        upstream_connection_options=_tcp_keepalive(limits.tcp_keepalive) if limits.tcp_keepalive else None,
    )


def _panic_threshold(outlier: OutlierDetection | None) -> Percent:
    """Set the panic threshold, in percent.

    0 unless asked for: a model whose holders are down is answered with 503. Above it Envoy would send to
    the dead ones, and for a subset of one endpoint any failure is a panic (envoy 13429).
    """
    asked = outlier.min_health_percent if outlier else None
    return Percent(value=float(asked or 0))


def _circuit_breakers(limits: ConnectionPool) -> cluster.CircuitBreakers:
    return cluster.CircuitBreakers(
        thresholds=[
            cluster.CircuitBreakersThresholds(
                max_connections=_or(limits.max_connections, NO_LIMIT),
                max_pending_requests=_or(limits.http1_max_pending_requests, NO_LIMIT),
                max_requests=_or(limits.http2_max_requests, NO_LIMIT),
                max_retries=limits.max_retries,
                retry_budget=_retry_budget() if limits.max_retries is None else None,
            )
        ]
    )


def _retry_budget() -> cluster.CircuitBreakersThresholdsRetryBudget:
    return cluster.CircuitBreakersThresholdsRetryBudget(
        budget_percent=Percent(value=RETRY_SHARE), min_retry_concurrency=RETRIES_UNDER_WAY
    )


def _or(asked: int | None, default: int) -> int:
    return default if asked is None else asked


def _common_http(protocol: Protocol, limits: ConnectionPool) -> core.HttpProtocolOptions | None:
    idle = limits.idle_timeout
    if idle is None and protocol is Protocol.HTTP:
        idle = HTTP1_IDLE_TIMEOUT
    if idle is None and limits.max_connection_duration is None and not limits.max_requests_per_connection:
        return None
    return core.HttpProtocolOptions(
        idle_timeout=None if idle is None else duration(idle),
        max_connection_duration=(
            None if limits.max_connection_duration is None else duration(limits.max_connection_duration)
        ),
        # A rule's 0 means no limit, which is Envoy's absence of the field.
        max_requests_per_connection=limits.max_requests_per_connection or None,
    )


def _explicit_http(
    protocol: Protocol, limits: ConnectionPool
) -> upstreams.HttpProtocolOptionsExplicitHttpConfig:
    if protocol is Protocol.HTTP:
        return upstreams.HttpProtocolOptionsExplicitHttpConfig(
            http_protocol_options=core.Http1ProtocolOptions()
        )
    return upstreams.HttpProtocolOptionsExplicitHttpConfig(
        http2_protocol_options=core.Http2ProtocolOptions(
            max_concurrent_streams=limits.max_concurrent_streams or None
        )
    )


def _tcp_keepalive(keepalive: TcpKeepalive) -> cluster.UpstreamConnectionOptions:
    return cluster.UpstreamConnectionOptions(
        tcp_keepalive=core.TcpKeepalive(
            keepalive_probes=keepalive.probes,
            keepalive_time=_whole_seconds(keepalive.time),
            keepalive_interval=_whole_seconds(keepalive.interval),
        )
    )


def _whole_seconds(seconds: float | None) -> int | None:
    """Sockets count whole seconds; less than one is one, for 0 would be refused by the kernel."""
    return None if seconds is None else max(1, round(seconds))


def _outlier_detection(outlier: OutlierDetection) -> cluster.OutlierDetection:
    """Translate a rule's outlier detection, which has other names and other defaults than Envoy's.

    Ejection by success rate is off: the documents have no word for it. One endpoint may always be ejected
    (unless the rule says 0 percent), because Envoy's default of 10 percent means none at all in a cluster
    of fewer than ten (envoy 27909).
    """
    local = outlier.split_external_local_origin_errors
    return cluster.OutlierDetection(
        consecutive_5xx=outlier.consecutive_5xx_errors,
        enforcing_consecutive_5xx=_enforced(outlier.consecutive_5xx_errors),
        consecutive_gateway_failure=outlier.consecutive_gateway_errors,
        enforcing_consecutive_gateway_failure=_enforced(outlier.consecutive_gateway_errors),
        split_external_local_origin_errors=local,
        consecutive_local_origin_failure=outlier.consecutive_local_origin_failures if local else None,
        enforcing_consecutive_local_origin_failure=(
            _enforced(outlier.consecutive_local_origin_failures) if local else None
        ),
        interval=None if outlier.interval is None else duration(outlier.interval),
        base_ejection_time=(
            None if outlier.base_ejection_time is None else duration(outlier.base_ejection_time)
        ),
        max_ejection_percent=outlier.max_ejection_percent,
        always_eject_one_host=outlier.max_ejection_percent != 0,
        enforcing_success_rate=_NEVER,
    )


def _enforced(threshold: int | None) -> int | None:
    """A threshold of 0 switches that kind of error off; an absent one leaves Envoy's default."""
    if threshold is None:
        return None
    return _ALWAYS if threshold else _NEVER
