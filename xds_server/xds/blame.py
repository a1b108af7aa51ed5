"""Which resources a rejection is about, as far as the client's own words tell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_DUMPED = re.compile(r'^(?:name|cluster_name): "((?:[^"\\]|\\.)*)"', re.MULTILINE)
"""Envoy prints a resource that breaks a constraint of its protobuf: its name stands at the left margin."""

_LISTED = re.compile(r"Error adding/updating (?:cluster|listener)\(s\) (.*)", re.DOTALL)
"""Envoy lists what it could not apply, each with its reason: `NAME: reason, NAME: reason`."""

_SHORTEST_WORD = 3
"""Characters from which a name that stands alone in a sentence is taken to be one, and not a word."""


def named_in(error: str, names: Collection[str]) -> tuple[str, ...]:
    """The names, of those that were rejected together, that the error speaks of, in order.

    Nothing where it names none of them: any may be the cause.
    """
    if len(names) == 1:
        return tuple(names)
    dumped = {_unescaped(name) for name in _DUMPED.findall(error)}
    listed = _LISTED.search(error)
    if listed is not None:
        dumped |= {name for name in names if _begins_an_entry(name, listed[1])}
    found = dumped & set(names) or {name for name in names if _stands_in(name, error)}
    return tuple(sorted(found))


def _begins_an_entry(name: str, entries: str) -> bool:
    return re.search(rf"(?:^|, |\n){re.escape(name)}: ", entries) is not None


def _stands_in(name: str, error: str) -> bool:
    if name not in error:
        return False
    quoted = rf"""['"]{re.escape(name)}['"]"""
    alone = rf"(?:^|\s){re.escape(name)}(?=$|[\s:,;)]|\.(?:\s|$))" if len(name) >= _SHORTEST_WORD else quoted
    return re.search(f"{quoted}|{alone}", error) is not None


def _unescaped(text: str) -> str:
    """A string as protobuf's text form has it: octal and simple escapes of its bytes."""
    if "\\" not in text:
        return text
    try:
        return text.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1").decode()
    except UnicodeError:
        return text
