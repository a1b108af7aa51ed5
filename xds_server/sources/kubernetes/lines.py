"""Bytes of a stream to whole lines, of any length: one object of a watch may take megabytes."""

from __future__ import annotations


class Lines:
    """Puts the packets of one stream together."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, without their ends; empty ones are left out."""
        *whole, rest = chunk.split(b"\n")
        if whole:
            whole[0] = b"".join((*self._begun, whole[0]))
            self._begun = []
        if rest:
            self._begun.append(rest)
        return [line for line in whole if line.strip()]
