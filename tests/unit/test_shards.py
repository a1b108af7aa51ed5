"""Shards: the union of them is the mesh, whatever happens; names, misses, layouts and what stays of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from tests.resources_pictures import (
    GATEWAY,
    HOST,
    KEY,
    gateway,
    one,
    picture,
    placed,
    policy,
    pool,
    route,
    routing,
    service,
    services,
    the_routes,
    virtual_service,
)
from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.policies import Fallback, Selector
from xds_server.mesh.routing import Destination
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.resources.rendered import as_dict
from xds_server.resources.shards import shard_of
from xds_server.xds.model import CLUSTER, ENDPOINT, ORDER, ROUTE, Snapshot
from xds_server.xds.snapshot import changed_names

if TYPE_CHECKING:
    from xds_server.mesh.model import PlacedEndpoint, ServicePicture
    from xds_server.mesh.routing import Routing
    from xds_server.resources.views import ViewCatalog

ANY, NO, DEFAULT = Fallback.ANY_ENDPOINT, Fallback.NO_FALLBACK, Fallback.DEFAULT_SUBSET
SINGLE = PoolLayout(LayoutKind.SINGLE)
PER_MODEL = PoolLayout(LayoutKind.PER_MODEL)
NAMES = ("a", "b/c", "naïve-☃", "a%2Fb", "x" * 300, "tf-mnist", "*", " ")


def sharded(count: int | None = None) -> PoolLayout:
    return PoolLayout(LayoutKind.SHARDED, count)


class Pool:
    """One service whose picture changes, and a builder that follows it."""

    def __init__(self, layout: PoolLayout, fallback: Fallback = NO, **more: Any) -> None:
        self.builder = Builder(BuildOptions())
        self.serial = 0
        self.layout = layout
        self.policy = policy(Selector((KEY,), fallback), **more)
        self.endpoints: tuple[PlacedEndpoint, ...] = ()
        self.known = True
        self.documents: Routing | None = None

    def picture(self) -> ServicePicture:
        return picture(*self.endpoints, policy=self.policy, pool=pool(layout=self.layout), known=self.known)

    def build(
        self, *endpoints: PlacedEndpoint, whole: bool = True, builder: Builder | None = None
    ) -> Snapshot:
        self.endpoints = endpoints or self.endpoints
        self.serial += 1
        return self.catalog(builder or self.builder, whole=whole).snapshot_for(GATEWAY)

    def catalog(self, builder: Builder, *, whole: bool = True) -> ViewCatalog:
        shown = self.picture()
        documents = routing((shown,), (virtual_service(),), (gateway(),))
        if self.documents != documents:  # the mesh keeps the object, too
            self.documents = documents
        assert self.documents is not None
        return builder.build(self.documents, services(shown), self.serial, dirty=None if whole else (HOST,))


def held(snapshot: Snapshot) -> dict[str, dict[int, tuple[str, ...]]]:
    """Each assignment's endpoints by port, with their models."""
    found: dict[str, dict[int, tuple[str, ...]]] = {}
    for name, each in snapshot.of(ENDPOINT).resources.items():
        endpoints = found.setdefault(name, {})
        for group in as_dict(each).get("endpoints", []):
            for endpoint in group["lb_endpoints"]:
                port = endpoint["endpoint"]["address"]["socket_address"]["port_value"]
                lb = endpoint.get("metadata", {}).get("filter_metadata", {}).get("envoy.lb", {})
                endpoints[port] = tuple(lb.get(KEY, ()))
    return found


def union(snapshot: Snapshot, layout: PoolLayout, prefix: str = f"{HOST}|8033") -> dict[int, set[str]]:
    """Which models each endpoint has over all of the shards; each model must be in its own shard alone."""
    joined: dict[int, set[str]] = defaultdict(set)
    for name, endpoints in held(snapshot).items():
        for port, listed in endpoints.items():
            models = listed
            if name == f"{prefix}|rest":
                assert listed == ()
            elif layout.kind is LayoutKind.PER_MODEL:
                assert listed == ()
                models = (name.removeprefix(f"{prefix}~"),)
            elif layout.kind is LayoutKind.SHARDED:
                index, count = map(int, name.removeprefix(f"{prefix}|").split("of"))
                assert all(xxh64_intdigest(model.encode(), 0) % count == index for model in models)
            assert joined[port].isdisjoint(models)
            joined[port] |= set(models)
    return {port: models for port, models in joined.items() if models}


