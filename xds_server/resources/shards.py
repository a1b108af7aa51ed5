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
    from xds_server.mesh.model import Service


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """Part `index` of `count` of the models that `host` serves on its port `port` (a number)."""

    host: str
    port: int
    index: int = 0
    count: int = 1

    @property
    def name(self) -> str:
        """The name of its cluster and of its assignment."""
        return names.cluster(self.host, self.port, self.index, self.count)


def shards_of(service: Service) -> tuple[Shard, ...]:
    """List all shards of a service, sorted."""
    return tuple(Shard(service.host, number) for number in sorted({port.number for port in service.ports}))
