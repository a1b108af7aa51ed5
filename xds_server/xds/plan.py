"""A response before it has a nonce: what the two dialects make of what is owed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.xds.model import Resource


@dataclass(frozen=True, slots=True)
class Plan:
    """`contents` is what the client holds of each name once it accepts: a version, or ABSENT.

    `renewed` are names that the client keeps as they are, with their versions: no content, and whatever
    becomes of this response is not held against them.
    """

    version: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...]
    contents: Mapping[str, str]
    renewed: tuple[tuple[str, str], ...] = ()