histories = st.lists(
    st.dictionaries(
        st.integers(1, 5),
        st.tuples(st.sets(st.sampled_from(NAMES)), st.booleans(), st.sampled_from(["prod", "test"])),
        min_size=1,
    ),
    min_size=1,
    max_size=5,
)
layouts = st.sampled_from([SINGLE, sharded(2), sharded(8), PER_MODEL, sharded()])


@settings(max_examples=12, deadline=None)
@given(layouts, st.sampled_from([NO, ANY, DEFAULT]), histories, st.booleans())
def test_the_union_of_the_shards_is_the_mesh_and_history_leaves_no_trace(
    layout: PoolLayout, fallback: Fallback, history: list[dict[int, tuple[set[str], bool, str]]], whole: bool
) -> None:
    world = Pool(layout, fallback, default_subset={"stage": "prod"})
    for moment in history:
        endpoints = tuple(
            placed(port, sorted(models), {"stage": stage}, healthy=healthy)
            for port, (models, healthy, stage) in sorted(moment.items())
        )
        snapshot = world.build(*endpoints, whole=whole)
        wanted = {each.endpoint.id.port: set(each.models) for each in endpoints if each.models}
        if layout.kind is LayoutKind.PER_MODEL and fallback is not NO:
            assert {p: m & wanted[p] for p, m in union(snapshot, layout).items() if p in wanted} == wanted
        else:
            assert union(snapshot, layout) == wanted
    fresh = world.build(builder=Builder(BuildOptions()))
    for url in (CLUSTER, ENDPOINT):
        left = snapshot.of(url).resources
        assert {name: left[name].version for name in fresh.of(url).resources} == {
            name: each.version for name, each in fresh.of(url).resources.items()
        }
    if layout.kind is not LayoutKind.PER_MODEL:
        assert [snapshot.of(url).version for url in ORDER] == [fresh.of(url).version for url in ORDER]


@given(st.text(min_size=1), st.integers(2, 1024))
def test_a_models_shard_is_its_hash_modulo_the_number(model: str, count: int) -> None:
    try:
        data = model.encode()
    except UnicodeEncodeError:
        return
    assert shard_of(model, count) == xxh64_intdigest(data, seed=0) % count


def test_routes_name_the_shards_in_order_with_equal_weights_and_wait_for_all_of_them() -> None:
    world = Pool(sharded(4))
    snapshot = world.build(placed(1, ["a", "b", "c", "d", "e"]), placed(2, ["a"]))
    clusters = [f"{HOST}|8033|{index}of4" for index in range(4)]
    every = [*clusters, f"{HOST}|8033|rest"]
    assert list(snapshot.of(CLUSTER).resources) == list(snapshot.of(ENDPOINT).resources) == every
    ((unnamed, named),) = the_routes(world.catalog(world.builder)).values()
    assert unnamed["route"]["cluster"] == f"{HOST}|8033|rest"
    assert unnamed["match"]["headers"] == [
        {"name": "model", "string_match": {"exact": ""}, "treat_missing_header_as_empty": True}
    ]
    action = named["route"]
    assert action["weighted_clusters"] == {
        "clusters": [{"name": name, "weight": 1} for name in clusters],
        "use_hash_policy": True,
    }
    assert action["hash_policy"] == [{"header": {"header_name": "model"}, "terminal": True}]
    (resource,) = snapshot.of(ROUTE).resources.values()
    assert resource.requires == {(url, name) for url in (CLUSTER, ENDPOINT) for name in every}


def test_a_change_touches_its_own_shards_only() -> None:
    world = Pool(sharded(16))
    endpoints = [placed(port, [f"m{port}-{n}" for n in range(20)]) for port in range(1, 30)]
    before = world.build(*endpoints)
    made = world.builder.stats.assignments
    endpoints[7] = replace(endpoints[7], models=(*endpoints[7].models, "new"))
    after = world.build(*endpoints, whole=False)
    changed = [
        name
        for name, each in after.of(ENDPOINT).resources.items()
        if before.of(ENDPOINT).resources[name] is not each
    ]
    assert changed == [f"{HOST}|8033|{shard_of('new', 16)}of16"]
    assert world.builder.stats.assignments == made + 1
    assert all(after.of(url) is before.of(url) for url in ORDER if url != ENDPOINT)


