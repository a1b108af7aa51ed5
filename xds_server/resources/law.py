"""The law of what a change costs Envoy, and what it predicts for a fleet. Pure arithmetic.

At every change of a subset cluster each Envoy thread rebuilds every subset against every host, and
serves nothing meanwhile. Measured on Envoy 1.40: 8 us for each model and 0.02 us for each pair of model
and endpoint of the cluster (docs/scale.md). Splitting a pool into N clusters divides both.
"""

from __future__ import annotations

from dataclasses import dataclass

from xds_server.mesh.layout import MAX_SHARDS, LayoutKind

PER_MODEL = 8e-6
"""Seconds of a rebuild for each model of the cluster."""

PER_PAIR = 0.02e-6
"""Seconds of a rebuild for each pair of a model and an endpoint of the cluster, held or not."""

PER_MODEL_CHANGE = 0.3e-3
"""Seconds that a worker spends on a change where each model has a cluster of its own, at any size."""

NAME_BYTES = 12
"""Of a model's name, where no name is known."""

LARGE_POOL = 1000
BYTES_SHARE = 0.1
"""From LARGE_POOL endpoints on, a change is to be at most this part of what it is in one cluster."""

SHARE = 0.05
"""Of a worker's time that rebuilds may take."""

ROOM = 0.6
"""The part of what a rebuild may take that a split pool's may: on a machine that is slower than the law's by
two thirds it is still within, and a pool that grows is not split anew at once."""

_TOLERANCE = 1.01
"""The law is rounded: a hundredth above a limit does not break it."""

_MIB = 2**20
_BASE_BYTES = 60 * _MIB
_SUBSET_BYTES = 14_000
"""Resident, for each subset and thread."""
_MEMBER_BYTES = 4_000
"""Resident, for each endpoint in each cluster that it is in."""
_IDLE_CLUSTER_BYTES = 42_000
"""Resident, for a model's own cluster, created deferred and with few stats."""
_ENDPOINT_BYTES = 90
"""On the wire, for an endpoint without its models."""
_NAME_OVERHEAD = 4
_SMALL_CHANGE = 700
"""Bytes of an assignment of one model's replicas."""


@dataclass(frozen=True, slots=True)
class Size:
    """A pool's size: endpoints, different models, and models on each endpoint (a mean).

    `everywhere`: each cluster has to have every endpoint, because a miss may go to any of them.
    """

    endpoints: int
    models: int
    per_endpoint: float
    everywhere: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the law says of one layout.

    `rebuild`: seconds on each thread for a change. `share`: of a worker's time at the given rate of
    changes. `bytes_per_change`: to each Envoy. `memory`: an Envoy's resident bytes. `connections`:
    upstream connection pools of one worker once every model has been asked for on every replica.
    """

    kind: LayoutKind
    shards: int
    rebuild: float
    share: float
    bytes_per_change: int
    memory: int
    connections: int


def members(size: Size, shards: int) -> float:
    """How many endpoints a shard is expected to have: those that hold one of its models."""
    if size.everywhere or shards == 1:
        return float(size.endpoints)
    return size.endpoints * float(1.0 - (1.0 - 1.0 / shards) ** size.per_endpoint)


def cost(models: float, endpoints: float) -> float:
    """Seconds that each thread needs to rebuild a cluster of this size."""
    return PER_MODEL * models + PER_PAIR * models * endpoints


def rebuild(size: Size, shards: int) -> float:
    """Seconds that each thread is expected to need for a change of one shard of `shards`."""
    return cost(size.models / shards, members(size, shards))


def allowed(budget: float, rate: float) -> float:
    """How long a rebuild may take, in seconds: the budget, or less where `rate` a second use up the share."""
    return min(budget, SHARE / rate) if rate > 0 else budget


def change_bytes(size: Size, shards: int, name_bytes: int = NAME_BYTES) -> float:
    """How many bytes a change of one shard of `shards` is expected to be, to each Envoy."""
    held = size.endpoints * size.per_endpoint / shards
    return members(size, shards) * _ENDPOINT_BYTES + held * (name_bytes + _NAME_OVERHEAD)


def fewest_shards(size: Size, limit: float) -> int:
    """Find how many shards a pool needs so that each is rebuilt within `limit` seconds.

    One where that does; else the smallest power of two that stays within ROOM of the limit, or
    MAX_SHARDS where not even those would do. From LARGE_POOL endpoints on, up to four times as many where
    a change would else be more than a tenth of the bytes that it is in one cluster.
    """
    shards = _within(size, limit)
    if shards == 1 or size.endpoints < LARGE_POOL or size.everywhere:
        return shards
    saved = change_bytes(size, 1) * BYTES_SHARE
    wanted = (shards * times for times in (1, 2, 4) if shards * times <= MAX_SHARDS)
    return next((count for count in wanted if change_bytes(size, count) <= saved), shards)


def _within(size: Size, limit: float) -> int:
    if rebuild(size, 1) <= limit * _TOLERANCE:
        return 1
    shards = 2
    while shards < MAX_SHARDS and rebuild(size, shards) > limit * ROOM * _TOLERANCE:
        shards *= 2
    return shards


def predict(
    size: Size,
    kind: LayoutKind,
    shards: int = 1,
    *,
    rate: float = 0.0,
    workers: int = 2,
    name_bytes: int = NAME_BYTES,
) -> Prediction:
    """Predict what a layout costs; `shards` counts for `sharded` alone. ValueError for `auto`."""
    match kind:
        case LayoutKind.PER_MODEL:
            memory = _BASE_BYTES + _IDLE_CLUSTER_BYTES * size.models
            pairs = round(size.endpoints * size.per_endpoint)
            return Prediction(
                kind, size.models, PER_MODEL_CHANGE, rate * PER_MODEL_CHANGE, _SMALL_CHANGE, memory, pairs
            )
        case LayoutKind.SINGLE | LayoutKind.SHARDED:
            count = shards if kind is LayoutKind.SHARDED else 1
            each = members(size, count)
            seconds = rebuild(size, count)
            return Prediction(
                kind,
                count,
                seconds,
                rate * seconds,
                round(change_bytes(size, count, name_bytes)),
                round(
                    _BASE_BYTES + _SUBSET_BYTES * size.models * (workers + 1) + _MEMBER_BYTES * each * count
                ),
                round(each * count),
            )
        case LayoutKind.AUTO:
            raise ValueError("auto is a choice between layouts, not one of them")
