"""What a runtime answered, and how an answer that nobody vouches for is read. No I/O here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds_server.mesh.events import FailureKind

if TYPE_CHECKING:
    from xds_server.mesh.events import ModelState

SHOWN = 200
"""Characters of an unexpected answer that an error shows."""


class RuntimeUnreadableError(RuntimeError):
    """The runtime gave no usable answer; `kind` says in which way, the text what was seen."""

    def __init__(self, kind: FailureKind, error: str) -> None:
        super().__init__(error)
        self.kind = kind


class RuntimeRefusedError(RuntimeError):
    """The runtime answered a load or an unload with an error: `status` and `body`, as it gave them."""

    def __init__(self, action: str, model: str, status: int | str, body: str) -> None:
        code = f"HTTP {status}" if isinstance(status, int) else status
        super().__init__(f"the runtime refused to {action} {model!r}: {code} {shown(body)}".rstrip())
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class Index:
    """One answer: its rows, sorted, and the bytes they were read from.

    `until`: when (epoch seconds) it ceases to hold, where the runtime tells.
    """

    body: bytes
    rows: tuple[ModelState, ...]
    until: float | None = None


def bad(error: str) -> RuntimeUnreadableError:
    """An answer that is none: the error to raise."""
    return RuntimeUnreadableError(FailureKind.BAD_ANSWER, error)


def shown(text: str) -> str:
    """One line of at most SHOWN characters."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"


@dataclass(frozen=True, slots=True)
class Shape:
    """Reads JSON of which little is known; `what` names the answer in errors.

    Every method raises RuntimeUnreadableError (BAD_ANSWER) with what was found in place of the expected.
    """

    what: str

    def parsed(self, body: bytes) -> object:
        """The value that the text stands for."""
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise bad(f"{self.what} is no JSON: {shown(body.decode(errors='replace'))}") from None

    def rows(self, value: object) -> list[dict[str, object]]:
        """An array of objects."""
        if not isinstance(value, list):
            raise bad(f"{self.what} is not an array: {shown(json.dumps(value))}")
        for number, row in enumerate(value):
            if not isinstance(row, dict):
                raise bad(f"row {number} of {self.what} is not an object: {shown(json.dumps(row))}")
        return value

    def mapping(self, value: object) -> dict[str, object]:
        """An object."""
        if not isinstance(value, dict):
            raise bad(f"{self.what} is not an object: {shown(json.dumps(value))}")
        return value

    def rows_under(self, value: object, key: str) -> list[dict[str, object]]:
        """The array of objects that an object has under `key`; an absent or null one is empty."""
        under = self.mapping(value).get(key)
        return Shape(f"{key} of {self.what}").rows([] if under is None else under)

    def text(self, number: int, row: dict[str, object], field: str) -> str:
        """A field as text; absent and null are empty, a number is written out."""
        value = row.get(field)
        if value is None:
            return ""
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise bad(f"row {number} of {self.what}: {field} is no text: {shown(json.dumps(value))}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise bad(f"row {number} of {self.what}: {field} is no Unicode text: {value!a}") from None
        return value

    def name(self, number: int, row: dict[str, object], field: str) -> str:
        """A field as text that must not be empty."""
        value = self.text(number, row, field)
        if not value:
            raise bad(f"row {number} of {self.what} has no {field}: {shown(json.dumps(row))}")
        return value
