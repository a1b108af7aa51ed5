"""Small pieces that several resources are made of. Knows messages, but neither services nor routes."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.core.v3 as core
from envoy_data_plane.google.protobuf import Any, Struct, Value

from xds_server.xds.model import Resource, TypeSnapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from betterproto2 import Message

LB_NAMESPACE = "envoy.lb"
"""The metadata namespace that subset load balancing reads, on endpoints and on requests."""

_DIGEST_BYTES = 10
"""20 hexadecimal digits: enough that no two contents of one name ever meet, short enough to read."""


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
    return Resource(type_url, name, body, _digest((body,)), requires)


def type_snapshot(
    resources: Iterable[Resource],
    withheld: frozenset[str] = frozenset(),
    previous: TypeSnapshot | None = None,
) -> TypeSnapshot:
    """Collect a type's resources, sorted by name; `previous` itself when it holds the very same ones."""
    by_name = {each.name: each for each in sorted(resources, key=lambda each: each.name)}
    if previous is not None and previous.withheld == withheld and _same(previous.resources, by_name):
        return previous
    version = _digest(part.encode() for each in by_name.values() for part in (each.name, each.version))
    return TypeSnapshot(by_name, version, withheld)


def _same(one: Mapping[str, Resource], other: Mapping[str, Resource]) -> bool:
    return len(one) == len(other) and all(one.get(name) is each for name, each in other.items())


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()
