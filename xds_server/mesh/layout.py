"""How a pool is to become Envoy clusters. The value that a document asks for; resources/ decides."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

BUDGET = 0.005
"""Seconds that a rebuild of one cluster may take in Envoy: the live traffic's p99 follows it."""

MAX_SHARDS = 1024
"""More clusters cost Envoy more memory than they save time."""


class LayoutKind(StrEnum):
    """As documents name it."""

    SINGLE = "single"
    SHARDED = "sharded"
    PER_MODEL = "perModel"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class PoolLayout:
    """What a pool asks for.

    `shards`: of a sharded pool, a power of two; None: as many as the law asks for. `budget`: seconds that
    a rebuild may take, where the number of shards is chosen.
    """

    kind: LayoutKind = LayoutKind.AUTO
    shards: int | None = None
    budget: float = BUDGET


AUTO = PoolLayout()
"""What a pool gets that asks for nothing."""
