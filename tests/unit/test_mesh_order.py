"""The order of events with different keys makes no difference; steps give what work from scratch gives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mesh_events import (
    DISCOVERY,
    HOST,
    SOURCE,
    configured,
    eid,
    lost,
    refused,
    reported,
    timed_out,
    told,
    withdrawn,
)
from xds_server.mesh.events import ConfigurationReplaced, WithdrawalCancelled, WithdrawalStarted
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.pools import Annotations, ModelMesh, Push

if TYPE_CHECKING:
    from xds_server.mesh.model import PlacedEndpoint

LETTERS = "abc"
MODELS = ["", "m", "n", "m n", "m=LOADING", "m n=UNAVAILABLE", "m@20 n@70", "m:id@30", "id"]
SOURCES = [SOURCE, "report", "annotation/one", "annotation/two", "modelmesh"]
WAYS = [
    DISCOVERY,
    Annotations(),
    Push(5),
    ModelMesh("file", "mm/"),
    ModelMesh("file", "mm/", 30, DISCOVERY),
    ModelMesh("file", "mm/", 30, DISCOVERY, push=Push(5)),
]

outcomes = st.one_of(st.sampled_from(MODELS), st.sampled_from([refused, timed_out, lost]))


@st.composite
def histories(draw: st.DrawFn) -> list[list[object]]:
    """Events by key, each key's in the order of time: configuration, each endpoint's sources, withdrawals."""
    found: list[list[object]] = [[configured(LETTERS, discovery=draw(st.sampled_from(WAYS)))]]
    for letter in LETTERS:
        for source in draw(st.lists(st.sampled_from(SOURCES), min_size=1, max_size=3, unique=True)):
            times = sorted(draw(st.lists(st.integers(0, 60), max_size=6, unique=True)))
            found.append([_told(letter, draw(outcomes), at, source) for at in times])
    for number in range(draw(st.integers(0, 2))):
        begun = withdrawn(draw(st.sampled_from(LETTERS)), "m", draw(st.integers(0, 60)), f"w{number}")
        cancelled = [WithdrawalCancelled(id=begun.id)] if draw(st.booleans()) else []
        found.append([begun, *cancelled])
    return found


def _told(letter, outcome, at, source):
    if isinstance(outcome, str):
        return reported(letter, outcome, at, source)
    return outcome(letter, at, source=source)


def woven(histories: list[list[object]], choices: st.DataObject) -> list[object]:
    """One order of all events that keeps the order of each key."""
    rest = [list(history) for history in histories if history]
    order = []
    while rest:
        chosen = rest[choices.draw(st.integers(0, len(rest) - 1))]
        order.append(chosen.pop(0))
        rest = [history for history in rest if history]
    return order


def picture_of(mesh: Mesh, now: float) -> tuple[object, ...]:
    mesh.expire(now)
    return mesh.services(), mesh.status(HOST), mesh.withdrawals(), mesh.routing


@settings(max_examples=300)
@given(histories(), st.data())
def test_permuted_events_give_the_same_picture_and_status(found, data):
    one, other = told(*woven(found, data)), told(*woven(found, data))
    now = data.draw(st.integers(60, 80))
    assert picture_of(one, now) == picture_of(other, now)


@settings(max_examples=300)
@given(histories(), st.data())
def test_looking_on_the_way_changes_nothing_and_marks_are_exact(found, data):
    """A mesh that is read after each event ends like one that is read once, and marks only real changes."""
    events = woven(found, data)
    calls: list[None] = []
    watched = Mesh(lambda: calls.append(None))
    before: dict[str, object] = {}
    for event in events:
        calls.clear()
        watched.apply(event)
        dirty = watched.take_dirty()
        after = dict(watched.services())
        changed = {host for host, picture in after.items() if before.get(host) is not picture}
        assert dirty.services == changed
        assert all(before.get(host) != after[host] for host in changed)
        assert calls or not dirty
        for host in changed & before.keys():
            assert_kept(before[host].endpoints, after[host].endpoints)
        before = after
    assert picture_of(watched, 70) == picture_of(told(*events), 70)


def assert_kept(before: tuple[PlacedEndpoint, ...], after: tuple[PlacedEndpoint, ...]) -> None:
    old = {placed.endpoint.id: placed for placed in before}
    for placed in after:
        if old.get(placed.endpoint.id) == placed:
            assert old[placed.endpoint.id] is placed


@given(histories(), st.data())
def test_a_configuration_in_two_parts_is_the_same_as_in_one(found, data):
    """Two sources that declare parts of the endpoints, in any order with everything else."""
    whole = found[0][0].configuration
    parts = [
        ConfigurationReplaced(source="one", configuration=_only(whole, "ab")),
        ConfigurationReplaced(source="two", configuration=_only(whole, "c")),
    ]
    withdrawals = [h for h in found if h and isinstance(h[0], WithdrawalStarted)]
    rest = [h for h in found[1:] if h not in withdrawals]
    split = told(*woven([[parts[0]], [parts[1]], *rest, *withdrawals], data))
    joined = told(*woven([*found[:1], *rest, *withdrawals], data))
    assert picture_of(split, 70) == picture_of(joined, 70)


def _only(whole, letters):
    ids = {eid(letter) for letter in letters}
    return replace(whole, endpoints=tuple(e for e in whole.endpoints if e.id in ids))
