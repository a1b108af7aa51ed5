"""Names that Envoy's rules copy: the very names that the script would find, and no others."""

from __future__ import annotations

import re
from typing import Any

import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 as header_to_metadata
import envoy_data_plane.envoy.extensions.filters.http.lua.v3 as lua
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xds_server.explain.naming import named
from xds_server.explain.request import Request
from xds_server.explain.routing import taken
from xds_server.mesh.layout import LayoutKind
from xds_server.mesh.misses import Choice, Misses
from xds_server.mesh.names import Names, Split, Versions
from xds_server.mesh.pools import OpenAI, OpenInference, Pool
from xds_server.mesh.request import MODEL_PATHS, Naming, OnDisagreement, RequestNames
from xds_server.mesh.routing import Destination, Route, VirtualService
from xds_server.resources.actions import RouteTimes
from xds_server.resources.direct import path_regexes
from xds_server.resources.filters import ANSWERS, HEADER_TO_METADATA, KNOWN_AS_HEADER, LUA, RENAMES
from xds_server.resources.parts import LB_NAMESPACE
from xds_server.resources.routes import Claim, RouteEncoder, claimed
from xds_server.resources.shards import Layout, Sharding

KEY, HOST, PORT = "models", "models", 80


def configuration(layout: Layout | None = None, **more: Any) -> route_v3.RouteConfiguration:
    naming = Naming(**{"names": RequestNames(), "keys": (KEY,), **more})
    service = VirtualService(
        "vs", ("*",), ("gw",), (Route("r", (), (Destination(HOST, PORT),), naming=naming),)
    )
    sharding = Sharding(layouts={} if layout is None else {HOST: layout})
    encoder = RouteEncoder(RouteTimes(), sharding, keys={HOST: KEY})
    body = encoder.encode("gateway|80", PORT, claimed([Claim(("*",), service)], PORT)).body
    return route_v3.RouteConfiguration.parse(body)


def direct(made: route_v3.RouteConfiguration) -> list[str]:
    """The suffixes of the routes whose requests need no script."""
    return [
        each.name.partition("#")[2]
        for each in made.virtual_hosts[0].routes
        if LUA in each.typed_per_filter_config
        and lua.LuaPerRoute.parse(each.typed_per_filter_config[LUA].value).name == ANSWERS
    ]


def copied(route: route_v3.Route, request: Request) -> dict[tuple[str, str], str]:
    """What the route's rules write: (namespace, key) to value, as Envoy's filter does it."""
    found = {}
    for rule in header_to_metadata.Config.parse(
        route.typed_per_filter_config[HEADER_TO_METADATA].value
    ).request_rules:
        value, told = request.value(rule.header), rule.on_header_present
        assert value is not None
        assert told is not None
        rewrite = told.regex_value_rewrite
        if rewrite is not None:
            assert rewrite.pattern is not None
            value = re.sub(rewrite.pattern.regex, rewrite.substitution, value)
        found[told.metadata_namespace, told.key] = told.value or value
    return found


PLAIN = configuration()
CUSTOM = configuration(
    names=RequestNames(
        headers=("x-model",), paths=("/run/{model}",), without_model=("/run/status", "/run/a/*")
    )
)
NAMES = st.sampled_from(
    [
        "m",
        "stats",
        "org%2Fm",
        "a:b",
        "m:predict",
        "m:x",
        "%",
        "",
        " m",
        "a,b",
        "m\u00fc",
        "a b",
        '"',
        "status",
        "a",
        "..",
    ]
)
PATHS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["/v2/models/", "/v1/models/", "/v2/models", "/run/", "/v2/repository/", "/v1/", "/x/"]),
    NAMES,
    st.sampled_from(
        ["", "/", "/infer", ":predict", ":predict/a", "?a=b", "/infer?x=/v2/models/y", "/versions/1/infer"]
    ),
)
HEADERS = st.lists(
    st.tuples(st.sampled_from(["model", "mm-model-id", "mm-vmodel-id", "x-model", "content-type"]), NAMES),
    max_size=3,
)


@given(path=PATHS, headers=HEADERS, made=st.sampled_from([PLAIN, CUSTOM]))
@example(path="/v2/models/stats", headers=[("model", "m")], made=PLAIN)
@example(path="/inference.GRPCInferenceService/ServerLive", headers=[("model", "m")], made=PLAIN)
def test_a_rule_copies_the_name_that_the_script_would_find(path, headers, made):
    request = Request(path, tuple(headers))
    (one,) = taken(made, request)
    if one.route.name.partition("#")[2] not in direct(made):
        return
    expected = named(one.route, request)
    assert not expected.problem
    assert not expected.concerns_none
    assert copied(one.route, request) == {
        (LB_NAMESPACE, KEY): expected.model,
        ("xds-server", "model"): expected.model,
        ("xds-server", "from"): expected.place,
    }


