"""DestinationRule: how a service's endpoints are grouped into subsets and picked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from xds_server.config.documents.base import (
    Count,
    Duration,
    Host,
    Integer,
    NonEmpty,
    Once,
    OneOf,
    Part,
    Percent,
    Positive,
    PositiveDuration,
    WholeSeconds,
    expected,
)
from xds_server.config.documents.rule_balancer import (
    ConsistentHashPart,
    LocalityLbSettingPart,
    WarmupPart,
)
from xds_server.config.problems import Path, join_or, render_path
from xds_server.mesh.policies import WARMING_UP, Balancer, Fallback

DefaultSubset = Annotated[dict[NonEmpty, NonEmpty], Field(min_length=1)]


class SubsetSelectorPart(Part):
    """Endpoints with equal values for all keys form one subset."""

    keys: Annotated[list[NonEmpty], Field(min_length=1), AfterValidator(Once("key"))]
    fallback_policy: Annotated[Fallback, BeforeValidator(OneOf(Fallback))] = Fallback.NO_FALLBACK
    default_subset: DefaultSubset | None = None


class DynamicSubsetPart(Part):
    """The selectors of a service. Envoy has one default subset for a cluster, so a rule has one too."""

    subset_selectors: Annotated[list[SubsetSelectorPart], Field(min_length=1)]
    default_subset: DefaultSubset | None = None

    @property
    def the_default_subset(self) -> dict[str, str]:
        """The one default subset, wherever it is written; empty where there is none."""
        return self._written()[0][1] if self._written() else {}

    @model_validator(mode="after")
    def _selectors_differ(self) -> DynamicSubsetPart:
        """Envoy refuses a cluster with two selectors over the same keys."""
        seen: dict[frozenset[str], int] = {}
        for index, selector in enumerate(self.subset_selectors):
            keys = frozenset(selector.keys)
            if keys in seen:
                raise expected(
                    "each set of keys in one selector",
                    f"the keys {', '.join(selector.keys)}, which subsetSelectors[{seen[keys]}] has already",
                    ("subsetSelectors", index, "keys"),
                )
            seen[keys] = index
        return self

    @model_validator(mode="after")
    def _one_default_subset(self) -> DynamicSubsetPart:
        written = self._written()
        for where, subset in written[1:]:
            first, other = written[0]
            if subset != other:
                raise expected(
                    "one default subset in the rule, since Envoy has one for a cluster",
                    f"{_show(subset)}, while {render_path(first)} is {_show(other)}",
                    where,
                )
        for index, selector in enumerate(self.subset_selectors):
            if selector.fallback_policy is Fallback.DEFAULT_SUBSET and not written:
                raise expected(
                    'a defaultSubset beside it, such as {"stage": "prod"}',
                    "DEFAULT_SUBSET without a defaultSubset",
                    ("subsetSelectors", index, "fallbackPolicy"),
                )
            if selector.default_subset and selector.fallback_policy is not Fallback.DEFAULT_SUBSET:
                raise expected(
                    "defaultSubset only beside fallbackPolicy DEFAULT_SUBSET",
                    f"one beside fallbackPolicy {selector.fallback_policy}",
                    ("subsetSelectors", index, "defaultSubset"),
                )
        return self

    def _written(self) -> list[tuple[Path, dict[str, str]]]:
        written: list[tuple[Path, dict[str, str] | None]] = [(("defaultSubset",), self.default_subset)]
        for index, selector in enumerate(self.subset_selectors):
            written.append((("subsetSelectors", index, "defaultSubset"), selector.default_subset))
        return [(where, subset) for where, subset in written if subset]


def _show(subset: dict[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in sorted(subset.items())) + "}"


class LoadBalancerPart(Part):
    """How one of several holders is picked, and how they are grouped."""

    simple: Annotated[Balancer, BeforeValidator(OneOf(Balancer))] = Balancer.LEAST_REQUEST
    dynamic_subset: DynamicSubsetPart | None = None
    consistent_hash: ConsistentHashPart | None = None
    warmup: WarmupPart | None = None
    warmup_duration_secs: PositiveDuration | None = None
    """Istio's older way to write `warmup.duration`."""
    locality_lb_setting: LocalityLbSettingPart | None = None

    @property
    def the_warmup(self) -> WarmupPart | None:
        """The one warmup, whichever way it is written."""
        if self.warmup_duration_secs is not None:
            return WarmupPart.model_construct(duration=self.warmup_duration_secs)
        return self.warmup

    @property
    def own_zone_first(self) -> bool:
        """Whether zones count."""
        return self.locality_lb_setting is not None and self.locality_lb_setting.enabled

    @model_validator(mode="after")
    def _one_way_to_pick(self) -> LoadBalancerPart:
        if self.consistent_hash is not None and "simple" in self.model_fields_set:
            raise expected("simple or consistentHash", "both", ("consistentHash",))
        return self

    @model_validator(mode="after")
    def _no_hash_by_zone(self) -> LoadBalancerPart:
        if self.own_zone_first and self.consistent_hash is not None:
            raise expected(
                f"one beside {join_or(sorted(Balancer))} only, since Envoy's hash tables know no zones",
                "one beside consistentHash",
                ("localityLbSetting",),
            )
        return self

    @model_validator(mode="after")
    def _warms_up_by_weight(self) -> LoadBalancerPart:
        written = "warmup" if self.warmup is not None else "warmupDurationSecs"
        if self.warmup is not None and self.warmup_duration_secs is not None:
            raise expected("warmup or warmupDurationSecs", "both", ("warmupDurationSecs",))
        if self.the_warmup is not None and self.consistent_hash is not None:
            raise expected(
                f"one beside {join_or(sorted(WARMING_UP))} only", "one beside consistentHash", (written,)
            )
        if self.the_warmup is not None and self.simple not in WARMING_UP:
            raise expected(
                f"one beside {join_or(sorted(WARMING_UP))} only",
                f"one beside {self.simple}",
                (written,),
            )
        return self


