"""ModelPool's `spec.onMiss`: what becomes of requests that miss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, model_validator

from xds_server.config.documents.base import NonEmpty, Part, WholeSeconds, expected
from xds_server.config.problems import join_or
from xds_server.mesh.misses import NO_MISSES, Choice

_ANSWERS = (Choice.NO_FALLBACK, Choice.NOT_FOUND, Choice.UNAVAILABLE)
_ALL = tuple(Choice)


@dataclass(frozen=True, slots=True)
class _OneOf:
    choices: tuple[Choice, ...]

    def __call__(self, value: object) -> Choice:
        for choice in self.choices:
            if value == choice.value:
                return choice
        raise expected(join_or([choice.value for choice in self.choices], len(self.choices)))


class OnMissPart(Part):
    """What becomes of a request without a model, or with one that is nowhere, unknown or out of reach."""

    no_model: Annotated[Choice, BeforeValidator(_OneOf(_ALL))] | None = None
    not_loaded: Annotated[Choice, BeforeValidator(_OneOf(_ALL))] | None = None
    unknown: Annotated[Choice, BeforeValidator(_OneOf(_ANSWERS))] | None = None
    holders_down: Annotated[Choice, BeforeValidator(_OneOf(_ANSWERS))] | None = None
    fallback_model: NonEmpty | None = None
    retry_after: WholeSeconds = float(NO_MISSES.retry_after)

    @model_validator(mode="after")
    def _fallback_model(self) -> OnMissPart:
        wanted = Choice.FALLBACK_MODEL in (self.no_model, self.not_loaded)
        if wanted and self.fallback_model is None:
            raise expected("the name of a model, as a miss falls back to it", "nothing", ("fallbackModel",))
        return self