def test_an_endpoint_is_only_in_the_shards_of_its_models() -> None:
    snapshot = Pool(sharded(16)).build(placed(1, ["a", "b"]), placed(2, []))
    shards = {shard_of(model, 16) for model in "ab"}
    found = held(snapshot)
    assert found.pop(f"{HOST}|8033|rest") == {1: (), 2: ()}
    for name, endpoints in found.items():
        index = int(name.split("|")[2].split("of")[0])
        assert set(endpoints) == ({1} if index in shards else set())


@pytest.mark.parametrize(("fallback", "everywhere"), [(NO, set()), (ANY, {1, 2, 3}), (DEFAULT, {2})])
def test_who_may_take_a_miss_is_in_every_shard(fallback: Fallback, everywhere: set[int]) -> None:
    world = Pool(sharded(64), fallback, default_subset={"stage": "prod"} if fallback is DEFAULT else {})
    snapshot = world.build(placed(1, ["a"]), placed(2, ["b"], {"stage": "prod"}), placed(3))
    empty = [
        set(endpoints)
        for name, endpoints in held(snapshot).items()
        if not name.endswith("rest")
        and int(name.split("|")[2].split("of")[0]) not in {shard_of("a", 64), shard_of("b", 64)}
    ]
    assert len(empty) >= 62
    assert all(each == everywhere for each in empty)


def test_a_default_subset_that_names_a_model_keeps_one_cluster() -> None:
    world = Pool(sharded(4), DEFAULT, default_subset={KEY: "a"})
    assert list(world.build(placed(1, ["a"])).of(CLUSTER).resources) == [f"{HOST}|8033"]
    state = world.builder.state(HOST)
    assert state is not None
    assert state.choice is not None
    assert state.choice.why == "its default subset names a model"


def test_a_former_layout_stays_and_follows_until_it_is_dropped() -> None:
    world = Pool(SINGLE)
    world.build(placed(1, ["a"]), placed(2, ["b"]))
    world.layout = sharded(2)
    both = world.build()
    names = [f"{HOST}|8033", *(f"{HOST}|8033|{each}" for each in ("0of2", "1of2", "rest"))]
    assert list(both.of(CLUSTER).resources) == names

    (resource,) = both.of(ROUTE).resources.values()
    assert {name for _, name in resource.requires} == set(names[1:])
    moved = world.build(placed(1, ["a", "b"]), placed(2, []), whole=False)
    assert held(moved)[names[0]] == {1: ("a", "b"), 2: ()}
    ((host, laid),) = world.builder.take_former()
    assert world.builder.drop(host, laid)
    assert not world.builder.drop(host, laid)
    assert list(world.build(whole=False).of(CLUSTER).resources) == names[1:]
    world.layout = SINGLE
    assert list(world.build().of(CLUSTER).resources) == names


def test_a_layout_that_comes_back_before_it_is_dropped_is_taken_up_again() -> None:
    world = Pool(SINGLE)
    first = world.build(placed(1, ["a"]))
    for layout in (sharded(2), SINGLE):
        world.layout = layout
        last = world.build()
    assert last.of(ENDPOINT).resources[f"{HOST}|8033"] is first.of(ENDPOINT).resources[f"{HOST}|8033"]
    state = world.builder.state(HOST)
    assert state is not None
    assert [each.layout.count for each in state.former] == [2]


def test_several_destinations_of_which_one_is_split_share_out_the_requests() -> None:
    split = picture(placed(1, ["a"]), policy=policy(), pool=pool(layout=sharded(2)))
    other = picture(placed(2, host="other"), of=service("other"))
    documents = routing(
        (split, other),
        (virtual_service(route(Destination(HOST, 8033, 25), Destination("other", 8033, 75))),),
        (gateway(),),
    )
    catalog = Builder(BuildOptions()).build(documents, services(split, other), 1)
    ((rest, first, second),) = the_routes(catalog).values()
    for each in (rest, first):
        assert each["match"]["runtime_fraction"] == {
            "default_value": {"numerator": 250_000, "denominator": "MILLION"}
        }
    assert rest["name"] == first["name"] == second["name"]
    assert rest["route"]["cluster"] == f"{HOST}|8033|rest"
    assert len(first["route"]["weighted_clusters"]["clusters"]) == 2
    assert second["match"] == {"prefix": "/"}
    assert second["route"]["cluster"] == "other|8033"


