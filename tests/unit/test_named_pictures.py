"""Pictures of pools with further names: kept up to date as against made at once, and under which names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mesh_events import HOST, configuration, eid, placed, refused, reported, timed_out, told, withdrawn
from xds_server.mesh.events import (
    ConfigurationReplaced,
    ModelState,
    ReportsForgotten,
    WithdrawalCancelled,
)
from xds_server.mesh.misses import Choice, Misses
from xds_server.mesh.names import DefaultVersion, Names, Versions

ALIASES = {"m": ("n", "k"), "x": ("m",), "y": ("n", "m/versions/1")}
FALLBACKS = {"k": ("m", "n"), "f": ("x", "n")}
NAMES = {
    "aliases": Names(aliases=ALIASES),
    "fallbacks": Names(fallbacks=FALLBACKS),
    "both": Names(aliases=ALIASES, fallbacks=FALLBACKS),
    "latest": Names(aliases=ALIASES, fallbacks=FALLBACKS, versions=Versions(DefaultVersion.LATEST)),
    "pinned": Names(aliases=ALIASES, versions=Versions(pinned={"m": "2"})),
}
LETTERS = st.sampled_from("abc")
ROWS = st.sets(
    st.builds(
        ModelState,
        st.sampled_from("mnk"),
        st.sampled_from("12"),
        st.sampled_from(["READY", "READY", "LOADING"]),
        base=st.sampled_from(["", "", "n"]),
    ),
    max_size=4,
).map(lambda rows: tuple(sorted(rows)))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reported"), LETTERS, ROWS),
        st.tuples(st.just("reported"), LETTERS, ROWS),
        st.tuples(st.sampled_from(["refused", "late", "forgotten", "cancelled"]), LETTERS, st.none()),
        st.tuples(st.just("withdrawn"), LETTERS, st.sampled_from(["m", "x", "m/versions/1"])),
    ),
    min_size=3,
    max_size=25,
)


def pool(names: Names, misses: Misses | None = None) -> ConfigurationReplaced:
    base = configuration("abc")
    made = replace(base.pools[0], names=names, misses=misses or Misses())
    return ConfigurationReplaced(source="files", configuration=replace(base, pools=(made,)))


def event(what: str, letter: str, more: object, at: float) -> object:
    match what:
        case "reported":
            return reported(letter, more, at)
        case "refused":
            return refused(letter, at)
        case "late":
            return timed_out(letter, at)
        case "forgotten":
            return ReportsForgotten(endpoint=eid(letter), source="open-inference")
        case "cancelled":
            return WithdrawalCancelled(id=letter)
        case _:
            return withdrawn(letter, more, at, letter)


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@settings(max_examples=60, deadline=None)
@given(steps=STEPS, falls_back=st.booleans())
def test_a_picture_that_follows_each_event_is_the_one_made_of_all_of_them(names, steps, falls_back):
    misses = Misses(not_loaded=Choice.FALLBACK_MODEL, fallback_model="n") if falls_back else None
    events = [pool(names, misses), *(reported(letter, "n", 0.5) for letter in "abc")]
    mesh = told(*events)
    mesh.service(HOST)
    for at, (what, letter, more) in enumerate(steps, 1):
        events.append(event(what, letter, more, float(at)))
        mesh.apply(events[-1])
        followed, anew = mesh.service(HOST), told(*events).service(HOST)
        assert tuple(followed.endpoints) == tuple(anew.endpoints)


def test_a_model_that_is_called_like_an_alias_is_asked_under_its_own_name_once_it_is_there():
    mesh = told(pool(Names(aliases={"m": ("n",)})), reported("a", "n"), refused("b", 1), refused("c", 1))
    assert placed(mesh, "a").known_as == ()
    mesh.take_dirty()
    mesh.apply(reported("a", "m n", 2))
    assert mesh.take_dirty().services == {HOST}
    assert placed(mesh, "a").known_as == (("m", "m"),)
    mesh.apply(reported("a", "n", 3))
    assert placed(mesh, "a").known_as == ()
