"""Assignments: which endpoints a shard has and what metadata they carry, spliced from remembered parts.

Building one endpoint of 20 models with a message library takes about a millisecond, and a change touches
one endpoint of maybe a thousand. A protobuf message is the concatenation of its fields, so each endpoint
is encoded when it changes, and the assignment is the list of their bytes, which are joined only in the
response that goes out. The tests hold them equal to the library's. What is done for one endpoint does not
depend on how many there are, but for the list of pointers to their bytes.

An endpoint is one entry with a list of models: of an address given twice Envoy keeps the first only.
A shard without endpoints is an assignment without endpoints, never an absence, which Envoy would ignore.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from xds_server.mesh.placed import differences
from xds_server.resources.filters import KNOWN_AS, OWN_NAMESPACE
from xds_server.resources.parts import LB_NAMESPACE, SUM, SUM_BYTES, summand, version_of
from xds_server.wire import field, header, string, uint
from xds_server.xds.model import ENDPOINT, Pieces, Resource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xds_server.mesh.model import EndpointId, Locality, PlacedEndpoint, ServicePicture, ServicePort
    from xds_server.resources.shards import Shard

_UNHEALTHY = 2
"""envoy.config.core.v3.HealthStatus.UNHEALTHY"""


@dataclass(frozen=True, slots=True)
class MetadataKeys:
    """What of an endpoint Envoy needs to see: its models under `models`, and the labels named `labels`."""

    models: str | None
    labels: tuple[str, ...]


def metadata_keys(picture: ServicePicture) -> MetadataKeys:
    """Find the keys that any selector or the default subset of the service names, and its pool's own.

    A pool's models win over a label of the same name.
    """
    named: set[str] = set()
    if picture.policy is not None:
        named.update(picture.policy.default_subset)
        for selector in picture.policy.selectors:
            named.update(selector.keys)
    models = picture.pool.subset_key if picture.pool is not None else None
    return MetadataKeys(models, tuple(sorted(named - {models})))


class AssignmentEncoder:
    """Encodes one shard's assignment again and again, remembering its endpoints' bytes."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._layout: _Layout | None = None
        self.encoded = 0
        """How many endpoints the last call had to encode: those that were new or had changed."""

    def encode(self, picture: ServicePicture) -> Resource:
        """Encode a ClusterLoadAssignment; only endpoints that changed since the last call cost anything.

        ValueError if the service lacks the shard's port.
        """
        keys = metadata_keys(picture)
        port = picture.service.port(self._shard.port)
        if port is None:
            raise ValueError(f"{self._shard.name}: {picture.service.host} has no port {self._shard.port}")
        layout = self._layout
        if layout is None or (layout.keys, layout.port) != (keys, port):
            layout = self._layout = _Layout(keys, port)
        self.encoded = layout.show(picture.endpoints)
        return layout.resource(self._shard.name)


class _Group:
    """The endpoints of one locality in order, and a sum of their digests: one that changes is one digest."""

    __slots__ = ("_head", "_order", "_size", "_total", "parts")

    def __init__(self, locality: Locality) -> None:
        self._head = field(1, _locality(locality))
        self._order: list[tuple[str, int]] = []
        self.parts: list[bytes] = []
        self._size = 0
        self._total = 0

    def put(self, endpoint: EndpointId, part: bytes | None) -> None:
        """Have these bytes in an endpoint's place; None: it is here no more."""
        order = endpoint.address, endpoint.port
        place = bisect_left(self._order, order)
        if place < len(self._order) and self._order[place] == order:
            self._count(self.parts[place], -1)
            if part is None:
                del self._order[place], self.parts[place]
            else:
                self.parts[place] = part
        elif part is not None:
            self._order.insert(place, order)
            self.parts.insert(place, part)
        if part is not None:
            self._count(part, 1)

    def _count(self, part: bytes, by: int) -> None:
        self._size += by * len(part)
        self._total = (self._total + by * summand((part,))) % SUM

    def head(self) -> bytes:
        """What comes before the endpoints' bytes."""
        return header(2, len(self._head) + self._size) + self._head

    @property
    def total(self) -> bytes:
        """What the bytes are told apart by: their order is that of the endpoints, which they name."""
        return self._total.to_bytes(SUM_BYTES)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def size(self) -> int:
        """Bytes of all endpoints."""
        return self._size


