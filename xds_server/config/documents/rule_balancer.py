"""DestinationRule's `trafficPolicy.loadBalancer`: new endpoints, picking by a hash, and zones."""

from __future__ import annotations

from math import isqrt
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, model_validator

from xds_server.config.documents.base import (
    HeaderName,
    Integer,
    Part,
    Percent,
    PositiveDuration,
    expected,
)
from xds_server.mesh.policies import LARGEST_RING, ConsistentHash, HashTable


def _aggression(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= _STEEPEST:
        raise expected(f"a number from 1 to {_STEEPEST}")
    return float(value)


_STEEPEST = 1000


class WarmupPart(Part):
    """The share of a new endpoint grows during `duration`; 1 for `aggression` is a straight line."""

    duration: PositiveDuration
    minimum_percent: Percent | None = None
    aggression: Annotated[float, BeforeValidator(_aggression)] | None = None


_LARGEST_TABLE = 65537
"""Envoy's default; it takes more, and makes a table for each subset."""


def _prime(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= _LARGEST_TABLE:  # noqa: PLR2004 - the first prime
        raise expected(f"a prime number up to {_LARGEST_TABLE}")
    if any(value % divisor == 0 for divisor in range(2, isqrt(value) + 1)):
        raise expected(f"a prime number up to {_LARGEST_TABLE}")
    return value


RingSize = Annotated[int, BeforeValidator(Integer(1, LARGEST_RING))]


class RingHashPart(Part):
    """A ring on which each endpoint has many places."""

    minimum_ring_size: RingSize | None = None


class MaglevPart(Part):
    """A table of endpoints."""

    table_size: Annotated[int, BeforeValidator(_prime)] | None = None


class LocalityLbSettingPart(Part):
    """The endpoints of an Envoy's own zone before all others."""

    istio_only: ClassVar[frozenset[str]] = frozenset({"distribute", "failover", "failoverPriority"})

    enabled: bool = True


class ConsistentHashPart(Part):
    """Requests with equal values of a header go to the same endpoint."""

    istio_only: ClassVar[frozenset[str]] = frozenset({"httpCookie", "useSourceIp", "httpQueryParameterName"})

    http_header_name: HeaderName
    minimum_ring_size: RingSize | None = None
    """Istio's older way to write `ringHash.minimumRingSize`."""
    ring_hash: RingHashPart | None = None
    maglev: MaglevPart | None = None

    @model_validator(mode="after")
    def _one_table(self) -> ConsistentHashPart:
        given = [each for each in ("minimumRingSize", "ringHash", "maglev") if self._has(each)]
        if len(given) > 1:
            raise expected("one of minimumRingSize, ringHash and maglev", " and ".join(given), (given[1],))
        return self

    def _has(self, field: str) -> bool:
        values = {
            "minimumRingSize": self.minimum_ring_size,
            "ringHash": self.ring_hash,
            "maglev": self.maglev,
        }
        return values[field] is not None

    @property
    def value(self) -> ConsistentHash:
        """What the mesh knows of it."""
        header = self.http_header_name.lower()
        if self.maglev is not None:
            return ConsistentHash(header, HashTable.MAGLEV, self.maglev.table_size)
        size = self.minimum_ring_size if self.ring_hash is None else self.ring_hash.minimum_ring_size
        return ConsistentHash(header, size=size)
