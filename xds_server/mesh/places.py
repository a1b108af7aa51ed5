"""How an endpoint is named from outside: HOST:PORT of any of its ports. Texts only, nothing is resolved."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from xds_server.mesh.model import Endpoint, join_host_port

if TYPE_CHECKING:
    from collections.abc import Iterable


class Places:
    """Endpoints by every HOST:PORT that names them."""

    def __init__(self, endpoints: Iterable[Endpoint | None] = ()) -> None:
        self._found: dict[str, list[Endpoint]] = {}
        for endpoint in endpoints:
            self.put(None, endpoint)

    def put(self, before: Endpoint | None, after: Endpoint | None) -> None:
        """Have `after` in place of `before`; None: there was, or is, none."""
        if before is not None:
            for address in addresses(before):
                kept = [each for each in self._found[address] if each.id != before.id]
                if kept:
                    self._found[address] = kept
                else:
                    del self._found[address]
        if after is not None:
            for address in addresses(after):
                self._found.setdefault(address, []).append(after)

    def find(self, host_port: str) -> tuple[Endpoint, ...]:
        """The endpoints that HOST:PORT names, sorted by id."""
        return tuple(sorted(self._found.get(normalised(host_port), ()), key=lambda each: each.id))


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
