"""Where a route sends its requests, for how long, how often again, and with which subset metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.core.v3 as core_v3
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 as header_to_metadata
import envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 as previous_hosts

from xds_server.mesh.routing import UNRESOLVED
from xds_server.resources import by_model
from xds_server.resources.parts import LB_NAMESPACE, duration, packed
from xds_server.resources.shards import SINGLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from envoy_data_plane.google.protobuf import Any

    from xds_server.mesh.routing import Destination, HeaderToKey, Retries, Route
    from xds_server.resources.by_model import Rule
    from xds_server.resources.shards import Sharding, Target


@dataclass(frozen=True, slots=True)
class RouteTimes:
    """Times of a route that names none, in seconds. A `timeout` of 0 means that an answer may take for ever.

    `idle` ends a request on which nothing at all moves in either direction.
    """

    timeout: float = 0.0
    idle: float = 300.0


RETRY_ON = "connect-failure,refused-stream,reset-before-request"
"""Only what the replica cannot have begun to work on: an inference is not always safe to repeat."""

RETRIES = 2
HOST_SELECTION_ATTEMPTS = 5
"""How often another endpoint is drawn when the draw was one that has failed already; 1 is too few.

LEAST_REQUEST looks at all endpoints and draws only among those with the fewest requests: while the others are
busy, one that refuses connections is drawn each time. Outlier detection is what leaves it out.
"""


def actions(
    route: Route, times: RouteTimes, sharding: Sharding, rules: Mapping[str, Rule]
) -> list[tuple[route_v3.RouteAction, float | None]]:
    """What a route becomes: one action, or one for each destination.

    Among clusters of one action Envoy picks either by weight or by hash. So where a destination of several
    is split into clusters, each destination gets a route of its own, with the share of the requests that
    takes it or one before it; None: all that there are.
    """
    wanted = _wanted(route.destinations)
    if len(wanted) > 1 and any(sharding.layout(host) != SINGLE for host, _ in wanted):
        total, taken = sum(wanted.values()), 0
        split: list[tuple[route_v3.RouteAction, float | None]] = []
        for target, weight in wanted.items():
            taken += weight
            share = None if taken == total else taken / total
            split.append((_to_one(target, route, times, sharding, rules), share))
        return split
    if len(wanted) == 1:
        return [(_to_one(next(iter(wanted)), route, times, sharding, rules), None)]
    made = _common(route, times)
    made.weighted_clusters = route_v3.WeightedCluster(
        clusters=[
            route_v3.WeightedClusterClusterWeight(name=sharding.single(*target).name, weight=weight)
            for target, weight in wanted.items()
        ]
    )
    return [(made, None)]


def _common(route: Route, times: RouteTimes) -> route_v3.RouteAction:
    timeout = times.timeout if route.timeout is None else route.timeout
    common = route_v3.RouteAction(
        timeout=duration(timeout),
        # A request that may take long is silent meanwhile: its idle limit must not come first.
        idle_timeout=duration(max(times.idle, timeout)),
        retry_policy=_retry_policy(route.retries),
    )
    if any(each.host == UNRESOLVED for each in route.destinations):
        common.cluster_not_found_response_code = (
            route_v3.RouteActionClusterNotFoundResponseCode.INTERNAL_SERVER_ERROR
        )
    return common


def _to_one(
    target: Target, route: Route, times: RouteTimes, sharding: Sharding, rules: Mapping[str, Rule]
) -> route_v3.RouteAction:
    """Send a route's requests to one destination, however it is laid out."""
    made = _common(route, times)
    host, port = target
    layout = sharding.layout(host)
    if layout == SINGLE:
        made.cluster = sharding.single(host, port).name
    else:
        by_model.choose(made, target, sharding, route.header_to_key, rules[host])
    return made


def _wanted(destinations: Sequence[Destination]) -> dict[Target, int]:
    """Add up the weights, sorted. A lone destination gets everything; among several, 0 means nothing."""
    if len(destinations) == 1:
        return {(destinations[0].host, destinations[0].port): 1}
    weights: dict[Target, int] = {}
    for each in destinations:
        if each.weight:
            target = (each.host, each.port)
            weights[target] = weights.get(target, 0) + each.weight
    return dict(sorted(weights.items()))


def _retry_policy(retries: Retries | None) -> route_v3.RetryPolicy | None:
    """Retry on another endpoint of the same subset; None for no retries at all."""
    if retries is not None and retries.attempts == 0:
        return None
    conditions, codes = _conditions(retries.retry_on if retries and retries.retry_on else RETRY_ON)
    per_try = retries.per_try_timeout if retries else None
    return route_v3.RetryPolicy(
        retry_on=",".join(conditions),
        retriable_status_codes=codes,
        num_retries=RETRIES if retries is None else retries.attempts,
        per_try_timeout=None if per_try is None else duration(per_try),
        retry_host_predicate=[
            route_v3.RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=packed(previous_hosts.PreviousHostsPredicate()),
            )
        ],
        host_selection_retry_max_attempts=HOST_SELECTION_ATTEMPTS,
    )


def _conditions(retry_on: str) -> tuple[list[str], list[int]]:
    """Split a rule's retryOn, which may name status codes; Envoy takes those in a field of their own."""
    asked = [part.strip() for part in retry_on.split(",") if part.strip()]
    codes = sorted({int(part) for part in asked if part.isdecimal()})
    conditions = [part for part in asked if not part.isdecimal()]
    if codes and "retriable-status-codes" not in conditions:
        conditions.append("retriable-status-codes")
    return conditions, codes


def added_header(name: str, value: str) -> core_v3.HeaderValueOption:
    """Set a request header on the way to the replica, whatever the client sent in it."""
    return core_v3.HeaderValueOption(
        header=core_v3.HeaderValue(key=name, value=value),
        append_action=core_v3.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def header_mapping(mapping: Sequence[HeaderToKey]) -> Any | None:
    """Write the route's own rules from headers to subset metadata, in the order given; None without any.

    An absent header writes nothing: the request then meets the cluster's own fallback.
    """
    if not mapping:
        return None
    return packed(
        header_to_metadata.Config(
            request_rules=[
                header_to_metadata.ConfigRule(
                    header=each.header.lower(),
                    on_header_present=header_to_metadata.ConfigKeyValuePair(
                        metadata_namespace=LB_NAMESPACE,
                        key=each.key,
                        type=header_to_metadata.ConfigValueType.STRING,
                    ),
                )
                for each in mapping
            ]
        )
    )
