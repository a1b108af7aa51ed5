"""The route that a request takes, found in a route configuration as Envoy finds it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import envoy_data_plane.envoy.config.route.v3 as route_v3
    import envoy_data_plane.envoy.type.matcher.v3 as matcher

    from xds_server.explain.request import Request

_MILLION = 1_000_000
_OF = (100, 10_000, _MILLION)
"""What the numerator of a fraction is out of, by Envoy's enumeration."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A route that the request may take, and with which share of such requests."""

    virtual_host: str
    route: route_v3.Route
    share: float


def taken(configuration: route_v3.RouteConfiguration, request: Request) -> list[Taken]:
    """The routes that the request may take: one, or several where a share of the requests is drawn."""
    host = _virtual_host(configuration, request.authority)
    return [] if host is None else list(_routes(host, request))


def domains(configuration: route_v3.RouteConfiguration) -> list[str]:
    """Every domain that it has routes for."""
    return sorted(domain for host in configuration.virtual_hosts for domain in host.domains)


def _virtual_host(configuration: route_v3.RouteConfiguration, authority: str) -> route_v3.VirtualHost | None:
    """Exactly named, else by the longest suffix, else the one for all. The port does not count."""
    name = re.sub(r":\d+$", "", authority).lower()
    best: tuple[int, route_v3.VirtualHost] | None = None
    for host in configuration.virtual_hosts:
        for domain in host.domains:
            if domain == name:
                return host
            if domain == "*":
                rank = 0
            elif domain.startswith("*") and name.endswith(domain[1:]) and len(name) >= len(domain):
                rank = len(domain)
            else:
                continue
            if best is None or rank > best[0]:
                best = rank, host
    return None if best is None else best[1]


def _routes(host: route_v3.VirtualHost, request: Request) -> Iterator[Taken]:
    """Envoy draws one number for a request and compares it with every fraction."""
    gone = 0.0
    for route in host.routes:
        if route.match is None or not _matches(route.match, request):
            continue
        upto = _fraction(route.match)
        if upto > gone:
            yield Taken(host.name, route, upto - gone)
            gone = upto
        if gone >= 1:
            return


def _fraction(match: route_v3.RouteMatch) -> float:
    fraction = match.runtime_fraction and match.runtime_fraction.default_value
    return 1.0 if not fraction else min(1.0, fraction.numerator / _OF[int(fraction.denominator)])


def _matches(match: route_v3.RouteMatch, request: Request) -> bool:
    path = request.path.partition("?")[0]
    if match.path:
        fits = path == match.path
    elif match.path_separated_prefix:
        prefix = match.path_separated_prefix
        fits = path == prefix or path.startswith(prefix + "/")
    elif match.safe_regex is not None:
        fits = re.fullmatch(match.safe_regex.regex, path) is not None
    else:
        fits = request.path.startswith(match.prefix or "")
    return fits and all(_header(each, request) for each in match.headers) and _query(match, request)


def _query(match: route_v3.RouteMatch, request: Request) -> bool:
    given = [part.partition("=")[::2] for part in request.path.partition("?")[2].split("&")]
    for each in match.query_parameters:
        values = [value for name, value in given if name == each.name]
        if not values or (each.string_match is not None and not _text(each.string_match, values[0])):
            return False
    return True


def _header(match: route_v3.HeaderMatcher, request: Request) -> bool:
    value = request.value(match.name)
    if match.present_match is not None:
        return ((value is not None) == match.present_match) != match.invert_match
    if value is None:
        if not match.treat_missing_header_as_empty:
            return match.invert_match
        value = ""
    return (match.string_match is None or _text(match.string_match, value)) != match.invert_match


def _text(match: matcher.StringMatcher, value: str) -> bool:
    kinds: Iterable[tuple[str | None, bool]] = (
        (match.exact, value == match.exact),
        (match.prefix, value.startswith(match.prefix or "")),
        (match.suffix, value.endswith(match.suffix or "")),
        (match.contains, (match.contains or "") in value),
    )
    for given, fits in kinds:
        if given is not None:
            return fits
    return match.safe_regex is not None and re.fullmatch(match.safe_regex.regex, value) is not None
