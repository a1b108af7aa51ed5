"""What a request must look like to take a route."""

from __future__ import annotations

from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.type.matcher.v3 as matcher

from xds_server.mesh.routing import MatchKind, StringMatch

if TYPE_CHECKING:
    from xds_server.mesh.routing import RouteMatch


def route_match(match: RouteMatch | None) -> route_v3.RouteMatch:
    """Translate a match; its port is not Envoy's concern, as every listener has routes of its own."""
    uri = match.uri if match is not None else None
    headers = [_header(name, value) for name, value in match.headers] if match is not None else []
    if uri is None:
        return route_v3.RouteMatch(prefix="/", headers=headers)
    match uri.kind:
        case MatchKind.EXACT:
            return route_v3.RouteMatch(path=uri.value, headers=headers)
        case MatchKind.PREFIX:
            return route_v3.RouteMatch(prefix=uri.value, headers=headers)
        case MatchKind.REGEX:
            return route_v3.RouteMatch(safe_regex=matcher.RegexMatcher(regex=uri.value), headers=headers)
        case MatchKind.PRESENT:
            raise ValueError("a path is always present: match it exactly, by prefix or by regex")


def _header(name: str, match: StringMatch) -> route_v3.HeaderMatcher:
    if match.kind is MatchKind.PRESENT:
        return route_v3.HeaderMatcher(name=name.lower(), present_match=True)
    return route_v3.HeaderMatcher(name=name.lower(), string_match=_string(match))


def _string(match: StringMatch) -> matcher.StringMatcher:
    match match.kind:
        case MatchKind.EXACT:
            return matcher.StringMatcher(exact=match.value)
        case MatchKind.PREFIX:
            return matcher.StringMatcher(prefix=match.value)
        case _:
            return matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=match.value))
