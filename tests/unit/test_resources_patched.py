"""Many resources by name: a changed copy is as a dictionary is, and shares almost all with the one before."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xds_server.resources import patched as module
from xds_server.resources.patched import Patched, patched
from xds_server.xds.model import CLUSTER, Resource

NAMES = st.sampled_from([f"{number:02}" for number in range(60)])


def made(name: str) -> Resource:
    return Resource(CLUSTER, name, b"", "1")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 8)


@settings(max_examples=200, deadline=None)
@given(st.sets(NAMES), st.lists(st.dictionaries(NAMES, st.booleans(), max_size=4), max_size=12))
def test_it_is_as_a_dictionary(names: set[str], steps: list[dict[str, bool]]) -> None:
    now = expected = {name: made(name) for name in sorted(names)}
    for step in steps:
        changes = {name: made(name) if there else None for name, there in step.items()}
        before, held = now, dict(now)
        now = patched(before, changes)  # type: ignore[assignment]
        both = {**expected, **changes}
        expected = {name: each for name, each in sorted(both.items()) if each is not None}
        assert list(now.items()) == list(expected.items())
        assert (len(now), dict(before)) == (len(expected), held)
        assert [name in now for name in both] == [name in expected for name in both]
        assert [now.get(name) for name in both] == [expected.get(name) for name in both]
        assert now.keys() - set(changes) == expected.keys() - set(changes)
        assert frozenset(changes) - now.keys() == frozenset(changes) - expected.keys()


def test_a_changed_copy_of_many_copies_few() -> None:
    now = {f"{number:05}": made(f"{number:05}") for number in range(10_000)}
    copies = 0
    for number in range(1000):
        before, now = now, patched(now, {f"{number:05}": made("new")})  # type: ignore[assignment]
        if isinstance(now, Patched):
            assert len(now.patch) < 100
            assert now.base is (before.base if isinstance(before, Patched) else before)
        else:
            copies += 1
    assert copies == 10
