"""Which of Istio's objects are for us. A cluster may run Istio too, whose objects we have no business with.

Ours are those that are about a ModelPool's service: the DestinationRule and the ServiceEntry of its host, a
VirtualService that sends to it, and what that one refers to. A label decides otherwise, either way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xds_server.config.objects import DOCUMENTS_LABEL, key_of
from xds_server.mesh.routing import MESH_GATEWAY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping


def related(
    pools: Iterable[Mapping[str, Any]], objects: Collection[Mapping[str, Any]], hosts: Collection[str]
) -> set[str]:
    """The keys of the objects of Istio's kinds that are ours. `hosts`: the services that others declare."""
    known = {
        *hosts,
        *(host for each in objects if _kind(each) == "ServiceEntry" for host in _texts(each, "hosts")),
    }
    wanted = {_resolved(str(_spec(pool).get("host")), _namespace(pool), known) for pool in pools}
    services = [each for each in objects if _kind(each) == "VirtualService"]
    ours = {key_of(each) for each in objects if _label(each) == "true"}
    routing = [
        each
        for each in services
        if key_of(each) in ours
        or any(_resolved(host, _namespace(each), known) in wanted for host in _destinations(each))
    ]
    routing = [each for each in routing if _label(each) != "false"]
    gateways = {name for each in routing for name in _gateways(each)}
    wanted |= {_resolved(host, _namespace(each), known) for each in routing for host in _destinations(each)}
    ours |= {key_of(each) for each in routing}
    for each in objects:
        match _kind(each):
            case "DestinationRule":
                found = _resolved(str(_spec(each).get("host")), _namespace(each), known) in wanted
            case "ServiceEntry":
                found = any(host in wanted for host in _texts(each, "hosts"))
            case "Gateway":
                found = f"{_namespace(each)}/{each['metadata']['name']}" in gateways
            case _:
                found = False
        if found and _label(each) != "false":
            ours.add(key_of(each))
    return ours


def _resolved(host: str, namespace: str, known: Collection[str]) -> str:
    """The service that is meant; a name of its own for one that nobody declares."""
    names = (host, f"{host}.{namespace}.svc.cluster.local", f"{host}.svc.cluster.local")
    return next((name for name in names if name in known), names[1])


def _kind(value: Mapping[str, Any]) -> str:
    return str(value.get("kind"))


def _spec(value: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = value.get("spec")
    return spec if isinstance(spec, dict) else {}


def _namespace(value: Mapping[str, Any]) -> str:
    return str(value["metadata"].get("namespace", "default"))


def _label(value: Mapping[str, Any]) -> str:
    return str((value["metadata"].get("labels") or {}).get(DOCUMENTS_LABEL, ""))


def _texts(value: Mapping[str, Any], field: str) -> list[str]:
    listed = _spec(value).get(field)
    return [each for each in listed if isinstance(each, str)] if isinstance(listed, list) else []


def _destinations(value: Mapping[str, Any]) -> Iterator[str]:
    """The hosts that a VirtualService sends to, as written."""
    for rule in _dicts(_spec(value).get("http")):
        for share in _dicts(rule.get("route")):
            destination = share.get("destination")
            if isinstance(destination, dict) and isinstance(destination.get("host"), str):
                yield destination["host"]


def _gateways(value: Mapping[str, Any]) -> Iterator[str]:
    for name in _texts(value, "gateways"):
        if name != MESH_GATEWAY:
            yield name if "/" in name else f"{_namespace(value)}/{name}"


def _dicts(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