def test_a_cluster_for_each_model_is_chosen_by_a_name_that_no_request_can_leave() -> None:
    world = Pool(PER_MODEL)
    snapshot = world.build(placed(1, ["a", 'b"]] .. x'], {"zone": "z"}))
    every = [f"{HOST}|8033|rest", f"{HOST}|8033~a", f'{HOST}|8033~b"]] .. x']
    assert list(snapshot.of(CLUSTER).resources) == every
    assert held(snapshot) == {name: {1: ()} for name in every}
    balanced = one(world.catalog(world.builder), CLUSTER, f"{HOST}|8033~a")["load_balancing_policy"]
    assert balanced["policies"][0]["typed_extension_config"]["name"].endswith("least_request")
    gone = world.build(placed(1, ["a"]))
    assert held(gone)[f'{HOST}|8033~b"]] .. x'] == {}


def test_a_model_that_nobody_has_any_more_is_anyones_where_a_miss_is() -> None:
    world = Pool(PER_MODEL, ANY)
    world.build(placed(1, ["a"]), placed(2, ["b"]))
    assert held(world.build(placed(1, []), placed(2, ["b"]), whole=False)) == {
        f"{HOST}|8033|rest": {1: (), 2: ()},
        f"{HOST}|8033~a": {1: (), 2: ()},
        f"{HOST}|8033~b": {2: ()},
    }
    assert held(world.build(placed(2, ["b"]), whole=False))[f"{HOST}|8033~a"] == {2: ()}


def test_a_model_that_nobody_has_follows_a_change_of_what_becomes_of_misses() -> None:
    world = Pool(PER_MODEL, NO)
    world.build(placed(1, ["a"]), placed(2, ["b"]))
    assert held(world.build(placed(1, []), placed(2, ["b"])))[f"{HOST}|8033~a"] == {}
    for fallback, anyone in ((ANY, {1: (), 2: ()}), (NO, {}), (ANY, {1: (), 2: ()})):
        world.policy = policy(Selector((KEY,), fallback))
        assert held(world.build())[f"{HOST}|8033~a"] == anyone
    assert held(world.build(placed(1, ["a"]), placed(2, ["b"]), whole=False))[f"{HOST}|8033~a"] == {1: ()}


def test_nothing_of_a_pool_that_is_not_known_yet_is_sent() -> None:
    world = Pool(sharded(2))
    world.known = False
    snapshot = world.build(placed(1, []))
    assert snapshot.of(ENDPOINT).withheld == {f"{HOST}|8033|{each}" for each in ("0of2", "1of2", "rest")}
    world.known = True
    after = world.build(placed(1, ["a"]), whole=False)
    assert (after.of(ENDPOINT).withheld, len(after.of(ENDPOINT).resources)) == (frozenset(), 3)


@settings(max_examples=6, deadline=None)
@given(layouts, histories)
def test_what_a_snapshot_says_has_changed_is_what_differs(
    layout: PoolLayout, history: list[dict[int, tuple[set[str], bool, str]]]
) -> None:
    world = Pool(layout)
    before = world.build(placed(1, ["a"]))
    for moment in history:
        endpoints = [
            placed(port, sorted(models), healthy=healthy)
            for port, (models, healthy, _) in sorted(moment.items())
        ]
        after = world.build(*endpoints, whole=False)
        plain = [
            Snapshot(0, {url: replace(of, base="", changed=frozenset()) for url, of in each.types.items()})
            for each in (before, after)
        ]
        assert changed_names(before, after) == changed_names(*plain)
        before = after


def test_a_shard_tells_what_its_own_names_are_known_as():
    names = [f"n{number}" for number in range(8)]
    one = replace(placed(1, names), known_as=tuple((name, f"has-{name}") for name in names[:6]))
    for layout in (SINGLE, sharded(4), PER_MODEL):
        told: list[str] = []
        for name, each in Pool(layout).build(one).of(ENDPOINT).resources.items():
            for endpoint in as_dict(each).get("endpoints", [{}])[0].get("lb_endpoints", []):
                spaces = endpoint.get("metadata", {}).get("filter_metadata", {})
                text = spaces.get("xds-server", {}).get("known_as", "&")
                pairs = [pair.split("=") for pair in text.strip("&").split("&") if pair]
                told += [known for _, known in pairs]
                if layout is PER_MODEL and pairs:
                    assert name.endswith(f"~{pairs[0][0]}")
        assert sorted(told) == [known for _, known in one.known_as]
