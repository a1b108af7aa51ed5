"""Names as data: what an endpoint is called by, and what stands in for a name that nobody has."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mesh_events import eid
from xds_server.mesh.events import ModelState
from xds_server.mesh.name_index import NameIndex
from xds_server.mesh.names import (
    DefaultVersion,
    Names,
    Split,
    Versions,
    bases,
    for_any_other,
    known_as,
    model_and_version,
    own_names,
    split_target,
    sticky_share,
    version_key,
    version_name,
)

M1, M2, M10 = (ModelState("m", version) for version in ("1", "2", "10"))


def test_without_further_names_the_models_are_what_they_are():
    models = ("a", "b")
    assert own_names(Names(), models, (ModelState("a", "1"),)) is models


def test_an_alias_stands_where_any_of_its_models_does():
    names = Names(aliases={"best": ("a", "b"), "other": ("c",)})
    assert own_names(names, ("b",), ()) == ("b", "best")
    assert own_names(names, ("x",), ()) == ("x",)


def test_withdrawing_a_model_withdraws_what_stands_for_it():
    names = Names(aliases={"best": ("a", "b")}, versions=Versions())
    rows = (ModelState("a", "1"), ModelState("b", "2"))
    assert own_names(names, ("a", "b"), rows, frozenset({"a"})) == ("b", "b/versions/2", "best")
    assert own_names(names, ("a", "b"), rows, frozenset({"a", "b"})) == ()
    assert own_names(names, ("a",), rows, frozenset({"best"})) == ("a", "a/versions/1")
    assert own_names(names, ("a",), rows, frozenset({"a/versions/1"})) == ()


def test_versions_are_names_and_only_ready_ones():
    rows = (M1, M2, ModelState("m", "3", "LOADING"), ModelState("n"), ModelState("gone", "1"))
    assert own_names(Names(versions=Versions()), ("m", "n"), rows) == (
        "m",
        "m/versions/1",
        "m/versions/2",
        "n",
    )


def test_a_pinned_version_is_what_the_bare_name_means():
    names = Names(versions=Versions(pinned={"m": "2"}))
    assert own_names(names, ("m",), (M1,)) == ("m/versions/1",)
    assert own_names(names, ("m",), (M1, M2)) == ("m", "m/versions/1", "m/versions/2")
    assert own_names(names, ("m",), (M2,), frozenset({"m/versions/2"})) == ()


def test_an_alias_of_a_version():
    names = Names(aliases={"stable": ("m/versions/1",)}, versions=Versions())
    assert "stable" in own_names(names, ("m",), (M1, M2))
    assert "stable" not in own_names(names, ("m",), (M2,))


def test_versions_are_ordered_as_people_do():
    ordered = ["", "v1", "v2.9", "v2.10", "1", "9", "10", "20240101"]
    assert sorted(set(ordered), key=version_key) == ordered


def test_a_version_of_thousands_of_digits_is_ordered_as_well() -> None:
    assert version_key("9" * 5000) < version_key("1" + "0" * 5000)


@given(st.text(min_size=1).filter(lambda t: "/versions/" not in t), st.text(min_size=1))
def test_a_versions_name_is_taken_apart_again(model, version):
    if "/versions/" not in f"{model}/{version}":
        assert model_and_version(version_name(model, version)) == (model, version)


@pytest.mark.parametrize("name", ["m", "/versions/1", "m/versions/", "", "m/version/1"])
def test_what_is_no_versions_name(name):
    assert model_and_version(name) == (name, "")


def test_a_fallback_stands_in_while_nobody_has_the_name():
    a, b, c = eid("a"), eid("b"), eid("c")
    index = NameIndex(Names(fallbacks={"v4": ("v3", "base")}))
    assert index.update(a, ("base",)) == set()
    assert index.names(a) == ("base", "v4")
    assert index.stand_in("v4") == "base"
    assert index.update(b, ("v3",)) == {a}
    assert (index.names(a), index.names(b)) == (("base",), ("v3", "v4"))
    assert index.update(c, ("v4",)) == {b}
    assert (index.names(b), index.names(c), index.stand_in("v4")) == (("v3",), ("v4",), None)
    assert index.update(c, ()) == {b}
    assert index.update(b, ()) == {a}
    assert index.names(a) == ("base", "v4")


def test_a_fallback_respects_a_withdrawal():
    a = eid("a")
    index = NameIndex(Names(fallbacks={"v4": ("v3",)}))
    index.update(a, ("v3",), withdrawn=frozenset({"v4"}))
    assert index.names(a) == ("v3",)
    assert not index.is_own(a, ("v3",), frozenset(), frozenset())


def test_an_adapter_falls_back_to_its_base_as_long_as_anybody_tells_of_it():
    a, b = eid("a"), eid("b")
    pair = frozenset({("sql", "llama")})
    index = NameIndex(Names())
    index.update(b, ("llama",))
    index.update(a, ("llama", "sql"), pair)
    assert index.names(b) == ("llama",)
    assert index.update(a, (), pair) == {b}  # it is down, but what it said is known
    assert index.names(b) == ("llama", "sql")
    assert index.update(a, ("llama",)) == {b}  # it is back, and has no adapter any more
    assert (index.names(a), index.names(b)) == (("llama",), ("llama",))


def test_a_written_fallback_of_an_adapter_comes_before_its_base():
    index = NameIndex(Names(fallbacks={"sql": ("other",)}))
    index.update(eid("a"), ("llama",), frozenset({("sql", "llama")}))
    assert index.names(eid("a")) == ("llama",)


def test_under_which_name_an_endpoint_is_asked():
    names = Names(
        aliases={"one": ("a",), "any": ("b", "c"), "c": ("a",), "old": ("m/versions/1",)},
        versions=Versions(pinned={"m": "2"}),
    )
    assert [names.means(each) for each in ("one", "any", "old", "m", "m/versions/1", "x")] == [
        "a",
        "any",
        "m/versions/1",
        "m/versions/2",
        "m/versions/1",
        "x",
    ]

    def asked(listed: tuple[str, ...], models: tuple[str, ...], lent: dict[str, str] | None = None) -> Any:
        lent = lent or {}
        own = tuple(each for each in listed if each not in lent)
        return known_as(names, listed, own if lent else listed, models, lent.get)

    assert asked(("a", "one"), ("a",)) == ()  # the document says it
    assert asked(("any", "c"), ("c",)) == (("any", "c"), ("c", "c"))  # a model that is called like an alias
    assert asked(("any", "b", "c"), ("b", "c")) == (("any", "b"), ("c", "c"))  # the first that it has
    assert asked(("m", "m/versions/1", "m/versions/2", "old"), ("m",)) == ()
    lent = {"gone": "any", "m/versions/9": "m"}
    assert asked(("any", "b", "gone", "m", "m/versions/9"), ("b", "m"), lent) == (
        ("any", "b"),
        ("gone", "b"),
        ("m/versions/9", "m/versions/2"),
    )


def test_the_fallback_model_is_what_an_endpoint_is_asked_for_by_all_other_names():
    names = Names(aliases={"best": ("a",), "any": ("a", "b")})
    known = (("any", "a"),)
    assert for_any_other(names, ("a", "any", "best"), known, "best") == (
        ("", "a"),
        ("a", "a"),
        ("any", "a"),
        ("best", "a"),
    )


def test_adapters_without_fallback():
    rows = (ModelState("sql", base="llama"),)
    assert bases(Names(), rows) == {("sql", "llama")}
    assert bases(Names(adapter_fallback=False), rows) == frozenset()


def test_latest_leaves_out_who_has_older_versions_only():
    names = Names(versions=Versions(DefaultVersion.LATEST))
    index = NameIndex(names)
    own = {each: own_names(names, ("m",), (row,)) for each, row in (("a", M1), ("b", M2), ("c", M10))}
    index.update(eid("a"), own["a"])
    assert index.names(eid("a")) == ("m", "m/versions/1")
    assert index.update(eid("b"), own["b"]) == {eid("a")}
    assert index.names(eid("a")) == ("m/versions/1",)
    index.update(eid("c"), own["c"])
    assert index.names(eid("b")) == ("m/versions/2",)
    assert index.update(eid("c"), ()) >= {eid("b")}
    assert index.names(eid("b")) == ("m", "m/versions/2")


CHAINS = {"a": ("b", "c"), "b": ("c",), "x/versions/2": ("x/versions/1", "x", "b")}
NAMES = ("a", "b", "c", "x", "x/versions/1", "x/versions/2", "x/versions/10")
PAIRS = st.frozensets(st.sampled_from([("l1", "b"), ("l1", "c"), ("l2", "c"), ("a", "c")]), max_size=2)
SETS = st.frozensets(st.sampled_from((*NAMES, "l1", "l2")), max_size=5).map(lambda f: tuple(sorted(f)))
GONE = st.frozensets(st.sampled_from(("a", "l1")), max_size=1)
STEPS = st.lists(st.tuples(st.sampled_from("pqrs"), SETS, PAIRS, GONE), max_size=25)


def afresh(names, state):
    """Every endpoint's names, from nothing but what each has by itself."""
    holders = {name for own, _, _ in state.values() for name in own}
    chains = dict(names.fallbacks)
    for adapter, base in sorted({pair for _, told, _ in state.values() for pair in told}):
        if adapter not in names.fallbacks:
            chains[adapter] = (*chains.get(adapter, ()), base)
    lent = {}
    for key, chain in chains.items():
        stand_in = next((name for name in chain if name in holders), None)
        if key not in holders and stand_in is not None:
            lent.setdefault(stand_in, set()).add(key)
    latest = {}
    if names.latest:
        for name in holders:
            model, version = model_and_version(name)
            if version and (model not in latest or version_key(version) > version_key(latest[model])):
                latest[model] = version
    found = {}
    for endpoint, (own, _, withdrawn) in state.items():
        kept = {n for n in own if n not in latest or version_name(n, latest[n]) in own}
        kept |= {key for name in own for key in lent.get(name, ())} - withdrawn
        found[endpoint] = tuple(sorted(kept))
    return found