class _Layout:
    """A shard's endpoints as bytes, by locality: both sorted, so that how they came leaves no trace."""

    def __init__(self, keys: MetadataKeys, port: ServicePort) -> None:
        self.keys = keys
        self.port = port
        self._endpoints: Sequence[PlacedEndpoint] = ()
        self._groups: dict[Locality, _Group] = {}

    def show(self, endpoints: Sequence[PlacedEndpoint]) -> int:
        """Take endpoints over; returns how many were encoded."""
        encoded = 0
        for before, after in differences(self._endpoints, endpoints):
            if before == after:
                continue
            if before is not None and (after is None or before.endpoint.locality != after.endpoint.locality):
                self._put(before, None)
            if after is not None:
                encoded += 1
                self._put(after, field(2, encode_endpoint(after, self.port, self.keys)))
        self._endpoints = endpoints
        return encoded

    def _put(self, placed: PlacedEndpoint, part: bytes | None) -> None:
        locality = placed.endpoint.locality
        group = self._groups.get(locality)
        if group is None:
            group = _Group(locality)
            self._groups = dict(sorted([*self._groups.items(), (locality, group)]))
        group.put(placed.endpoint.id, part)
        if not group:
            del self._groups[locality]

    def resource(self, name: str) -> Resource:
        """Put the assignment together. Its version is a hash of sums of digests, not of all bytes."""
        pieces = [string(1, name)]
        hashed = [pieces[0]]
        size = len(pieces[0])
        for group in self._groups.values():
            head = group.head()
            pieces.append(head)
            pieces += group.parts
            hashed += [head, group.total]
            size += len(head) + group.size
        return Resource(ENDPOINT, name, Pieces(pieces, size), version_of(hashed))


def _locality(locality: Locality) -> bytes:
    return string(1, locality.region) + string(2, locality.zone) + string(3, locality.sub_zone)


def encode_endpoint(placed: PlacedEndpoint, port: ServicePort, keys: MetadataKeys) -> bytes:
    """Encode an LbEndpoint for one service port. An endpoint that does not name it uses its number."""
    endpoint = placed.endpoint
    number = endpoint.ports.get(port.name, port.number)
    address = field(1, string(2, endpoint.id.address) + uint(3, number))
    parts = [field(1, field(1, address))]
    if not placed.healthy:
        parts.append(uint(2, _UNHEALTHY))
    metadata = _lb_metadata(placed, keys)
    spaces = field(1, string(1, LB_NAMESPACE) + field(2, metadata)) if metadata else b""
    if placed.known_as and keys.models is not None:
        spaces += field(1, string(1, OWN_NAMESPACE) + field(2, _known_as(placed.known_as)))
    if spaces:
        parts.append(field(3, spaces))
    parts.append(field(4, uint(1, endpoint.weight)))
    return b"".join(parts)


def _known_as(pairs: tuple[tuple[str, str], ...]) -> bytes:
    """Encode what the replica has to be asked under: one text, which renames.lua gets as a header."""
    text = "".join(f"&{quote(name, safe='') or '*'}={quote(known, safe='')}" for name, known in pairs)
    return field(1, string(1, KNOWN_AS) + field(2, field(3, f"{text}&".encode())))


@lru_cache(maxsize=65536)
def _item(model: str) -> bytes:
    """Encode a model as one value of a list: the same for all endpoints that have it."""
    return field(1, field(3, model.encode()))


def _lb_metadata(placed: PlacedEndpoint, keys: MetadataKeys) -> bytes:
    """Encode the Struct that subsets are made from.

    An endpoint without models lacks the key altogether. With an empty list Envoy would go on with a
    selector's other keys as if this one had not been asked for, and make a subset of them.
    """
    labels = placed.endpoint.labels
    values = {key: field(3, labels[key].encode()) for key in keys.labels if key in labels}
    if keys.models is not None and placed.models:
        models = b"".join([_item(model) for model in sorted(set(placed.models))])
        values[keys.models] = field(6, models)
    return b"".join(field(1, string(1, key) + field(2, values[key])) for key in sorted(values))
