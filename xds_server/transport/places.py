"""Places for streams: how many may be open at a time."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from xds_server.transport.access import RefusedError
from xds_server.xds.status import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator


class Places:
    """`most` streams of one kind. `kind`: what they are called where a further one is refused."""

    def __init__(self, most: int, kind: str = "streams") -> None:
        self._most = most
        self._kind = kind
        self._taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place. RefusedError (TOO_MANY_STREAMS) when all are taken."""
        if self._taken >= self._most:
            text = f"this server has {self._taken} {self._kind}, and takes no more"
            raise RefusedError(Refusal.TOO_MANY_STREAMS, text)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
