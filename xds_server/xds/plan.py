"""A response before it has a nonce: what the two dialects make of what is owed, once for all clients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from xds_server.xds.ledger import ABSENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    from xds_server.xds.ledger import Sent
    from xds_server.xds.messages import DeltaResponse, Response, Variant
    from xds_server.xds.model import Resource, TypeSnapshot
    from xds_server.xds.watch import Watch

    Issue: TypeAlias = "tuple[Response | DeltaResponse, Sent]"

_K = TypeVar("_K")
_V = TypeVar("_V")

REMEMBERED = 1024
"""Plans and responses that are kept for other clients."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """`contents` is what the client holds of each name once it accepts: a version, or ABSENT.

    `renewed` are names that the client keeps as they are, with their versions: no content, and whatever
    becomes of this response is not held against them.
    """

    version: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...]
    contents: Mapping[str, str]
    renewed: tuple[tuple[str, str], ...] = ()
    issued: dict[int, Issue] = field(default_factory=dict)
    """The responses made of it, by their number (`Watch.count_response`)."""


class Plans:
    """The plans of one publication. Clients that are owed the same share one, and its responses."""

    def __init__(self) -> None:
        self._plans: dict[tuple[object, ...], Plan] = {}
        self._alone: dict[tuple[Variant, int, str], Plan] = {}
        self._responses: dict[Response | DeltaResponse, Response | DeltaResponse] = {}

    def partial(
        self, watch: Watch, view: TypeSnapshot, content: Sequence[Resource], absent: Sequence[str]
    ) -> Plan:
        """Plan to send these resources, and to tell that these names do not exist."""
        resources, removed = tuple(content), tuple(absent)
        key = (watch.variant, watch.type_url, view.version, resources, removed)
        plan = self._plans.get(key)
        if plan is None:
            contents = {resource.name: resource.version for resource in resources}
            contents.update(dict.fromkeys(removed, ABSENT))
            plan = Plan(view.version, resources, removed, contents)
            _remember(self._plans, key, plan)
        return plan

    def alone(self, variant: Variant, view: TypeSnapshot, name: str) -> Plan | None:
        """Find the plan to send this name's content and nothing else, if any client was sent it."""
        return self._alone.get((variant, id(view), name))

    def keep_alone(self, variant: Variant, view: TypeSnapshot, name: str, plan: Plan) -> None:
        """Keep what `alone` finds. The publication that these plans are of has the view for as long."""
        _remember(self._alone, (variant, id(view), name), plan)

    def shared(self, response: Response | DeltaResponse) -> Response | DeltaResponse:
        """Find the object that is equal to `response` and that other clients get, or make it that."""
        known = self._responses.get(response)
        if known is None:
            _remember(self._responses, response, response)
        return known or response


def _remember(known: dict[_K, _V], key: _K, value: _V) -> None:
    """Clients that each want something else are not worth remembering, and must not fill the memory."""
    if len(known) >= REMEMBERED:
        known.clear()
    known[key] = value
