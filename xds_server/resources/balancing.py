"""How Envoy picks an endpoint: the subset policy over a child policy, with both fallbacks set on purpose.

Uses the extensible `load_balancing_policy` only. The older fields have no `allow_redundant_keys`, without
which one more key in a request's `envoy.lb` metadata is answered with 503.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.cluster.v3 as cluster
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.load_balancing_policies.common.v3 as common
import envoy_data_plane.envoy.extensions.load_balancing_policies.least_request.v3 as least_request
import envoy_data_plane.envoy.extensions.load_balancing_policies.maglev.v3 as maglev
import envoy_data_plane.envoy.extensions.load_balancing_policies.random.v3 as random_policy
import envoy_data_plane.envoy.extensions.load_balancing_policies.ring_hash.v3 as ring_hash
import envoy_data_plane.envoy.extensions.load_balancing_policies.round_robin.v3 as round_robin
import envoy_data_plane.envoy.extensions.load_balancing_policies.subset.v3 as subset
from envoy_data_plane.envoy.type.v3 import Percent

from xds_server.mesh.policies import LARGEST_RING, Balancer, Fallback, HashTable, Policy
from xds_server.resources.naming import ANY_KEY
from xds_server.resources.parts import duration, extension, struct

if TYPE_CHECKING:
    from xds_server.mesh.policies import ConsistentHash, Selector, Warmup
    from xds_server.mesh.pools import Pool

_POLICIES = "envoy.load_balancing_policies."

_CLUSTER_LEVEL = {
    Fallback.NO_FALLBACK: subset.SubsetLbSubsetFallbackPolicy.NO_FALLBACK,
    Fallback.ANY_ENDPOINT: subset.SubsetLbSubsetFallbackPolicy.ANY_ENDPOINT,
    Fallback.DEFAULT_SUBSET: subset.SubsetLbSubsetFallbackPolicy.DEFAULT_SUBSET,
}

_PerSelector = subset.SubsetLbSubsetSelectorLbSubsetSelectorFallbackPolicy

_SELECTOR_LEVEL = {
    Fallback.NO_FALLBACK: _PerSelector.NO_FALLBACK,
    Fallback.ANY_ENDPOINT: _PerSelector.ANY_ENDPOINT,
    Fallback.DEFAULT_SUBSET: _PerSelector.DEFAULT_SUBSET,
}


_NO_LIST = subset.SubsetLbSubsetMetadataFallbackPolicy.METADATA_NO_FALLBACK
_LIST = subset.SubsetLbSubsetMetadataFallbackPolicy.FALLBACK_LIST
"""Requests bring what to look for in order: their model, then the one that stands in for it."""

CHOICES = 4
"""How many endpoints LEAST_REQUEST draws, with replacement, to take the one with the fewest requests.

Of two holders, the busier is taken when all draws are it: once in 16. Two draws, Envoy's default, take it
every fourth time; a full scan never does, but then a replica that fails fast has the fewest requests and is
taken for every retry as well, while its neighbour is busy (measured: 18 % of the requests lost, 404).
"""

OWN_ZONE = 95
"""Of 100 draws those that see the endpoints of Envoy's own zone alone, where it prefers them.

