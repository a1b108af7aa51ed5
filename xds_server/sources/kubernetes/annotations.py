"""A pod's annotations that list its models, one for each writer: a JSON list of {model, version?, state}."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xds_server.mesh.events import ModelState
from xds_server.mesh.origins import Origin
from xds_server.sources.kubernetes.objects import ANNOTATION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.sources.kubernetes.objects import PodFacts
    from xds_server.sources.kubernetes.watched import Key

_EXPECTED = 'a JSON list of {"model": NAME, "version": TEXT (may be left out), "state": "READY" or another}'


@dataclass(frozen=True, slots=True)
class Told:
    """What one writer says: the rows of its last good annotation (None: it had none), and what is wrong."""

    rows: tuple[ModelState, ...] | None
    problem: str = ""


SEEN: Mapping[str, Told] = {Origin.ANNOTATION.value: Told(())}
"""What counts for a replica without annotations: it was looked at, and there are none."""


@dataclass(slots=True)
class PodModels:
    """What the writers of one pod's annotations say; the last good of each stays in force."""

    uid: str = ""
    told: dict[str, Told] = field(default_factory=dict)
    """By source name: `annotation/WRITER`, and plain `annotation`, see SEEN."""

    def take(self, key: Key, pod: PodFacts) -> None:
        """Take the pod as it is now. Another pod of the same name inherits nothing."""
        before = self.told if pod.uid == self.uid else {}
        self.uid = pod.uid
        self.told = dict(SEEN)
        for writer, text in pod.annotations.items():
            source = f"{Origin.ANNOTATION.value}/{writer}"
            try:
                self.told[source] = Told(_rows(text))
            except ValueError as error:
                last = before.get(source)
                problem = f"pod {'/'.join(key)}, annotation {ANNOTATION}{writer}: {error}"
                self.told[source] = Told(last.rows if last else None, problem)

    def problems(self) -> list[str]:
        """What is wrong with the annotations as they are now."""
        return [told.problem for told in self.told.values() if told.problem]


def _rows(text: str) -> tuple[ModelState, ...]:
    """The rows, sorted. ValueError says what was found and what was expected."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"no JSON ({error}); expected {_EXPECTED}") from error
    if not isinstance(found, list):
        raise ValueError(f"{_said(found)}; expected {_EXPECTED}")  # noqa: TRY004 - what is wrong is the text
    return tuple(sorted({_row(number, each) for number, each in enumerate(found)}))


def _row(number: int, found: Any) -> ModelState:
    """One row; fields that a newer writer adds are left alone."""
    if not isinstance(found, dict):
        raise ValueError(f"[{number}] is {_said(found)}; expected {_EXPECTED}")  # noqa: TRY004
    model, state, version = found.get("model"), found.get("state"), found.get("version", "")
    if not isinstance(model, str) or not model:
        raise ValueError(_wrong(number, "model", found, "the model's name"))
    if not isinstance(state, str) or not state:
        raise ValueError(_wrong(number, "state", found, '"READY", or what it is instead'))
    if not isinstance(version, str):
        raise ValueError(_wrong(number, "version", found, 'a text such as "1", or none'))  # noqa: TRY004
    return ModelState(name=model, version=version, state=state.upper())


def _wrong(number: int, name: str, row: Mapping[str, Any], expected: str) -> str:
    found = _said(row[name]) if name in row else "missing"
    return f"[{number}].{name} is {found}; expected {expected}"


def _said(found: Any) -> str:
    text = json.dumps(found, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004 - a line's worth
