"""Routes to the listeners that they name, if those take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xds_server.config.conditions import Condition, Conditions, condition
from xds_server.config.gateway_api.documents import GATEWAY_GROUP
from xds_server.config.gateway_api.hosts import ANY, meeting
from xds_server.config.gateway_api.listeners import ListenerPlace, allows, gateway_name
from xds_server.config.pool_status import said

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.config.gateway_api.backends import Backends
    from xds_server.config.gateway_api.documents import HttpRouteSpec, ParentRefPart, RulePart
    from xds_server.config.gateway_api.listeners import Listeners
    from xds_server.config.problems import Problem
    from xds_server.mesh.routing import Destination


@dataclass(frozen=True, slots=True, eq=False)
class Attachment:
    """A rule of a route on a listener, for the hosts that both take.

    `order` is the route's age and name, then the rule's place: who comes first among equals.
    """

    place: ListenerPlace
    hosts: tuple[str, ...]
    route: str
    """namespace/name"""
    index: int
    rule: RulePart
    destinations: tuple[Destination, ...]
    order: tuple[str, str, int]


def attach(
    value: Mapping[str, Any],
    spec: HttpRouteSpec | None,
    problems: list[Problem],
    listeners: Listeners,
    backends: Backends,
) -> tuple[list[Attachment], list[tuple[dict[str, Any], Conditions]]]:
    """What a route is attached to, and for each of its parents that is ours the reference and what is said.

    `spec` is the one in force: an earlier one, where the route has problems. What is said is about the route
    as it is now, and depends on nothing else, so that it is the same on every server.
    """
    attachments, parents = ([], []) if spec is None else _attached(value, spec, listeners, backends)
    return attachments, _refusals(value, problems, listeners) if problems else parents


def _refusals(
    value: Mapping[str, Any], problems: list[Problem], listeners: Listeners
) -> list[tuple[dict[str, Any], Conditions]]:
    """To each parent that the route names: what is wrong with it."""
    text = "; ".join(said(problem) for problem in sorted(problems))
    parents = []
    for reference in _references(value, value["metadata"]["namespace"], listeners):
        conditions = Conditions(value["metadata"].get("generation", 1))
        conditions.add(condition("Accepted", "UnsupportedValue", text, status=False))
        parents.append((reference, conditions))
    return parents


def _attached(
    value: Mapping[str, Any], spec: HttpRouteSpec, listeners: Listeners, backends: Backends
) -> tuple[list[Attachment], list[tuple[dict[str, Any], Conditions]]]:
    metadata = value["metadata"]
    rules, wrong = _resolved(spec, metadata["namespace"], backends)
    attachments: list[Attachment] = []
    parents = []
    for parent in spec.parent_refs:
        namespace = parent.namespace or metadata["namespace"]
        if not _is_ours(parent.group, parent.kind, namespace, parent.name, listeners):
            continue
        places, refusal = _places(parent, namespace, metadata["namespace"], spec.hostnames, listeners)
        conditions = Conditions(metadata.get("generation", 1))
        if listeners.is_refused(namespace, parent.name):
            text = f"Gateway {namespace}/{parent.name} is not accepted"
            conditions.add(_refused("NoMatchingParent", text))
        conditions.add(refusal or condition("Accepted", "Accepted"))
        conditions.add(wrong or condition("ResolvedRefs", "ResolvedRefs"))
        parents.append((_reference(parent), conditions))
        for place, hosts in places:
            for index, (rule, destinations) in enumerate(rules):
                name = f"{metadata['namespace']}/{metadata['name']}"
                order = (str(metadata.get("creationTimestamp") or ""), name, index)
                attachments.append(Attachment(place, hosts, name, index, rule, destinations, order))
    return attachments, parents


def _resolved(
    spec: HttpRouteSpec, namespace: str, backends: Backends
) -> tuple[list[tuple[RulePart, tuple[Destination, ...]]], Condition | None]:
    """The rules with their destinations, and what is wrong with the first of their references that is."""
    rules, wrong = [], []
    for rule in spec.rules:
        destinations, refused = backends.destinations(rule, namespace)
        rules.append((rule, destinations))
        wrong += refused
    return rules, wrong[0] if wrong else None


def _places(
    parent: ParentRefPart, namespace: str, own: str, hostnames: list[str], listeners: Listeners
) -> tuple[list[tuple[ListenerPlace, tuple[str, ...]]], Condition | None]:
    """The listeners that a reference reaches, each with the hosts that both take; or why there is none."""
    found = listeners.find(namespace, parent.name)
    if found is None:
        return [], _refused("NoMatchingParent", f"Gateway {namespace}/{parent.name} is not accepted")
    spec, judged = found
    named = [
        each
        for each in spec.listeners
        if parent.section_name in (None, each.name) and parent.port in (None, each.port)
    ]
    if not named:
        wanted = f"listener {parent.section_name or ''} {parent.port or ''}".strip()
        return [], _refused("NoMatchingParent", f"Gateway {namespace}/{parent.name} has no {wanted}")
    allowed = [each for each in named if allows(each, namespace, own)]
    if not allowed:
        return [], _refused("NotAllowedByListeners", f"no listener takes routes of namespace {own}")
    usable = [each for each in allowed if judged[each.name].holds("Accepted")]
    if not usable:
        return [], _refused("NoMatchingParent", "the listener is not accepted; see the Gateway's status")
    places = []
    for each in usable:
        listening = each.hostname or ANY
        both = [meeting(listening, host) for host in hostnames or [ANY]]
        if hosts := tuple(sorted({host for host in both if host is not None})):
            place = ListenerPlace(gateway_name(namespace, parent.name), each.name, each.port, listening)
            places.append((place, hosts))
    if not places:
        text = f"no listener takes any of {', '.join(hostnames)}"
        return [], _refused("NoMatchingListenerHostname", text)
    return places, None


def _refused(reason: str, message: str) -> Condition:
    return condition("Accepted", reason, message, status=False)


def _is_ours(group: str, kind: str, namespace: str, name: str, listeners: Listeners) -> bool:
    return (group, kind) == (GATEWAY_GROUP, "Gateway") and listeners.is_ours(namespace, name)


def _reference(parent: ParentRefPart) -> dict[str, Any]:
    """The reference as the route has it: that is what its entry in the status is found by."""
    written = parent.model_dump(by_alias=True, exclude_unset=True)
    return {"group": parent.group, "kind": parent.kind, **written}


def _references(value: Mapping[str, Any], own: str, listeners: Listeners) -> list[dict[str, Any]]:
    """The same for a route whose shape is wrong: as much of each reference as is right."""
    written = (value.get("spec") or {}).get("parentRefs")
    found = []
    for each in written if isinstance(written, list) else []:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            continue
        reference = {"group": GATEWAY_GROUP, "kind": "Gateway", **each}
        namespace = str(each.get("namespace") or own)
        if _is_ours(reference["group"], reference["kind"], namespace, each["name"], listeners):
            found.append(reference)
    return found
