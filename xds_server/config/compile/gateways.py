"""Gateway documents to gateways, and the check that no two listeners meet on one Envoy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.mesh.implied import implied_gateways, may_share_a_node
from xds_server.mesh.routing import MESH_GATEWAY, Gateway, GatewayServer, Tls

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds_server.config.compile.context import Context
    from xds_server.config.documents import Document
    from xds_server.config.documents.gateway import GatewaySpec, ServerPart

_EXPECTED = "a port of its own, or selectors that give one key different values"


def compile_gateways(documents: Iterable[Document[GatewaySpec]], context: Context) -> None:
    """Adds each document's gateway, and checks its ports against those before it."""
    for document in documents:
        if document.metadata.name == MESH_GATEWAY:
            problem = document.place.problem(
                ("metadata", "name"), '"mesh"', "another name: in a VirtualService, mesh means the sidecars"
            )
            context.problems.append(problem)
        gateway = Gateway(
            name=document.name,
            servers=tuple(_server(part) for part in document.spec.servers),
            selector=dict(sorted(document.spec.selector.items())) if document.spec.selector else None,
        )
        for index, server in enumerate(gateway.servers):
            if other := _other_with(server.port, gateway, context):
                path = ("spec", "servers", index, "port", "number")
                place = context.declared_by["gateway", other.name]
                found = f"{server.port}, which {place} has too"
                context.problems.append(document.place.problem(path, found, _EXPECTED))
        context.gateways[gateway.name] = gateway
        context.claim("gateway", gateway.name, document.place)


def check_listeners(context: Context) -> None:
    """Gateways that VirtualServices imply must not take a port that another gateway has."""
    seen = dict(context.gateways)
    for gateway in implied_gateways(context.gateways.values(), context.virtual_services):
        by = (gateway.implied_by or "").split(", ")[0]
        place = context.declared_by["virtual service", by]
        for server in gateway.servers:
            for other in seen.values():
                if other.implied_by is None:
                    whose = str(context.declared_by["gateway", other.name])
                else:
                    whose = f"the gateway {other.name}, which no Gateway defines either,"
                if _has(other, server.port) and may_share_a_node(gateway, other):
                    found = (
                        f"gateway {gateway.name}, which no Gateway defines, so that it is to have "
                        f"port {server.port} of the matches, which {whose} has too"
                    )
                    context.problems.append(place.problem(("spec", "gateways"), found, _EXPECTED_IMPLIED))
        seen[gateway.name] = gateway


_EXPECTED_IMPLIED = "gateways that are defined, or matches on a port that no other gateway has"


def _server(part: ServerPart) -> GatewayServer:
    tls = part.tls
    return GatewayServer(
        port=part.port.number,
        name=part.port.name,
        protocol=part.port.protocol,
        hosts=tuple(part.hosts),
        tls=Tls(tls.server_certificate, tls.private_key, tls.ca_certificates) if tls else None,
    )


def _has(gateway: Gateway, port: int) -> bool:
    return any(server.port == port for server in gateway.servers)


def _other_with(port: int, gateway: Gateway, context: Context) -> Gateway | None:
    others = context.gateways.values()
    return next((o for o in others if _has(o, port) and may_share_a_node(o, gateway)), None)
