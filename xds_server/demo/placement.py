"""Which model is loaded where: the first placement, and the next move. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Placement = dict[str, tuple[str, ...]]
"""Model to the replicas (HOST:PORT) that hold it."""


@dataclass(frozen=True)
class Move:
    """A model that goes from one replica to another. Replicas as HOST:PORT."""

    model: str
    source: str
    target: str


def first(models: Sequence[str], replicas: Sequence[str]) -> Placement:
    """Models dealt out to the replicas in turn; every third one to a second replica as well."""
    count = len(replicas)
    dealt = {}
    for number, model in enumerate(models):
        held_by = [replicas[number % count]]
        if number % 3 == 2:
            held_by.append(replicas[(number + 1 + number // 3 % (count - 1)) % count])
        dealt[model] = tuple(sorted(held_by))
    return dealt


def loaded_on(placement: Mapping[str, Sequence[str]], replica: str) -> list[str]:
    """The models that a replica holds, in the placement's order."""
    return [model for model, replicas in placement.items() if replica in replicas]


def next_move(placement: Mapping[str, Sequence[str]], replicas: Sequence[str], number: int) -> Move:
    """The move of this number: models take turns, each from a holder to the next replica without it."""
    models = list(placement)
    model = models[(number + 1) % len(models)]
    source = placement[model][0]
    start = replicas.index(source)
    after = [replicas[(start + step) % len(replicas)] for step in range(1, len(replicas))]
    target = next(replica for replica in after if replica not in placement[model])
    return Move(model, source, target)


def moved(placement: Mapping[str, Sequence[str]], move: Move) -> Placement:
    """The placement after a move."""
    changed = {model: tuple(replicas) for model, replicas in placement.items()}
    changed[move.model] = tuple(sorted({*changed[move.model], move.target} - {move.source}))
    return changed
