"""Protobuf's wire format, as far as it is needed to join messages from encoded parts and to split them.

A leaf: it imports nothing of this project and knows no message. Who splices with it holds the
result equal to a real library's encoding by a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_VARINT = 0
_LENGTH_DELIMITED = 2
_FIXED_SIZES = {1: 8, 5: 4}
_CONTINUES = 0x80
_MAX_SHIFT = 63
_ONE_BYTE = tuple(bytes((n,)) for n in range(_CONTINUES))
"""Most numbers are small, and an assignment has hundreds of thousands of them."""


def varint(n: int) -> bytes:
    """Encode an unsigned integer, seven bits a byte, lowest first. ValueError for a negative one."""
    if 0 <= n < _CONTINUES:
        return _ONE_BYTE[n]
    if n < 0:
        raise ValueError(f"a varint cannot be negative: {n}")
    encoded = bytearray()
    while n >= _CONTINUES:
        encoded.append(n & 0x7F | _CONTINUES)
        n >>= 7
    encoded.append(n)
    return bytes(encoded)


def field(number: int, payload: bytes) -> bytes:
    """Encode a length-delimited field: a message, a string's bytes, or bytes. Written even when empty."""
    return header(number, len(payload)) + payload


def header(number: int, size: int) -> bytes:
    """Encode what comes before the `size` bytes of a length-delimited field."""
    return varint(number << 3 | _LENGTH_DELIMITED) + varint(size)


def string(number: int, text: str) -> bytes:
    """Encode a singular string field; nothing when the text is empty, as proto3 does."""
    return field(number, text.encode()) if text else b""


def uint(number: int, value: int) -> bytes:
    """Encode a singular unsigned integer, enum or bool field; nothing when it is 0, as proto3 does."""
    return varint(number << 3 | _VARINT) + varint(value) if value else b""


def fields(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Split a message: each field's number, all of its bytes, and its payload (empty for a number).

    ValueError where the bytes are no message. Groups, which proto3 does not have, are none.
    """
    at = 0
    while at < len(data):
        start = at
        key, at = _read_varint(data, at)
        kind = key & 7
        payload = end = at
        if kind == _VARINT:
            _, payload = _read_varint(data, at)
            end = payload
        elif kind == _LENGTH_DELIMITED:
            size, payload = _read_varint(data, at)
            end = payload + size
        elif kind in _FIXED_SIZES:
            payload = end = at + _FIXED_SIZES[kind]
        else:
            raise ValueError(f"unknown wire type {kind} at byte {start}")
        if end > len(data):
            raise ValueError(f"the field at byte {start} ends after the message, which has {len(data)} bytes")
        yield key >> 3, data[start:end], data[payload:end]
        at = end


def number(raw: bytes) -> int:
    """The value of a field that is a number, from all of its bytes. ValueError where they are none."""
    _, at = _read_varint(raw, 0)
    return _read_varint(raw, at)[0]


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that starts at `at`, and where it ends."""
    number = 0
    for shift in range(0, _MAX_SHIFT + 1, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        number |= (byte & ~_CONTINUES) << shift
        if byte < _CONTINUES:
            return number, at
    raise ValueError(f"no number ends at byte {at}")
