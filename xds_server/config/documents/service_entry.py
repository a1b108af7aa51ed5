"""ServiceEntry: a service and the replicas behind it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from xds_server.config.documents.base import (
    EndpointWeight,
    Host,
    IpAddress,
    NonEmpty,
    Once,
    OneOf,
    Part,
    Port,
    PortName,
    Text,
    expected,
    only_once,
)
from xds_server.mesh.model import Protocol


class Resolution(StrEnum):
    """How endpoints are found. Only what is written down, so far."""

    STATIC = "STATIC"


class ServicePortPart(Part):
    """A port that clients of the service address; `targetPort` is the replicas' own, where it differs."""

    number: Port
    name: PortName
    protocol: Annotated[Protocol, BeforeValidator(OneOf(Protocol))]
    target_port: Port | None = None


class EndpointPart(Part):
    """One replica."""

    istio_only: ClassVar[frozenset[str]] = frozenset({"network", "serviceAccount"})

    address: IpAddress
    ports: dict[PortName, Port] = Field(default_factory=dict)
    labels: dict[NonEmpty, Annotated[str, BeforeValidator(Text("a string", r"(?s).*"))]] = Field(
        default_factory=dict
    )
    locality: Annotated[
        str, BeforeValidator(Text('"region", "region/zone" or "region/zone/subzone"', r"[^/]+(/[^/]+){0,2}"))
    ] = ""
    weight: EndpointWeight = 1


class ServiceEntrySpec(Part):
    """One service for each of `hosts`, all with the same ports and endpoints."""

    istio_only: ClassVar[frozenset[str]] = frozenset(
        {"addresses", "location", "exportTo", "subjectAltNames", "workloadSelector"}
    )

    hosts: Annotated[list[Host], Field(min_length=1), AfterValidator(Once("host"))]
    ports: Annotated[list[ServicePortPart], Field(min_length=1)]
    resolution: Annotated[Resolution, BeforeValidator(OneOf(Resolution))]
    endpoints: list[EndpointPart] = Field(default_factory=list)

    @model_validator(mode="after")
    def _ports_differ(self) -> ServiceEntrySpec:
        only_once([port.number for port in self.ports], "port number", ("ports",), "number")
        only_once([port.name for port in self.ports], "port name", ("ports",), "name")
        return self

    @model_validator(mode="after")
    def _endpoints_differ(self) -> ServiceEntrySpec:
        """No two replicas share a traffic port: Envoy would keep only the first of them."""
        for port in self.ports:
            seen: dict[tuple[str, int], int] = {}
            for index, endpoint in enumerate(self.endpoints):
                address = (endpoint.address, self.port_of(endpoint, port))
                if address in seen:
                    raise expected(
                        "each address and port once",
                        f"{address[0]} with port {address[1]}, which endpoints[{seen[address]}] is already",
                        ("endpoints", index),
                    )
                seen[address] = index
        return self

    @staticmethod
    def port_of(endpoint: EndpointPart, port: ServicePortPart) -> int:
        """The replica's own port for a port of the service."""
        return endpoint.ports.get(port.name, port.target_port or port.number)
