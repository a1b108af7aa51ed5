"""DestinationRule's `trafficPolicy.loadBalancer.warmup`: how an endpoint that is new begins."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from xds_server.config.documents.base import Part, Percent, PositiveDuration, expected


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
