"""Documents that come one by one: what is good is compiled, what is not has its problems.

A *unit* is what is taken or refused as a whole: one API object, or all documents of a ConfigMap. (A
directory of files is one unit, in effect: loader.py takes all of it or nothing.) No I/O here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds_server.config.compile import Doubt, compile_documents

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds_server.config.documents import Document
    from xds_server.config.documents.base import Part
    from xds_server.config.problems import Problem
    from xds_server.mesh.model import Service
    from xds_server.mesh.routing import Configuration


@dataclass(frozen=True, slots=True)
class Unit:
    """Documents that stand or fall together, as they are now.

    `key` is unique in the set. `age` orders units that contradict each other: the one that sorts first is
    right (for API objects the time of creation, so that a newcomer cannot push out what works). `problems`
    are those of reading and of shape; `documents` are what could be read, and count only without problems.
    """

    key: str
    documents: tuple[Document[Part], ...] = ()
    problems: tuple[Problem, ...] = ()
    age: str = ""
    generation: int = 0
    """The object's; 0 for what has none."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What comes of a set.

    `problems` by unit: those of its newest state, judged among the newest states of all the others. They
    depend on nothing else, so every server that sees the same objects says the same. `in_force` by unit: the
    state that the configuration is made of: the newest, or the last good one of a unit with problems. A unit
    that is not in it has none that is usable.
    """

    configuration: Configuration
    problems: Mapping[str, tuple[Problem, ...]]
    in_force: Mapping[str, Unit]


class DocumentSet:
    """The newest state of each unit, and the last good one."""

    def __init__(self) -> None:
        self._newest: dict[str, Unit] = {}
        self._good: dict[str, Unit] = {}

    def put(self, unit: Unit) -> None:
        """`unit` is new, or is now so."""
        self._newest[unit.key] = unit

    def drop(self, key: str) -> None:
        """The unit is gone, and its last good state with it."""
        self._newest.pop(key, None)
        self._good.pop(key, None)

    def compile(self, elsewhere: Mapping[str, Service] | None = None) -> Compiled:
        """Judge all units and compile those that are good.

        `elsewhere`: services by host that another source declares.
        """
        good, problems, configuration = _judge(self._newest.values(), elsewhere)
        self._good |= good
        left = [self._good[key] for key in problems if key in self._good]
        in_force = dict(good)
        if left:
            in_force, configuration = _with_last_good(good, left, configuration, elsewhere)
        return Compiled(configuration, dict(sorted(problems.items())), dict(sorted(in_force.items())))


def _judge(
    units: Iterable[Unit], elsewhere: Mapping[str, Service] | None
) -> tuple[dict[str, Unit], dict[str, tuple[Problem, ...]], Configuration]:
    """The units without problems, the problems of the others, and what the good ones declare together.

    Whoever is blamed is taken out and the rest judged again: what referred to it is then at fault too.
    """
    good: dict[str, Unit] = {}
    problems: dict[str, tuple[Problem, ...]] = {}
    for unit in units:
        if unit.problems:
            problems[unit.key] = tuple(sorted(unit.problems))
        else:
            good[unit.key] = unit
    while True:
        configuration, blamed = _compile(good.values(), elsewhere)
        if not blamed:
            return good, problems, configuration
        for key, found in blamed.items():
            problems[key] = tuple(sorted(set(found)))
            del good[key]


def _with_last_good(
    good: Mapping[str, Unit],
    left: Iterable[Unit],
    configuration: Configuration,
    elsewhere: Mapping[str, Service] | None,
) -> tuple[dict[str, Unit], Configuration]:
    """`good` and as many of `left` as do not contradict it: all of them at once, or else one after the other.

    Those that others may refer to come first.
    """
    both = {**good, **{unit.key: unit for unit in left}}
    together, blamed = _compile(both.values(), elsewhere)
    if not blamed:
        return both, together
    in_force = dict(good)
    for unit in sorted(left, key=_referred_first):
        more, blamed = _compile([*in_force.values(), unit], elsewhere)
        if not blamed:
            in_force[unit.key], configuration = unit, more
    return in_force, configuration


_RANK = ("ServiceEntry", "DestinationRule", "ModelPool", "Gateway", "VirtualService", "InferenceService")
"""Kinds in the order in which they refer to each other."""


def _referred_first(unit: Unit) -> tuple[int, str, str]:
    return min((_RANK.index(document.kind) for document in unit.documents), default=0), unit.age, unit.key


def _compile(
    units: Iterable[Unit], elsewhere: Mapping[str, Service] | None
) -> tuple[Configuration, dict[str, list[Problem]]]:
    ordered = sorted(units, key=lambda unit: (unit.age, unit.key))
    documents = [document for unit in ordered for document in unit.documents]
    configuration, problems = compile_documents(documents, Doubt(), elsewhere)
    owners = {
        _identity(document.place.problem((), "", "")): u.key for u in ordered for document in u.documents
    }
    blamed: dict[str, list[Problem]] = {}
    for problem in problems:
        blamed.setdefault(owners[_identity(problem)], []).append(problem)
    return configuration, blamed


def _identity(problem: Problem) -> tuple[str, int, str]:
    """Which document a problem is about."""
    return problem.file, problem.document, problem.subject
