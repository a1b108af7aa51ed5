"""Incremental xDS: how its requests are read and its responses are shaped. Nothing else differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xds_server.xds.messages import DeltaRequest
    from xds_server.xds.model import Resource, TypeSnapshot
    from xds_server.xds.plan import Plan, Plans
    from xds_server.xds.watch import Watch


def read(watch: Watch, request: DeltaRequest) -> None:
    """Apply what the request subscribes to and unsubscribes from, whichever response it answers.

    The first one may tell what the client holds already: of that, only what differs is sent
    (istio 41494). A name asked for later is sent whatever the client is believed to hold.
    """
    first = watch.fresh
    if first:
        watch.inherit(request.initial_resource_versions)
    elif not request.subscribe and not request.unsubscribe:
        return
    for name in request.unsubscribe:
        watch.unsubscribe(name)
    for name in request.subscribe:
        watch.subscribe(name, resend=not (first and name in watch.inherited))
    if first:
        watch.begin(names_nothing=not request.subscribe)
        watch.disinherit()


def shape(
    watch: Watch, content: Sequence[Resource], absent: Sequence[str], view: TypeSnapshot, plans: Plans
) -> Plan | None:
    """Make the next response of what is owed; an empty one where a first answer is waited for."""
    waited_for = watch.unanswered and not watch.held_back and not view.withheld
    if not content and not absent and not waited_for:
        return None
    return plans.partial(watch, view, content, absent)
