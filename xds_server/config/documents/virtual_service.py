"""VirtualService: which requests go where, and which headers become subset keys."""

from __future__ import annotations

import re
import warnings
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from xds_server.config.documents.base import (
    AnyText,
    Count,
    Duration,
    HeaderName,
    Host,
    HostPattern,
    NonEmpty,
    Once,
    Part,
    Port,
    PositiveDuration,
    Text,
    Weight,
    expected,
    only_once,
)
from xds_server.config.problems import join_or
from xds_server.mesh.routing import MESH_GATEWAY, MatchKind, StringMatch

RETRY_ON = (
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
)
"""Envoy's retry conditions for HTTP and gRPC that need no list of their own beside them."""

_NOT_RE2 = re.compile(r"\\[1-9]|\(\?(?:[=!>(]|<[=!]|P=)|[*+?}]\+")
_ESCAPED_OR_CLASS = re.compile(r"\\\\|\\[^1-9]|\[\^?\]?(?:\\.|[^\]\\])*\]")


def check_regex(value: object) -> str:
    """A regular expression as Envoy's RE2 takes it: compiled by `re`, without what RE2 lacks.

    Raises the error for the field.
    """
    if not isinstance(value, str) or not value:
        raise expected("a regular expression (RE2)")
    if unsupported := _NOT_RE2.search(_ESCAPED_OR_CLASS.sub("x", value)):
        raise expected(
            "a regular expression that RE2 has: no lookaround, backreference or possessive quantifier",
            f'"{value}" with {unsupported[0]}',
        )
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise expected("a regular expression (RE2)", f'"{value}", which does not compile: {error}') from None
    return value


Regex = Annotated[str, BeforeValidator(check_regex)]


class _MatchPart(Part):
    """At most one comparison."""

    prefix: AnyText | None = None
    exact: AnyText | None = None
    regex: Regex | None = None

    @model_validator(mode="after")
    def _one(self) -> _MatchPart:
        given = self.comparisons()
        if len(given) > 1:
            raise expected("one of exact, prefix or regex", " and ".join(match.kind for match in given))
        return self

    def comparisons(self) -> list[StringMatch]:
        """What is given, in a fixed order."""
        pairs = [
            (MatchKind.EXACT, self.exact),
            (MatchKind.PREFIX, self.prefix),
            (MatchKind.REGEX, self.regex),
        ]
        return [StringMatch(kind, value) for kind, value in pairs if value is not None]


class UriMatchPart(_MatchPart):
    """A comparison with the path, without its query."""

    exact: Annotated[str, BeforeValidator(Text('a path that begins with "/"', r"/.*"))] | None = None
    prefix: Annotated[str, BeforeValidator(Text('a path that begins with "/"', r"/.*"))] | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> UriMatchPart:
        if not self.comparisons():
            raise expected("one of exact, prefix or regex", "none of them")
        return self


class HeaderMatchPart(_MatchPart):
    """A comparison with a header; an empty one asks only that the header is there."""


class RouteMatchPart(Part):
    """Conditions that must all hold."""

    istio_only: ClassVar[frozenset[str]] = frozenset(
        {
            "name",
            "scheme",
            "method",
            "authority",
            "sourceLabels",
            "gateways",
            "queryParams",
            "ignoreUriCase",
            "withoutHeaders",
            "sourceNamespace",
            "statPrefix",
        }
    )

    port: Port | None = None
    uri: UriMatchPart | None = None
    headers: dict[HeaderName, HeaderMatchPart] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _headers_differ(self) -> RouteMatchPart:
        """Header names are compared without case."""
        names = [name.lower() for name in self.headers]
        for index, name in enumerate(self.headers):
            if name.lower() in names[:index]:
                raise expected("each header once; case is ignored", "it again", ("headers", name))
        return self


class HeaderToKeyPart(Part):
    """A request header whose value selects a subset."""

    header: HeaderName
    key: NonEmpty


class DestinationPortPart(Part):
    """A port of a service, by its number."""

    number: Port


class DestinationPart(Part):
    """A service, and one of its ports where it has several."""

    istio_only: ClassVar[frozenset[str]] = frozenset({"subset"})

    host: Host
    port: DestinationPortPart | None = None


class RouteDestinationPart(Part):
    """A share of a route's requests."""

    istio_only: ClassVar[frozenset[str]] = frozenset({"headers"})

    destination: DestinationPart
    weight: Weight | None = None


def _retry_on(value: object) -> str:
    conditions = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
    if not conditions or any(c not in RETRY_ON and not re.fullmatch("[45][0-9]{2}", c) for c in conditions):
        names = join_or(list(RETRY_ON), len(RETRY_ON))
        raise expected(f"conditions separated by commas, each a status code from 400 to 599, {names}")
    return ",".join(conditions)


class RetriesPart(Part):
    """When and how often a failed request is tried again."""

    istio_only: ClassVar[frozenset[str]] = frozenset(
        {"retryRemoteLocalities", "retryIgnorePreviousHosts", "backoff"}
    )

    attempts: Count
    per_try_timeout: PositiveDuration | None = None
    retry_on: Annotated[str, BeforeValidator(_retry_on)] | None = None


class HttpRoutePart(Part):
    """One rule: what it matches, where that goes."""

    istio_only: ClassVar[frozenset[str]] = frozenset(
        {
            "redirect",
            "directResponse",
            "delegate",
            "rewrite",
            "fault",
            "mirror",
            "mirrors",
            "mirrorPercent",
            "mirrorPercentage",
            "corsPolicy",
            "headers",
        }
    )

    name: NonEmpty | None = None
    match: list[RouteMatchPart] = Field(default_factory=list)
    header_to_dynamic_subset_key: list[HeaderToKeyPart] = Field(default_factory=list)
    route: Annotated[list[RouteDestinationPart], Field(min_length=1)]
    timeout: Duration | None = None
    retries: RetriesPart | None = None

    @model_validator(mode="after")
    def _weights(self) -> HttpRoutePart:
        weights = [share.weight for share in self.route]
        if len(weights) > 1 and None in weights:
            missing = ("route", weights.index(None))
            raise expected("a weight for every destination, as there are several", "no weight", missing)
        if not any(weight is None or weight > 0 for weight in weights):
            raise expected("weights with a sum above 0", "weights with a sum of 0", ("route",))
        return self

    @model_validator(mode="after")
    def _keys_differ(self) -> HttpRoutePart:
        keys = [mapping.key for mapping in self.header_to_dynamic_subset_key]
        only_once(keys, "key", ("headerToDynamicSubsetKey",), "key")
        return self


_GATEWAY = Text(
    '"mesh", "name" or "namespace/name"', r"([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-.a-z0-9]*[a-z0-9])?"
)


class VirtualServiceSpec(Part):
    """Routes for hosts, on gateways, on the sidecars' listeners (`mesh`), or on both."""

    istio_only: ClassVar[frozenset[str]] = frozenset({"tls", "tcp", "exportTo"})

    hosts: Annotated[list[HostPattern], Field(min_length=1), AfterValidator(Once("host"))]
    gateways: Annotated[
        list[Annotated[str, BeforeValidator(_GATEWAY)]],
        Field(min_length=1),
        AfterValidator(Once("gateway")),
    ] = Field(default_factory=lambda: [MESH_GATEWAY])
    http: Annotated[list[HttpRoutePart], Field(min_length=1)]
