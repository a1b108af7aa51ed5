"""ServiceEntry documents to services and endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.config.problems import describe
from xds_server.mesh.model import Endpoint, EndpointId, Locality, Service, ServicePort

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds_server.config.compile.context import Context
    from xds_server.config.documents import Document
    from xds_server.config.documents.service_entry import EndpointPart, ServiceEntrySpec

POD_LABEL = "xds-server.dev/pod"
"""The label of an endpoint that names the pod which it runs in."""


def compile_services(documents: Iterable[Document[ServiceEntrySpec]], context: Context) -> None:
    """Adds each host of each document as a service with all of the document's endpoints."""
    for document in documents:
        for index, host in enumerate(document.spec.hosts):
            if other := context.claim("service", host, document.place):
                found = f"{describe(host)}, which {other} defines too"
                problem = document.place.problem(
                    ("spec", "hosts", index), found, "each host in one ServiceEntry"
                )
                context.problems.append(problem)
                continue
            context.services[host] = Service(
                host=host,
                namespace=document.metadata.namespace,
                ports=tuple(ServicePort(p.number, p.name, p.protocol) for p in document.spec.ports),
            )
            context.endpoints[host] = [
                _endpoint(host, part, document.spec) for part in document.spec.endpoints
            ]


def _endpoint(host: str, part: EndpointPart, spec: ServiceEntrySpec) -> Endpoint:
    """A replica; ports that it does not name are the service's target ports."""
    ports = {port.name: spec.port_of(part, port) for port in spec.ports}
    extra = {name: part.ports[name] for name in sorted(part.ports) if name not in ports}
    region, zone, sub_zone = (*part.locality.split("/"), "", "")[:3]
    return Endpoint(
        id=EndpointId(host, part.address, ports[spec.ports[0].name]),
        ports=ports | extra,
        labels=dict(sorted(part.labels.items())),
        locality=Locality(region, zone, sub_zone),
        weight=part.weight,
        pod=part.labels.get(POD_LABEL, ""),
    )
