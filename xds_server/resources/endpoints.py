"""Assignments: which endpoints a shard has and what metadata they carry, spliced from remembered parts.

Building one endpoint of 20 models with a message library takes about a millisecond, and a change touches
one endpoint of maybe a thousand. A protobuf message is the concatenation of its fields, so each endpoint
is encoded when it changes, and the assignment is the list of their bytes, which are joined only in the
response that goes out. The tests hold them equal to the library's.

An endpoint is one entry with a list of models: of an address given twice Envoy keeps the first only.
A shard without endpoints is an assignment without endpoints, never an absence, which Envoy would ignore.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, count, groupby
from operator import is_not
from typing import TYPE_CHECKING

from xds_server.resources.parts import DIGEST_BYTES, LB_NAMESPACE, digest, version_of
from xds_server.wire import field, header, string, uint
from xds_server.xds.model import ENDPOINT, Pieces, Resource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds_server.mesh.model import Locality, PlacedEndpoint, ServicePicture, ServicePort
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
    """Encodes one shard's assignment again and again, remembering its endpoints' bytes and digests."""

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
            layout = _Layout(keys, port)
        if not layout.patch(picture.endpoints):
            layout = layout.rebuilt(picture.endpoints)
        self.encoded = layout.take_encoded()
        self._layout = layout
        return layout.resource(self._shard.name)


@dataclass(slots=True)
class _Group:
    """The endpoints of one locality in order: their bytes, and their digests one after the other."""

    head: bytes
    """The locality as a field of its group."""
    parts: list[bytes]
    digests: bytearray
    size: int
    """Bytes of all parts."""


class _Layout:
    """Where each endpoint of a picture has its bytes, so that a change in place is one assignment."""

    def __init__(self, keys: MetadataKeys, port: ServicePort) -> None:
        self.keys = keys
        self.port = port
        self._endpoints: tuple[PlacedEndpoint, ...] = ()
        self._places: list[tuple[_Group, int]] = []
        """For each endpoint its group, and its place there."""
        self._groups: list[_Group] = []
        self._encoded = 0

    def patch(self, endpoints: tuple[PlacedEndpoint, ...]) -> bool:
        """Take over endpoints that changed in place; False, and nothing done, if any came, left or moved."""
        before = self._endpoints
        if len(before) != len(endpoints):
            return False
        # In C from end to end: a loop over all endpoints would cost more than encoding the one that changed.
        changed = list(compress(count(), map(is_not, before, endpoints)))
        if any(_place(before[number]) != _place(endpoints[number]) for number in changed):
            return False
        for number in changed:
            if before[number] != endpoints[number]:
                group, index = self._places[number]
                part = self._encode(endpoints[number])
                group.size += len(part) - len(group.parts[index])
                group.parts[index] = part
                group.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = digest(part)
        self._endpoints = endpoints
        return True

    def rebuilt(self, endpoints: tuple[PlacedEndpoint, ...]) -> _Layout:
        """Lay out other endpoints, with the bytes of those that are known.

        Grouped by locality: both sorted, so that the order in which they came leaves no trace.
        """
        known = dict(zip((each.endpoint.id for each in self._endpoints), self._known(), strict=True))
        made = _Layout(self.keys, self.port)
        made._endpoints = endpoints
        order = sorted(range(len(endpoints)), key=[_place(each) for each in endpoints].__getitem__)
        places: dict[int, tuple[_Group, int]] = {}
        for locality, members in groupby(order, key=lambda number: endpoints[number].endpoint.locality):
            group = _Group(field(1, _locality(locality)), [], bytearray(), 0)
            made._groups.append(group)
            for number in members:
                before = known.get(endpoints[number].endpoint.id)
                if before is not None and before[0] == endpoints[number]:
                    part, its_digest = before[1:]
                else:
                    part = made._encode(endpoints[number])
                    its_digest = digest(part)
                places[number] = group, len(group.parts)
                group.parts.append(part)
                group.digests += its_digest
                group.size += len(part)
        made._places = [places[number] for number in range(len(endpoints))]
        return made

    def resource(self, name: str) -> Resource:
        """Put the assignment together. Its version is a hash of the digests, not of megabytes of bytes."""
        pieces = [string(1, name)]
        hashed: list[bytes | bytearray] = [pieces[0]]
        size = len(pieces[0])
        for group in self._groups:
            head = header(2, len(group.head) + group.size) + group.head
            pieces.append(head)
            pieces += group.parts
            hashed += [head, group.digests]
            size += len(head) + group.size
        return Resource(ENDPOINT, name, Pieces(pieces, size), version_of(hashed))

    def take_encoded(self) -> int:
        """How many endpoints were encoded since the last call."""
        encoded, self._encoded = self._encoded, 0
        return encoded

    def _encode(self, placed: PlacedEndpoint) -> bytes:
        self._encoded += 1
        return field(2, encode_endpoint(placed, self.port, self.keys))

    def _known(self) -> Iterator[tuple[PlacedEndpoint, bytes, bytes]]:
        for placed, (group, index) in zip(self._endpoints, self._places, strict=True):
            yield (
                placed,
                group.parts[index],
                bytes(group.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]),
            )


def _place(placed: PlacedEndpoint) -> tuple[str, str, str, str, int]:
    """Sort by plain values: comparing the dataclasses themselves takes ten times as long."""
    endpoint = placed.endpoint
    place, which = endpoint.locality, endpoint.id
    return place.region, place.zone, place.sub_zone, which.address, which.port


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
    if metadata:
        parts.append(field(3, field(1, string(1, LB_NAMESPACE) + field(2, metadata))))
    parts.append(field(4, uint(1, endpoint.weight)))
    return b"".join(parts)


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
