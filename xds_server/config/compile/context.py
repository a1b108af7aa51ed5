"""What is known while documents are compiled: services by host, who declared what, problems so far."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xds_server.config.cluster_hosts import meant
from xds_server.config.problems import describe, join_or
from xds_server.mesh.model import Service

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.config.problems import Path, Place, Problem
    from xds_server.mesh.known import DeclaredModel
    from xds_server.mesh.model import Endpoint
    from xds_server.mesh.policies import Policy
    from xds_server.mesh.pools import Pool
    from xds_server.mesh.routing import Gateway, VirtualService


@dataclass(frozen=True, slots=True)
class Doubt:
    """What unreadable documents may have declared: nothing is called undefined on their account."""

    hosts: frozenset[str] = frozenset()
    gateways: frozenset[str] = frozenset()
    """`namespace/name` of Gateways."""
    anything: bool = False
    """Part of a file is no YAML, so that it may declare anything."""


@dataclass(slots=True)
class Context:
    """The state of one compilation. Maps of values are by service host; gateways by name."""

    doubt: Doubt
    elsewhere: Mapping[str, Service] | None = None
    """Services by host that another source declares, with endpoints that come and go; None: there is none."""
    cluster: bool = False
    """Whether a host that nothing defines may be a service of a cluster that is not known yet."""
    problems: list[Problem] = field(default_factory=list)
    services: dict[str, Service] = field(default_factory=dict)
    endpoints: dict[str, list[Endpoint]] = field(default_factory=dict)
    declared: list[DeclaredModel] = field(default_factory=list)
    policies: dict[str, Policy] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    gateways: dict[str, Gateway] = field(default_factory=dict)
    virtual_services: list[VirtualService] = field(default_factory=list)
    declared_by: dict[tuple[str, str], Place] = field(default_factory=dict)
    """(what, name) to the document that declared it first."""

    def __post_init__(self) -> None:
        """What another source declares is there from the start, without any endpoint to check against."""
        for host, service in (self.elsewhere or {}).items():
            self.services[host] = service
            self.endpoints[host] = []

    def _expected(self, host: str, namespace: str) -> Service | None:
        """A service that the cluster is to have, without ports as yet; None where it cannot be one."""
        name = meant(host, namespace) if self.cluster else None
        if name is None:
            return None
        service = Service(name, name.split(".")[1], ())
        self.elsewhere = {**(self.elsewhere or {}), name: service}
        self.services[name], self.endpoints[name] = service, []
        return service

    def is_elsewhere(self, host: str) -> bool:
        """Whether the service's endpoints are another source's, so that they say nothing about a document."""
        return (
            self.elsewhere is not None
            and host in self.elsewhere
            and self.services[host] is self.elsewhere[host]
        )

    def claim(self, what: str, name: str, place: Place) -> Place | None:
        """Notes that `place` declares it; the earlier document that did, if any."""
        earlier = self.declared_by.setdefault((what, name), place)
        return None if earlier is place else earlier

    def service(self, place: Place, path: Path, host: str, namespace: str) -> Service | None:
        """The service that `host` means in a document of `namespace`; None, and a problem, if none does.

        The name itself comes first, then as a Kubernetes service of that namespace, then with
        the namespace in the name already. None without a problem where an unreadable document
        may define it.
        """
        names = [host, f"{host}.{namespace}.svc.cluster.local", f"{host}.svc.cluster.local"]
        names += [f"{host}.cluster.local"] if host.endswith(".svc") else []
        for name in names:
            if name in self.services:
                return self.services[name]
        if (expected := self._expected(host, namespace)) is not None:
            return expected
        if not self.doubt.anything and self.doubt.hosts.isdisjoint(names):
            found = f"{describe(host)}, which no {self._definers()} defines"
            self.problems.append(place.problem(path, found, self._defined_hosts(host)))
        return None

    def _defined_hosts(self, host: str) -> str:
        hosts = sorted(self.services)
        if not hosts:
            return f"a ServiceEntry with {describe(host)} in its hosts" + self._or_service()
        near = difflib.get_close_matches(host, hosts, n=1) if len(hosts) > 1 else []
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"a host of a {self._definers()}: {join_or(hosts)}{hint}"

    def _definers(self) -> str:
        return "ServiceEntry" if self._closed() else "ServiceEntry or Service"

    def _or_service(self) -> str:
        return "" if self._closed() else ", or a Service of that name"

    def _closed(self) -> bool:
        """Whether the documents are all there is."""
        return self.elsewhere is None and not self.cluster
