"""Envoy's bootstrap: who it is, where the xDS server is, and that everything else comes from there."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

XDS_CLUSTER = "xds"

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

MAX_DOWNSTREAM_CONNECTIONS = 50_000
"""For all listeners together. Without a limit Envoy warns that it could run out of file descriptors."""

RECONNECT = {"retry_back_off": {"base_interval": "0.25s", "max_interval": "3s"}}
"""Envoy's pause before it connects again, jittered: its default of up to 30 s is long after a restart."""

_HEADER = """\
# Envoy's bootstrap, made by `xds-server bootstrap`. Everything but this comes over xDS from {xds}.
# Start it with:
#   envoy -c THIS_FILE --disable-hot-restart
# A second Envoy on one machine needs a node id and an admin port of its own.
# Its admin page: http://{admin}
"""


def bootstrap(  # noqa: PLR0917 - all have defaults, and callers name them
    xds: str = "127.0.0.1:18000",
    node_id: str = "envoy-1",
    cluster: str = "gateway",
    admin: str = "127.0.0.1:9901",
    labels: Mapping[str, str] | None = None,
    delta: bool = True,
) -> str:
    """Write a bootstrap as YAML, with a comment that says how to start Envoy with it.

    Args:
        xds: HOST:PORT of the xDS server; a host that is no IP address is resolved by Envoy.
        node_id: this Envoy's own name.
        cluster: its group; Gateway selectors match it, and `sidecar` gets the mesh listeners.
        admin: HOST:PORT of Envoy's admin interface, whose host must be an IP address.
        labels: what else Gateway selectors may match.
        delta: incremental xDS; False for state of the world.

    Raises:
        ValueError: an address is not of the form HOST:PORT, or a name is empty.
    """
    if not node_id or not cluster:
        raise ValueError("the node id and the cluster of an Envoy must not be empty")
    admin_host, admin_port = _split(admin, "admin")
    if not _is_ip(admin_host):
        raise ValueError(
            f"admin address {admin!r}: Envoy listens on IP addresses only, such as 127.0.0.1:9901"
        )
    document: dict[str, Any] = {
        "node": _node(node_id, cluster, labels or {}),
        "admin": {"address": _address(admin_host, admin_port)},
        "dynamic_resources": _dynamic(delta=delta),
        "static_resources": {"clusters": [_xds_cluster(*_split(xds, "xDS"))]},
        "overload_manager": overload_manager(),
    }
    header = _HEADER.format(xds=xds, admin=admin)
    return header + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def overload_manager() -> dict[str, Any]:
    """Limit the connections of all listeners together."""
    return {
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors."
                    "downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": MAX_DOWNSTREAM_CONNECTIONS,
                },
            }
        ]
    }


def _node(node_id: str, cluster: str, labels: Mapping[str, str]) -> dict[str, Any]:
    node: dict[str, Any] = {"id": node_id, "cluster": cluster}
    if labels:
        node["metadata"] = {"labels": dict(sorted(labels.items()))}
    return node


def _dynamic(*, delta: bool) -> dict[str, Any]:
    return {
        "ads_config": {
            "api_type": "DELTA_GRPC" if delta else "GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER, "retry_policy": RECONNECT}}],
        },
        "cds_config": {"ads": {}, "resource_api_version": "V3"},
        "lds_config": {"ads": {}, "resource_api_version": "V3"},
    }


def _xds_cluster(host: str, port: int) -> dict[str, Any]:
    return {
        "name": XDS_CLUSTER,
        "type": "STATIC" if _is_ip(host) else "STRICT_DNS",
        "connect_timeout": "1s",
        **({} if _is_ip(host) else {"dns_lookup_family": "V4_PREFERRED"}),
        "typed_extension_protocol_options": {
            HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{HTTP_OPTIONS}",
                "explicit_http_config": {
                    "http2_protocol_options": {
                        # A server that vanished without a word is noticed within 15 seconds.
                        "connection_keepalive": {"interval": "10s", "timeout": "5s"}
                    }
                },
            }
        },
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, port)}}]}],
        },
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _split(address: str, what: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{what} address {address!r}: expected HOST:PORT with a port from 1 to 65535")
    return host, int(port)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
