"""A rule's matches to ours, and the order in which the API wants them tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.config.gateway_api.documents import HeaderType, PathType
from xds_server.mesh.routing import MatchKind, RouteMatch, StringMatch

if TYPE_CHECKING:
    from xds_server.config.gateway_api.documents import HttpHeaderMatchPart, HttpRouteMatchPart

_PATH_RANK = {PathType.EXACT: 0, PathType.REGULAR_EXPRESSION: 1, PathType.PATH_PREFIX: 2}
"""What is tried first. The API leaves the place of regular expressions open."""


def precedence(match: HttpRouteMatchPart) -> tuple[int, int, int, int]:
    """Sorts matches: exact paths, longer ones, those with a method, those with more headers."""
    return (
        _PATH_RANK[match.path.type],
        -len(match.path.value),
        0 if match.method else 1,
        -len({header.name.lower() for header in match.headers}),
    )


def translate(match: HttpRouteMatchPart, port: int) -> tuple[RouteMatch, ...]:
    """The matches that hold where this one does, on a listener's port; a path prefix needs two of them."""
    headers: dict[str, StringMatch] = {}
    for header in match.headers:
        headers.setdefault(header.name.lower(), _header(header))  # the first of a name counts, says the API
    if match.method:
        headers[":method"] = StringMatch(MatchKind.EXACT, match.method)
    ordered = tuple((name, headers[name]) for name in sorted(headers))
    return tuple(RouteMatch(port=port, uri=path, headers=ordered) for path in _paths(match))


def _header(part: HttpHeaderMatchPart) -> StringMatch:
    kind = MatchKind.EXACT if part.type is HeaderType.EXACT else MatchKind.REGEX
    return StringMatch(kind, part.value)


def _paths(match: HttpRouteMatchPart) -> list[StringMatch | None]:
    value = match.path.value
    if match.path.type is PathType.EXACT:
        return [StringMatch(MatchKind.EXACT, value)]
    if match.path.type is PathType.REGULAR_EXPRESSION:
        return [StringMatch(MatchKind.REGEX, value)]
    bare = value.rstrip("/")
    if not bare:
        return [None]
    return [StringMatch(MatchKind.EXACT, bare), StringMatch(MatchKind.PREFIX, f"{bare}/")]
