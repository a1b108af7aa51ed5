"""The slices of one service, joined with the service and its pods into endpoints.

Pure, and kept by key: what has arrived is all that counts, in whatever order it did. The rules:

- A replica is an address with its port for the service's first port that the slice has. Entries of several
  slices that mean the same one are joined: in the order of the slices' names the first word counts, but a
  replica takes requests if any entry says so, and is terminating only if none does.
- Of a service with addresses of both families, those of one are used, else each replica would count twice:
  the first of the service's `ipFamilies` that has a slice, empty or not (the controller makes one for each).
- A pod that is being deleted is terminating, even where its slice does not say so yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xds_server.mesh.model import EMPTY, Condition, Endpoint, EndpointId, Locality
from xds_server.sources.kubernetes.objects import port_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from xds_server.sources.kubernetes.objects import EntryFacts, PodFacts, ServiceFacts, SliceFacts
    from xds_server.sources.kubernetes.watched import Key

FAMILIES = ("IPv4", "IPv6")
"""In the order that holds where a service names none. Envoy's EDS takes no host names (FQDN)."""

Replica = tuple[str, int]
"""An address, with its port for the first of the service's ports that it has."""


@dataclass(slots=True)
class ServiceSlices:
    """All slices of one service, indexed by replica. `service` is None while it is not known."""

    service: ServiceFacts | None = None
    slices: dict[Key, SliceFacts] = field(default_factory=dict)
    family: str = ""
    by_replica: dict[Replica, dict[Key, EntryFacts]] = field(default_factory=dict)

    def put_service(self, service: ServiceFacts | None) -> Iterable[Replica]:
        """Take the service as it is now; returns the replicas that may have changed."""
        self.service = service
        return self._indexed_anew()

    def put_slice(self, key: Key, after: SliceFacts | None) -> Iterable[Replica]:
        """Take a slice as it is now, None: gone; returns the replicas that may have changed."""
        before = self.slices.pop(key, None)
        if after is not None:
            self.slices[key] = after
        if self._family() != self.family:
            return self._indexed_anew()
        left, came = dict(self._replicas(before)), dict(self._replicas(after))
        changed = [replica for replica in {**left, **came} if left.get(replica) != came.get(replica)]
        if before is not None and after is not None and before.ports != after.ports:
            changed = [*{**left, **came}]
        for replica in changed:
            self._index(key, replica, came.get(replica))
        return changed

    def endpoint(
        self, host: str, replica: Replica, pod: Callable[[Key], PodFacts | None]
    ) -> tuple[Endpoint, Key | None] | None:
        """The replica as an endpoint, and its pod's key; None where no slice has it (any more)."""
        entries = self.by_replica.get(replica)
        if not entries or self.service is None:
            return None
        keys = sorted(entries)
        behind = next((entries[key].pod for key in keys if entries[key].pod is not None), None)
        facts = pod(behind) if behind is not None else None
        ports: dict[str, int] = {}
        for key in keys:
            ports = {**_named(self.service, self.slices[key].ports), **ports}
        endpoint = Endpoint(
            id=EndpointId(host, *replica),
            ports=ports,
            labels=facts.labels if facts is not None else EMPTY,
            locality=Locality(zone=next((entries[key].zone for key in keys if entries[key].zone), "")),
            pod=behind[1] if behind is not None else "",
            condition=_condition([entries[key] for key in keys], facts),
        )
        return endpoint, behind

    def problems(self, host: str) -> list[str]:
        """What of the slices cannot be used."""
        found = []
        for key in sorted(self.slices):
            each = self.slices[key]
            if each.family not in FAMILIES:
                found.append(f"slice {'/'.join(key)} of {host}: addressType {each.family}; expected an IP's")
            elif self.service is not None and each.entries:
                named = _named(self.service, each.ports)
                lacking = [port.name for port in self.service.ports if port.name not in named]
                if lacking:
                    found.append(f"slice {'/'.join(key)} of {host}: no port {', '.join(lacking)}")
        return found

    def _family(self) -> str:
        present = {each.family for each in self.slices.values()}
        wanted = (*(self.service.families if self.service else ()), *FAMILIES)
        return next((family for family in wanted if family in present), "")

    def _indexed_anew(self) -> Iterable[Replica]:
        before = self.by_replica
        self.by_replica = {}
        self.family = self._family()
        for key, each in self.slices.items():
            for replica, entry in self._replicas(each):
                self._index(key, replica, entry)
        return {**before, **self.by_replica}

    def _index(self, key: Key, replica: Replica, entry: EntryFacts | None) -> None:
        entries = self.by_replica.setdefault(replica, {})
        if entry is not None:
            entries[key] = entry
        else:
            entries.pop(key, None)
        if not entries:
            del self.by_replica[replica]

    def _replicas(self, each: SliceFacts | None) -> Iterable[tuple[Replica, EntryFacts]]:
        if each is None or self.service is None or each.family != self.family:
            return
        named = _named(self.service, each.ports)
        first = next((named[port.name] for port in self.service.ports if port.name in named), None)
        if first is not None:
            # Of an address that a slice has twice, which the API refuses, the first counts: it comes last.
            for entry in reversed(each.entries):
                yield (entry.address, first), entry


def _named(service: ServiceFacts, ports: Mapping[str, int]) -> dict[str, int]:
    """A slice's ports by the names of the service's; others, which nothing here can mean, are left out."""
    unnamed = {port_name(None, port.number) for port in service.ports}
    found = {}
    for port in service.ports:
        if port.name in ports:
            found[port.name] = ports[port.name]
        elif "" in ports and port.name in unnamed:
            found[port.name] = ports[""]
    return found


def _condition(entries: list[EntryFacts], pod: PodFacts | None) -> Condition:
    if pod is not None and pod.terminating:
        return Condition.TERMINATING
    if any(entry.ready and not entry.terminating for entry in entries):
        return Condition.READY
    return Condition.TERMINATING if any(entry.terminating for entry in entries) else Condition.NOT_READY
