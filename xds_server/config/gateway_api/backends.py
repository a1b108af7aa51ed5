"""References of routes to ModelPools: which can be followed, and why the others cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xds_server.config.conditions import Condition, condition
from xds_server.config.gateway_api.documents import GATEWAY_GROUP, POOL_GROUP
from xds_server.config.problems import join_or
from xds_server.mesh.routing import UNRESOLVED, Destination

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xds_server.config.gateway_api.documents import BackendRefPart, RulePart
    from xds_server.mesh.model import Service
    from xds_server.mesh.pools import Pool

NOWHERE = Destination(UNRESOLVED, 1)


class Backends:
    """What routes may refer to.

    Args:
        pools: those in force, by namespace/name.
        services: by host.
        grants: ReferenceGrant objects.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        services: Mapping[str, Service],
        grants: Sequence[Mapping[str, Any]],
    ) -> None:
        self._pools = pools
        self._services = services
        self._grants = grants

    def destinations(self, rule: RulePart, namespace: str) -> tuple[tuple[Destination, ...], list[Condition]]:
        """Where a rule's requests go, and what is wrong with its references, as conditions ResolvedRefs.

        The share of a reference that cannot be followed gets a 500, as the API wants it; so does a rule
        without any reference, or without any weight.
        """
        found: list[Destination] = []
        wrong: list[Condition] = []
        for reference in rule.backend_refs:
            one = self._resolve(reference, namespace)
            if isinstance(one, Condition):
                wrong.append(one)
                one = Destination(UNRESOLVED, 1, reference.weight)
            found.append(one)
        if not any(each.weight for each in found):
            return (NOWHERE,), wrong
        return tuple(each for each in found if each.weight), wrong

    def _resolve(self, reference: BackendRefPart, namespace: str) -> Destination | Condition:
        if (reference.group, reference.kind) != (POOL_GROUP, "ModelPool"):
            kind = f"{reference.group}/{reference.kind}".removeprefix("/")
            return _refused("InvalidKind", f"the backend {reference.name} is a {kind}; expected {_POOL}")
        wanted = reference.namespace or namespace
        name = f"{wanted}/{reference.name}"
        if wanted != namespace and not self._granted(namespace, wanted, reference.name):
            text = (
                f"ModelPool {name} is in another namespace, and no ReferenceGrant in {wanted} lets "
                f"HTTPRoutes of {namespace} refer to it"
            )
            return _refused("RefNotPermitted", text)
        pool = self._pools.get(name)
        service = self._services.get(pool.host) if pool is not None else None
        if pool is None or service is None:
            return _refused("BackendNotFound", f"no ModelPool {name} is in force")
        return _at_port(reference, name, service)

    def _granted(self, source: str, target: str, name: str) -> bool:
        return any(
            grant["metadata"].get("namespace") == target
            and any(
                each.get("group") == GATEWAY_GROUP
                and each.get("kind") == "HTTPRoute"
                and each.get("namespace") == source
                for each in (grant.get("spec") or {}).get("from") or ()
            )
            and any(
                each.get("group") == POOL_GROUP
                and each.get("kind") == "ModelPool"
                and each.get("name") in (None, "", name)
                for each in (grant.get("spec") or {}).get("to") or ()
            )
            for grant in self._grants
        )


_POOL = f"{POOL_GROUP}/ModelPool"


def _at_port(reference: BackendRefPart, name: str, service: Service) -> Destination | Condition:
    """A reference without a port means the only port of the pool's service."""
    numbers = [port.number for port in service.ports]
    if reference.port is None and len(numbers) == 1:
        return Destination(service.host, numbers[0], reference.weight)
    if reference.port is not None and reference.port in numbers:
        return Destination(service.host, reference.port, reference.weight)
    found = "no port" if reference.port is None else f"port {reference.port}"
    ports = join_or([str(number) for number in numbers]) or "none, the service has no port"
    return _refused("BackendNotFound", f"the backend ModelPool {name} has {found} in it; expected {ports}")


def _refused(reason: str, message: str) -> Condition:
    return condition("ResolvedRefs", reason, message, status=False)
