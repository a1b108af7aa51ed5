"""What the documents imply without saying it, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xds_server.admin.model import ImpliedRecord
    from xds_server.mesh.policies import Policy
    from xds_server.mesh.routing import Gateway, Route, Routing, VirtualService


def records(routing: Routing) -> list[ImpliedRecord]:
    """Everything in force that nobody wrote, with the document that made it necessary."""
    return [
        *(_policy(policy, by) for policy in routing.policies.values() if (by := policy.implied_by)),
        *(_gateway(gateway, by) for gateway in routing.gateways if (by := gateway.implied_by)),
        *(_virtual(virtual, by) for virtual in routing.virtual_services if (by := virtual.implied_by)),
        *(
            _headers(virtual, route, by)
            for virtual in routing.virtual_services
            for route in virtual.routes
            for by in route.headers_implied_by
        ),
    ]


def _policy(policy: Policy, by: str) -> ImpliedRecord:
    selectors = "; ".join(
        f"[{', '.join(selector.keys)}] with {selector.fallback}" for selector in policy.selectors
    )
    text = f"{policy.host}: {policy.pick}; subset selectors: {selectors or 'none'}"
    return {"kind": "DestinationRule", "name": policy.name, "implied_by": by, "text": text}


def _gateway(gateway: Gateway, by: str) -> ImpliedRecord:
    servers = ", ".join(f"port {s.port} {s.protocol} for {', '.join(s.hosts)}" for s in gateway.servers)
    return {"kind": "Gateway", "name": gateway.name, "implied_by": by, "text": servers}


def _virtual(virtual: VirtualService, by: str) -> ImpliedRecord:
    targets = ", ".join(
        f"{destination.host}:{destination.port}"
        for route in virtual.routes
        for destination in route.destinations
    )
    text = f"{', '.join(virtual.hosts)} on {', '.join(virtual.gateways)} to {targets}"
    return {"kind": "VirtualService", "name": virtual.name, "implied_by": by, "text": text}


def _headers(virtual: VirtualService, route: Route, by: str) -> ImpliedRecord:
    mapped = ", ".join(f"{each.header} -> {each.key}" for each in route.header_to_key)
    name = f"{virtual.name} {route.name}".rstrip()
    text = f"request headers to subset keys: {mapped}"
    return {"kind": "headerToDynamicSubsetKey", "name": name, "implied_by": by, "text": text}