The others see all endpoints of the subset. Without them a retry could never leave the zone: where its only
holder has just lost the model, requests would fail until Envoys have been told.
"""

_AGGRESSION = "load_balancing.warmup.aggression"
"""Envoy wants a runtime key for it; nobody sets that."""

_ANY = subset.SubsetLbSubsetSelector(keys=[ANY_KEY], fallback_policy=_PerSelector.ANY_ENDPOINT)
"""For requests that concern no model, whatever the other selectors and the cluster do with a miss."""


def balancing(policy: Policy | None, pool: Pool | None) -> cluster.LoadBalancingPolicy:
    """Choose the policy of a service: subsets where it has selectors, else its plain balancer."""
    if policy is None:
        return _only(_child(Balancer.LEAST_REQUEST, None, None))
    hashed = policy.consistent_hash
    zones = _own_zone_first() if policy.own_zone_first else None
    child = _child(policy.balancer, policy.warmup, zones) if hashed is None else _table(hashed)
    if not policy.selectors:
        return _only(child)
    message = subset.Subset(
        fallback_policy=_CLUSTER_LEVEL[without_criteria(policy, pool)],
        default_subset=struct(policy.default_subset) if policy.default_subset else None,
        metadata_fallback_policy=_LIST if pool is not None and pool.misses.falls_back else _NO_LIST,
        list_as_any=True,
        allow_redundant_keys=True,
        subset_selectors=[
            *(_selector(each, pool) for each in _sorted(policy.selectors)),
            *([] if pool is None else [_ANY]),
        ],
        subset_lb_policy=_only(child),
    )
    return _only(extension(_POLICIES + "subset", message))


def without_criteria(policy: Policy, pool: Pool | None) -> Fallback:
    """Decide what happens to a request without any of the keys: only the cluster's fallback sees it.

    The pool's own word, else what all selectors a user wrote agree on, else the safe refusal. A rule that
    the pool implied says nothing about such requests.
    """
    if pool is not None and pool.no_model is not None:
        return pool.no_model
    written = {each.fallback for each in policy.selectors}
    if policy.implied_by is None and len(written) == 1:
        return written.pop()
    return Fallback.NO_FALLBACK


def fallback_of(selector: Selector, pool: Pool | None) -> Fallback:
    """Decide what happens where no endpoint matches a selector: the pool's word comes before the rule's."""
    if pool is not None and pool.not_loaded is not None and pool.subset_key in selector.keys:
        return pool.not_loaded
    return selector.fallback


def _selector(selector: Selector, pool: Pool | None) -> subset.SubsetLbSubsetSelector:
    return subset.SubsetLbSubsetSelector(
        keys=sorted(set(selector.keys)), fallback_policy=_SELECTOR_LEVEL[fallback_of(selector, pool)]
    )


def _sorted(selectors: tuple[Selector, ...]) -> list[Selector]:
    """Order the selectors; of several over the same keys the first written stays, the others never count."""
    by_keys: dict[tuple[str, ...], Selector] = {}
    for each in selectors:
        by_keys.setdefault(tuple(sorted(set(each.keys))), each)
    return [by_keys[keys] for keys in sorted(by_keys)]


def _child(
    balancer: Balancer, warmup: Warmup | None, zones: common.LocalityLbConfig | None
) -> core.TypedExtensionConfig:
    slow = None if warmup is None else _slow_start(warmup)
    match balancer:
        case Balancer.ROUND_ROBIN:
            in_turn = round_robin.RoundRobin(slow_start_config=slow, locality_lb_config=zones)
            return extension(_POLICIES + "round_robin", in_turn)
        case Balancer.RANDOM:
            return extension(_POLICIES + "random", random_policy.Random(locality_lb_config=zones))
        case Balancer.LEAST_REQUEST:
            least = least_request.LeastRequest(
                choice_count=CHOICES, slow_start_config=slow, locality_lb_config=zones
            )
            return extension(_POLICIES + "least_request", least)


def _own_zone_first() -> common.LocalityLbConfig:
    """Prefer Envoy's own zone, however few endpoints a subset has there.

    An Envoy whose bootstrap has no zone heeds none of it.
    Forced, since Envoy would otherwise send to each zone what its share of the Envoys makes up for.
    """
    return common.LocalityLbConfig(
        zone_aware_lb_config=common.LocalityLbConfigZoneAwareLbConfig(
            routing_enabled=Percent(value=float(OWN_ZONE)),
            min_cluster_size=1,
            force_local_zone=common.LocalityLbConfigZoneAwareLbConfigForceLocalZone(min_size=1),
        )
    )


def _table(hashed: ConsistentHash) -> core.TypedExtensionConfig:
    if hashed.table is HashTable.MAGLEV:
        return extension(_POLICIES + "maglev", maglev.Maglev(table_size=hashed.size))
    message = ring_hash.RingHash(minimum_ring_size=hashed.size, maximum_ring_size=LARGEST_RING)
    return extension(_POLICIES + "ring_hash", message)


def _slow_start(warmup: Warmup) -> common.SlowStartConfig:
    percent = warmup.minimum_percent
    aggression = warmup.aggression
    return common.SlowStartConfig(
        slow_start_window=duration(warmup.duration),
        aggression=None
        if aggression is None
        else core.RuntimeDouble(default_value=aggression, runtime_key=_AGGRESSION),
        min_weight_percent=None if percent is None else Percent(value=float(percent)),
    )


def _only(config: core.TypedExtensionConfig) -> cluster.LoadBalancingPolicy:
    return cluster.LoadBalancingPolicy(
        policies=[cluster.LoadBalancingPolicyPolicy(typed_extension_config=config)]
    )
