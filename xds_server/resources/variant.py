"""One Envoy route of several that a route to pools becomes, and what requests must look like to take it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.type.matcher.v3 as matcher

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from envoy_data_plane.google.protobuf import Any

    from xds_server.resources.direct import Place

LONGEST_REGEX = 80
"""Characters, so that a regex stays under the 100 instructions that Envoy takes without being told."""


@dataclass(frozen=True, slots=True)
class RouteVariant:
    """One of the Envoy routes of a route: what more it must match, and what it switches on.

    `max_body`: bytes of a body to hold; None: none are. `marks`: what is known of its requests before a
    body is held, which may be refused for its size. `renames`: by host, the settings of the script that
    renames, where they are not those in `filters`. `named`: where Envoy's own filters take the name from
    (direct.py); None: the script looks for it.
    """

    suffix: str = ""
    headers: tuple[route_v3.HeaderMatcher, ...] = ()
    filters: Mapping[str, Any] = field(default_factory=dict)
    max_body: int | None = None
    marks: Mapping[str, str] = field(default_factory=dict)
    renames: Mapping[str, Any] = field(default_factory=dict)
    named: Place | None = None


def chunks(paths: Iterable[str]) -> Iterable[str]:
    """Write regexes that match one of some paths each, where `*` at the end stands for anything."""
    together = ""
    for path in paths:
        regex = re.escape(path[:-1]) + ".*" if path.endswith("*") else re.escape(path)
        if together and len(together) + len(regex) >= LONGEST_REGEX:
            yield together
            together = ""
        together += f"|{regex}" if together else regex
    yield together


def path_is(regex: str) -> route_v3.HeaderMatcher:
    """Match the path apart from its query, beside what the route itself asks of it."""
    whole = matcher.RegexMatcher(regex=rf"({regex})(\?.*)?")
    return route_v3.HeaderMatcher(name=":path", string_match=matcher.StringMatcher(safe_regex=whole))


def is_grpc(*, inverted: bool = False) -> route_v3.HeaderMatcher:
    """Match gRPC requests; `inverted`: all others."""
    kind = matcher.StringMatcher(prefix="application/grpc")
    return route_v3.HeaderMatcher(
        name="content-type", string_match=kind, invert_match=inverted, treat_missing_header_as_empty=inverted
    )


def absent(header: str) -> route_v3.HeaderMatcher:
    """Match requests without a header."""
    return route_v3.HeaderMatcher(name=header.lower(), present_match=False)
