"""YAML text to plain values with their line numbers. What the values mean is not known here.

Values are made from the parser's events rather than from PyYAML's node trees, for four reasons:
duplicate keys are seen, every value has its line, nesting has a limit (libyaml's composer recurses
on the C stack), and aliases cannot blow a small file up to a huge document.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from xds_server.config.problems import Path, Place, Problem, describe

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 64
"""Levels of nesting in a document; the deepest supported one has about ten."""

MAX_VALUES = 2_000_000
"""Values in one file after its aliases are replaced by what they stand for."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "tag:yaml.org,2002:merge"
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float")}
_TEXT = {f"tag:yaml.org,2002:{name}" for name in ("str", "timestamp", "value", "binary")}


@dataclass(frozen=True, slots=True)
class RawDocument:
    """One YAML document: its value, where it is, and what is wrong with it as YAML."""

    place: Place
    value: object
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The rest of a file cannot be read, from this problem on."""

    problem: Problem


class _RefusedError(Exception):
    """The text is YAML that is not accepted. Raised and caught in this file only."""

    def __init__(self, line: int, found: str, expected: str) -> None:
        super().__init__(found)
        self.line, self.found, self.expected = line, found, expected


def read_documents(file: str, text: str) -> Iterator[RawDocument | Unreadable]:
    """The documents of one file in order, ended by an `Unreadable` where the text cannot be read on.

    Documents without any content are skipped, but counted.
    """
    reader = _Reader(file, text)
    try:
        yield from reader.documents()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        column = f" at column {mark.column + 1}" if mark else ""
        found = f"a YAML syntax error{column}: {error.problem or error.context}"
        yield reader.unreadable(line, found, "valid YAML")
    except yaml.YAMLError as error:
        yield reader.unreadable(
            0, f"text that YAML does not allow: {str(error).splitlines()[0]}", "valid YAML"
        )
    except _RefusedError as error:
        yield reader.unreadable(error.line, error.found, error.expected)


@dataclass(slots=True)
class _Open:
    """The document being read."""

    lines: dict[Path, int] = field(default_factory=dict)
    anchors: dict[str, tuple[object, int]] = field(default_factory=dict)
    faults: list[tuple[Path, int, str, str]] = field(default_factory=list)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


class _Reader:
    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._text = text
        self._document = 0
        self._values = 0
        self._open = _Open()
        self._resolver = yaml.resolver.Resolver()
        self._constructor = yaml.constructor.SafeConstructor()

    def documents(self) -> Iterator[RawDocument]:
        self._document = 1
        self._events = iter(yaml.parse(self._text, Loader=_Loader))
        for event in self._events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            self._open = _Open()
            value = self._value(next(self._events), (), 0)
            next(self._events)  # the document's end
            place = Place(self._file, self._document, lines=self._open.lines)
            problems = tuple(
                Problem(
                    self._file, self._document, "", place.problem(path, "", "").field, found, expected, line
                )
                for path, line, found, expected in self._open.faults
            )
            if value is not None or problems:
                yield RawDocument(place, value, problems)
            self._document += 1

    def unreadable(self, line: int, found: str, expected: str) -> Unreadable:
        return Unreadable(Problem(self._file, self._document, "", "", found, expected, line))

    def _value(self, event: yaml.Event, path: Path, depth: int) -> object:
        line = _line(event)
        before = self._values
        self._count(1, line)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, line)
        if depth > MAX_DEPTH:
            raise _RefusedError(
                line, f"more than {MAX_DEPTH} levels of nesting", "a document of the supported kinds"
            )
        self._open.lines.setdefault(path, line)
        value: object
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(path, depth)
        else:
            value = self._mapping(path, depth)
        anchor: str | None = getattr(event, "anchor", None)
        if anchor:
            self._open.anchors[anchor] = (value, self._values - before)
        return value

    def _count(self, values: int, line: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise _RefusedError(line, f"more than {MAX_VALUES} values in one file", "a smaller file")

    def _alias(self, event: yaml.AliasEvent, line: int) -> object:
        if event.anchor not in self._open.anchors:
            raise _RefusedError(
                line, f"the alias *{event.anchor}", f"an anchor &{event.anchor} that ends before it"
            )
        value, size = self._open.anchors[event.anchor]
        self._count(size, line)
        return value

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> object:
        tag = event.tag
        if tag in (None, "!"):
            tag = self._resolver.resolve(yaml.ScalarNode, event.value, event.implicit)  # type: ignore[no-untyped-call]
        if tag in _TEXT:
            return event.value
        if tag == _MERGE:
            return event.value
        if tag not in _PLAIN:
            raise _RefusedError(line, f"the YAML tag {tag}", "values without tags")
        node = yaml.ScalarNode(tag, event.value)
        try:
            value: object = self._constructor.construct_object(node)
        except (ValueError, KeyError):
            short = tag.rpartition(":")[2]
            raise _RefusedError(
                line, f"{describe(event.value)} tagged as {short}", f"a valid {short}"
            ) from None
        return value

    def _sequence(self, path: Path, depth: int) -> list[object]:
        values: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._value(event, (*path, len(values)), depth + 1))
        return values

    def _mapping(self, path: Path, depth: int) -> dict[str, object]:
        values: dict[str, object] = {}
        merged: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = _line(event)
            merge = isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]
            key = self._key(event, path, depth)
            if merge:
                self._merge(merged, self._value(next(self._events), (*path, "<<"), depth + 1), line)
                continue
            if key in values:
                first = self._open.lines.get((*path, key), line)
                self._fault(
                    (*path, key), line, f"the key {describe(key)} again", f"it once: line {first} has it"
                )
            else:
                # The key's line, not its value's: that is where a reader looks for the field.
                self._open.lines[(*path, key)] = line
            values[key] = self._value(next(self._events), (*path, key), depth + 1)
        return {**merged, **values}

    def _key(self, event: yaml.Event, path: Path, depth: int) -> str:
        line = _line(event)
        if not isinstance(event, yaml.ScalarEvent):
            self._value(event, (*path, "?"), depth + 1)
            self._fault(path, line, "a key that is not plain text", "keys that are strings")
            return f"key at line {line}"
        key = self._scalar(event, line)
        if not isinstance(key, str):
            self._fault(
                path, line, f"the key {event.value}, which YAML does not read as text", "it in quotes"
            )
        return event.value

    def _merge(self, into: dict[str, object], value: object, line: int) -> None:
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, dict):
                raise _RefusedError(line, f"{describe(part)} after <<", "an alias of a mapping")
            for key, inner in part.items():
                into.setdefault(key, inner)

    def _fault(self, path: Path, line: int, found: str, expected: str) -> None:
        self._open.faults.append((path, line, found, expected))
