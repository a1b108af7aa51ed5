"""VirtualService documents to routes, with their destinations and gateways resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.config.problems import describe, join_or
from xds_server.mesh.ports import ANY_PORT
from xds_server.mesh.routing import (
    MESH_GATEWAY,
    Destination,
    HeaderToKey,
    MatchKind,
    Retries,
    Route,
    RouteMatch,
    StringMatch,
    VirtualService,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xds_server.config.compile.context import Context
    from xds_server.config.documents import Document
    from xds_server.config.documents.virtual_service import (
        HttpRoutePart,
        RouteDestinationPart,
        RouteMatchPart,
        VirtualServiceSpec,
    )
    from xds_server.config.problems import Path


def compile_virtual_services(documents: Sequence[Document[VirtualServiceSpec]], context: Context) -> None:
    """Adds each document's routes, then checks the gateways of all of them together."""
    for document in documents:
        context.claim("virtual service", document.name, document.place)
        context.virtual_services.append(
            VirtualService(
                name=document.name,
                hosts=tuple(document.spec.hosts),
                gateways=tuple(_gateway_name(name, document) for name in document.spec.gateways),
                routes=tuple(_route(i, part, document, context) for i, part in enumerate(document.spec.http)),
            )
        )
    ported = {
        gateway
        for service in context.virtual_services
        for gateway in service.gateways
        if any(match.port for route in service.routes for match in route.matches)
    }
    for document in documents:
        _check_gateways(document, ported, context)
        _check_match_ports(document, context)


def _gateway_name(name: str, document: Document[VirtualServiceSpec]) -> str:
    if name == MESH_GATEWAY or "/" in name:
        return name
    return f"{document.metadata.namespace}/{name}"


def _route(
    index: int, part: HttpRoutePart, document: Document[VirtualServiceSpec], context: Context
) -> Route:
    path = ("spec", "http", index)
    shares = [
        _destination((*path, "route", i), share, document, context) for i, share in enumerate(part.route)
    ]
    retries = part.retries
    return Route(
        name=part.name or f"http-{index}",
        matches=tuple(_match(match) for match in part.match),
        destinations=tuple(share for share in shares if share is not None),
        header_to_key=tuple(HeaderToKey(m.header.lower(), m.key) for m in part.header_to_dynamic_subset_key),
        timeout=part.timeout,
        retries=Retries(retries.attempts, retries.per_try_timeout, retries.retry_on) if retries else None,
    )


def _match(part: RouteMatchPart) -> RouteMatch:
    headers = {
        name.lower(): next(iter(match.comparisons()), StringMatch(MatchKind.PRESENT))
        for name, match in part.headers.items()
    }
    return RouteMatch(
        port=part.port,
        uri=part.uri.comparisons()[0] if part.uri else None,
        headers=tuple((name, headers[name]) for name in sorted(headers)),
    )


def _destination(
    path: Path, part: RouteDestinationPart, document: Document[VirtualServiceSpec], context: Context
) -> Destination | None:
    """Where a share goes; the port may be left out where the service has only one."""
    path = (*path, "destination")
    host = part.destination.host
    service = context.service(document.place, (*path, "host"), host, document.metadata.namespace)
    if service is None:
        return None
    if not service.ports:  # a cluster's, not known yet: its source says if the port is none of it
        written = part.destination.port.number if part.destination.port is not None else ANY_PORT
        return Destination(service.host, written, 1 if part.weight is None else part.weight)
    numbers = [port.number for port in service.ports]
    ports = join_or([str(number) for number in numbers])
    weight = 1 if part.weight is None else part.weight
    if part.destination.port is None:
        if len(numbers) > 1:
            found = f"no port, while {service.host} has several"
            context.problems.append(document.place.problem(path, found, f"port.number: {ports}"))
        return Destination(service.host, numbers[0], weight)
    number = part.destination.port.number
    if number not in numbers:
        found = f"{number}, which is no port of {service.host}"
        context.problems.append(document.place.problem((*path, "port", "number"), found, ports))
    return Destination(service.host, number, weight)


def _check_gateways(document: Document[VirtualServiceSpec], ported: set[str], context: Context) -> None:
    """A gateway that nothing defines is implied by the ports of matches; without any it cannot be."""
    for index, written in enumerate(document.spec.gateways):
        name = _gateway_name(written, document)
        known = name == MESH_GATEWAY or name in context.gateways or name in ported
        if not known and not context.doubt.anything and name not in context.doubt.gateways:
            problem = document.place.problem(
                ("spec", "gateways", index),
                f"{describe(written)}, which no Gateway defines, while no match names a port to imply one",
                f"a Gateway {name}, a match with a port, or one of the gateways {_defined(context)}",
            )
            context.problems.append(problem)


def _defined(context: Context) -> str:
    return join_or([*sorted(context.gateways), MESH_GATEWAY])


def _check_match_ports(document: Document[VirtualServiceSpec], context: Context) -> None:
    """A match on a port that none of its gateways has would never hold."""
    names = [_gateway_name(name, document) for name in document.spec.gateways]
    if any(name not in context.gateways for name in names):
        return
    ports = sorted({server.port for name in names for server in context.gateways[name].servers})
    for i, route in enumerate(document.spec.http):
        for j, match in enumerate(route.match):
            if match.port is not None and match.port not in ports:
                found = f"{match.port}, which is no port of {join_or(names)}"
                path = ("spec", "http", i, "match", j, "port")
                expected = join_or([str(port) for port in ports])
                context.problems.append(document.place.problem(path, found, expected))
