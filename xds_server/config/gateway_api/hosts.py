"""Hosts of listeners and routes: a name, `*.` and a name, or `*`. Which of them meet, and which is nearer."""

from __future__ import annotations

ANY = "*"


def covers(pattern: str, host: str) -> bool:
    """Whether everything that `host` takes is taken by `pattern` too."""
    if pattern in (ANY, host):
        return True
    return pattern.startswith("*.") and host != ANY and host.endswith(pattern[1:]) and host != pattern[1:]


def meeting(one: str, other: str) -> str | None:
    """The hosts that both take, as one pattern: the narrower of the two; None where they do not meet."""
    if covers(one, other):
        return other
    return one if covers(other, one) else None


def nearness(pattern: str) -> tuple[int, int]:
    """Sorts patterns that take the same host: the nearer one is greater. A whole name is nearest."""
    whole = 0 if pattern.startswith(ANY) else len(pattern)
    return whole, 0 if pattern == ANY else len(pattern)
