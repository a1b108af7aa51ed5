"""What a reader of etcd hands on: one key's change. A value of its own, so that records need no gRPC."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """A key, without the prefix, and its value; None: it is gone."""

    key: str
    value: bytes | None
