"""Where a route sends its requests, for how long, how often again, and with which subset metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.core.v3 as core_v3
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 as header_to_metadata
import envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 as previous_hosts
import envoy_data_plane.envoy.type.matcher.v3 as matcher

from xds_server.mesh.request import MODEL_HEADER
from xds_server.mesh.routing import UNRESOLVED
from xds_server.resources import by_model
from xds_server.resources.filters import OWN_NAMESPACE
from xds_server.resources.parts import LB_NAMESPACE, duration, packed
from xds_server.resources.shards import SINGLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from envoy_data_plane.google.protobuf import Any

    from xds_server.mesh.routing import Destination, HeaderToKey, Retries, Route
    from xds_server.resources.direct import Place
    from xds_server.resources.shards import Sharding, Target
    from xds_server.resources.variant import RouteVariant


_NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class RouteTimes:
    """Times of a route that names none, in seconds. A `timeout` of 0 means that an answer may take for ever.

    `idle` ends a request on which nothing at all moves in either direction.
    """

    timeout: float = 0.0
    idle: float = 300.0


RETRY_ON = "connect-failure,refused-stream,reset-before-request"
"""Only what the replica cannot have begun to work on: an inference is not always safe to repeat."""

RETRY_MODELS_ON = f"{RETRY_ON},404"
"""On routes to pools also the answer of a replica that does not have the model (any more): others may."""

GRPC_NOT_FOUND = "5"

RETRIES = 3
HOST_SELECTION_ATTEMPTS = 200
"""How often another endpoint is drawn when the draw was one that has failed already.

A replica that fails fast has the fewest requests: of two, LEAST_REQUEST draws the other, busy one 1 time in
16 (balancing.CHOICES), so that 200 draws miss it 2 times in a million. A draw costs a fraction of a
microsecond, and a model with one holder has nobody else to draw.
"""

ATTEMPTS_BY_ZONE = 1000
"""The same where an Envoy's own zone comes first, and holders elsewhere are in few draws.

