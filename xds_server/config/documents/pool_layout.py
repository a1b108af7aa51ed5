"""ModelPool's `spec.layout`: how the pool becomes Envoy clusters."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, model_validator

from xds_server.config.documents.base import OneOf, Part, Seconds, expected
from xds_server.config.problems import describe
from xds_server.mesh.layout import BUDGET, MAX_SHARDS, LayoutKind

AUTO = "auto"

_FEWEST = 2


def _count(value: object) -> str | int:
    if value == AUTO:
        return AUTO
    if isinstance(value, bool) or not isinstance(value, int) or not _FEWEST <= value <= MAX_SHARDS:
        raise expected(f"auto, or an integer from {_FEWEST} to {MAX_SHARDS}")
    return value


class LayoutPart(Part):
    """One cluster, some, or one for each model; `auto` decides by size and by the rate of changes."""

    type: Annotated[LayoutKind, BeforeValidator(OneOf(LayoutKind))] = LayoutKind.AUTO
    shards: Annotated[str | int, BeforeValidator(_count)] = AUTO
    budget: Annotated[float, BeforeValidator(Seconds(0.0001))] = BUDGET

    @model_validator(mode="after")
    def _shards_of_sharded(self) -> LayoutPart:
        if self.shards != AUTO and self.type is not LayoutKind.SHARDED:
            raise expected(
                "shards with type sharded only",
                f"{self.shards} with type {describe(self.type.value)}",
                ("shards",),
            )
        return self
