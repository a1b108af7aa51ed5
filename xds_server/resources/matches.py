"""What a request must look like to take a route."""

from __future__ import annotations

from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.envoy.type.v3 as percent

from xds_server.mesh.routing import MatchKind, StringMatch

if TYPE_CHECKING:
    from xds_server.mesh.routing import RouteMatch


MILLION = 1_000_000


def route_match(match: RouteMatch | None, share: float | None = None) -> route_v3.RouteMatch:
    """Translate a match; its port is not Envoy's concern, as every listener has routes of its own.

    `share`: of the requests that match so far and that no route before took, those up to this part of all
    take the route. Envoy draws once for each request and compares the same number at every route.
    """
    made = _by_request(match)
    if share is not None:
        made.runtime_fraction = core.RuntimeFractionalPercent(
            default_value=percent.FractionalPercent(
                numerator=round(share * MILLION), denominator=percent.FractionalPercentDenominatorType.MILLION
            )
        )
    return made


def _by_request(match: RouteMatch | None) -> route_v3.RouteMatch:
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
