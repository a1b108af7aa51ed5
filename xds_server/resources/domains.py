"""Host names and wildcards: which domains a virtual service has on a server. Texts only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ANY = "*"


def matches(pattern: str, host: str) -> bool:
    """Whether `pattern` (a host, `*` or `*.suffix`) takes every host that `host` stands for."""
    pattern, host = pattern.lower(), host.lower()
    if pattern == ANY:
        return True
    if pattern.startswith("*"):
        # A wildcard stands for at least one character, as in Envoy; a narrower wildcard is covered too.
        return host.endswith(pattern[1:]) and len(host) >= len(pattern)
    return pattern == host


def intersection(hosts: Iterable[str], served: Iterable[str]) -> tuple[str, ...]:
    """List the hosts that both sides take, in lower case, sorted; of two that overlap the narrower."""
    narrower = (_narrower(one, other) for one in hosts for other in served)
    return tuple(sorted({host.lower() for host in narrower if host is not None}))


def _narrower(one: str, other: str) -> str | None:
    if matches(one, other):
        return other
    return one if matches(other, one) else None
