"""Placed endpoints as a value: what a changed copy holds, what it shares, and what differs between two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.resources_pictures import placed
from xds_server.mesh.placed import CHUNK, PlacedEndpoints, differences

if TYPE_CHECKING:
    from xds_server.mesh.model import PlacedEndpoint

SIZE = 20 * CHUNK
PORTS = st.integers(1, 4 * CHUNK)
STEPS = st.lists(
    st.dictionaries(PORTS, st.sampled_from(["gone", "same", "a", "b"]), max_size=3 * CHUNK), max_size=6
)


def numbered(*ports: int) -> list[PlacedEndpoint]:
    return [placed(port, ["m"]) for port in ports]


def brute(
    before: list[PlacedEndpoint], after: list[PlacedEndpoint]
) -> list[tuple[PlacedEndpoint | None, PlacedEndpoint | None]]:
    old = {each.endpoint.id: each for each in before}
    new = {each.endpoint.id: each for each in after}
    pairs = [(old.get(key), new.get(key)) for key in sorted({*old, *new})]
    return [(one, other) for one, other in pairs if one is not other]


@settings(max_examples=60, deadline=None)
@given(st.sets(PORTS), STEPS)
def test_changed_copies_are_those_of_a_dictionary(ports: set[int], steps: list[dict[int, str]]) -> None:
    now = PlacedEndpoints.of(numbered(*ports))
    expected = {each.endpoint.id: each for each in now}
    for step in steps:
        changes: dict[object, PlacedEndpoint | None] = {}
        for port, what in step.items():
            key = placed(port).endpoint.id
            changes[key] = expected.get(key) if what == "same" else placed(port, [what])
            if what == "gone":
                changes[key] = None
        before, held = now, list(now)
        now = before.changed(changes)  # type: ignore[arg-type]
        for key, each in changes.items():
            if each is None:
                expected.pop(key, None)  # type: ignore[call-overload]
            else:
                expected[key] = each  # type: ignore[index]
        assert list(before) == held, "the one before is as it was"
        assert list(now) == [expected[key] for key in sorted(expected)]
        assert len(now) == len(expected)
        assert all(0 < len(chunk) <= 2 * CHUNK for chunk in now.chunks)
        assert differences(before, now) == brute(held, list(now))
        assert differences(tuple(held), now) == brute(held, list(now))
        assert now == PlacedEndpoints.of(reversed(now)), "however it came about"
        assert (now == before) == (list(now) == held)


def test_a_changed_copy_shares_all_chunks_but_one() -> None:
    before = PlacedEndpoints.of(numbered(*range(1, SIZE + 1)))
    key = placed(SIZE // 2).endpoint.id
    for change in (placed(SIZE // 2, ["other"]), None):
        after = before.changed({key: change})
        assert len({*map(id, before.chunks)} & {*map(id, after.chunks)}) == len(before.chunks) - 1


def test_chunks_do_not_become_crumbs() -> None:
    now = PlacedEndpoints.of(numbered(*range(1, SIZE + 1)))
    for port in range(1, SIZE + 1):
        if port % CHUNK:
            now = now.changed({placed(port).endpoint.id: None})
    assert len(now) == SIZE // CHUNK
    assert len(now.chunks) <= 3


def test_one_is_read_like_a_tuple() -> None:
    one = PlacedEndpoints.of(numbered(3, 1, 2))
    assert [each.endpoint.id.port for each in one] == [1, 2, 3]
    assert (one[0], one[-1], one[1:]) == (*numbered(1, 3), tuple(numbered(2, 3)))
    assert one != tuple(one)
    assert repr(PlacedEndpoints()) == "PlacedEndpoints(())"
