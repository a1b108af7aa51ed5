"""Bytes to requests, responses to bytes. The only place that knows the discovery messages.

Requests are parsed by envoy-data-plane. Responses are spliced: a resource's body is already encoded,
so a response is a few headers around bytes that all clients share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryRequest, DiscoveryRequest
from envoy_data_plane.google.protobuf import Struct

from xds_server import wire
from xds_server.xds.messages import DeltaRequest, DeltaResponse, ProtocolError, Request, Response
from xds_server.xds.model import Node

if TYPE_CHECKING:
    from xds_server.xds.model import Resource

_SOTW_NODE = 2
_DELTA_NODE = 1
"""The field of `node` in the two kinds of request."""

_ID, _CLUSTER, _METADATA = 1, 2, 3
"""Fields of a Node: the ones that count here. Envoy's own also lists 10 kB of extensions."""

MAX_NODE = 1024 * 1024
"""Bytes of a node: reading a larger one would keep every other client waiting."""

MAX_LABELS = 16 * 1024
"""Bytes of a node's labels, which are read one by one."""

MAX_NAME = 1024
"""Bytes of a node's id and cluster, and of a type: they come back in logs, status and errors."""


def parse_request(data: bytes, *, with_node: bool) -> Request:
    """Read a DiscoveryRequest; ProtocolError if it is none.

    `with_node` False skips the node: it is large, and counts in the first request only.
    """
    try:
        node, rest = _split(data, _SOTW_NODE)
        message = DiscoveryRequest.parse(rest)
        _limit("type_url", len(message.type_url), MAX_NAME)
        return Request(
            type_url=message.type_url,
            resource_names=tuple(message.resource_names),
            version_info=message.version_info,
            response_nonce=message.response_nonce,
            error_detail=None if message.error_detail is None else message.error_detail.message,
            node=_node(node) if with_node and node is not None else None,
        )
    except ProtocolError:
        raise
    except Exception as error:  # the library fails in many ways on bytes that are no message
        raise ProtocolError(f"the request is not a DiscoveryRequest: {_words(error)}") from error


def parse_delta_request(data: bytes, *, with_node: bool) -> DeltaRequest:
    """Read a DeltaDiscoveryRequest; ProtocolError if it is none. `with_node` as in parse_request."""
    try:
        node, rest = _split(data, _DELTA_NODE)
        message = DeltaDiscoveryRequest.parse(rest)
        _limit("type_url", len(message.type_url), MAX_NAME)
        return DeltaRequest(
            type_url=message.type_url,
            subscribe=tuple(message.resource_names_subscribe),
            unsubscribe=tuple(message.resource_names_unsubscribe),
            initial_resource_versions=message.initial_resource_versions,
            response_nonce=message.response_nonce,
            error_detail=None if message.error_detail is None else message.error_detail.message,
            node=_node(node) if with_node and node is not None else None,
        )
    except ProtocolError:
        raise
    except Exception as error:  # as above
        raise ProtocolError(f"the request is not a DeltaDiscoveryRequest: {_words(error)}") from error


def _node(data: bytes) -> Node:
    """Read what counts of a node, without the library: it takes seconds for megabytes of metadata."""
    _limit("node", len(data), MAX_NODE)
    texts: dict[int, str] = {}
    metadata = b""
    for number, _, payload in wire.fields(data):
        if number in {_ID, _CLUSTER}:
            _limit("node.id" if number == _ID else "node.cluster", len(payload), MAX_NAME)
            texts[number] = payload.decode()
        elif number == _METADATA:
            metadata += payload
    return Node(texts.get(_ID, ""), texts.get(_CLUSTER, ""), _labels(metadata))


def _labels(metadata: bytes) -> dict[str, str]:
    """The texts in `labels`, or in Istio's `LABELS`, of an encoded Struct."""
    kept = b"".join(raw for _, raw, entry in wire.fields(metadata) if _key(entry) in {b"labels", b"LABELS"})
    _limit("node.metadata.labels", len(kept), MAX_LABELS)
    values = Struct.parse(kept).to_dict()
    labels = values.get("labels") or values.get("LABELS") or {}
    if not isinstance(labels, Mapping):
        raise ProtocolError(f"node.metadata.labels: found {labels!r}; expected a struct of strings")
    return {str(key): value for key, value in labels.items() if isinstance(value, str)}


def _key(entry: bytes) -> bytes:
    """The key of a map's entry."""
    return next((payload for number, _, payload in wire.fields(entry) if number == 1), b"")


def _limit(what: str, size: int, most: int) -> None:
    if size > most:
        raise ProtocolError(f"{what}: found {size} bytes; at most {most} are allowed")


def _words(error: Exception) -> str:
    """What is wrong, without the data, which some errors carry along whole."""
    return f"{type(error).__name__}: {error}"[:MAX_NAME]


def _split(data: bytes, node_field: int) -> tuple[bytes | None, bytes]:
    """A request's node, still encoded, and the request without it."""
    nodes: list[bytes] = []
    rest: list[bytes] = []
    for number, raw, payload in wire.fields(data):
        if number == node_field:
            nodes.append(payload)
        else:
            rest.append(raw)
    return (b"".join(nodes) if nodes else None), b"".join(rest)


def encode_response(response: Response | DeltaResponse) -> bytes:
    """Write a DiscoveryResponse or a DeltaDiscoveryResponse, with the resources' bytes as they are.

    Fields come in the order of the library, so that a test can hold the bytes equal to its own.
    """
    return _delta(response) if isinstance(response, DeltaResponse) else _sotw(response)


def _sotw(response: Response) -> bytes:
    parts = [wire.string(1, response.version)]
    for resource in response.resources:
        parts.extend(_nested(2, _any(resource)))
    parts += [wire.string(4, response.type_url), wire.string(5, response.nonce)]
    return b"".join(parts)


def _delta(response: DeltaResponse) -> bytes:
    parts = [wire.string(1, response.version)]
    for resource in response.resources:
        named = _named(resource.name, resource.version)
        parts.extend(_nested(2, [*named, *_nested(2, _any(resource)), *_ttl(response.ttl)]))
    for name, version in response.renewed:
        parts.extend(_nested(2, [*_named(name, version), *_ttl(response.ttl)]))
    parts.append(wire.string(4, response.type_url))
    parts.extend(wire.field(6, name.encode()) for name in response.removed)
    parts.append(wire.string(5, response.nonce))
    return b"".join(parts)


def _any(resource: Resource) -> list[bytes]:
    """A google.protobuf.Any around a resource, in parts: its body may be large, and is copied once."""
    return [wire.string(1, resource.type_url), *(_nested(2, [resource.body]) if resource.body else ())]


def _named(name: str, version: str) -> list[bytes]:
    """The name and version fields of a discovery Resource."""
    return [wire.string(3, name), wire.string(1, version)]


def _ttl(ttl: float | None) -> list[bytes]:
    """The ttl field of a discovery Resource: a Duration."""
    if ttl is None:
        return []
    seconds, nanoseconds = divmod(round(ttl * 1e9), 10**9)
    return _nested(6, [wire.uint(1, seconds), wire.uint(2, nanoseconds)])


def _nested(number: int, parts: list[bytes]) -> list[bytes]:
    """A length-delimited field whose payload is `parts` joined."""
    return [wire.header(number, sum(map(len, parts))), *parts]
