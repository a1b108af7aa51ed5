"""The values of a pool's misses: what callers are told, and which model stands in for one that is missing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Choice(StrEnum):
    """What becomes of a request that misses."""

    ANY_ENDPOINT = "ANY_ENDPOINT"
    """Any replica gets it: it may load the model."""
    DEFAULT_SUBSET = "DEFAULT_SUBSET"
    """The replicas of the rule's default subset get it."""
    FALLBACK_MODEL = "FALLBACK_MODEL"
    """A replica that has the fallback model gets it."""
    NOT_FOUND = "NOT_FOUND"
    """The answer is 404."""
    UNAVAILABLE = "UNAVAILABLE"
    """The answer is 503, and says when to try again."""
    NO_FALLBACK = "NO_FALLBACK"
    """The answer is 503."""


@dataclass(frozen=True, slots=True)
class Misses:
    """What becomes of requests that miss; None where the document says nothing.

    `no_model`: they name none. `not_loaded`: no replica has it. `unknown`: nobody knows it either; None: as
    `not_loaded`. `holders_down`: those that have it cannot be reached. `retry_after` in seconds, told with
    UNAVAILABLE.
    """

    no_model: Choice | None = None
    not_loaded: Choice | None = None
    unknown: Choice | None = None
    holders_down: Choice | None = None
    fallback_model: str | None = None
    retry_after: int = 5

    @property
    def falls_back(self) -> bool:
        """Whether a model that no replica has is stood in for by another one."""
        return self.fallback_model is not None and self.not_loaded is Choice.FALLBACK_MODEL


NO_MISSES = Misses()
"""A document that says nothing of them."""