With 1 busy one of two there, and balancing.OWN_ZONE, three retries miss it 1 time in 10,000.
"""

RETRY_PAUSE, LONGEST_RETRY_PAUSE = 0.05, 0.5
"""Seconds: the first pause is a random part of the first, later ones grow to the second."""


@dataclass(frozen=True, slots=True)
class Taken:
    """One of the Envoy routes that a route becomes: its action, and which requests take it.

    `hosts`: of the action's clusters, in order, or of all of them. `share`: the part of all requests that
    takes it or one before it; None: all that there are. `headers`: what more they must look like.
    """

    action: route_v3.RouteAction
    hosts: tuple[str, ...]
    share: float | None = None
    headers: tuple[route_v3.HeaderMatcher, ...] = ()


@dataclass(frozen=True, slots=True)
class Hosts:
    """What routes have to know of the services that they lead to.

    `keys`: the subset keys of pools, by host. `hashed`: by host, the header whose value is to keep a request
    with the same endpoint. `zoned`: the hosts whose endpoints in Envoy's own zone come first.
    """

    sharding: Sharding
    keys: Mapping[str, str]
    hashed: Mapping[str, str]
    zoned: frozenset[str] = frozenset()

    def attempts(self, route: Route) -> int:
        """How often a retry of the route draws another endpoint."""
        zoned = any(each.host in self.zoned for each in route.destinations)
        return ATTEMPTS_BY_ZONE if zoned else HOST_SELECTION_ATTEMPTS


def actions(route: Route, times: RouteTimes, hosts: Hosts, named: Place | None = None) -> Iterator[Taken]:
    """List what a route becomes, in order.

    `named`: where all of the requests name their model; None: where the script puts the name, or nowhere.
    Among clusters of one action Envoy picks either by weight or by hash, and has one hash for all of them.
    So where a destination of several is split into clusters, or hashed on another header, each gets a route
    of its own.
    """
    sharding, keys, hashed = hosts.sharding, hosts.keys, hosts.hashed
    attempts = hosts.attempts(route)
    wanted = _wanted(route.destinations)
    headers_hashed = {hashed.get(host) for host, _ in wanted}
    alike = len(headers_hashed) == 1 and all(sharding.layout(host) == SINGLE for host, _ in wanted)
    if len(wanted) > 1 and alike:
        made = _hashing(_common(route, times, attempts), *headers_hashed)
        made.weighted_clusters = route_v3.WeightedCluster(
            clusters=[
                route_v3.WeightedClusterClusterWeight(name=sharding.single(*target).name, weight=weight)
                for target, weight in wanted.items()
            ]
        )
        yield Taken(made, tuple(host for host, _ in wanted))
        return
    total, taken = sum(wanted.values()), 0
    for target, weight in wanted.items():
        taken += weight
        share = None if taken == total else taken / total
        header = hashed.get(target[0])
        if sharding.layout(target[0]) == SINGLE:
            made = _hashing(_common(route, times, attempts), header)
            made.cluster = sharding.single(*target).name
            yield Taken(made, target[:1], share)
        elif named is not None and route.naming is not None and keys[target[0]] in route.naming.keys:
            made = _common(route, times, attempts)
            by_model.to_shard(made, target, sharding, [named.hash_policy()])
            yield Taken(made, target[:1], share)
        else:
            headers = model_headers(route, keys[target[0]])
            # A sharded pool has no such header: its own hash is what picks the shard (by_model.py).
            rest, made = (_hashing(_common(route, times, attempts), header) for _ in range(2))
            by_model.to_rest(rest, target)
            yield Taken(rest, target[:1], share, tuple(by_model.unnamed(headers)))
            if headers:
                by_model.to_model(made, target, sharding, headers)
                yield Taken(made, target[:1], share)


def model_headers(route: Route, key: str) -> list[str]:
    """List the headers that may name the model of a pool with this subset key, the one that counts first.

    Of several for one key the last that a request has is what becomes metadata.
    """
    if route.naming is not None and key in route.naming.keys:
        return [MODEL_HEADER]  # where the script finds the name, it has put it into this one
    return [each.header.lower() for each in reversed(route.header_to_key) if each.key == key]


def _common(route: Route, times: RouteTimes, attempts: int) -> route_v3.RouteAction:
    timeout = times.timeout if route.timeout is None else route.timeout
    common = route_v3.RouteAction(
        timeout=duration(timeout),
        # A request that may take long is silent meanwhile: its idle limit must not come first.
        idle_timeout=duration(max(times.idle, timeout)),
        retry_policy=_retry_policy(route.retries, attempts, to_models=route.naming is not None),
    )
    if any(each.host == UNRESOLVED for each in route.destinations):
        common.cluster_not_found_response_code = (
            route_v3.RouteActionClusterNotFoundResponseCode.INTERNAL_SERVER_ERROR
        )
    return common


def _hashing(action: route_v3.RouteAction, header: str | None) -> route_v3.RouteAction:
    """Hash requests on a header; those without it are picked by chance."""
    if header is not None:
        action.hash_policy = [
            route_v3.RouteActionHashPolicy(header=route_v3.RouteActionHashPolicyHeader(header_name=header))
        ]
    return action


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


def _retry_policy(retries: Retries | None, attempts: int, *, to_models: bool) -> route_v3.RetryPolicy | None:
    """Retry on another endpoint of the same subset; None for no retries at all."""
    if retries is not None and retries.attempts == 0:
        return None
    default = RETRY_MODELS_ON if to_models else RETRY_ON
    conditions, codes = _conditions(retries.retry_on if retries and retries.retry_on else default)
    if _NOT_FOUND in codes:
        conditions.append("retriable-headers")
    per_try = retries.per_try_timeout if retries else None
    return route_v3.RetryPolicy(
        retry_on=",".join(conditions),
        retriable_status_codes=codes,
        retriable_headers=[_grpc_status(GRPC_NOT_FOUND)] if _NOT_FOUND in codes else [],
        num_retries=RETRIES if retries is None else retries.attempts,
        per_try_timeout=None if per_try is None else duration(per_try),
        retry_host_predicate=[
            route_v3.RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=packed(previous_hosts.PreviousHostsPredicate()),
            )
        ],
        host_selection_retry_max_attempts=attempts,
        retry_back_off=route_v3.RetryPolicyRetryBackOff(
            base_interval=duration(RETRY_PAUSE), max_interval=duration(LONGEST_RETRY_PAUSE)
        ),
    )


def _grpc_status(code: str) -> route_v3.HeaderMatcher:
    """Match an answer that is nothing but a gRPC status."""
    return route_v3.HeaderMatcher(name="grpc-status", string_match=matcher.StringMatcher(exact=code))


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


def header_mapping(mapping: Sequence[HeaderToKey], keys: Sequence[str], variant: RouteVariant) -> Any | None:
    """Write a route's own rules from headers to subset metadata, in the order given; None without any.

    An absent header writes nothing: the request then meets the cluster's own fallback. The variant's marks
    are written for every request, as metadata of ours, and its name under all of `keys`.
    """
    named = variant.named.rules(keys) if variant.named is not None else []
    if not mapping and not variant.marks and not named:
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
            + [
                header_to_metadata.ConfigRule(
                    header=":path",
                    on_header_present=header_to_metadata.ConfigKeyValuePair(
                        metadata_namespace=OWN_NAMESPACE, key=key, value=value
                    ),
                )
                for key, value in variant.marks.items()
            ]
            + named
        )
    )
