"""What is wrong with a document, in one sentence. Nothing here decides what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Path = tuple[str | int, ...]
"""Where a value stands in its document: mapping keys and list indexes, from the outside in."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it is, what was found there, and what is allowed.

    `document` counts from 1 within its file; 0 means the file or the directory as a whole.
    `subject` is "Kind namespace/name" as far as it is known. `line` counts from 1; 0 is unknown.
    """

    file: str
    document: int
    subject: str
    field: str
    found: str
    expected: str
    line: int = 0

    def __str__(self) -> str:
        """`FILE:LINE: document N (SUBJECT), FIELD: found ...; expected ...`, without what is not known.

        An API object has no file and no number: `SUBJECT, FIELD: found ...; expected ...`.

        One printable line, whatever the document holds.
        """
        where = self.file + (f":{self.line}" if self.line else "")
        document = f"document {self.document}" if self.document else ""
        if self.subject:
            document += f" ({self.subject})" if document else self.subject
        place = ", ".join(part for part in (document, self.field) if part)
        line = ": ".join(p for p in (where, place, f"found {self.found}; expected {self.expected}") if p)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)

    def __lt__(self, other: Problem) -> bool:
        """In the order of reading: file, document, line."""
        return self._order() < other._order()

    def _order(self) -> tuple[str, int, int, str, str, str]:
        return (self.file, self.document, self.line, self.field, self.found, self.expected)


@dataclass(frozen=True, slots=True)
class Place:
    """One document in one file, or one API object (no file, no number), which can point at its fields.

    `base` is the path of the document within its YAML document: empty, but for an item of a List.
    """

    file: str
    document: int
    subject: str = ""
    base: Path = ()
    lines: Mapping[Path, int] = field(default_factory=dict)

    def problem(self, path: Path, found: str, expected: str) -> Problem:
        """A problem at `path` within this document."""
        full = self.base + path
        return Problem(
            file=self.file,
            document=self.document,
            subject=self.subject,
            field=render_path(full),
            found=found,
            expected=expected,
            line=self._line(full),
        )

    def __str__(self) -> str:
        """How another document's problem refers to this one."""
        return f"{self.subject} ({self.file}, document {self.document})" if self.file else self.subject

    def _line(self, path: Path) -> int:
        """The line of the value at `path`, or of the nearest thing around it."""
        while path not in self.lines:
            if not path:
                return 0
            path = path[:-1]
        return self.lines[path]


def render_path(path: Path) -> str:
    """`spec.http[0].match`; a key that is not a plain word is quoted: `labels["app.kubernetes.io/name"]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.replace("_", "a").replace("-", "a").isalnum():
            text += f".{part}" if text else part
        else:
            text += f'["{part}"]'
    return text


def describe(value: object) -> str:
    """A value as a user wrote it, short enough for one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        shown = value if len(value) <= _LONGEST else value[:_LONGEST] + "..."
        return '"' + shown.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "an empty list" if not value else f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an empty mapping" if not value else f"a mapping with {_few(list(value))}"
    return f"the number {value}"


_LONGEST = 80
"""Characters of a text that an error repeats."""


def _few(keys: list[object]) -> str:
    shown = ", ".join(str(key) for key in keys[:4])
    return shown + (", ..." if len(keys) > 4 else "")  # noqa: PLR2004 - as many as are shown


def join_or(names: list[str], limit: int = 12) -> str:
    """`a`, `a or b`, `a, b or c`; no more than `limit` of them are written out."""
    if len(names) > limit:
        return ", ".join(names[:limit]) + f" or one of {len(names) - limit} others"
    if len(names) <= 1:
        return "".join(names)
    return ", ".join(names[:-1]) + " or " + names[-1]
