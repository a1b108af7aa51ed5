"""Shards: the unit that resources are made for. A service has one or more for each of its ports.

Envoy rebuilds every subset of a cluster at every change of it, so a large pool is split into clusters
that Envoy itself selects: by hashing the model's name, or by the name itself where each model has its
own. A model is in exactly one shard, an endpoint in the shards of its models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from xxhash import xxh64_intdigest

from xds_server.mesh.layout import LayoutKind
from xds_server.resources import names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Target = tuple[str, int]
"""A service's host and one of its port numbers: what routes lead to."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a pool is laid out: `count` shards of a sharded one, else 1. The kind is never `auto`."""

    kind: LayoutKind = LayoutKind.SINGLE
    count: int = 1


SINGLE = Layout()


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` of `count` of the models that `host` serves on its port `port` (a number).

    `model`: the only one of a shard that belongs to one model. `rest`: the shard without models, for
    requests that name none and for those whose model has no shard of its own.
    """

    host: str
    port: int
    index: int = 0
    count: int = 1
    alias: str = ""
    model: str | None = None
    rest: bool = False

    @property
    def name(self) -> str:
        """The name of its cluster and of its assignment."""
        if self.rest:
            return names.rest_cluster(self.host, self.port)
        if self.model is not None:
            return names.model_cluster(self.host, self.port, self.model)
        return self.alias or names.cluster(self.host, self.port, self.index, self.count)


@lru_cache(maxsize=1 << 17)
def digest(model: str) -> int:
    """The hash that Envoy's hash policy gives a header with this value."""
    return xxh64_intdigest(model.encode(), 0)


def shard_of(model: str, count: int) -> int:
    """Find the shard of a model as Envoy does: the hash modulo the sum of `count` equal weights of 1."""
    return digest(model) % count


@dataclass(frozen=True, slots=True)
class Sharding:
    """How services become shards.

    `alias` gives a single cluster another name than the usual one, from its host and port: for clients
    that ask for an assignment by a name of their own. No two may get the same. `layouts` holds those of
    the hosts that are not single.
    """

    alias: Callable[[str, int], str] | None = None
    layouts: Mapping[str, Layout] = field(default_factory=lambda: MappingProxyType({}))

    def layout(self, host: str) -> Layout:
        """The layout of a host."""
        return self.layouts.get(host, SINGLE)

    def single(self, host: str, port: int) -> Shard:
        """The one cluster of a service's port that is not split."""
        return Shard(host, port, alias=self.alias(host, port) if self.alias else "")

    def part(self, host: str, port: int, layout: Layout, index: int) -> Shard:
        """A shard of a single or sharded layout."""
        return self.single(host, port) if layout.count == 1 else Shard(host, port, index, layout.count)

    def split(self, host: str, port: int) -> tuple[Shard, ...]:
        """The shards of a target whose layout is single or sharded, in the order of their indices."""
        layout = self.layout(host)
        return tuple(self.part(host, port, layout, index) for index in range(layout.count))
