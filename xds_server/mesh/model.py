"""The values of the mesh: what a service, an endpoint, a pool and a route are.

All values are frozen, so that a picture handed to another layer cannot change under it.
Names follow Envoy's and Istio's documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_SUBSET_KEY = "modelmesh.asm.alibabacloud.com"
"""The `envoy.lb` metadata key that holds an endpoint's models unless a pool names another."""

DEFAULT_MODEL_HEADER = "model"
"""The request header that names the model on a route that maps no header itself."""

EMPTY: Mapping[str, str] = MappingProxyType({})
"""Given by a factory: Python 3.11 takes an unhashable default for a mutable one."""


class Protocol(StrEnum):
    """What is spoken on a port. HTTP2 and GRPC mean HTTP/2 with prior knowledge."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"


class Balancer(StrEnum):
    """How one of several holders of a model is picked."""

    LEAST_REQUEST = "LEAST_REQUEST"
    ROUND_ROBIN = "ROUND_ROBIN"
    RANDOM = "RANDOM"


class Fallback(StrEnum):
    """What Envoy does when no endpoint matches a request's metadata."""

    ANY_ENDPOINT = "ANY_ENDPOINT"
    NO_FALLBACK = "NO_FALLBACK"
    DEFAULT_SUBSET = "DEFAULT_SUBSET"


@dataclass(frozen=True, slots=True, order=True)
class EndpointId:
    """One replica of a service: its address and its port for the service's first port."""

    service: str
    address: str
    port: int

    def __str__(self) -> str:
        """HOST:PORT, with an IPv6 address in brackets, as commands and documents write it."""
        return join_host_port(self.address, self.port)


def join_host_port(address: str, port: int) -> str:
    """HOST:PORT; an IPv6 address, the only host with colons, goes in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass(frozen=True, slots=True, order=True)
class Locality:
    """Where an endpoint runs, as Envoy names it."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One runtime replica as its source describes it; its models are a separate fact.

    `ports` maps each service port's name to the port on this endpoint (extra names are allowed:
    a pool's discovery may name one of them). `weight` is Envoy's load balancing weight, >= 1.
    """

    id: EndpointId
    ports: Mapping[str, int]
    labels: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    locality: Locality = Locality()
    weight: int = 1


@dataclass(frozen=True, slots=True, order=True)
class ServicePort:
    """A port that clients of the service address."""

    number: int
    name: str
    protocol: Protocol = Protocol.HTTP


@dataclass(frozen=True, slots=True)
class Service:
    """A logical upstream. `host` is its identity; one Envoy cluster for each used port and shard."""

    host: str
    namespace: str
    ports: tuple[ServicePort, ...]

    def port(self, number: int) -> ServicePort | None:
        """The port with this number, or None."""
        return next((p for p in self.ports if p.number == number), None)


@dataclass(frozen=True, slots=True)
class Selector:
    """Endpoints with equal values for all `keys` form one subset."""

    keys: tuple[str, ...]
    fallback: Fallback = Fallback.NO_FALLBACK


@dataclass(frozen=True, slots=True)
class ConnectionPool:
    """Limits of a service's connections; None leaves the default. Times in seconds."""

    max_connections: int | None = None
    connect_timeout: float | None = None
    max_connection_duration: float | None = None
    tcp_keepalive: TcpKeepalive | None = None
    http1_max_pending_requests: int | None = None
    http2_max_requests: int | None = None
    max_requests_per_connection: int | None = None
    max_retries: int | None = None
    idle_timeout: float | None = None
    max_concurrent_streams: int | None = None


@dataclass(frozen=True, slots=True)
class TcpKeepalive:
    """TCP keepalive of upstream connections; None leaves the system's value. Times in seconds."""

    probes: int | None = None
    time: float | None = None
    interval: float | None = None


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """When a failing endpoint is left out for a while; None leaves Envoy's default. Seconds, percent."""

    consecutive_5xx_errors: int | None = None
    consecutive_gateway_errors: int | None = None
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: int | None = None
    interval: float | None = None
    base_ejection_time: float | None = None
    max_ejection_percent: int | None = None
    min_health_percent: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """A DestinationRule: how a service's endpoints are grouped and picked.

    `implied_by` names the ModelPool on whose account it has a selector that nobody wrote, else None.
    """

    name: str
    host: str
    balancer: Balancer = Balancer.LEAST_REQUEST
    selectors: tuple[Selector, ...] = ()
    default_subset: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    implied_by: str | None = None


@dataclass(frozen=True, slots=True)
class OpenInference:
    """Discovery through the repository index of the Open Inference Protocol (KServe V2).

    `port`: a name in the endpoint's ports, a number, or None for the traffic port.
    Times in seconds. `grace`: how long a replica that times out keeps its models.
    """

    port: str | int | None = None
    scheme: str = "http"
    interval: float = 1.0
    timeout: float = 2.0
    grace: float = 10.0


@dataclass(frozen=True, slots=True)
class StaticModels:
    """Fixed placements: endpoint (HOST:PORT) to the models it holds."""

    models: Mapping[str, tuple[str, ...]]


Discovery = OpenInference | StaticModels


@dataclass(frozen=True, slots=True)
class Pool:
    """A ModelPool: which service holds models, under which key, and how its endpoints tell them.

    `no_model` and `not_loaded` are None where the document leaves them to the DestinationRule
    (or, without one, to the safe default NO_FALLBACK).
    """

    name: str
    host: str
    discovery: Discovery
    subset_key: str = DEFAULT_SUBSET_KEY
    no_model: Fallback | None = None
    not_loaded: Fallback | None = None


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

    `headers_implied_by` names the ModelPools whose default header mapping stands in for one that
    nobody wrote. `timeout` in seconds: 0 disables it, None leaves the server's default.
    """

    name: str
    matches: tuple[RouteMatch, ...]
    destinations: tuple[Destination, ...]
    header_to_key: tuple[HeaderToKey, ...] = ()
    headers_implied_by: tuple[str, ...] = ()
    timeout: float | None = None
    retries: Retries | None = None


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


class Health(StrEnum):
    """How a replica's discovery stands, as shown in status."""

    OK = "OK"
    PENDING = "PENDING"  # not asked yet
    SUSPECT = "SUSPECT"
    """Failing, within its grace: its models stay."""
    DOWN = "DOWN"
    """Refused, or failing past its grace: no models, unhealthy for Envoy."""
    STALE = "STALE"
    """All replicas of the pool fail together: the last picture stays in force."""


@dataclass(frozen=True, slots=True)
class PlacedEndpoint:
    """An endpoint as Envoy is to see it."""

    endpoint: Endpoint
    models: tuple[str, ...] = ()
    """Names READY here and not withdrawn, sorted, each once."""
    healthy: bool = True


@dataclass(frozen=True, slots=True)
class ServicePicture:
    """A service with everything that its resources are made from.

    `known` is False until a pool's endpoints were heard or waited for (health.py): its assignment is
    withheld, so that a restart cannot wipe what an Envoy already has.
    """

    service: Service
    endpoints: tuple[PlacedEndpoint, ...]  # sorted by id
    policy: Policy | None = None
    pool: Pool | None = None
    known: bool = True
