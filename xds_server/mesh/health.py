"""How a runtime's reports are judged: what stays in force when it fails. Pure functions of facts and time.

The rules, and the reason of each:

- A refused connection means that nobody listens: the models are lost at once, the endpoint is unhealthy.
- A timeout or a bad answer may be load or a passing fault: the models stay for the pool's grace period,
  counted from the first failure of the run, then they are lost as after a refusal.
- When every endpoint of a pool fails at once, that is far more likely our own trouble (network, DNS, a
  policy) than the loss of all replicas: the last picture of each stays in force, marked STALE. A source
  that goes dark must not empty what it fed (envoy 8718).
- "At once" is meant: a replica that was already failing by itself while another one still answered, for
  longer than a window, was lost on its own and does not come back with the others.
- Until each endpoint of a pool that begins to be asked was heard once, by an answer or a refusal, what
  the others say is not the whole picture. A silent one is waited for as long as it would keep its models
  (PATIENCE at most): a replica that is only slow while this server restarts must not lose them.
- What told us may be out of reach itself (LOST): that says nothing of the replica, which keeps its models
  for as long as it takes, marked STALE.
- When one answers again, the others are only dropped by the failure of a poll that began after that
  answer; they may well be next to recover.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from xds_server.mesh.events import FailureKind
from xds_server.mesh.model import Health

if TYPE_CHECKING:
    from xds_server.mesh.pools import Asked
    from xds_server.mesh.reports import Record
    from xds_server.mesh.status import Failure


PATIENCE = 10.0
"""Seconds: for so long a pool's changes may wait for a silent endpoint at most, whatever its grace."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How long a failing endpoint keeps its models, and which runs of failure count as one. Seconds.

    `patience`: how long one that was never heard is waited for, from the first answer of another.
    """

    grace: float
    window: float
    patience: float

    @classmethod
    def of(cls, discovery: Asked) -> Tolerance:
        """The window covers two polls, since endpoints are polled at different phases."""
        window = max(2 * (discovery.interval + discovery.timeout), discovery.grace)
        return cls(discovery.grace, window, min(discovery.grace, PATIENCE))


@dataclass(frozen=True, slots=True)
class CommonFailure:
    """The latest stretch in which no endpoint of a pool that had ever answered did answer.

    It lasts from `begin` (when the last one began to fail) to `end` (when the first one answered again,
    infinity while it lasts). `worked` is when the pool last answered
    before, as far as any endpoint tells, also one that has since been removed.
    """

    begin: float
    end: float
    worked: float

    def holds(self, failure: Failure, window: float) -> bool:
        """Whether an endpoint's run of failures is part of it, and was not confirmed after its end.

        A question that was put before the end and timed out after it says nothing about the time since.
        """
        asked = failure.last if failure.asked is None else failure.asked
        return asked <= self.end and failure.since >= max(self.begin, self.worked) - window


NO_COMMON_FAILURE = CommonFailure(inf, -inf, -inf)
"""One value for all that is none, so that a change from one to another is no change."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What counts for one endpoint: how its discovery stands, its models, whether Envoy may use it."""

    health: Health
    models: tuple[str, ...] = ()
    healthy: bool = True


PENDING = Verdict(Health.PENDING)
DOWN = Verdict(Health.DOWN, healthy=False)


def judge(record: Record | None, common: CommonFailure, limits: Tolerance, now: float) -> Verdict:
    """What one source's record makes of an endpoint at `now` (epoch seconds)."""
    if record is None:
        return PENDING
    failure = record.failure
    if failure is None:
        return Verdict(Health.OK, record.ready)
    if failure.kind is FailureKind.LOST and not record.refused:
        return Verdict(Health.STALE, record.ready)
    if record.reported_at is not None and common.holds(failure, limits.window):
        return Verdict(Health.STALE, record.ready)
    if record.refused or max(now, failure.last) >= failure.since + limits.grace:
        return DOWN
    return Verdict(Health.SUSPECT, record.ready)
