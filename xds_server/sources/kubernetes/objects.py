"""What is kept of Services, EndpointSlices and Pods: the few fields that matter here, as values.

An API server validates what it stores; all the same nothing here trusts a field to be there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xds_server.mesh.model import EMPTY, Protocol, ServicePort
from xds_server.sources.kubernetes.watched import Key, Resource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SERVICES = Resource("", "v1", "services")
SLICES = Resource("discovery.k8s.io", "v1", "endpointslices")
PODS = Resource("", "v1", "pods", metadata_only=True)

ANNOTATION = "models.xds-server.dev/"
"""What an annotation that lists models begins with; the rest is the name of its writer."""

_SERVICE_NAME = "kubernetes.io/service-name"
"""The label by which a slice says whose it is."""

_HTTP2 = frozenset({"kubernetes.io/h2c", "http2", "h2c"})


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """A Service. `families`: of its addresses, the preferred one first; `external`: another name's alias."""

    ports: tuple[ServicePort, ...] = ()
    families: tuple[str, ...] = ()
    external: bool = False


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """One endpoint of a slice. `pod` is the Pod behind it, None where it says none."""

    address: str
    ready: bool
    terminating: bool
    zone: str
    pod: Key | None


@dataclass(frozen=True, slots=True)
class SliceFacts:
    """An EndpointSlice. `service`: its owner's key, None where it names none; `ports` by name."""

    service: Key | None
    family: str
    ports: Mapping[str, int] = field(default_factory=dict)
    entries: tuple[EntryFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A Pod. `annotations`: those that list models, by writer; `uid`: another pod of the name has another."""

    uid: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    annotations: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    terminating: bool = False


def service(item: Mapping[str, Any]) -> ServiceFacts:
    """What is kept of a Service: its TCP ports in their order."""
    spec = item.get("spec") or {}
    ports = (port for port in spec.get("ports") or () if port.get("protocol", "TCP") == "TCP")
    return ServiceFacts(
        ports=tuple(
            ServicePort(port["port"], port_name(port.get("name"), port["port"]), _protocol(port))
            for port in ports
        ),
        families=tuple(spec.get("ipFamilies") or ()),
        external=spec.get("type") == "ExternalName",
    )


def port_name(name: str | None, number: int) -> str:
    """The name of a Service's port: its number where it is its only one and has none."""
    return name or str(number)


def _protocol(port: Mapping[str, Any]) -> Protocol:
    """By `appProtocol`, else by what the name begins with, as in Istio; HTTP where neither says."""
    said = port.get("appProtocol") or (port.get("name") or "").partition("-")[0]
    if said == "grpc":
        return Protocol.GRPC
    return Protocol.HTTP2 if said in _HTTP2 else Protocol.HTTP


def endpoint_slice(item: Mapping[str, Any]) -> SliceFacts:
    """What is kept of an EndpointSlice. The port of a Service with one unnamed port is called ""."""
    metadata = item.get("metadata") or {}
    namespace = metadata.get("namespace") or ""
    owner = (metadata.get("labels") or {}).get(_SERVICE_NAME)
    ports = (port for port in item.get("ports") or () if port.get("protocol", "TCP") == "TCP")
    return SliceFacts(
        service=(namespace, owner) if owner else None,
        family=item.get("addressType") or "",
        ports={port.get("name") or "": port["port"] for port in ports if port.get("port")},
        entries=tuple(_entries(item.get("endpoints") or (), namespace)),
    )


def _entries(endpoints: Iterable[Mapping[str, Any]], namespace: str) -> Iterable[EntryFacts]:
    for endpoint in endpoints:
        conditions = endpoint.get("conditions") or {}
        target = endpoint.get("targetRef") or {}
        addresses = endpoint.get("addresses") or ()
        if addresses:
            yield EntryFacts(
                address=addresses[0],  # all are of one replica, and consumers take the first (API docs)
                ready=conditions.get("ready") is not False,  # unknown counts as ready (API docs)
                terminating=conditions.get("terminating") is True,
                zone=endpoint.get("zone") or "",
                pod=(target.get("namespace") or namespace, target.get("name") or "")
                if target.get("kind") == "Pod"
                else None,
            )


def pod(item: Mapping[str, Any]) -> PodFacts:
    """What is kept of a Pod: metadata only."""
    metadata = item.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    return PodFacts(
        uid=metadata.get("uid") or "",
        labels=dict(sorted((metadata.get("labels") or {}).items())),
        annotations={
            name.removeprefix(ANNOTATION): text
            for name, text in sorted(annotations.items())
            if name.startswith(ANNOTATION)
        },
        terminating=metadata.get("deletionTimestamp") is not None,
    )
