"""The shapes of Gateway API objects, as far as they are supported; the rest is refused by name."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from xds_server.config.documents.base import (
    AnyText,
    HeaderName,
    Name,
    Namespace,
    NonEmpty,
    OneOf,
    Part,
    Port,
    Seconds,
    Text,
    Weight,
    expected,
)
from xds_server.config.documents.virtual_service import check_regex
from xds_server.config.problems import describe

GATEWAY_GROUP = "gateway.networking.k8s.io"
POOL_GROUP = "xds-server.dev"


def _nothing(value: object) -> None:
    if value not in (None, [], {}):
        raise expected("nothing: xds-server does not support it", "a value")


Unsupported = Annotated[Any, BeforeValidator(_nothing)]
"""A field of the API that must be left out or empty."""


class PathType(StrEnum):
    """How a path is compared. A prefix ends at a `/`, or where the path does."""

    EXACT = "Exact"
    PATH_PREFIX = "PathPrefix"
    REGULAR_EXPRESSION = "RegularExpression"


class HeaderType(StrEnum):
    """How a header is compared."""

    EXACT = "Exact"
    REGULAR_EXPRESSION = "RegularExpression"


class HttpPathMatchPart(Part):
    """A comparison with the path, without its query."""

    type: Annotated[PathType, BeforeValidator(OneOf(PathType))] = PathType.PATH_PREFIX
    value: NonEmpty = "/"

    @model_validator(mode="after")
    def _fits_its_type(self) -> HttpPathMatchPart:
        if self.type is PathType.REGULAR_EXPRESSION:
            check_regex(self.value)
        elif not self.value.startswith("/"):
            raise expected('a path that begins with "/"', describe(self.value), ("value",))
        return self


class HttpHeaderMatchPart(Part):
    """A comparison with a header."""

    type: Annotated[HeaderType, BeforeValidator(OneOf(HeaderType))] = HeaderType.EXACT
    name: HeaderName
    value: AnyText

    @model_validator(mode="after")
    def _fits_its_type(self) -> HttpHeaderMatchPart:
        if self.type is HeaderType.REGULAR_EXPRESSION:
            check_regex(self.value)
        return self


class HttpRouteMatchPart(Part):
    """Conditions that must all hold."""

    path: HttpPathMatchPart = Field(default_factory=HttpPathMatchPart)
    headers: list[HttpHeaderMatchPart] = Field(default_factory=list)
    query_params: Unsupported = None
    method: Annotated[str, BeforeValidator(Text("an HTTP method in capitals", r"[A-Z]+", 16))] | None = None


class BackendRefPart(Part):
    """A share of a rule's requests: a ModelPool."""

    group: AnyText = ""
    kind: NonEmpty = "Service"
    name: NonEmpty
    namespace: Namespace | None = None
    port: Port | None = None
    weight: Weight = 1
    filters: Unsupported = None


class TimeoutsPart(Part):
    """`request`: for the whole answer, all tries together; `backendRequest`: for one try."""

    request: Annotated[float, BeforeValidator(Seconds())] | None = None
    backend_request: Annotated[float, BeforeValidator(Seconds())] | None = None


class RulePart(Part):
    """What it matches (one of `matches`), and where that goes."""

    name: NonEmpty | None = None
    matches: list[HttpRouteMatchPart] = Field(default_factory=lambda: [HttpRouteMatchPart()])
    filters: Unsupported = None
    backend_refs: list[BackendRefPart] = Field(default_factory=list)
    timeouts: TimeoutsPart = Field(default_factory=TimeoutsPart)
    retry: Unsupported = None
    session_persistence: Unsupported = None


class ParentRefPart(Part):
    """What a route wants to be attached to."""

    group: AnyText = GATEWAY_GROUP
    kind: NonEmpty = "Gateway"
    namespace: Namespace | None = None
    name: NonEmpty
    section_name: NonEmpty | None = None
    port: Port | None = None


class HttpRouteSpec(Part):
    """Rules for hosts, on the listeners of Gateways."""

    parent_refs: list[ParentRefPart] = Field(default_factory=list)
    use_default_gateways: Unsupported = None
    hostnames: list[NonEmpty] = Field(default_factory=list)
    rules: list[RulePart] = Field(default_factory=lambda: [RulePart()])


class From(StrEnum):
    """The namespaces whose routes a listener takes."""

    ALL = "All"
    SAME = "Same"
    SELECTOR = "Selector"
    NONE = "None"


NAME_LABEL = "kubernetes.io/metadata.name"
"""The label that every namespace has, with its name: the only one that a selector may use here."""


def _name_of_namespace(value: object) -> dict[str, str]:
    labels = value.get("matchLabels") if isinstance(value, dict) else None
    if (
        isinstance(value, dict)
        and len(value) == 1
        and isinstance(labels, dict)
        and list(labels) == [NAME_LABEL]
    ):
        return {NAME_LABEL: str(labels[NAME_LABEL])}
    raise expected(
        f"matchLabels with {NAME_LABEL} alone, since labels of namespaces are not read", "another selector"
    )


class RouteNamespacesPart(Part):
    """The namespaces whose routes a listener takes."""

    from_: Annotated[From, BeforeValidator(OneOf(From))] = Field(default=From.SAME, alias="from")
    selector: Annotated[dict[str, str], BeforeValidator(_name_of_namespace)] | None = None


class RouteKindPart(Part):
    """A kind of route that a listener takes."""

    group: AnyText = GATEWAY_GROUP
    kind: NonEmpty


class AllowedRoutesPart(Part):
    """The routes that a listener takes."""

    namespaces: RouteNamespacesPart = Field(default_factory=RouteNamespacesPart)
    kinds: list[RouteKindPart] = Field(default_factory=list)


class ListenerPart(Part):
    """A port, and the hosts that are taken on it. Listeners may share a port if their hosts differ."""

    name: NonEmpty
    hostname: NonEmpty | None = None
    port: Port
    protocol: NonEmpty
    tls: Unsupported = None
    allowed_routes: AllowedRoutesPart = Field(default_factory=AllowedRoutesPart)


class InfrastructurePart(Part):
    """`labels`: the Envoys that get the listeners are those whose node has all of them."""

    labels: dict[NonEmpty, NonEmpty] = Field(default_factory=dict)
    annotations: dict[NonEmpty, AnyText] = Field(default_factory=dict)
    parameters_ref: Unsupported = None


class GatewayApiSpec(Part):
    """The listeners of a group of Envoys."""

    gateway_class_name: Name
    listeners: Annotated[list[ListenerPart], Field(min_length=1)]
    addresses: Unsupported = None
    infrastructure: InfrastructurePart = Field(default_factory=InfrastructurePart)
    allowed_listeners: Unsupported = None
    default_scope: Unsupported = None
    tls: Unsupported = None
