"""Conditions as the API writes them, without the times of their transitions: those are the writer's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LONGEST_MESSAGE = 4096
"""Characters; the API allows 32768."""


@dataclass(frozen=True, slots=True)
class Condition:
    """`status` is True, False or Unknown, as the API spells it."""

    type: str
    status: str
    reason: str
    message: str


def condition(type_: str, reason: str, message: str = "", *, status: bool = True) -> Condition:
    """A condition that holds, or does not."""
    return Condition(type_, "True" if status else "False", reason, message[:LONGEST_MESSAGE])


@dataclass(slots=True)
class Conditions:
    """The conditions of one thing, of a generation of it. The first word about a type counts."""

    generation: int
    said: dict[str, Condition] = field(default_factory=dict)

    def add(self, one: Condition) -> None:
        """Note it, unless something has been said about its type already."""
        self.said.setdefault(one.type, one)

    def holds(self, type_: str) -> bool:
        """Whether the condition is there and True."""
        return type_ in self.said and self.said[type_].status == "True"

    def refuses(self, reason: str) -> bool:
        """Whether it is not accepted for this reason."""
        found = self.said.get("Accepted")
        return found is not None and (found.status, found.reason) == ("False", reason)

    def listed(self) -> list[dict[str, Any]]:
        """As the API has them, sorted by type."""
        return [
            {
                "type": each.type,
                "status": each.status,
                "reason": each.reason,
                "message": each.message,
                "observedGeneration": self.generation,
            }
            for _, each in sorted(self.said.items())
        ]
