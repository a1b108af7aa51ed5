"""Bytes to requests, responses to bytes. The only place that knows the discovery messages.

Plain requests are split by field, all others parsed by envoy-data-plane. Responses are spliced: a
resource's body is already encoded, so a response is a few headers around bytes that all clients share.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryRequest, DiscoveryRequest
from envoy_data_plane.google.protobuf import Struct

from xds_server import wire
from xds_server.xds.messages import DeltaRequest, DeltaResponse, ProtocolError, Request, Response
from xds_server.xds.model import Node

if TYPE_CHECKING:
    from envoy_data_plane.google.rpc import Status

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

MAX_ERROR = 4096
"""Characters that are kept of a NACK's text."""

_SHORT = 512
"""Bytes up to which a request is remembered: an ACK has less than 200."""

_TEXT = 2
"""The wire type of strings, bytes and messages."""


def parse_request(data: bytes, *, with_node: bool) -> Request:
    """Read a DiscoveryRequest; ProtocolError if it is none.

    `with_node` False skips the node: it is large, and counts in the first request only.
    """
    if not with_node and len(data) <= _SHORT:
        return _short_request(data)
    return _request(data, with_node=with_node)


def parse_delta_request(data: bytes, *, with_node: bool) -> DeltaRequest:
    """Read a DeltaDiscoveryRequest; ProtocolError if it is none. `with_node` as in parse_request."""
    if not with_node and len(data) <= _SHORT:
        return _short_delta_request(data)
    return _delta_request(data, with_node=with_node)


@lru_cache(maxsize=256)
def _short_request(data: bytes) -> Request:
    """Clients that accept the same response answer with the same bytes: these are read once for all."""
    return _request(data, with_node=False)


@lru_cache(maxsize=256)
def _short_delta_request(data: bytes) -> DeltaRequest:
    return _delta_request(data, with_node=False)


def _request(data: bytes, *, with_node: bool) -> Request:
    try:
        texts = _texts(data, {1: [], _SOTW_NODE: [], 3: [], 4: [], 5: []})
        if texts is not None:
            return Request(
                type_url=_type(texts[4]),
                resource_names=tuple(name.decode() for name in texts[3]),
                version_info=_last(texts[1]),
                response_nonce=_last(texts[5]),
                node=parse_node(b"".join(texts[_SOTW_NODE])) if with_node and texts[_SOTW_NODE] else None,
            )
        node, rest = _split(data, _SOTW_NODE)
        message = DiscoveryRequest.parse(rest)
        _limit("type_url", len(message.type_url), MAX_NAME)
        return Request(
            type_url=message.type_url,
            resource_names=tuple(message.resource_names),
            version_info=message.version_info,
            response_nonce=message.response_nonce,
            error_detail=_error(message.error_detail),
            node=parse_node(node) if with_node and node is not None else None,
        )
    except ProtocolError:
        raise
    except Exception as error:  # the library fails in many ways on bytes that are no message
        raise ProtocolError(f"the request is not a DiscoveryRequest: {_words(error)}") from error


def _delta_request(data: bytes, *, with_node: bool) -> DeltaRequest:
    try:
        texts = _texts(data, {_DELTA_NODE: [], 2: [], 3: [], 4: [], 5: [], 6: []})
        if texts is not None:
            return DeltaRequest(
                type_url=_type(texts[2]),
                subscribe=tuple(name.decode() for name in texts[3]),
                unsubscribe=tuple(name.decode() for name in texts[4]),
                initial_resource_versions=dict(map(_entry, texts[5])),
                response_nonce=_last(texts[6]),
                node=parse_node(b"".join(texts[_DELTA_NODE])) if with_node and texts[_DELTA_NODE] else None,
            )
        node, rest = _split(data, _DELTA_NODE)
        message = DeltaDiscoveryRequest.parse(rest)
        _limit("type_url", len(message.type_url), MAX_NAME)
        return DeltaRequest(
            type_url=message.type_url,
            subscribe=tuple(message.resource_names_subscribe),
            unsubscribe=tuple(message.resource_names_unsubscribe),
            initial_resource_versions=message.initial_resource_versions,
            response_nonce=message.response_nonce,
            error_detail=_error(message.error_detail),
            node=parse_node(node) if with_node and node is not None else None,
        )
    except ProtocolError:
        raise
    except Exception as error:  # as above
        raise ProtocolError(f"the request is not a DeltaDiscoveryRequest: {_words(error)}") from error