@settings(max_examples=300, deadline=None)
@given(STEPS, st.booleans(), st.booleans())
def test_the_index_is_what_is_found_afresh_and_tells_of_every_change(steps, latest, chained):
    default = DefaultVersion.LATEST if latest else DefaultVersion.ANY
    names = Names(versions=Versions(default), fallbacks=CHAINS if chained else {})
    index, state = NameIndex(names), {}
    for letter, own, pairs, withdrawn in steps:
        before = {endpoint: index.names(endpoint) for endpoint in state}
        endpoint = eid("abcd"["pqrs".index(letter)])
        if own == ("a",):
            told = index.forget(endpoint)
            state.pop(endpoint, None)
        else:
            told = index.update(endpoint, own, pairs, withdrawn)
            state[endpoint] = own, pairs, withdrawn
            assert index.is_own(endpoint, own, pairs, withdrawn)
        now = {each: index.names(each) for each in state}
        assert now == afresh(names, state)
        changed = {each for each in before if each in now and before[each] != now[each]}
        assert changed <= told | {endpoint}


def test_a_sticky_share_is_even_and_fixed():
    shares = Counter(sticky_share(f"user-{n}", 100) < 10 for n in range(20_000))
    assert 1800 < shares[True] < 2200
    # Envoy's script has to give the same numbers: tests/integration compares them there.
    assert [sticky_share(v, 1000) for v in ("", "a", "b", "ü")] == [
        sticky_share(v, 1000) for v in ("", "a", "b", "ü")
    ]


@given(st.text(), st.integers(1, 1_000_000))
def test_a_share_is_within_the_weights(value, total):
    assert 0 <= sticky_share(value, total) < total


def test_a_target_has_its_weights_share():
    split = Split((("a", 90), ("b", 0), ("c", 10)))
    assert Counter(split_target(split, share) for share in range(100)) == {"a": 90, "c": 10}
    with pytest.raises(ValueError, match="100"):
        split_target(split, 100)
