"""What explain makes of a request by itself: routes, names and meanings, without any Envoy."""

from __future__ import annotations

import json

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.envoy.type.v3 as percent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds_server.admin.explaining import ExplainBody, from_query, pair
from xds_server.admin.requests import BadRequestError, parse
from xds_server.explain.naming import named
from xds_server.explain.request import Request, decoded, encoded, normalised, usual
from xds_server.explain.routing import domains, taken
from xds_server.explain.targets import meant
from xds_server.mesh.names import Names, Split, Versions
from xds_server.mesh.request import Naming, OnDisagreement, RequestNames
from xds_server.mesh.routing import Destination, Route, RouteMatch, StringMatch, VirtualService
from xds_server.mesh.routing import MatchKind as Kind
from xds_server.resources.actions import RouteTimes
from xds_server.resources.routes import Claim, RouteEncoder, claimed

KEY = "models"


def configuration(*routes: Route, hosts: tuple[str, ...] = ("*",)) -> route_v3.RouteConfiguration:
    service = VirtualService("ns/vs", hosts, ("gw",), routes)
    claims = [Claim(hosts, service)]
    encoded = RouteEncoder(RouteTimes()).encode("gateway|80", 80, claimed(claims, 80))
    return route_v3.RouteConfiguration.parse(encoded.body)


def route(*matches: RouteMatch, name: str = "r", names: Names | None = None, **more: object) -> Route:
    naming = Naming(RequestNames(**more), (KEY,), further=names or Names())  # type: ignore[arg-type]
    return Route(name, matches, (Destination("models", 80),), naming=naming)


def found(request: Request, **more: object):
    (one,) = taken(configuration(route(**more)), request)
    return named(one.route, request)


@given(st.text(min_size=1))
def test_a_segment_is_taken_apart_again(text):
    assert decoded(encoded(text)) == text


def test_a_path_is_normalised_as_envoy_does():
    assert normalised("/v2/%41%2d%7E%2F%20%5b?%41") == "/v2/A-~%2F%20%5b?%41"


@pytest.mark.parametrize("text", ["%", "%4", "%zz", "a%f"])
def test_malformed_segments(text):
    assert decoded(text) is None


def test_the_usual_request_names_its_model_twice():
    request = usual("a b/c")
    assert request.path == "/v2/models/a%20b%2Fc/infer"
    assert found(request).model == "a b/c"
    assert found(request).place == "header model"


def test_routes_are_tried_in_order_and_by_all_of_their_conditions():
    uri = RouteMatch(uri=StringMatch(Kind.PREFIX, "/v2/"), headers=(("x", StringMatch(Kind.EXACT, "1")),))
    regex = RouteMatch(uri=StringMatch(Kind.REGEX, "/v[0-9]/.*"))
    made = configuration(route(uri, name="one"), route(regex, name="two"), route(name="rest"))

    def name(path: str, **headers: str) -> str:
        (one,) = taken(made, Request(path, tuple(headers.items())))
        return one.route.name.partition("#")[0]

    assert name("/v2/models/m/infer", x="1") == "ns/vs/one"
    assert name("/v2/models/m/infer", x="2") == "ns/vs/two"
    assert name("/v2/models/m/infer") == "ns/vs/two"
    assert name("/other?/v2/", x="1") == "ns/vs/rest"


@pytest.mark.parametrize(
    ("authority", "host"),
    [("a.example", "a.example"), ("A.example:8080", "a.example"), ("b.example", "*.example"), ("x", None)],
)
def test_the_narrowest_domain_takes_a_request(authority, host):
    services = [
        Claim((domain,), VirtualService(f"ns/{n}", (domain,), ("gw",), (route(),)))
        for n, domain in enumerate(["a.example", "*.example"])
    ]
    body = RouteEncoder(RouteTimes()).encode("gateway|80", 80, claimed(services, 80)).body
    made = route_v3.RouteConfiguration.parse(body)
    assert domains(made) == ["*.example", "a.example"]
    assert [each.virtual_host for each in taken(made, Request("/", authority=authority))] == (
        [host] if host else []
    )


def test_a_fraction_takes_its_share_and_the_next_the_rest():
    def part(name: str, numerator: int | None) -> route_v3.Route:
        match = route_v3.RouteMatch(prefix="/")
        if numerator is not None:
            match.runtime_fraction = core.RuntimeFractionalPercent(
                default_value=percent.FractionalPercent(numerator=numerator)
            )
        return route_v3.Route(name=name, match=match)

    host = route_v3.VirtualHost(
        name="h", domains=["*"], routes=[part("a", 20), part("b", 50), part("c", None)]
    )
    made = route_v3.RouteConfiguration(virtual_hosts=[host])
    shares = {each.route.name: round(each.share, 3) for each in taken(made, Request("/"))}
    assert shares == {"a": 0.2, "b": 0.3, "c": 0.5}


