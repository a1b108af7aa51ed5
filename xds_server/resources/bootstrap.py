"""Envoy's bootstrap: who it is, where the xDS server is, and that everything else comes from there."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from xds_server.mesh.model import Locality

XDS_CLUSTER = "xds"

LOCAL_CLUSTER = "local"
"""Where Envoy looks for the Envoys of its own zone; it finds itself."""

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

TLS_SOCKET = "envoy.transport_sockets.tls"

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


_DISCARD = 9
"""The port of the discard protocol: an endpoint has to have one."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How Envoy reaches the xDS server over TLS. Files are PEM, on Envoy's machine.

    `certificate` and `key`: Envoy's own, where the server asks for one; both or neither. `server_name`:
    what the server's certificate has to name; None: the host that Envoy connects to.
    """

    ca: str
    certificate: str | None = None
    key: str | None = None
    server_name: str | None = None


def bootstrap(  # noqa: PLR0917 - all have defaults, and callers name them
    xds: str = "127.0.0.1:18000",
    node_id: str = "envoy-1",
    cluster: str = "gateway",
    admin: str = "127.0.0.1:9901",
    labels: Mapping[str, str] | None = None,
    delta: bool = True,
    tls: Tls | None = None,
    *,
    per_model: bool = False,
    locality: Locality | None = None,
) -> str:
    """Write a bootstrap as YAML, with a comment that says how to start Envoy with it.

    Args:
        xds: HOST:PORT of the xDS server; a host that is no IP address is resolved by Envoy.
        node_id: this Envoy's own name.
        cluster: its group; Gateway selectors match it, and `sidecar` gets the mesh listeners.
        admin: HOST:PORT of Envoy's admin interface, whose host must be an IP address.
        labels: what else Gateway selectors may match.
        delta: incremental xDS; False for state of the world.
        tls: how to connect with TLS; None: plain text.
        per_model: for pools with a cluster for each model, of which there may be thousands.
        locality: where it runs, as its endpoints' is written; pools may prefer those that are there. None:
            nowhere, and nothing is preferred.

    Raises:
        ValueError: an address is not of the form HOST:PORT, a name is empty, or one of Envoy's certificate
            and key is given without the other.
    """
    if not node_id or not cluster:
        raise ValueError("the node id and the cluster of an Envoy must not be empty")
    admin_host, admin_port = _split(admin, "admin")
    if not _is_ip(admin_host):
        raise ValueError(
            f"admin address {admin!r}: Envoy listens on IP addresses only, such as 127.0.0.1:9901"
        )
    place = {} if locality is None else _place(locality)
    document: dict[str, Any] = {
        "node": _node(node_id, cluster, labels or {}) | ({"locality": place} if place else {}),
        "admin": {"address": _address(admin_host, admin_port)},
        "dynamic_resources": _dynamic(delta=delta),
        "static_resources": {
            "clusters": [
                _xds_cluster(*_split(xds, "xDS"), tls),
                *([_local_cluster(place)] if place else []),
            ]
        },
        "overload_manager": overload_manager(),
        **_cluster_manager(per_model=per_model, local=bool(place)),
        **(_few_stats() if per_model else {}),
    }
    header = _HEADER.format(xds=xds, admin=admin)
    return header + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _cluster_manager(*, per_model: bool, local: bool) -> dict[str, Any]:
    """Make a cluster only when a request asks for it, where there are many; name the one of the own zone.

    Made on demand, an idle model costs Envoy about 40 kB, else 70.
    """
    asked: dict[str, Any] = {
        **({"local_cluster_name": LOCAL_CLUSTER} if local else {}),
        **({"enable_deferred_cluster_creation": True} if per_model else {}),
    }
    return {"cluster_manager": asked} if asked else {}


def _few_stats() -> dict[str, Any]:
    """Keep few stats of the clusters of single models: those of thousands cost CPU all the time."""
    counted = "upstream_rq_(total|active|2xx|4xx|5xx|time|pending_overflow)"
    gauged = "upstream_cx_active|membership_(total|healthy)"
    patterns: list[dict[str, Any]] = [
        {"safe_regex": {"regex": r"^[^~]*$"}},
        {"safe_regex": {"regex": rf"^cluster\..*~.*\.({counted}|{gauged})$"}},
    ]
    return {
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": patterns}}},
    }


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


def _place(locality: Locality) -> dict[str, str]:
    parts = {"region": locality.region, "zone": locality.zone, "sub_zone": locality.sub_zone}
    return {name: value for name, value in parts.items() if value}


def _local_cluster(place: Mapping[str, str]) -> dict[str, Any]:
    """Tell Envoy of one Envoy in its own zone, without which it takes no zone for its own.

    It is there to be counted: no route leads to it. Nobody needs to know how many there are in which zone,
    since the clusters of pools force the own zone (balancing.py).
    """
    address = _address("127.0.0.1", _DISCARD)
    return {
        "name": LOCAL_CLUSTER,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": LOCAL_CLUSTER,
            "endpoints": [{"locality": dict(place), "lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _xds_cluster(host: str, port: int, tls: Tls | None) -> dict[str, Any]:
    return {
        "name": XDS_CLUSTER,
        "type": "STATIC" if _is_ip(host) else "STRICT_DNS",
        "connect_timeout": "1s",
        **({} if _is_ip(host) else {"dns_lookup_family": "V4_PREFERRED"}),
        "typed_extension_protocol_options": {
            HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{HTTP_OPTIONS}",
                # A thread that told of an answer (upstream_log.py) has a connection of its own for that.
                "common_http_protocol_options": {"idle_timeout": "60s"},
                "explicit_http_config": {
                    "http2_protocol_options": {
                        # A server that vanished without a word is noticed within 15 seconds.
                        "connection_keepalive": {"interval": "10s", "timeout": "5s"}
                    }
                },
            }
        },
        **({} if tls is None else {"transport_socket": _transport_socket(tls, tls.server_name or host)}),
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, port)}}]}],
        },
    }


def _transport_socket(tls: Tls, name: str) -> dict[str, Any]:
    """TLS with HTTP/2, to a server whose certificate is signed by `tls.ca` and has `name`.

    The name is checked as what it is: an IP address, a URI such as a SPIFFE id, or a DNS name.
    """
    if (tls.certificate is None) != (tls.key is None):
        raise ValueError("Envoy's own certificate and its key belong together: give both or neither")
    kind = "IP_ADDRESS" if _is_ip(name) else "URI" if "://" in name else "DNS"
    common: dict[str, Any] = {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "validation_context": {
            "trusted_ca": {"filename": tls.ca},
            "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": name}}],
        },
    }
    if tls.certificate is not None:
        common["tls_certificates"] = [
            {"certificate_chain": {"filename": tls.certificate}, "private_key": {"filename": tls.key}}
        ]
    return {
        "name": TLS_SOCKET,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            **({"sni": name} if kind == "DNS" else {}),
            "common_tls_context": common,
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
