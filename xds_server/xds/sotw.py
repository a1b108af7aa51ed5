"""State of the world: how its requests are read and its responses are shaped. Nothing else differs."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from xds_server.xds.ledger import ABSENT
from xds_server.xds.plan import Plan
from xds_server.xds.subscription import WILDCARD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xds_server.xds.messages import Request
    from xds_server.xds.model import Resource, TypeSnapshot
    from xds_server.xds.plan import Plans
    from xds_server.xds.watch import Watch


def read(watch: Watch, request: Request) -> None:
    """Bring the subscription to what the request names, whichever response it answers.

    A request lists all names every time, so the latest one counts even with a stale nonce (envoy 10363).
    """
    names = set(request.resource_names)
    if watch.fresh:
        _subscribe(watch, names)
        watch.begin(names_nothing=not names)
    elif names or not watch.subscription.legacy:
        _subscribe(watch, names)


def _subscribe(watch: Watch, names: set[str]) -> None:
    if WILDCARD in names:
        watch.subscribe_all()
    current = frozenset(watch.subscription.names)
    named = names - {WILDCARD}
    for name in sorted(named - current):
        watch.subscribe(name)
    if WILDCARD not in names:
        watch.unsubscribe_all()
    for name in sorted(current - named):
        watch.unsubscribe(name)


def shape(
    watch: Watch, content: Sequence[Resource], absent: Sequence[str], view: TypeSnapshot, plans: Plans
) -> Plan | None:
    """Make the next response of what is owed: clusters and listeners whole, other types in part."""
    if watch.whole:
        return _whole(watch, absent, view) if content or absent or watch.unanswered else None
    if not content:
        return None
    return plans.partial(watch, view, content, ())


def _whole(watch: Watch, absent: Sequence[str], view: TypeSnapshot) -> Plan:
    covered = {name: resource for name, resource in view.resources.items() if watch.subscription.covers(name)}
    for name, resource in watch.retained.items():
        covered.setdefault(name, resource)
    resources = tuple(covered[name] for name in sorted(covered))
    contents = {resource.name: resource.version for resource in resources}
    for name in (
        watch.ledger.held.keys() | watch.ledger.rejected.keys() | watch.subscription.names | set(absent)
    ):
        contents.setdefault(name, ABSENT)
    return Plan(_version(watch, view), resources, (), contents)


def _version(watch: Watch, view: TypeSnapshot) -> str:
    """The type's version; another one while resources that are gone are kept in the response."""
    if not watch.retained:
        return view.version
    digest = sha256(view.version.encode())
    for name, resource in sorted(watch.retained.items()):
        digest.update(f"\n{name}\n{resource.version}".encode())
    return digest.hexdigest()[:16]
