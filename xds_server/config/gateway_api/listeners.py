"""Our Gateways' listeners: which of them are taken, what they listen for, and their status."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xds_server.config.conditions import Conditions, condition
from xds_server.config.gateway_api.documents import GATEWAY_GROUP, NAME_LABEL, From
from xds_server.config.gateway_api.hosts import ANY
from xds_server.config.objects import key_of
from xds_server.config.pool_status import said
from xds_server.mesh.implied import may_share_a_node
from xds_server.mesh.routing import Gateway, GatewayServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds_server.config.gateway_api.attach import Attachment
    from xds_server.config.gateway_api.documents import GatewayApiSpec, ListenerPart
    from xds_server.config.problems import Problem

_ROUTES = [{"group": GATEWAY_GROUP, "kind": "HTTPRoute"}]


@dataclass(frozen=True, slots=True)
class ListenerPlace:
    """A listener that is taken: where it is, and the hosts that it takes."""

    gateway: str
    """namespace/name, as the gateway is called among all gateways."""
    name: str
    port: int
    host: str


@dataclass(slots=True)
class _Known:
    """A Gateway of ours. `spec`: the one in force, None where there is none."""

    value: Mapping[str, Any]
    spec: GatewayApiSpec | None
    said: Conditions
    listeners: dict[str, Conditions] = field(default_factory=dict)
    made: Gateway | None = None

    @property
    def name(self) -> str:
        return gateway_name(self.value["metadata"]["namespace"], self.value["metadata"]["name"])


def gateway_name(namespace: str, name: str) -> str:
    """What a Gateway of the API is called among all gateways: no document of Istio's can have this name."""
    return f"{namespace}/{name}@gateway-api"


class Listeners:
    """All Gateways that are ours, the oldest first. `taken`: gateways that are there without them."""

    def __init__(self, taken: Sequence[Gateway]) -> None:
        self._others = list(taken)
        self._known: dict[tuple[str, str], _Known] = {}

    def add(self, value: Mapping[str, Any], spec: GatewayApiSpec | None, problems: list[Problem]) -> None:
        """One more Gateway, of a class of ours: its spec in force, and what is wrong with it as it is now."""
        metadata = value["metadata"]
        known = _Known(value, spec, Conditions(metadata.get("generation", 1)))
        self._known[metadata["namespace"], metadata["name"]] = known
        if problems:
            text = "; ".join(said(problem) for problem in sorted(problems))
            known.said.add(condition("Accepted", "Invalid", text, status=False))
            known.said.add(condition("Programmed", "Invalid", "not accepted", status=False))
        if spec is None:
            return
        for listener in spec.listeners:
            known.listeners[listener.name] = self._judged(listener, known, spec)
        taken = [each for each in spec.listeners if known.listeners[each.name].holds("Accepted")]
        known.made = _made(known.name, spec, taken)
        if known.made is not None:
            self._others.append(known.made)
        _conclude(known, [each.name for each in taken])

    def find(self, namespace: str, name: str) -> tuple[GatewayApiSpec, dict[str, Conditions]] | None:
        """A Gateway of ours by namespace and name: its spec in force and what is said of each listener.

        None if there is none of that name, or none of its specs was ever good.
        """
        known = self._known.get((namespace, name))
        return None if known is None or known.spec is None else (known.spec, known.listeners)

    def is_refused(self, namespace: str, name: str) -> bool:
        """Whether the Gateway as it is now is wrong, whatever is in force of it."""
        return self._known[namespace, name].said.refuses("Invalid")

    def is_ours(self, namespace: str, name: str) -> bool:
        """Whether there is a Gateway of this name, of a class of ours."""
        return (namespace, name) in self._known

    def gateways(self) -> tuple[Gateway, ...]:
        """What listens, sorted by name."""
        made = [known.made for known in self._known.values() if known.made is not None]
        return tuple(sorted(made, key=lambda each: each.name))

    def places(self) -> list[ListenerPlace]:
        """Every listener that is taken."""
        return [
            ListenerPlace(known.name, each.name, each.port, each.hostname or ANY)
            for known in self._known.values()
            if known.spec is not None
            for each in known.spec.listeners
            if known.listeners[each.name].holds("Accepted")
        ]

    def status(self, attachments: Iterable[Attachment]) -> dict[str, dict[str, Any]]:
        """What is to be said about each Gateway, by its key."""
        routes = Counter(
            (place.gateway, place.name) for place, _ in {(each.place, each.route) for each in attachments}
        )
        status = {}
        for known in self._known.values():
            listeners = [
                {
                    "name": name,
                    "supportedKinds": _ROUTES,
                    "attachedRoutes": routes[known.name, name],
                    "conditions": said.listed(),
                }
                for name, said in known.listeners.items()
            ]
            status[key_of(known.value)] = {"conditions": known.said.listed(), "listeners": listeners}
        return status

    def _judged(self, listener: ListenerPart, known: _Known, spec: GatewayApiSpec) -> Conditions:
        conditions = Conditions(known.said.generation)
        if listener.protocol != "HTTP":
            text = f"protocol {listener.protocol}; expected HTTP: a Gateway of networking.istio.io has TLS"
            conditions.add(condition("Accepted", "UnsupportedProtocol", text, status=False))
        kinds = listener.allowed_routes.kinds
        if any((each.group, each.kind) != (GATEWAY_GROUP, "HTTPRoute") for each in kinds):
            text = "expected HTTPRoute alone in allowedRoutes.kinds"
            conditions.add(condition("ResolvedRefs", "InvalidRouteKinds", text, status=False))
        conditions.add(condition("ResolvedRefs", "ResolvedRefs"))
        earlier = spec.listeners[: spec.listeners.index(listener)]
        if any(each.port == listener.port and each.hostname == listener.hostname for each in earlier):
            text = "another listener of this Gateway has this port and hostname"
            conditions.add(condition("Conflicted", "HostnameConflict", text, status=True))
            conditions.add(condition("Accepted", "HostnameConflict", text, status=False))
        elif other := self._other_with(listener.port, known.name, spec):
            text = f"{other.name} has port {listener.port} on the same Envoys"
            conditions.add(condition("Accepted", "PortUnavailable", text, status=False))
        conditions.add(condition("Conflicted", "NoConflicts", status=False))
        conditions.add(condition("Accepted", "Accepted"))
        accepted = conditions.holds("Accepted")
        conditions.add(condition("Programmed", "Programmed" if accepted else "Invalid", status=accepted))
        return conditions

    def _other_with(self, port: int, name: str, spec: GatewayApiSpec) -> Gateway | None:
        here = Gateway(name=name, servers=(), selector=spec.infrastructure.labels or None)
        return next(
            (
                other
                for other in self._others
                if any(server.port == port for server in other.servers) and may_share_a_node(other, here)
            ),
            None,
        )


