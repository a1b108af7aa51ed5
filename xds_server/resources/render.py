"""What an Envoy would be sent, as text for a person: the resources, and what was implied for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import yaml

from xds_server.resources.rendered import all_of
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE, Node

if TYPE_CHECKING:
    from xds_server.mesh.routing import Routing
    from xds_server.resources.views import ViewCatalog

DEFAULT_NODE = Node(id="render", cluster="gateway")


def render(catalog: ViewCatalog, node: Node = DEFAULT_NODE, fmt: Literal["json", "yaml"] = "yaml") -> str:
    """Write what `node` would be sent; `withheld` lists assignments that wait for a first report."""
    snapshot = catalog.snapshot_for(node)
    document: dict[str, Any] = {
        "node": {"id": node.id, "cluster": node.cluster, "labels": dict(sorted(node.labels.items()))},
        "implied": implied(catalog.routing),
        "clusters": all_of(snapshot, CLUSTER),
        "endpoints": all_of(snapshot, ENDPOINT),
        "listeners": all_of(snapshot, LISTENER),
        "routes": all_of(snapshot, ROUTE),
    }
    withheld = sorted(snapshot.of(ENDPOINT).withheld)
    if withheld:
        document["withheld"] = withheld
    if fmt == "json":
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return yaml.dump(document, Dumper=_NoAliases, sort_keys=False, allow_unicode=True, width=110)


def implied(routing: Routing) -> dict[str, list[dict[str, Any]]]:
    """List what no document says and what made it necessary; a list is absent when it would be empty."""
    found: dict[str, list[dict[str, Any]]] = {
        "policies": [
            {
                "host": each.host,
                "selectors": [
                    {"keys": list(selector.keys), "fallbackPolicy": selector.fallback.value}
                    for selector in each.selectors
                ],
                "impliedBy": each.implied_by,
            }
            for each in routing.policies.values()
            if each.implied_by is not None
        ],
        "headerMappings": [
            {
                "virtualService": owner.name,
                "route": route.name,
                "headerToDynamicSubsetKey": [
                    {"header": mapping.header, "key": mapping.key} for mapping in route.header_to_key
                ],
                "impliedBy": list(route.headers_implied_by),
            }
            for owner in routing.virtual_services
            for route in owner.routes
            if route.headers_implied_by
        ],
        "gateways": [
            {
                "name": each.name,
                "ports": [server.port for server in each.servers],
                "impliedBy": each.implied_by,
            }
            for each in routing.gateways
            if each.implied_by is not None
        ],
        "virtualServices": [
            {"name": each.name, "hosts": list(each.hosts), "impliedBy": each.implied_by}
            for each in routing.virtual_services
            if each.implied_by is not None
        ],
    }
    return {name: items for name, items in found.items() if items}


class _NoAliases(yaml.SafeDumper):
    """Writes a value twice rather than as a reference to where it was first."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the base class decides by value
        return True
