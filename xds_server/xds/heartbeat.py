"""Heartbeats of resources that have a time to live: Envoy drops what is not renewed in time.

Off by default: an Envoy without its control plane keeps what it has. With a time to live it forgets,
which is right where stale routes are worse than none. In delta only: an Envoy whose SotW resources end
crashes (envoy 24271, seen on 1.40).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xds_server.xds.ledger import ABSENT, UNKNOWN
from xds_server.xds.plan import Plan

if TYPE_CHECKING:
    from xds_server.xds.model import TypeSnapshot
    from xds_server.xds.watch import Watch

BEATS = 3
"""Heartbeats within one time to live: two may be lost."""


class Heart:
    """When one watch's resources have to be renewed. Times by the hub's clock, in seconds."""

    def __init__(self, ttl: float | None) -> None:
        self.ttl = ttl
        self.beats = ttl is not None
        self._next: dict[Watch, float] = {}

    def deadline(self, watch: Watch) -> float | None:
        """When to renew; None: never, or not before the client has answered."""
        return None if watch.ledger.outstanding is not None else self._next.get(watch)

    def begin(self, watch: Watch, now: float) -> None:
        """The watch's first request was read. What the client brought along may end at any moment."""
        if self.ttl is not None:
            self._next[watch] = now if watch.inherited else now + self.ttl / BEATS

    def due(self, watch: Watch, now: float) -> bool:
        """Whether to renew now; if so, the time until the next renewal begins."""
        at = self.deadline(watch)
        if self.ttl is None or at is None or now < at:
            return False
        self._next[watch] = now + self.ttl / BEATS
        return True


def renewed(watch: Watch, view: TypeSnapshot) -> tuple[tuple[str, str], ...]:
    """Names and versions of all that the client should go on with: a renewal needs no more."""
    held = watch.ledger.held.items()
    return tuple(sorted((name, version) for name, version in held if _stands(name, version, view)))


def joined(plan: Plan | None, kept: tuple[tuple[str, str], ...], version: str) -> Plan:
    """Renew with what is sent anyway, if anything is: under constant change there is no quiet moment."""
    if plan is None:
        return Plan(version, (), (), {}, kept)
    # Responses are made anew: those that the plan remembers renew nothing.
    return replace(plan, renewed=tuple(each for each in kept if each[0] not in plan.contents), issued={})


def _stands(name: str, version: str, view: TypeSnapshot) -> bool:
    """Whether the client should go on with what it holds: also of what is not known well enough yet."""
    if name in view.withheld:
        return version not in {ABSENT, UNKNOWN}
    resource = view.resources.get(name)
    return resource is not None and resource.version == version
