"""Shards: the unit that resources are made for. A service has one or more for each of its ports.

Envoy rebuilds every subset of a cluster at every change of it, so a large pool is split into clusters
that Envoy itself selects by hashing the model. One shard a port for now; everything downstream already
takes a service's shards as a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds_server.resources import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds_server.mesh.model import Service


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """Part `index` of `count` of the models that `host` serves on its port `port` (a number)."""

    host: str
    port: int
    index: int = 0
    count: int = 1
    alias: str = ""

    @property
    def name(self) -> str:
        """The name of its cluster and of its assignment."""
        return self.alias or names.cluster(self.host, self.port, self.index, self.count)


@dataclass(frozen=True, slots=True)
class Sharding:
    """How services become shards.

    `alias` gives a shard another name than the usual one, from its host and port: for clients that ask
    for an assignment by a name of their own. No two shards may get the same.
    """

    alias: Callable[[str, int], str] | None = None

    def shard(self, host: str, port: int) -> Shard:
        """Find the shard of a service's port."""
        return Shard(host, port, alias=self.alias(host, port) if self.alias else "")

    def of(self, service: Service) -> tuple[Shard, ...]:
        """List all shards of a service, sorted."""
        numbers = sorted({port.number for port in service.ports})
        return tuple(self.shard(service.host, number) for number in numbers)
