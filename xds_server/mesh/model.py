"""The values of the mesh: services, their endpoints, and pictures of both.

All values of the mesh are frozen, so that a picture handed to another layer cannot change under it.
Rules are in policies.py, pools in pools.py, listeners and routes in routing.py. Names follow Envoy's and
Istio's documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xds_server.mesh.policies import Policy
    from xds_server.mesh.pools import Pool

EMPTY: Mapping[str, str] = MappingProxyType({})
"""Given by a factory: Python 3.11 takes an unhashable default for a mutable one."""


class Protocol(StrEnum):
    """What is spoken on a port. HTTP2 and GRPC mean HTTP/2 with prior knowledge."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"


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


class Condition(StrEnum):
    """What the source says of a replica itself, whatever its runtime says of its models."""

    READY = "READY"
    NOT_READY = "NOT_READY"
    """It takes no requests (yet)."""
    TERMINATING = "TERMINATING"
    """It is going: no new requests, though those under way may end."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One runtime replica as its source describes it; its models are a separate fact.

    `ports` maps each service port's name to the port on this endpoint (extra names are allowed:
    a pool's discovery may name one of them). `weight` is Envoy's load balancing weight, >= 1. `pod` is the
    name of the pod that it runs in, where there is one.
    """

    id: EndpointId
    ports: Mapping[str, int]
    labels: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    locality: Locality = Locality()
    weight: int = 1
    pod: str = ""
    condition: Condition = Condition.READY


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


class Health(StrEnum):
    """How a replica's discovery stands, as shown in status."""

    OK = "OK"
    PENDING = "PENDING"  # not asked yet
    SUSPECT = "SUSPECT"
    """Failing, within its grace: its models stay."""
    NOT_READY = "NOT_READY"
    """Its source says so; no models, unhealthy for Envoy."""
    TERMINATING = "TERMINATING"
    """Its source says so; no models, unhealthy for Envoy."""
    DOWN = "DOWN"
    """Refused, or failing past its grace: no models, unhealthy for Envoy."""
    STALE = "STALE"
    """All replicas of the pool fail together, or what told us of this one is out of reach: the last
    picture stays in force."""


@dataclass(frozen=True, slots=True)
class PlacedEndpoint:
    """An endpoint as Envoy is to see it."""

    endpoint: Endpoint
    models: tuple[str, ...] = ()
    """Names READY here and not withdrawn, sorted, each once."""
    healthy: bool = True
    known_as: tuple[tuple[str, str], ...] = ()
    """Names of it with those that its runtime has to be asked under, where a pool's document does not say it.

    The empty name stands for all names that it does not have.
    """


@dataclass(frozen=True, slots=True)
class ServicePicture:
    """A service with everything that its resources are made from.

    `known` is False until a pool's endpoints were heard or waited for (health.py): its assignment is
    withheld, so that a restart cannot wipe what an Envoy already has.
    """

    service: Service
    endpoints: Sequence[PlacedEndpoint]
    """Sorted by id. Those of the mesh are held so that a change of one costs little (placed.py)."""
    policy: Policy | None = None
    pool: Pool | None = None
    known: bool = True