def allows(listener: ListenerPart, gateway_namespace: str, route_namespace: str) -> bool:
    """Whether HTTPRoutes of a namespace may be attached to a listener."""
    wanted = listener.allowed_routes.namespaces
    kinds = [(each.group, each.kind) for each in listener.allowed_routes.kinds]
    if kinds and (GATEWAY_GROUP, "HTTPRoute") not in kinds:
        return False
    match wanted.from_:
        case From.ALL:
            return True
        case From.SAME:
            return gateway_namespace == route_namespace
        case From.SELECTOR:
            return (wanted.selector or {}).get(NAME_LABEL) == route_namespace
        case From.NONE:
            return False


def _made(name: str, spec: GatewayApiSpec, taken: list[ListenerPart]) -> Gateway | None:
    """One server for each port, with the hosts of all listeners on it."""
    if not taken:
        return None
    hosts: dict[int, set[str]] = {}
    for each in taken:
        hosts.setdefault(each.port, set()).add(each.hostname or ANY)
    servers = tuple(
        GatewayServer(port, f"http-{port}", hosts=tuple(sorted(hosts[port]))) for port in sorted(hosts)
    )
    return Gateway(name, servers, dict(sorted(spec.infrastructure.labels.items())) or None)


def _conclude(known: _Known, taken: list[str]) -> None:
    """What the listeners' conditions mean for the Gateway."""
    refused = [name for name in known.listeners if name not in taken]
    text = "" if not refused else f"listeners that are not taken: {', '.join(refused)}"
    if taken:
        known.said.add(condition("Accepted", "ListenersNotValid" if refused else "Accepted", text))
        known.said.add(condition("Programmed", "Programmed", "sent to the Envoys that it is for"))
    else:
        known.said.add(condition("Accepted", "ListenersNotValid", text, status=False))
        known.said.add(condition("Programmed", "Invalid", text, status=False))