def test_an_inverted_header_match_and_queries():
    header = route_v3.HeaderMatcher(
        name="x", string_match=matcher.StringMatcher(prefix="a"), invert_match=True
    )
    query = route_v3.QueryParameterMatcher(name="q", string_match=matcher.StringMatcher(exact="1"))
    match = route_v3.RouteMatch(prefix="/", headers=[header], query_parameters=[query])
    host = route_v3.VirtualHost(name="h", domains=["*"], routes=[route_v3.Route(name="r", match=match)])
    made = route_v3.RouteConfiguration(virtual_hosts=[host])
    assert taken(made, Request("/?q=1"))
    assert taken(made, Request("/?q=1", (("x", "b"),)))
    assert not taken(made, Request("/?q=1", (("x", "ab"),)))
    assert not taken(made, Request("/?q=2"))


def test_a_grpc_message_names_its_model():
    name = b"mnist"
    message = b"\x12\x01x" + b"\x0a" + bytes([len(name)]) + name
    framed = b"\x00" + len(message).to_bytes(4, "big") + message
    request = Request(
        "/inference.GRPCInferenceService/ModelInfer", (("content-type", "application/grpc"),), body=framed
    )
    said = found(request)
    assert (said.model, said.place, said.version) == ("mnist", "grpc", "x")
    made = configuration(route(names=Names(versions=Versions())))
    (one,) = taken(made, request)
    (target,) = meant(Names(versions=Versions()), one.route, request, said.model or "", said.version)
    assert target.sent_as == "mnist/versions/x"
    (target,) = meant(Names(), one.route, request, said.model or "", said.version)
    assert target.sent_as == "mnist"


def test_two_names_that_disagree_are_refused_where_that_is_configured():
    body = json.dumps({"model": "b"}).encode()
    headers = (("model", "a"), ("content-type", "application/json"))
    request = Request("/v1/chat/completions", headers, body=body)
    assert found(request).model == "a"
    refused = found(request, on_disagreement=OnDisagreement.REJECT)
    assert "names two models: a (header model) and b (json)" in refused.problem


def test_what_a_name_means():
    names = Names(
        aliases={"old": ("m/versions/1",), "any": ("a", "b")},
        versions=Versions(),
        splits={"s": Split((("a", 1), ("old", 3)))},
    )
    made = configuration(route(names=names))

    def meanings(path: str, model: str) -> list[tuple[str, float, str, str]]:
        request = Request(path)
        (one,) = taken(made, request)
        targets = meant(names, one.route, request, model)
        return [(t.name, t.share, t.sent_as, t.path_as(t.sent_as)) for t in targets]

    assert meanings("/v2/models/m/versions/2/infer", "m") == [
        ("m/versions/2", 1, "m/versions/2", "/v2/models/m/versions/2/infer")
    ]
    assert meanings("/v2/models/old/infer", "old") == [
        ("old", 1, "m/versions/1", "/v2/models/m/versions/1/infer")
    ]
    assert meanings("/v1/models/old:predict", "old") == [
        ("old", 1, "m/versions/1", "/v1/models/m/versions/1:predict")
    ]
    assert meanings("/v2/models/any/infer", "any") == [("any", 1, "any", "/v2/models/any/infer")]
    assert meanings("/v2/models/x/infer", "old") == [("old", 1, "m/versions/1", "/v2/models/x/infer")]
    assert meanings("/v2/models/s/infer", "s") == [
        ("a", 0.25, "a", "/v2/models/a/infer"),
        ("old", 0.75, "m/versions/1", "/v2/models/m/versions/1/infer"),
    ]


def test_the_path_that_a_replica_gets_which_is_asked_under_another_name():
    names = Names(versions=Versions(), fallbacks={"m/versions/4": ("m/versions/3", "n")})
    made = configuration(route(names=names))

    def path(asked: str, known: str, model: str) -> str:
        request = Request(asked)
        (one,) = taken(made, request)
        (target,) = meant(names, one.route, request, model)
        return target.path_as(known)

    four = "/v2/models/m/versions/4/infer?q=1"
    assert path(four, "m/versions/3", "m") == "/v2/models/m/versions/3/infer?q=1"
    assert path(four, "n", "m") == "/v2/models/n/infer?q=1"
    assert path("/v2/models/a%2Fb/ready", "a/b/versions/1", "a/b") == "/v2/models/a%2Fb/versions/1/ready"
    assert path("/v1/models/m:predict", "x y/versions/2", "m") == "/v1/models/x%20y/versions/2:predict"


def test_a_question_in_a_query():
    asked = from_query({"model": "m", "port": "80", "header": "a: b"}, ["A: b", "c:d:e"])
    assert asked == ExplainBody(model="m", port=80, headers=[["a", "b"], ["c", "d:e"]])


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"modle": "m"}, "parameter 'modle' is unknown; known: authority, header, method, model, path, port"),
        ({"port": "http"}, "field 'port'"),
        ({"path": "v2"}, "field 'path'"),
    ],
)
def test_questions_of_no_use(query, error):
    with pytest.raises(BadRequestError, match=error):
        from_query(query, [])


def test_bodies_of_no_use():
    with pytest.raises(BadRequestError, match=r"headers\.0"):
        parse(ExplainBody, b'{"headers": [["a"]]}')
    with pytest.raises(BadRequestError, match="NAME:VALUE"):
        pair("nothing")
