"""Resources as plain values: protobuf's JSON mapping, with what is wrapped in Any written out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration

from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE

if TYPE_CHECKING:
    from betterproto2 import Casing, Message

    from xds_server.xds.model import Resource, Snapshot

# The library's own casings turn consecutive_5xx into names that Envoy does not know; a casing is only ever
# called with a field's name, so any function will do.
_AS_IN_THE_PROTO = cast("Casing", str)


def as_dict(resource: Resource) -> dict[str, Any]:
    """Decode one resource. Fields have the names of the protos, as Envoy's documentation writes them."""
    messages: dict[str, type[Message]] = {
        CLUSTER: Cluster,
        ENDPOINT: ClusterLoadAssignment,
        LISTENER: Listener,
        ROUTE: RouteConfiguration,
    }
    decoded: dict[str, Any] = (
        messages[resource.type_url].parse(resource.body).to_dict(casing=_AS_IN_THE_PROTO)
    )
    written: dict[str, Any] = _without_empty(decoded)
    return written


def _without_empty(value: Any) -> Any:
    """Write an Any that holds nothing as protobuf's JSON has it: the library gives it an empty type."""
    if isinstance(value, dict):
        if value == {"@type": ""}:
            return {}
        return {key: _without_empty(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_empty(each) for each in value]
    return value


def all_of(snapshot: Snapshot, type_url: str) -> list[dict[str, Any]]:
    """Decode all resources of a type, sorted by name."""
    return [as_dict(each) for each in snapshot.of(type_url).resources.values()]
