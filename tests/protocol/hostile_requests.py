"""What hostile clients send: requests as bytes, some of them none, some of them huge."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryRequest, DiscoveryRequest

from xds_server import wire
from xds_server.xds.messages import Variant
from xds_server.xds.model import ENDPOINT

if TYPE_CHECKING:
    from collections.abc import Callable


def request(variant: Variant, node: Node | None = None, type_url: str = ENDPOINT, *names: str) -> bytes:
    if variant is Variant.DELTA:
        return bytes(
            DeltaDiscoveryRequest(node=node, type_url=type_url, resource_names_subscribe=list(names))
        )
    return bytes(DiscoveryRequest(node=node, type_url=type_url, resource_names=list(names)))


def nonsense(variant: Variant) -> list[bytes]:
    """What is no request: random bytes, a good one cut anywhere, and good fields with bad contents."""
    chance = random.Random(1)
    good = request(variant, Node(id="n", cluster="c"), ENDPOINT, "a", "b")
    cut = [good[:length] for length in range(1, len(good))]
    shuffled = [chance.randbytes(chance.randrange(1, 200)) for _ in range(60)]
    not_utf8 = b"\x22\x02\xff\xfe" if variant is Variant.SOTW else b"\x12\x02\xff\xfe"
    endless = b"\xff" * 64
    group = b"\x0b\x0c"
    return [b"", *cut, *shuffled, not_utf8, endless, group]


def with_node(variant: Variant, node: bytes) -> bytes:
    return wire.field(1 if variant is Variant.DELTA else 2, node) + request(variant, None, ENDPOINT, "a")


def _of(size: int, entry: bytes) -> bytes:
    return entry * (size // len(entry))


def _struct(key: str, value: bytes) -> bytes:
    return wire.field(1, wire.string(1, key) + wire.field(2, value))


LABEL = _struct("label", wire.string(3, "value"))
NODES: dict[str, Callable[[int], bytes]] = {
    "id": lambda size: wire.field(1, _of(size, b"x")),
    "text": lambda size: wire.field(3, _struct("text", wire.field(3, _of(size, b"x")))),
    "metadata": lambda size: wire.field(3, _of(size, LABEL)),
    "labels": lambda size: wire.field(3, _struct("labels", wire.field(5, _of(size, LABEL)))),
    "list": lambda size: wire.field(3, _struct("list", wire.field(6, _of(size, b"\x0a\x02\x20\x01")))),
    "extensions": lambda size: _of(size, wire.field(9, wire.string(1, "extension"))),
}
"""Nodes of about that many bytes, each in the shape that costs most to read in its own way."""