def _texts(data: bytes, texts: dict[int, list[bytes]]) -> dict[int, list[bytes]] | None:
    """Sort the payloads of a request into `texts`, by field; None if it has any other field.

    That is every request but a NACK. The library takes ten times as long, seconds for a client that
    reconnects with a hundred thousand names, and reads what is left.
    """
    for number, raw, payload in wire.fields(data):
        found = texts.get(number)
        if found is None or raw[0] & 7 != _TEXT:
            return None
        found.append(payload)
    return texts


def _entry(data: bytes) -> tuple[str, str]:
    """Read one entry of a map from strings to strings; what it leaves out is empty."""
    texts = {number: payload for number, _, payload in wire.fields(data)}
    return texts.get(1, b"").decode(), texts.get(2, b"").decode()


def _error(detail: Status | None) -> str | None:
    """The client's own words about what it rejects, as far as anyone will want to read them."""
    if detail is None:
        return None
    text = detail.message
    more = len(text) - MAX_ERROR
    return text if more <= 0 else f"{text[:MAX_ERROR]} [and {more} characters more]"


def _last(payloads: list[bytes]) -> str:
    """A singular field: of several, the last one counts."""
    return payloads[-1].decode() if payloads else ""


def _type(payloads: list[bytes]) -> str:
    type_url = _last(payloads)
    _limit("type_url", len(type_url), MAX_NAME)
    return type_url


def parse_node(data: bytes) -> Node:
    """Read what counts of a node; ValueError or ProtocolError if it is none.

    Without the library, which takes seconds for megabytes of metadata.
    """
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
        parts.append(_head(resource, None))
        parts += resource.pieces.parts
    parts += [wire.string(4, response.type_url), wire.string(5, response.nonce)]
    return b"".join(parts)


def _delta(response: DeltaResponse) -> bytes:
    parts = [wire.string(1, response.version)]
    ttl = _ttl(response.ttl)
    for resource in response.resources:
        described = wire.string(3, resource.name) + wire.string(1, resource.version)
        parts += [_head(resource, described, ttl), *resource.pieces.parts, ttl]
    for name, version in response.renewed:
        renewed = wire.string(3, name) + wire.string(1, version) + ttl
        parts += [wire.header(2, len(renewed)), renewed]
    parts.append(wire.string(4, response.type_url))
    parts.extend(wire.field(6, name.encode()) for name in response.removed)
    parts.append(wire.string(5, response.nonce))
    return b"".join(parts)


def _head(resource: Resource, described: bytes | None, ttl: bytes = b"") -> bytes:
    """Write what comes before a resource's body, as field 2: the google.protobuf.Any around it.

    `described`: in the delta dialect the other fields of a Resource message, of which the Any is then one;
    `ttl` is the field that follows after the body.
    """
    size = resource.pieces.size
    head = wire.string(1, resource.type_url)
    if size:
        head += wire.header(2, size)
    head = wire.header(2, len(head) + size) + head
    if described is None:
        return head
    return wire.header(2, len(described) + len(head) + size + len(ttl)) + described + head


def _ttl(ttl: float | None) -> bytes:
    """The ttl field of a discovery Resource: a Duration."""
    if ttl is None:
        return b""
    seconds, nanoseconds = divmod(round(ttl * 1e9), 10**9)
    duration = wire.uint(1, seconds) + wire.uint(2, nanoseconds)
    return wire.header(6, len(duration)) + duration
