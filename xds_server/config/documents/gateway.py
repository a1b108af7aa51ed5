"""Gateway: the listeners of a group of Envoys."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from xds_server.config.documents.base import (
    HostPattern,
    NonEmpty,
    Once,
    OneOf,
    Part,
    Port,
    PortName,
    expected,
)
from xds_server.mesh.model import Protocol


class TlsMode(StrEnum):
    """Whether clients must show a certificate too."""

    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"


class TlsPart(Part):
    """Certificate files, which Envoy reads on its own machine."""

    istio_only: ClassVar[frozenset[str]] = frozenset(
        {
            "httpsRedirect",
            "credentialName",
            "credentialNames",
            "caCrl",
            "caCertCredentialName",
            "tlsCertificates",
            "subjectAltNames",
            "verifyCertificateSpki",
            "verifyCertificateHash",
            "minProtocolVersion",
            "maxProtocolVersion",
            "cipherSuites",
        }
    )

    mode: Annotated[TlsMode, BeforeValidator(OneOf(TlsMode))]
    server_certificate: NonEmpty
    private_key: NonEmpty
    ca_certificates: NonEmpty | None = None

    @model_validator(mode="after")
    def _authority_for_mutual(self) -> TlsPart:
        if self.mode is TlsMode.MUTUAL and self.ca_certificates is None:
            raise expected(
                "caCertificates, the file to check client certificates with",
                "mode MUTUAL without caCertificates",
            )
        if self.mode is TlsMode.SIMPLE and self.ca_certificates is not None:
            raise expected(
                "caCertificates only with mode MUTUAL, which checks client certificates",
                "one with mode SIMPLE",
                ("caCertificates",),
            )
        return self


class ServerPortPart(Part):
    """The port that a listener has."""

    istio_only: ClassVar[frozenset[str]] = frozenset({"targetPort"})

    number: Port
    name: PortName
    protocol: Annotated[Protocol, BeforeValidator(OneOf(Protocol))]


class ServerPart(Part):
    """One listener."""

    istio_only: ClassVar[frozenset[str]] = frozenset({"bind", "defaultEndpoint", "name"})

    port: ServerPortPart
    hosts: Annotated[list[HostPattern], Field(min_length=1), AfterValidator(Once("host"))]
    tls: TlsPart | None = None


class GatewaySpec(Part):
    """Listeners, and the Envoys that get them: all, or those whose labels have all of `selector`."""

    selector: dict[NonEmpty, NonEmpty] | None = None
    servers: Annotated[list[ServerPart], Field(min_length=1)]

    @model_validator(mode="after")
    def _ports_differ(self) -> GatewaySpec:
        for index, server in enumerate(self.servers):
            before = [other.port for other in self.servers[:index]]
            at = ("servers", index, "port")
            if server.port.number in [port.number for port in before]:
                raise expected("each port number once", f"{server.port.number} again", (*at, "number"))
            if server.port.name in [port.name for port in before]:
                raise expected("each port name once", f'"{server.port.name}" again', (*at, "name"))
        return self
