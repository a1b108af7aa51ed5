"""All Gateway API objects together: which Gateways are ours, what is attached to them, what that makes.

Routes of one listener port and host become one virtual service, in the order that the API gives to matches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xds_server.config.conditions import Conditions, condition
from xds_server.config.gateway_api.attach import Attachment, attach
from xds_server.config.gateway_api.backends import Backends
from xds_server.config.gateway_api.documents import GATEWAY_GROUP, GatewayApiSpec, HttpRouteSpec
from xds_server.config.gateway_api.listeners import Listeners
from xds_server.config.gateway_api.merge import merged
from xds_server.config.gateway_api.shapes import Shapes
from xds_server.config.objects import key_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xds_server.mesh.model import Service
    from xds_server.mesh.pools import Pool
    from xds_server.mesh.routing import Gateway, VirtualService

CONTROLLER = "xds-server.dev/gateway-controller"
"""The controllerName of the GatewayClasses that are ours."""

_SUPPORTED = ("Gateway", "HTTPRoute")


@dataclass(frozen=True, slots=True)
class GatewayApi:
    """The objects as they are now, in any order."""

    classes: Sequence[Mapping[str, Any]] = ()
    gateways: Sequence[Mapping[str, Any]] = ()
    routes: Sequence[Mapping[str, Any]] = ()
    grants: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What comes of them.

    `status` by key of the object: what we have to say there, with conditions that have no transition times.
    For a route it is `{"parents": [...]}` with our own entries alone. Objects of others are not in it.
    """

    gateways: tuple[Gateway, ...] = ()
    virtual_services: tuple[VirtualService, ...] = ()
    status: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def compile_gateway_api(
    objects: GatewayApi,
    pools: Mapping[str, Pool],
    services: Mapping[str, Service],
    taken: Sequence[Gateway] = (),
    shapes: Shapes | None = None,
) -> Outcome:
    """What the objects make.

    `pools` in force by namespace/name; `services` by host, whoever declares them; `taken`: gateways of other
    documents, whose ports cannot be had on the same Envoys; `shapes`: what was read before.
    """
    shapes = shapes if shapes is not None else Shapes()
    shapes.keep(key_of(each) for each in (*objects.gateways, *objects.routes))
    status: dict[str, dict[str, Any]] = {}
    ours = set()
    for each in objects.classes:
        if (each.get("spec") or {}).get("controllerName") == CONTROLLER:
            ours.add(each["metadata"]["name"])
            status[key_of(each)] = _class_status(each)
    listeners = Listeners(taken)
    for each in sorted(objects.gateways, key=_age):
        if (each.get("spec") or {}).get("gatewayClassName") in ours:
            spec, problems = shapes.of(each, GatewayApiSpec)
            listeners.add(each, spec, problems)
    backends = Backends(pools, services, objects.grants)
    attachments: list[Attachment] = []
    for each in sorted(objects.routes, key=_age):
        spec, problems = shapes.of(each, HttpRouteSpec)
        attached, parents = attach(each, spec, problems, listeners, backends)
        attachments += attached
        if parents:
            status[key_of(each)] = {"parents": [_parent(ref, said) for ref, said in parents]}
    status |= listeners.status(attachments)
    return Outcome(
        gateways=listeners.gateways(),
        virtual_services=merged(listeners.places(), attachments),
        status=dict(sorted(status.items())),
    )


def _age(value: Mapping[str, Any]) -> tuple[str, str, str]:
    """Who came first has its way, says the API; of two that came together, the one first by name."""
    metadata = value["metadata"]
    return str(metadata.get("creationTimestamp") or ""), metadata.get("namespace", ""), metadata["name"]


def _parent(reference: dict[str, Any], said: Conditions) -> dict[str, Any]:
    return {"parentRef": reference, "controllerName": CONTROLLER, "conditions": said.listed()}


def _class_status(value: Mapping[str, Any]) -> dict[str, Any]:
    generation = value["metadata"].get("generation", 1)
    said = Conditions(generation)
    said.add(condition("Accepted", "Accepted", f"handled by xds-server: {', '.join(_SUPPORTED)}"))
    return {"conditions": said.listed()}


__all__ = ["CONTROLLER", "GATEWAY_GROUP", "GatewayApi", "Outcome", "compile_gateway_api"]
