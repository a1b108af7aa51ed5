"""The placed endpoints of a service in order, as a value of which a changed copy shares almost all.

They are held in chunks. A copy with one endpoint changed has one other chunk, so making it costs a chunk
and finding what differs costs a look at each chunk: of 10,000 endpoints some 160 pointers, not 10,000.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import chain, compress
from operator import eq, is_not
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from xds_server.mesh.model import EndpointId, PlacedEndpoint

CHUNK = 64
"""Endpoints in a chunk that is made; one may grow to twice of it."""

Chunk = tuple["PlacedEndpoint", ...]
Order = tuple[str, int]
Change = tuple["PlacedEndpoint | None", "PlacedEndpoint | None"]
"""An endpoint as it was and as it is; None where it was not or is not there."""


class PlacedEndpoints(Sequence["PlacedEndpoint"]):
    """Endpoints of one service, sorted by id, each id once. Never changed: `changed` makes another one."""

    __slots__ = ("_firsts", "_length", "chunks")

    def __init__(self, chunks: Sequence[Chunk] = (), like: PlacedEndpoints | None = None) -> None:
        """`like`: one with the same ids in the same places."""
        self.chunks = tuple(chunks)
        if like is None:
            self._firsts = [_order(chunk[0]) for chunk in chunks]
            self._length = sum(map(len, chunks))
        else:
            self._firsts, self._length = like._firsts, like._length  # noqa: SLF001 - the same class

    @classmethod
    def of(cls, placed: Iterable[PlacedEndpoint]) -> PlacedEndpoints:
        """Put endpoints in order."""
        return cls(_split(sorted(placed, key=_order)))

    def changed(self, changes: Mapping[EndpointId, PlacedEndpoint | None]) -> PlacedEndpoints:
        """Put these in the places of their ids; None: the endpoint is there no more, if it was."""
        by_chunk: dict[int, list[tuple[Order, PlacedEndpoint | None]]] = {}
        for key, placed in changes.items():
            order = key.address, key.port
            place = max(0, bisect_right(self._firsts, order) - 1)
            by_chunk.setdefault(place, []).append((order, placed))
        chunks = list(self.chunks)
        moved = 0
        for place in sorted(by_chunk, reverse=True):  # from the end, since a chunk may become none or more
            chunk = list(chunks[place]) if chunks else []
            moved += sum(_put(chunk, order, placed) for order, placed in by_chunk[place])
            chunks[place : place + 1] = [tuple(chunk)] if 0 < len(chunk) <= 2 * CHUNK else _split(chunk)
        if not moved:
            return PlacedEndpoints(chunks, self)
        made = PlacedEndpoints(chunks)
        crumbs = len(made.chunks) > 2 + 4 * len(made) // CHUNK  # so many have left
        return PlacedEndpoints.of(made) if crumbs else made

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[PlacedEndpoint]:
        return chain.from_iterable(self.chunks)

    @overload
    def __getitem__(self, index: int) -> PlacedEndpoint: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[PlacedEndpoint, ...]: ...
    def __getitem__(self, index: int | slice) -> PlacedEndpoint | tuple[PlacedEndpoint, ...]:
        """By place, for the cost of all."""
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PlacedEndpoints):
            return NotImplemented
        if self.chunks == other.chunks:
            return True
        if len(self) != len(other) or self._firsts == other._firsts:
            return False  # cut at the same places, what differs is the content
        return all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment] # nothing needs one, and it would cost a look at everything

    def __repr__(self) -> str:
        return f"PlacedEndpoints({tuple(self)!r})"


def differences(before: Sequence[PlacedEndpoint], after: Sequence[PlacedEndpoint]) -> list[Change]:
    """List the endpoints that are another object now, sorted by id. Each id is at most once in either."""
    if before is after:
        return []
    was, now = _chunks(before), _chunks(after)
    in_place = _in_place(was, now)
    if in_place is not None:
        return in_place
    kept = {id(chunk) for chunk in was} & {id(chunk) for chunk in now}
    one = {each.endpoint.id: each for chunk in was if id(chunk) not in kept for each in chunk}
    other = {each.endpoint.id: each for chunk in now if id(chunk) not in kept for each in chunk}
    found = ((one.get(key), other.get(key)) for key in sorted(one.keys() | other.keys()))
    return [(old, new) for old, new in found if old is not new]


def _chunks(placed: Sequence[PlacedEndpoint]) -> Sequence[Chunk]:
    return placed.chunks if isinstance(placed, PlacedEndpoints) else (tuple(placed),)


def _in_place(was: Sequence[Chunk], now: Sequence[Chunk]) -> list[Change] | None:
    """What differs where all have the same ids in the same places; None where they have not."""
    if len(was) != len(now):
        return None
    found: list[Change] = []
    for old, new in compress(zip(was, now, strict=True), map(is_not, was, now)):
        if len(old) != len(new):
            return None
        # In C from end to end: most often one of the chunk is another object.
        for one, other in compress(zip(old, new, strict=True), map(is_not, old, new)):
            if one.endpoint is not other.endpoint and one.endpoint.id != other.endpoint.id:
                return None
            found.append((one, other))
    return found


def _put(chunk: list[PlacedEndpoint], order: Order, placed: PlacedEndpoint | None) -> bool:
    """Put one endpoint in; returns whether the chunk has others now."""
    place = bisect_left(chunk, order, key=_order)
    present = place < len(chunk) and _order(chunk[place]) == order
    if placed is None:
        if present:
            del chunk[place]
        return present
    chunk[place : place + present] = [placed]
    return not present


def _split(chunk: Sequence[PlacedEndpoint]) -> list[Chunk]:
    return [tuple(chunk[start : start + CHUNK]) for start in range(0, len(chunk), CHUNK)]


def _order(placed: PlacedEndpoint) -> Order:
    """Sort the endpoints of one service by plain values: comparing ids themselves takes ten times as long."""
    which = placed.endpoint.id
    return which.address, which.port
