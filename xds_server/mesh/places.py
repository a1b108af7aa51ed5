"""How an endpoint is named from outside: HOST:PORT of any of its ports. Texts only, nothing is resolved."""

from __future__ import annotations

import ipaddress

from xds_server.mesh.model import Endpoint, join_host_port


def addresses(endpoint: Endpoint) -> frozenset[str]:
    """Every HOST:PORT that names `endpoint`, normalised."""
    ports = {endpoint.id.port, *endpoint.ports.values()}
    return frozenset(normalised(join_host_port(endpoint.id.address, port)) for port in ports)


def normalised(host_port: str) -> str:
    """HOST:PORT with the host in its usual form: `[0:0::1]:80` is `[::1]:80`, names in lower case.

    What is no HOST:PORT is returned as it is and names no endpoint.
    """
    host, colon, port = host_port.strip().rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        return host_port
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        bare = str(ipaddress.ip_address(bare))
    except ValueError:
        bare = bare.lower()
    return join_host_port(bare, int(port))
