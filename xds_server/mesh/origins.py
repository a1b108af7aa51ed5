"""Where a fact comes from: the names of sources, and the kind of each, which says how it may be used.

A source's name is its kind, and after a slash what tells several of that kind apart. A name of no kind
that is listed here is a runtime's own API, asked by us.
"""

from __future__ import annotations

from enum import StrEnum


class Origin(StrEnum):
    """The kinds of sources that tell an endpoint's models."""

    ASKED = "asked"
    """The runtime's own API, asked from here: exact, and its silence says something of the replica."""
    REPORT = "report"
    """A reporter beside the runtime, over a stream: exact; the loss of the stream says nothing of it."""
    ANNOTATION = "annotation"
    """The pod's annotation of one writer, `annotation/WRITER`; plain `annotation`: the pod was seen."""
    REGISTRY = "modelmesh"
    """ModelMesh's own registry: who is to have a model, and since when."""


_NAMED = {origin.value: origin for origin in Origin if origin is not Origin.ASKED}


def origin_of(source: str) -> Origin:
    """The kind of the source of this name."""
    return _NAMED.get(source.partition("/")[0], Origin.ASKED)
