"""Hosts of listeners and routes: a name, `*.` and a name, or `*`. Which of them meet, and which is nearer."""

from __future__ import annotations

ANY = "*"


def covers(pattern: str, host: str) -> bool:
    """Whether everything that `host` takes is taken by `pattern` too."""
    if pattern in (ANY, host):
        return True
    return pattern.startswith("*.") and host != ANY and host.endswith(pattern[1:]) and host != pattern[1:]


def covering(host: str) -> list[str]:
    """Every pattern that covers `host`, the nearest first."""
    if host == ANY:
        return [ANY]
    labels = host.split(".")
    wider = [f"*.{'.'.join(labels[index:])}" for index in range(1, len(labels))]
    return list(dict.fromkeys([host, *wider, ANY]))


def meeting(one: str, other: str) -> str | None:
    """The hosts that both take, as one pattern: the narrower of the two; None where they do not meet."""
    if covers(one, other):
        return other
    return one if covers(other, one) else None
