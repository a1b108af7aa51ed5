"""The values of a service's rule: how its endpoints are grouped, picked, limited and left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from xds_server.mesh.model import EMPTY

if TYPE_CHECKING:
    from collections.abc import Mapping


class Balancer(StrEnum):
    """How one of several holders of a model is picked."""

    LEAST_REQUEST = "LEAST_REQUEST"
    ROUND_ROBIN = "ROUND_ROBIN"
    RANDOM = "RANDOM"


WARMING_UP = frozenset({Balancer.LEAST_REQUEST, Balancer.ROUND_ROBIN})
"""Those under which Envoy lets the share of a new endpoint grow."""


class Fallback(StrEnum):
    """What Envoy does when no endpoint matches a request's metadata."""

    ANY_ENDPOINT = "ANY_ENDPOINT"
    NO_FALLBACK = "NO_FALLBACK"
    DEFAULT_SUBSET = "DEFAULT_SUBSET"


@dataclass(frozen=True, slots=True)
class Selector:
    """Endpoints with equal values for all `keys` form one subset."""

    keys: tuple[str, ...]
    fallback: Fallback = Fallback.NO_FALLBACK


@dataclass(frozen=True, slots=True)
class ConnectionPool:
    """Limits of a service's connections; None leaves the default. Times in seconds."""

    max_connections: int | None = None
    connect_timeout: float | None = None
    max_connection_duration: float | None = None
    tcp_keepalive: TcpKeepalive | None = None
    http1_max_pending_requests: int | None = None
    http2_max_requests: int | None = None
    max_requests_per_connection: int | None = None
    max_retries: int | None = None
    idle_timeout: float | None = None
    max_concurrent_streams: int | None = None


@dataclass(frozen=True, slots=True)
class TcpKeepalive:
    """TCP keepalive of upstream connections; None leaves the system's value. Times in seconds."""

    probes: int | None = None
    time: float | None = None
    interval: float | None = None


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """When a failing endpoint is left out for a while; None leaves Envoy's default. Seconds, percent."""

    consecutive_5xx_errors: int | None = None
    consecutive_gateway_errors: int | None = None
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: int | None = None
    interval: float | None = None
    base_ejection_time: float | None = None
    max_ejection_percent: int | None = None
    min_health_percent: int | None = None


@dataclass(frozen=True, slots=True)
class Warmup:
    """How the share of an endpoint grows that a cluster did not have before. Seconds, percent.

    `aggression`: 1 is a straight line, more rises sooner; None leaves Envoy's default, as of the percent.
    """

    duration: float
    minimum_percent: int | None = None
    aggression: float | None = None


LARGEST_RING = 16384
"""Entries of a ring: Envoy makes one for each subset, on each thread, at each change."""


class HashTable(StrEnum):
    """How hashes are dealt out among the holders."""

    RING_HASH = "RING_HASH"
    MAGLEV = "MAGLEV"


@dataclass(frozen=True, slots=True)
class ConsistentHash:
    """Requests with equal values of `header` (in lower case) go to the same holder, while it is one.

    `size`: the least entries of a ring, or those of a Maglev table; None leaves Envoy's default.
    """

    header: str
    table: HashTable = HashTable.RING_HASH
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """A DestinationRule: how a service's endpoints are grouped and picked.

    `implied_by` names the ModelPool on whose account it has a selector that nobody wrote, else None.
    `own_zone_first`: an Envoy that knows its zone picks among those endpoints of a subset that are in it.
    """

    name: str
    host: str
    balancer: Balancer = Balancer.LEAST_REQUEST
    selectors: tuple[Selector, ...] = ()
    default_subset: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    implied_by: str | None = None
    warmup: Warmup | None = None
    consistent_hash: ConsistentHash | None = None
    own_zone_first: bool = False

    @property
    def pick(self) -> str:
        """How one of several holders is picked, in a few words."""
        hashed = self.consistent_hash
        if hashed is not None:
            return f"{hashed.table} on {hashed.header}"
        return f"{self.balancer}, own zone first" if self.own_zone_first else self.balancer
