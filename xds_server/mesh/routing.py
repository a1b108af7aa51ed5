"""The values of what listens and routes, what one source declares, and all of it joined."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from xds_server.mesh.model import Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.mesh.known import DeclaredModel
    from xds_server.mesh.model import Endpoint, Service
    from xds_server.mesh.policies import Policy
    from xds_server.mesh.pools import Pool
    from xds_server.mesh.request import Naming


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate files of a server, read by Envoy on its own machine."""

    certificate: str
    private_key: str
    ca_certificates: str | None = None


@dataclass(frozen=True, slots=True)
class GatewayServer:
    """One port of a gateway and the hosts that it takes."""

    port: int
    name: str
    protocol: Protocol = Protocol.HTTP
    hosts: tuple[str, ...] = ("*",)
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class Gateway:
    """Listeners of a group of Envoys. `name` is namespace/name. `selector` None matches every node.

    `implied_by` names the document that made it necessary, where nobody wrote one, else None.
    """

    name: str
    servers: tuple[GatewayServer, ...]
    selector: Mapping[str, str] | None = None
    implied_by: str | None = None


UNRESOLVED = "unresolved"
"""The host of a destination that stands for a reference which cannot be followed: its requests get a 500."""

MESH_GATEWAY = "mesh"
"""The reserved gateway name that means every sidecar's loopback listeners."""


class MatchKind(StrEnum):
    """How a text is compared."""

    EXACT = "exact"
    PREFIX = "prefix"
    REGEX = "regex"
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class StringMatch:
    """A comparison with a path or a header. `value` is empty for PRESENT (headers only)."""

    kind: MatchKind
    value: str = ""


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """All of the conditions must hold; an absent condition always does."""

    port: int | None = None
    uri: StringMatch | None = None
    headers: tuple[tuple[str, StringMatch], ...] = ()


@dataclass(frozen=True, slots=True)
class HeaderToKey:
    """The value of request header `header` becomes `envoy.lb` request metadata under `key`."""

    header: str
    key: str


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a share of a route's requests goes: one port of one service."""

    host: str
    port: int
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Retries:
    """Envoy's retry policy: `attempts` after the first try; times in seconds."""

    attempts: int
    per_try_timeout: float | None = None
    retry_on: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of a VirtualService's `http`. It matches when any of `matches` does; none = all.

    `naming`: how a request to pools names its model (filled in by mesh/implied.py), None elsewhere.
    `headers_implied_by` names the ModelPools whose default header mapping stands in for one that
    nobody wrote. `timeout` in seconds: 0 disables it, None leaves the server's default. `upstream_headers`
    are set on the requests because the pools behind it want them (implied).
    """

    name: str
    matches: tuple[RouteMatch, ...]
    destinations: tuple[Destination, ...]
    header_to_key: tuple[HeaderToKey, ...] = ()
    headers_implied_by: tuple[str, ...] = ()
    timeout: float | None = None
    retries: Retries | None = None
    upstream_headers: tuple[tuple[str, str], ...] = ()
    naming: Naming | None = None


@dataclass(frozen=True, slots=True)
class VirtualService:
    """Routes for `hosts` on `gateways`. `name` is namespace/name; gateways are namespace/name or `mesh`."""

    name: str
    hosts: tuple[str, ...]
    gateways: tuple[str, ...]
    routes: tuple[Route, ...]
    implied_by: str | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that one source's documents declare, references resolved, nothing implied yet."""

    services: tuple[Service, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    policies: tuple[Policy, ...] = ()
    pools: tuple[Pool, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    virtual_services: tuple[VirtualService, ...] = ()
    declared: tuple[DeclaredModel, ...] = ()


@dataclass(frozen=True, slots=True)
class Routing:
    """The configuration of all sources joined, with what it implies filled in (mesh/implied.py).

    Everything is sorted by name, so that equal input gives equal bytes downstream. Policies and pools are
    by service host.
    """

    services: Mapping[str, Service] = field(default_factory=dict)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    gateways: tuple[Gateway, ...] = ()
    virtual_services: tuple[VirtualService, ...] = ()
    declared: tuple[DeclaredModel, ...] = ()
