"""Small pieces that several resources are made of. Knows messages, but neither services nor routes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.core.v3 as core
from envoy_data_plane.google.protobuf import Any, Struct, Value

from xds_server.resources.patched import patched
from xds_server.xds.model import Resource, TypeSnapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from betterproto2 import Message

LB_NAMESPACE = "envoy.lb"
"""The metadata namespace that subset load balancing reads, on endpoints and on requests."""

_VERSION_BYTES = 10
"""20 hexadecimal digits: enough that no two contents of one name ever meet, short enough to read."""

_DIGEST_BYTES = 16

SUM_BYTES = 32
"""Of a sum of digests: what a version is made of where one part of many changes."""

SUM = 2 ** (8 * SUM_BYTES)
"""Sums are taken modulo this."""


def packed(message: Message) -> Any:
    """Wrap a message with its type URL."""
    return Any.pack(message)


def extension(name: str, message: Message) -> core.TypedExtensionConfig:
    """Configure an extension."""
    return core.TypedExtensionConfig(name=name, typed_config=packed(message))


def duration(seconds: float) -> timedelta:
    """Seconds as a protobuf Duration, to the millisecond, so that no float's tail reaches the bytes."""
    return timedelta(milliseconds=round(seconds * 1000))


def struct(values: Mapping[str, str]) -> Struct:
    """Texts as a protobuf Struct, keys sorted."""
    return Struct(fields={key: Value(string_value=values[key]) for key in sorted(values)})


def over_ads() -> core.ConfigSource:
    """Ask for a resource on the aggregated stream that everything else comes on."""
    return core.ConfigSource(ads=core.AggregatedConfigSource(), resource_api_version=core.ApiVersion.V3)


def address(host: str, port: int) -> core.Address:
    """Build a TCP address."""
    return core.Address(socket_address=core.SocketAddress(address=host, port_value=port))


def resource(
    type_url: str, name: str, body: bytes, requires: frozenset[tuple[str, str]] = frozenset()
) -> Resource:
    """Make a resource whose version is a hash of its bytes: equal on every replica, after every restart."""
    return Resource(type_url, name, body, version_of((body,)), requires)


def kept(made: Resource, before: Resource | None) -> Resource:
    """Keep the object that clients' states may already refer to, where the content is the same."""
    if before is not None and (before.version, before.requires) == (made.version, made.requires):
        return before
    return made


@dataclass(frozen=True, slots=True)
class CountedType:
    """A type's snapshot, and the sum of its resources' digests."""

    snapshot: TypeSnapshot
    total: int


def type_snapshot(
    resources: Iterable[Resource],
    withheld: frozenset[str] = frozenset(),
    previous: CountedType | None = None,
) -> CountedType:
    """Collect a type's resources, sorted by name; `previous` itself when it holds the very same ones.

    The version is a hash of a sum over all names and versions. A sum can be carried on from one snapshot
    to the next, so that one changed resource costs one digest, and it depends on nothing but the content.
    """
    by_name = {each.name: each for each in sorted(resources, key=lambda each: each.name)}
    known = previous.snapshot.resources if previous is not None else {}
    come = [each for name, each in by_name.items() if known.get(name) is not each]
    gone = [each for name, each in known.items() if by_name.get(name) is not each]
    if previous is not None and not come and not gone and previous.snapshot.withheld == withheld:
        return previous
    total, version = _total(previous.total if previous is not None else 0, come, gone)
    return CountedType(TypeSnapshot(by_name, version, withheld), total)


def carried_on(
    previous: CountedType, changes: Mapping[str, Resource | None], withheld: frozenset[str]
) -> CountedType:
    """Apply changes, None for what is gone: as a snapshot of all resources, for the cost of these."""
    known = previous.snapshot.resources
    come = [each for name, each in changes.items() if each is not None and known.get(name) is not each]
    gone = [known[name] for name, each in changes.items() if name in known and known[name] is not each]
    if not come and not gone and previous.snapshot.withheld == withheld:
        return previous
    by_name = patched(known, changes)
    total, version = _total(previous.total, come, gone)
    differ = frozenset(each.name for each in (*come, *gone))
    return CountedType(TypeSnapshot(by_name, version, withheld, previous.snapshot.version, differ), total)


def _total(before: int, come: Iterable[Resource], gone: Iterable[Resource]) -> tuple[int, str]:
    """Carry a sum on; returns it with the version that it makes."""
    total = (before + sum(map(_digest, come)) - sum(map(_digest, gone))) % SUM
    return total, version_of((total.to_bytes(SUM_BYTES),))


def _digest(each: Resource) -> int:
    return summand((each.name.encode(), each.version.encode()))


def summand(parts: Iterable[bytes]) -> int:
    """Digest a part of many, to be added to their sum (modulo SUM), and taken from it when it goes.

    A sum depends on nothing but the parts, however they came; so it can be carried on.
    """
    hashed = hashlib.blake2b(digest_size=SUM_BYTES)
    _feed(hashed, parts)
    return int.from_bytes(hashed.digest())


def digest(part: bytes) -> bytes:
    """Hash a text of any length to a short name for it."""
    return hashlib.blake2b(part, digest_size=_DIGEST_BYTES).digest()


def version_of(parts: Iterable[bytes]) -> str:
    """Hash what determines a content: equal on every replica, after every restart."""
    hashed = hashlib.blake2b(digest_size=_VERSION_BYTES)
    _feed(hashed, parts)
    return hashed.hexdigest()


def _feed(hashed: hashlib.blake2b, parts: Iterable[bytes]) -> None:
    for part in parts:
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        hashed.update(len(part).to_bytes(8))
        hashed.update(part)