@pytest.mark.parametrize(
    ("path", "headers", "suffix"),
    [
        ("/v2/models/m/infer", {"model": "m"}, "header"),
        ("/v1/chat/completions", {"mm-vmodel-id": "org/m:8b"}, "header"),
        ("/v2/models/m/infer", {}, "path"),
        ("/v1/models/m:predict", {}, "path"),
        ("/v1/models/m/versions/2:predict?a=b", {}, "path"),
        ("/v2/models/m/infer", {"model": ""}, ""),
        ("/v2/models/org%2Fm/infer", {}, ""),
        ("/v2/models/m/infer", {"model": "m\u00fc"}, ""),
        ("/v2/health/ready", {"model": "m"}, ""),
        ("/v2/models/stats", {}, ""),
        ("/v1/chat/completions", {}, "json"),
    ],
)
def test_plain_names_need_no_script(path, headers, suffix):
    (one,) = taken(PLAIN, Request(path, tuple(headers.items())))
    assert one.route.name.partition("#")[2] == suffix


@pytest.mark.parametrize(
    "more",
    [
        {"names": RequestNames(on_disagreement=OnDisagreement.REJECT)},
        {"further": Names(splits={"a": Split((("m", 1),))})},
        {"further": Names(versions=Versions())},
        {"misses": Misses(not_loaded=Choice.FALLBACK_MODEL, fallback_model="f")},
        {"layout": Layout(LayoutKind.PER_MODEL)},
        {"names": RequestNames(without_model=("/" + "a" * 90,))},
    ],
)
def test_what_changes_names_is_the_scripts(more):
    assert direct(configuration(**more)) == []


def test_of_requests_that_are_translated_only_grpc_callers_need_no_script():
    made = configuration(transcode=True)
    assert set(direct(made)) == {"header"}
    for content_type, suffix in (("application/grpc", "header"), ("application/json", "rest")):
        headers = (("content-type", content_type), ("model", "m"))
        (one,) = taken(made, Request("/inference.GRPCInferenceService/ModelInfer", headers))
        assert one.route.name.partition("#")[2] == suffix


def test_a_shard_is_picked_by_the_name_where_it_stands():
    made = configuration(Layout(LayoutKind.SHARDED, 4))
    for headers, header, rewritten in (({"model": "m"}, "model", None), ({}, ":path", "m")):
        (one,) = taken(made, Request("/v2/models/m/infer", tuple(headers.items())))
        assert one.route.route is not None
        (policy,) = one.route.route.hash_policy
        assert policy.header is not None
        assert policy.header.header_name == header
        rewrite = policy.header.regex_rewrite
        found = rewrite and re.sub(rewrite.pattern.regex, rewrite.substitution, "/v2/models/m/infer")
        assert found == rewritten


@pytest.mark.parametrize(
    "templates",
    [
        ("/v1/models/{model}", "/v1/models/{model}:predict"),
        ("/a/{model}", "/a/b/{model}"),
        ("/{tenant}/{model}",),
        ("/a/{model}/infer",),
        ("/a/{model}.json",),
    ],
)
def test_templates_that_may_be_read_in_two_ways_are_the_scripts(templates):
    assert path_regexes(templates) == []


def test_the_usual_templates_are_two_regexes():
    assert [start for start, _ in path_regexes(MODEL_PATHS)] == ["/v2/models/", "/v1/models/"]


def test_a_replica_is_asked_under_another_name_where_a_name_is_only_copied():
    made = configuration(further=Names(aliases={"a": ("m",)}), renames=True)
    assert direct(made) == direct(PLAIN) != []
    for route in made.virtual_hosts[0].routes:
        assert {KNOWN_AS_HEADER, RENAMES} <= route.typed_per_filter_config.keys()
    for route in PLAIN.virtual_hosts[0].routes:
        assert not {KNOWN_AS_HEADER, RENAMES} & route.typed_per_filter_config.keys()


@pytest.mark.parametrize(
    ("more", "renames"),
    [
        ({}, False),
        ({"discovery": OpenAI()}, True),  # it may tell of an adapter
        ({"discovery": OpenAI(), "names": Names(adapter_fallback=False)}, False),
        ({"names": Names(aliases={"a": ("m",)})}, True),
        ({"names": Names(versions=Versions())}, True),
        ({"names": Names(fallbacks={"a": ("m",)})}, True),
        ({"names": Names(splits={"a": Split((("m", 1),))})}, True),
        ({"misses": Misses(no_model=Choice.FALLBACK_MODEL, fallback_model="f")}, True),
    ],
)
def test_which_pools_pay_for_other_names(more, renames):
    assert Pool(**{"name": "p", "host": HOST, "discovery": OpenInference(), **more}).renames is renames