class TcpKeepalivePart(Part):
    """TCP keepalive of upstream connections, in whole seconds as the kernel counts."""

    probes: Positive | None = None
    time: WholeSeconds | None = None
    interval: WholeSeconds | None = None


class TcpPart(Part):
    """Limits of connections."""

    istio_only: ClassVar[frozenset[str]] = frozenset({"idleTimeout"})

    max_connections: Positive | None = None
    connect_timeout: PositiveDuration | None = None
    max_connection_duration: PositiveDuration | None = None
    tcp_keepalive: TcpKeepalivePart | None = None


class HttpPart(Part):
    """Limits of requests."""

    istio_only: ClassVar[frozenset[str]] = frozenset({"h2UpgradePolicy", "useClientProtocol"})

    http1_max_pending_requests: Positive | None = Field(default=None, alias="http1MaxPendingRequests")
    http2_max_requests: Positive | None = Field(default=None, alias="http2MaxRequests")
    max_requests_per_connection: Count | None = None
    max_retries: Count | None = None
    idle_timeout: Duration | None = None
    max_concurrent_streams: Annotated[int, BeforeValidator(Integer(1, 2**31 - 1))] | None = None


class ConnectionPoolPart(Part):
    """Limits of a service's connections and requests."""

    tcp: TcpPart | None = None
    http: HttpPart | None = None


class OutlierDetectionPart(Part):
    """When a failing endpoint is left out for a while."""

    istio_only: ClassVar[frozenset[str]] = frozenset({"consecutiveErrors"})

    consecutive_5xx_errors: Count | None = Field(default=None, alias="consecutive5xxErrors")
    consecutive_gateway_errors: Count | None = None
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: Count | None = None
    interval: PositiveDuration | None = None
    base_ejection_time: PositiveDuration | None = None
    max_ejection_percent: Percent | None = None
    min_health_percent: Percent | None = None


class TrafficPolicyPart(Part):
    """What applies to all of a service's traffic."""

    istio_only: ClassVar[frozenset[str]] = frozenset(
        {"tls", "portLevelSettings", "tunnel", "proxyProtocol", "retryBudget"}
    )

    load_balancer: LoadBalancerPart = Field(default_factory=LoadBalancerPart)
    connection_pool: ConnectionPoolPart | None = None
    outlier_detection: OutlierDetectionPart | None = None


class DestinationRuleSpec(Part):
    """The rule for one service."""

    istio_only: ClassVar[frozenset[str]] = frozenset({"subsets", "exportTo", "workloadSelector"})

    host: Host
    traffic_policy: TrafficPolicyPart = Field(default_factory=TrafficPolicyPart)
