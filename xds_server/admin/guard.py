"""Who may ask the admin port. Whoever reaches it may move models, so it is on loopback by default.

A web page that a person on the same machine has open must not reach it either: a foreign Host is
refused (a name that was made to point here: DNS rebinding), and so is a foreign Origin (a form or a
script that posts here: request forgery).
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def refusal(bound: str, host: str | None, origin: str | None) -> str | None:
    """Why a request is refused, or None.

    Args:
        bound: the address that the port is bound to, without the port.
        host: the request's Host header; None without one (HTTP/1.0 probes), which no browser leaves out.
        origin: its Origin header; browsers send it with whatever is not a plain reading of the same site.
    """
    if host is not None and is_loopback(bound) and not is_loopback(_name(host)):
        return f"Host {host!r} refused: this port is on loopback and answers to localhost or its address only"
    if origin is not None and origin != f"http://{host}":
        return f"Origin {origin!r} refused: no other site's page may use this port"
    return None


def split_address(address: str) -> tuple[str, int]:
    """Split HOST:PORT; an IPv6 address is in brackets. ValueError for anything else."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{address!r} is not HOST:PORT: {error}") from error
    if not host or port is None or parts.netloc != address or parts.username is not None:
        raise ValueError(f"{address!r} is not HOST:PORT, such as 127.0.0.1:19000 or [::1]:19000")
    return host, port


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
