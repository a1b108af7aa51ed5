"""Splicing and splitting of protobuf, against a real library."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from envoy_data_plane.envoy.service.discovery.v3 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from envoy_data_plane.envoy.service.discovery.v3 import Resource as ResourceMessage
from envoy_data_plane.google.protobuf import Any as AnyMessage
from envoy_data_plane.google.protobuf import Struct, UInt64Value
from envoy_data_plane.google.rpc import Status
from hypothesis import example, given
from hypothesis import strategies as st

from xds_server import wire
from xds_server.transport.codec import MAX_ERROR, encode_response, parse_delta_request, parse_request
from xds_server.xds.messages import DeltaResponse, ProtocolError, Response
from xds_server.xds.model import CLUSTER, Resource

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
RESOURCES = st.lists(
    st.builds(Resource, st.just(CLUSTER), TEXT, st.binary(max_size=400), TEXT), max_size=4
).map(tuple)


def as_any(resource: Resource) -> AnyMessage:
    return AnyMessage(type_url=resource.type_url, value=resource.body)


@given(TEXT, TEXT, TEXT, RESOURCES)
def test_a_response_is_what_the_library_writes(
    version: str, nonce: str, type_url: str, resources: tuple[Resource, ...]
) -> None:
    ours = encode_response(Response(type_url=type_url, version=version, nonce=nonce, resources=resources))
    theirs = DiscoveryResponse(
        version_info=version, type_url=type_url, nonce=nonce, resources=[as_any(each) for each in resources]
    )
    assert ours == bytes(theirs)


@given(TEXT, TEXT, RESOURCES, st.lists(TEXT, max_size=4))
def test_a_delta_response_is_what_the_library_writes(
    version: str, nonce: str, resources: tuple[Resource, ...], removed: list[str]
) -> None:
    ours = encode_response(
        DeltaResponse(
            type_url=CLUSTER, version=version, nonce=nonce, resources=resources, removed=tuple(removed)
        )
    )
    theirs = DeltaDiscoveryResponse(
        system_version_info=version,
        type_url=CLUSTER,
        nonce=nonce,
        removed_resources=removed,
        resources=[
            ResourceMessage(name=each.name, version=each.version, resource=as_any(each)) for each in resources
        ],
    )
    assert ours == bytes(theirs)


NODE = {
    "id": "envoy-1",
    "cluster": "gateway",
    "extensions": [{"name": "x" * 100}],
    "locality": {"zone": "a"},
}


def node(**metadata: object) -> dict[str, object]:
    return NODE | {"metadata": Struct.from_dict(metadata).to_dict()}


@pytest.mark.parametrize("key", ["labels", "LABELS"])
def test_a_request_is_read(key: str) -> None:
    message = DiscoveryRequest.from_dict({"node": node(**{key: {"zone": "a", "number": 1.0}})})
    message.type_url, message.version_info, message.response_nonce = CLUSTER, "v", "n"
    message.resource_names = ["a", "b"]
    message.error_detail = Status(code=3, message="no good")
    request = parse_request(bytes(message), with_node=True)
    assert request.node is not None
    assert (request.node.id, request.node.cluster, request.node.labels) == (
        "envoy-1",
        "gateway",
        {"zone": "a"},
    )
    assert (request.type_url, request.version_info, request.response_nonce) == (CLUSTER, "v", "n")
    assert (request.resource_names, request.error_detail) == (("a", "b"), "no good")


def test_a_delta_request_is_read() -> None:
    message = DeltaDiscoveryRequest.from_dict({"node": node(labels={"zone": "a"})})
    message.type_url, message.response_nonce = CLUSTER, "n"
    message.resource_names_subscribe, message.resource_names_unsubscribe = ["a"], ["b"]
    message.initial_resource_versions = {"c": "1"}
    request = parse_delta_request(bytes(message), with_node=True)
    assert request.node is not None
    assert (request.node.id, request.node.labels) == ("envoy-1", {"zone": "a"})
    assert (request.subscribe, request.unsubscribe) == (("a",), ("b",))
    assert (request.initial_resource_versions, request.response_nonce) == ({"c": "1"}, "n")
    assert request.error_detail is None


texts = st.text(max_size=8)


@given(texts, texts, texts, st.lists(texts, max_size=3), st.booleans())
def test_a_plain_request_is_split_as_the_library_reads_it(
    type_url: str, version: str, nonce: str, names: list[str], with_node: bool
) -> None:
    message = DiscoveryRequest(
        type_url=type_url, version_info=version, response_nonce=nonce, resource_names=names
    )
    if with_node:
        message.node = DiscoveryRequest.from_dict({"node": node()}).node
    for data in (bytes(message), bytes(message) + bytes(DiscoveryRequest(version_info="last"))):
        read, expected = parse_request(data, with_node=with_node), DiscoveryRequest.parse(data)
        assert (read.type_url, read.version_info, read.response_nonce, list(read.resource_names)) == (
            expected.type_url,
            expected.version_info,
            expected.response_nonce,
            expected.resource_names,
        )
        assert (read.node is not None, read.error_detail) == (with_node, None)


@given(
    texts,
    texts,
    st.lists(texts, max_size=3),
    st.lists(texts, max_size=3),
    st.dictionaries(texts, texts, max_size=3),
    st.booleans(),
)
def test_a_plain_delta_request_is_split_as_the_library_reads_it(  # noqa: PLR0917 - one for each field
    type_url: str,
    nonce: str,
    subscribe: list[str],
    unsubscribe: list[str],
    versions: dict[str, str],
    with_node: bool,
) -> None:
    message = DeltaDiscoveryRequest(
        type_url=type_url,
        response_nonce=nonce,
        resource_names_subscribe=subscribe,
        resource_names_unsubscribe=unsubscribe,
        initial_resource_versions=versions,
    )
    if with_node:
        message.node = DeltaDiscoveryRequest.from_dict({"node": node()}).node
    for data in (bytes(message), bytes(message) + bytes(DeltaDiscoveryRequest(response_nonce="last"))):
        read, expected = parse_delta_request(data, with_node=with_node), DeltaDiscoveryRequest.parse(data)
        assert (read.type_url, read.response_nonce, list(read.subscribe), list(read.unsubscribe)) == (
            expected.type_url,
            expected.response_nonce,
            expected.resource_names_subscribe,
            expected.resource_names_unsubscribe,
        )
        assert read.initial_resource_versions == expected.initial_resource_versions == versions
        assert (read.node is not None, read.error_detail) == (with_node, None)


def test_equal_acknowledgements_are_read_once() -> None:
    data = bytes(DeltaDiscoveryRequest(type_url=CLUSTER, response_nonce="7.0"))
    assert parse_delta_request(bytes(bytearray(data)), with_node=False) is parse_delta_request(
        data, with_node=False
    )


def test_a_rejection_without_words_is_still_one() -> None:
    data = bytes(DiscoveryRequest(type_url=CLUSTER, error_detail=Status()))
    assert parse_request(data, with_node=False).error_detail == ""


@pytest.mark.parametrize("parse", [parse_request, parse_delta_request])
def test_a_rejections_words_are_kept_as_far_as_anyone_reads_them(parse: Callable[..., Any]) -> None:
    kinds = {parse_request: DiscoveryRequest, parse_delta_request: DeltaDiscoveryRequest}
    for text, kept in (
        ("x" * MAX_ERROR, "x" * MAX_ERROR),
        ("y" * (MAX_ERROR + 7), "y" * MAX_ERROR + " [and 7 characters more]"),
    ):
        data = bytes(kinds[parse](type_url=CLUSTER, error_detail=Status(message=text)))
        assert parse(data, with_node=False).error_detail == kept


def test_the_node_is_read_when_it_is_asked_for() -> None:
    data = bytes(DiscoveryRequest.from_dict({"node": node()}))
    assert parse_request(data, with_node=False).node is None
    bare = parse_request(b"", with_node=True)
    assert bare.node is None


def test_labels_that_are_none_are_refused() -> None:
    data = bytes(DiscoveryRequest.from_dict({"node": node(labels="gateway")}))
    with pytest.raises(ProtocolError, match=r"node\.metadata\.labels: found 'gateway'"):
        parse_request(data, with_node=True)


@given(st.binary(max_size=60))
@example(b"\xff\xff")
@example(b"\x0a\x05ab")
@example(b"\x1a\x02\xff\xfe")
@example(b"\x0b")
@example(b"\x12\x03\x0a\x01\xff")
@example(b"\x12\x02\x18\x01")
@example(b"\x0d\x01\x02")
def test_bytes_that_are_no_request_are_refused(data: bytes) -> None:
    for parse in (parse_request, parse_delta_request):
        with suppress(ProtocolError):  # anything else would end the stream without a word to the client
            parse(data, with_node=True)


@pytest.mark.parametrize("parse", [parse_request, parse_delta_request])
@pytest.mark.parametrize(
    "data", [b"\xff\xff", b"\x0a\x05ab", b"\x1a\x02\xff\xfe", b"\x0b", b"\x0d\x01\x02", b"\x19" + bytes(8)]
)
def test_the_words_say_what_was_expected(parse: Callable[..., object], data: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^the request is not a (Delta)?DiscoveryRequest: "):
        parse(data, with_node=True)


@given(st.integers(0, 2**64 - 1))
def test_a_number_is_what_the_library_writes(number: int) -> None:
    assert wire.uint(1, number) == bytes(UInt64Value(value=number))
    data = wire.uint(1, number) + wire.string(2, "x")
    assert b"".join(raw for _, raw, _ in wire.fields(data)) == data


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        wire.varint(-1)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xff", "no number ends at byte 1"),
        (b"\x80" * 11, "no number ends at byte 10"),
        (b"\x0a\x05ab", "the field at byte 0 ends after the message, which has 4 bytes"),
        (b"\x0b", "unknown wire type 3 at byte 0"),
    ],
)
def test_what_is_no_message_is_said_so(data: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        list(wire.fields(data))


def test_fixed_size_fields_are_skipped() -> None:
    data = b"\x09" + b"8" * 8 + b"\x15" + b"4" * 4 + wire.string(3, "x")
    assert [(number, payload) for number, _, payload in wire.fields(data)] == [(1, b""), (2, b""), (3, b"x")]
