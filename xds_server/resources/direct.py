"""Names that Envoy's own filters can take as they stand: the requests that need no script on their way in.

Most requests name their model plainly, in a header or in a path of one of the common protocols. The script
(request.lua) can read every name, and costs a third of what a request costs else; a rule that copies the name
costs next to nothing. So a route that changes nothing of names gets a variant for each such place, before
those of the script. It matches only where the rule finds the very name that the script would: an ASCII name
without anything encoded, in the first place that has one. All else is the script's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 as header_to_metadata
import envoy_data_plane.envoy.type.matcher.v3 as matcher

from xds_server.resources.filters import GRPC_WITHOUT_MODEL, OWN_NAMESPACE
from xds_server.resources.parts import LB_NAMESPACE
from xds_server.resources.variant import LONGEST_REGEX, absent, chunks, is_grpc, path_is

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from xds_server.mesh.request import Naming

_IN_HEADER = r"[!-+\--~]+"
"""A name in a header: printable, without a comma, which stands between two headers' values."""

_IN_PATH = r"[A-Za-z0-9_.~@+-]+"
"""A name in a path: characters that stand for themselves, without a colon, which ends TensorFlow's names."""

_ONWARD = r"([/?][!-~]*)?"
"""What follows the name in a path, its query included."""

_LONGEST_PATH = 90
"""Characters of a path's regex, which then has fewer than the 100 instructions that Envoy takes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where requests name their model, in words for the access log, and how the name is read from there.

    `header`: whose value it is, or holds it; `within`: the regex whose first group it then is. `conditions`:
    what requests look like that name it there, and nowhere before.
    """

    words: str
    header: str
    conditions: tuple[route_v3.HeaderMatcher, ...]
    within: str | None = None

    def rules(self, keys: Sequence[str]) -> list[header_to_metadata.ConfigRule]:
        """Copy the name to the balancer's metadata and to our own."""
        wanted = [*((LB_NAMESPACE, key) for key in keys), (OWN_NAMESPACE, "model")]
        return [
            *(self._rule(self._pair(namespace, key)) for namespace, key in wanted),
            self._rule(
                header_to_metadata.ConfigKeyValuePair(
                    metadata_namespace=OWN_NAMESPACE, key="from", value=self.words
                )
            ),
        ]

    def hash_policy(self) -> route_v3.RouteActionHashPolicy:
        """Hash the name, by which a sharded pool's shard is picked."""
        return route_v3.RouteActionHashPolicy(
            header=route_v3.RouteActionHashPolicyHeader(
                header_name=self.header, regex_rewrite=self._rewrite()
            ),
            terminal=True,
        )

    def _rule(self, pair: header_to_metadata.ConfigKeyValuePair) -> header_to_metadata.ConfigRule:
        return header_to_metadata.ConfigRule(header=self.header, on_header_present=pair)

    def _pair(self, namespace: str, key: str) -> header_to_metadata.ConfigKeyValuePair:
        return header_to_metadata.ConfigKeyValuePair(
            metadata_namespace=namespace,
            key=key,
            type=header_to_metadata.ConfigValueType.STRING,
            regex_value_rewrite=self._rewrite(),
        )

    def _rewrite(self) -> matcher.RegexMatchAndSubstitute | None:
        if self.within is None:
            return None
        return matcher.RegexMatchAndSubstitute(
            pattern=matcher.RegexMatcher(regex=self.within), substitution=r"\1"
        )


def places(naming: Naming) -> Iterator[Place]:
    """List the places whose names need no script, in order.

    That a name means itself, and that the first found counts, is for the caller to make sure of.
    """
    names = naming.names
    none = [*names.without_model, *(f"{start}*" for start in GRPC_WITHOUT_MODEL)]
    if any(len(path) >= LONGEST_REGEX for path in none):
        return
    # Of a request that is translated the script reads the body: gRPC callers are spared that.
    protocol = (is_grpc(),) if naming.transcode else ()
    apart = tuple(_not_one_of(none))
    for number, header in enumerate(names.headers):
        earlier = map(absent, names.headers[:number])
        name = _matches(header, _IN_HEADER)
        yield Place(f"header {header}", header.lower(), (name, *earlier, *protocol, *apart))
    if naming.transcode:
        return
    for start, regex in path_regexes(names.paths):
        others = [path for path in none if _may_match(path, start, regex)]
        found = (_matches(":path", regex), *map(absent, names.headers), *_not_one_of(others))
        yield Place("path", ":path", found, within=regex)


def path_regexes(templates: Iterable[str]) -> list[tuple[str, str]]:
    """Write a regex for all templates that begin alike, whose first group is the name; with that beginning.

    Empty where a path could be read by two of them in different ways, or where one is not of the form that
    the common protocols have: a literal, the name, and perhaps a colon with a verb.
    """
    verbs: dict[str, list[str]] = {}
    for template in templates:
        start, end = template.split("{model}")
        bare_before = "" in verbs.get(start, ())
        if "{" in start or not re.fullmatch(r"(:[a-zA-Z]+)?", end) or bare_before or not start.endswith("/"):
            return []
        verbs.setdefault(start, []).append(end)
    if any(one != other and other.startswith(one) for one in verbs for other in verbs):
        return []
    made = []
    for start, ends in verbs.items():
        spoken = "|".join(end[1:] for end in ends if end)
        verb = f"(?::(?:{spoken})){'?' if '' in ends else ''}" if spoken else ""
        regex = f"{re.escape(start)}({_IN_PATH}){verb}{_ONWARD}"
        if len(regex) <= _LONGEST_PATH:
            made.append((start, regex))
    return made


def _may_match(path: str, start: str, regex: str) -> bool:
    """Whether the regex matches `path`, or, of one that ends with `*`, a path below it."""
    if path.endswith("*"):
        return start.startswith(path[:-1]) or path.startswith(start)
    return re.fullmatch(regex, path) is not None


def _not_one_of(paths: Sequence[str]) -> Iterator[route_v3.HeaderMatcher]:
    for regex in chunks(paths) if paths else ():
        made = path_is(regex)
        made.invert_match = True
        yield made


def _matches(header: str, regex: str) -> route_v3.HeaderMatcher:
    whole = matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=regex))
    return route_v3.HeaderMatcher(name=header.lower(), string_match=whole)
