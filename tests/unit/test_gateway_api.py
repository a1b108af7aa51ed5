"""Gateway API objects: what they make for Envoy, and what is said in their status."""

import random

import pytest
from api_objects import (
    backend,
    entry,
    gateway,
    gateway_class,
    grant,
    http_route,
    istio_gateway,
    pool,
)

from xds_server.config.document_set import DocumentSet
from xds_server.config.gateway_api import GatewayApi, Shapes, compile_gateway_api
from xds_server.config.objects import key_of, unit_of
from xds_server.mesh.routing import UNRESOLVED, Destination, MatchKind, StringMatch

LATER = "2026-02-02T00:00:00Z"


def outcome(*objects, documents=(), grants=(), shapes=None):
    known = DocumentSet()
    for value in (entry(), pool(), *documents):
        known.put(unit_of(value))
    configuration = known.compile().configuration
    kinds = {"GatewayClass": [gateway_class()], "Gateway": [], "HTTPRoute": []}
    for value in objects:
        kinds[value["kind"]].append(value)
    return compile_gateway_api(
        GatewayApi(kinds["GatewayClass"], kinds["Gateway"], kinds["HTTPRoute"], grants),
        {each.name: each for each in configuration.pools},
        {service.host: service for service in configuration.services},
        configuration.gateways,
        shapes,
    )


def routes(result, index=0):
    return result.virtual_services[index].routes


def said(result, value, type_, parent=0):
    status = result.status[key_of(value)]
    listed = status["parents"][parent]["conditions"] if "parents" in status else status["conditions"]
    (found,) = [each for each in listed if each["type"] == type_]
    assert found["observedGeneration"] == value["metadata"]["generation"]
    return found["status"], found["reason"], found["message"]


def listener(result, value, type_, index=0):
    listed = result.status[key_of(value)]["listeners"][index]["conditions"]
    (found,) = [each for each in listed if each["type"] == type_]
    return found["status"], found["reason"]


def rule(*matches, **rest):
    return {"backendRefs": [backend()], **({"matches": list(matches)} if matches else {}), **rest}


def path(value, type_="PathPrefix"):
    return {"path": {"type": type_, "value": value}}


def test_a_route_to_a_pool():
    front, route = gateway(generation=3), http_route(generation=4)
    result = outcome(front, route)
    (made,) = result.gateways
    assert (made.name, made.selector, [server.port for server in made.servers]) == (
        *("ml/front@gateway-api", None),
        [8080],
    )
    (service,) = result.virtual_services
    assert (service.hosts, service.gateways) == (("*",), ("ml/front@gateway-api",))
    (one,) = service.routes
    assert one.destinations == (Destination("models", 8033),)
    assert [match.uri for match in one.matches] == [None]
    assert said(result, route, "Accepted")[:2] == ("True", "Accepted")
    assert said(result, route, "ResolvedRefs")[:2] == ("True", "ResolvedRefs")
    assert said(result, front, "Accepted")[:2] == ("True", "Accepted")
    assert said(result, front, "Programmed")[:2] == ("True", "Programmed")
    assert result.status[key_of(front)]["listeners"][0]["attachedRoutes"] == 1
    (parent,) = result.status[key_of(route)]["parents"]
    assert parent["controllerName"] == "xds-server.dev/gateway-controller"
    assert parent["parentRef"] == {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "front"}
    assert said(result, gateway_class(), "Accepted")[0] == "True"


def test_objects_of_other_controllers_are_left_alone():
    other = gateway(name="other")
    other["spec"]["gatewayClassName"] = "istio"
    route = http_route(parentRefs=[{"name": "other"}, {"name": "elsewhere", "kind": "Service", "group": ""}])
    result = outcome(other, route, gateway_class("istio", "istio.io/gateway-controller"))
    assert not result.gateways
    assert not result.virtual_services
    assert set(result.status) == {key_of(gateway_class())}


@pytest.mark.parametrize(
    ("match", "uris"),
    [
        (path("/v2"), [(MatchKind.EXACT, "/v2"), (MatchKind.PREFIX, "/v2/")]),
        (path("/v2/"), [(MatchKind.EXACT, "/v2"), (MatchKind.PREFIX, "/v2/")]),
        (path("/v2", "Exact"), [(MatchKind.EXACT, "/v2")]),
        (path("/v[0-9]+/.*", "RegularExpression"), [(MatchKind.REGEX, "/v[0-9]+/.*")]),
    ],
)
def test_paths(match, uris):
    result = outcome(gateway(), http_route(rule(match)))
    (one,) = routes(result)
    assert [(found.uri.kind, found.uri.value) for found in one.matches] == uris
    assert {found.port for found in one.matches} == {8080}


def test_headers_and_methods():
    headers = [
        {"name": "X-Team", "value": "vision"},
        {"name": "x-team", "value": "ignored"},
        {"type": "RegularExpression", "name": "x-stage", "value": "prod|test"},
    ]
    (one,) = routes(outcome(gateway(), http_route(rule({"headers": headers, "method": "POST"}))))
    assert one.matches[0].headers == (
        (":method", StringMatch(MatchKind.EXACT, "POST")),
        ("x-stage", StringMatch(MatchKind.REGEX, "prod|test")),
        ("x-team", StringMatch(MatchKind.EXACT, "vision")),
    )


def test_weights_timeouts_and_ports():
    refs = [backend(weight=9), backend(weight=0), backend(port=8033, weight=1)]
    timeouts = {"request": "10s", "backendRequest": "1500ms"}
    (one,) = routes(outcome(gateway(), http_route({"backendRefs": refs, "timeouts": timeouts})))
    assert one.destinations == (Destination("models", 8033, 9), Destination("models", 8033, 1))
    assert one.timeout == 10.0
    assert (one.retries.attempts, one.retries.per_try_timeout) == (2, 1.5)


@pytest.mark.parametrize(
    ("refs", "reason", "words"),
    [
        ([backend("nope")], "BackendNotFound", "no ModelPool ml/nope is in force"),
        (
            [{"name": "web", "port": 80}],
            "InvalidKind",
            "the backend web is a Service; expected xds-server.dev",
        ),
        ([backend(port=1)], "BackendNotFound", "has port 1 in it; expected 8033"),
        ([backend(namespace="other")], "RefNotPermitted", "no ReferenceGrant in other lets HTTPRoutes of ml"),
    ],
)
def test_references_that_cannot_be_followed_get_a_500(refs, reason, words):
    route = http_route({"backendRefs": [*refs, backend(weight=3)]})
    result = outcome(gateway(), route)
    status, found, message = said(result, route, "ResolvedRefs")
    assert (status, found) == ("False", reason)
    assert words in message
    assert said(result, route, "Accepted")[0] == "True"
    (one,) = routes(result)
    assert [(each.host, each.weight) for each in one.destinations] == [(UNRESOLVED, 1), ("models", 3)]


@pytest.mark.parametrize("refs", [[], [backend(weight=0)]])
def test_a_rule_without_a_backend_gets_a_500(refs):
    (one,) = routes(outcome(gateway(), http_route({"backendRefs": refs})))
    assert [each.host for each in one.destinations] == [UNRESOLVED]


@pytest.mark.parametrize(("to_name", "allowed"), [(None, True), ("far", True), ("another", False)])
def test_a_reference_grant(to_name, allowed):
    route = http_route({"backendRefs": [backend("far", namespace="other")]})
    far = [entry("far", namespace="other", name="far"), pool("far", namespace="other", name="far")]
    result = outcome(gateway(), route, documents=far, grants=[grant("ml", "other", to_name)])
    assert said(result, route, "ResolvedRefs")[0] == str(allowed)
    assert (routes(result)[0].destinations[0].host == "far") is allowed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"filters": [{"type": "URLRewrite"}]},
            "spec.rules[0].filters: found a value; expected nothing: xds-server does not support it",
        ),
        (
            {"matches": [{"queryParams": [{"name": "a", "value": "b"}]}]},
            "spec.rules[0].matches[0].queryParams",
        ),
        ({"matches": [path("(?=x)", "RegularExpression")]}, "spec.rules[0].matches[0].path"),
        ({"matches": [path("v2")]}, 'spec.rules[0].matches[0].path.value: found "v2"; expected a path that'),
        (
            {"timeouts": {"request": "soon"}},
            'spec.rules[0].timeouts.request: found "soon"; expected a duration',
        ),
    ],
)
def test_what_is_not_supported_is_said_and_not_routed(change, words):
    route = http_route({"backendRefs": [backend()], **change})
    result = outcome(gateway(), route, http_route(name="good"))
    status, reason, message = said(result, route, "Accepted")
    assert (status, reason) == ("False", "UnsupportedValue")
    assert words in message
    assert [each.name for each in routes(result)] == ["ml/good/0"]


@pytest.mark.parametrize(
    ("listener_part", "route_part", "reason"),
    [
        ({}, {"parentRefs": [{"name": "front", "sectionName": "nope"}]}, "NoMatchingParent"),
        ({}, {"parentRefs": [{"name": "front", "port": 9}]}, "NoMatchingParent"),
        ({"hostname": "a.example"}, {"hostnames": ["b.example"]}, "NoMatchingListenerHostname"),
        ({"hostname": "*.example"}, {"hostnames": ["example"]}, "NoMatchingListenerHostname"),
        ({"allowedRoutes": {"namespaces": {"from": "None"}}}, {}, "NotAllowedByListeners"),
        (
            {},
            {"namespace": "other", "parentRefs": [{"name": "front", "namespace": "ml"}]},
            "NotAllowedByListeners",
        ),
        ({"protocol": "HTTPS"}, {}, "NoMatchingParent"),
        ({"allowedRoutes": {"kinds": [{"kind": "GRPCRoute"}]}}, {}, "NotAllowedByListeners"),
    ],
)
def test_routes_that_no_listener_takes(listener_part, route_part, reason):
    route = http_route(**route_part)
    result = outcome(gateway(listener_part), route)
    assert said(result, route, "Accepted")[:2] == ("False", reason)
    assert not result.virtual_services


@pytest.mark.parametrize(
    "namespaces",
    [
        {"from": "All"},
        {"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}},
    ],
)
def test_routes_of_other_namespaces_where_the_listener_takes_them(namespaces):
    front = gateway({"allowedRoutes": {"namespaces": namespaces}})
    refs = {"backendRefs": [backend(namespace="ml")]}
    route = http_route(refs, namespace="other", parentRefs=[{"name": "front", "namespace": "ml"}])
    result = outcome(front, route, grants=[grant("other", "ml")])
    assert said(result, route, "Accepted")[0] == "True"
    assert routes(result)[0].destinations[0].host == "models"


def test_the_most_specific_match_is_tried_first_whatever_the_order():
    """Exact, then the longest prefix, then a method, then more headers, then age, then name."""
    header = {"headers": [{"name": "a", "value": "b"}]}
    specs = [
        ("exact", path("/v2", "Exact"), {}),
        ("regex", path("/v.*", "RegularExpression"), {}),
        ("long", path("/v2/models"), {}),
        ("short-method", {**path("/v2"), "method": "POST"}, {}),
        ("short-headers", {**path("/v2"), **header}, {}),
        ("z-short-older", path("/v2"), {}),
        ("a-short-newer", path("/v2"), {"creationTimestamp": LATER}),
        ("b-short-newer", path("/v2"), {"creationTimestamp": LATER}),
        ("rest", {}, {}),
    ]
    made = [http_route(rule(match), name=name, **rest) for name, match, rest in specs]
    for seed in range(5):
        shuffled = random.Random(seed).sample(made, len(made))
        found = [each.name for each in routes(outcome(gateway(), *shuffled))]
        assert found == [f"ml/{name}/0" for name, _, _ in specs]


def test_nearer_hosts_are_tried_first_and_farther_ones_after_them():
    wide = http_route(rule(path("/a", "Exact")), name="wide", hostnames=["*.example.com"])
    near = http_route(rule(path("/")), name="near", hostnames=["a.example.com"])
    result = outcome(gateway(), wide, near)
    assert {each.hosts: [route.name for route in each.routes] for each in result.virtual_services} == {
        ("*.example.com",): ["ml/wide/0"],
        ("a.example.com",): ["ml/near/0", "ml/wide/0"],
    }


def test_requests_belong_to_the_nearest_listener():
    front = gateway({"name": "all"}, {"name": "near", "hostname": "a.example.com"})
    one = http_route(name="one", parentRefs=[{"name": "front", "sectionName": "all"}])
    two = http_route(
        name="two", parentRefs=[{"name": "front", "sectionName": "near"}], hostnames=["a.example.com"]
    )
    result = outcome(front, one, two)
    assert {each.hosts: [route.name for route in each.routes] for each in result.virtual_services} == {
        ("*",): ["ml/one/0"],
        ("a.example.com",): ["ml/two/0"],
    }
    assert result.gateways[0].servers[0].hosts == ("*", "a.example.com")


def test_a_port_that_another_gateway_has_on_the_same_envoys():
    front = gateway({"port": 8008}, {"name": "free", "port": 8081})
    result = outcome(front, documents=[istio_gateway(8008)])
    assert listener(result, front, "Accepted") == ("False", "PortUnavailable")
    assert listener(result, front, "Accepted", 1) == ("True", "Accepted")
    assert said(result, front, "Accepted")[:2] == ("True", "ListenersNotValid")
    apart = gateway({"port": 8080}, name="apart", creationTimestamp=LATER, generation=2)
    both = outcome(gateway(), apart)
    assert said(both, apart, "Accepted")[:2] == ("False", "ListenersNotValid")
    assert said(both, apart, "Programmed")[:2] == ("False", "Invalid")


def test_labels_of_the_infrastructure_choose_the_envoys():
    one, two = gateway(), gateway(name="two", creationTimestamp=LATER)
    one["spec"]["infrastructure"] = {"labels": {"front": "one"}}
    two["spec"]["infrastructure"] = {"labels": {"front": "two"}}
    result = outcome(one, two)
    assert [(each.name, each.selector) for each in result.gateways] == [
        ("ml/front@gateway-api", {"front": "one"}),
        ("ml/two@gateway-api", {"front": "two"}),
    ]


@pytest.mark.parametrize(
    ("part", "type_", "reason"),
    [
        ({"protocol": "TCP"}, "Accepted", "UnsupportedProtocol"),
        ({"allowedRoutes": {"kinds": [{"kind": "GRPCRoute"}]}}, "ResolvedRefs", "InvalidRouteKinds"),
    ],
)
def test_listeners_that_are_not_taken(part, type_, reason):
    front = gateway(part)
    assert listener(outcome(front), front, type_) == ("False", reason)


def test_a_gateway_of_a_wrong_shape():
    front = gateway()
    front["spec"]["addresses"] = [{"value": "10.0.0.1"}]
    route = http_route()
    result = outcome(front, route)
    assert said(result, front, "Accepted")[:2] == ("False", "Invalid")
    assert "spec.addresses" in said(result, front, "Accepted")[2]
    assert said(result, route, "Accepted")[:2] == ("False", "NoMatchingParent")


def test_a_bad_route_stays_as_it_was_and_says_why():
    shapes = Shapes()
    before = outcome(gateway(), http_route(), shapes=shapes)
    bad = http_route(rule(path("/v2"), filters=[{"type": "URLRewrite"}]), generation=2)
    result = outcome(gateway(), bad, shapes=shapes)
    assert result.virtual_services == before.virtual_services
    assert said(result, bad, "Accepted")[:2] == ("False", "UnsupportedValue")
    assert result.status[key_of(bad)] == outcome(gateway(), bad).status[key_of(bad)]
    outcome(gateway(), shapes=shapes)
    assert not outcome(gateway(), bad, shapes=shapes).virtual_services


def test_a_bad_gateway_stays_as_it_was_and_says_why():
    shapes = Shapes()
    before = outcome(gateway(), http_route(), shapes=shapes)
    bad = gateway(generation=2)
    bad["spec"]["addresses"] = [{"value": "10.0.0.1"}]
    result = outcome(bad, http_route(), shapes=shapes)
    assert (result.gateways, result.virtual_services) == (before.gateways, before.virtual_services)
    assert said(result, bad, "Accepted")[:2] == ("False", "Invalid")
    assert said(result, bad, "Programmed")[:2] == ("False", "Invalid")
    started_later = outcome(bad, http_route())
    assert not started_later.gateways
    for value in (bad, http_route()):
        mine, theirs = result.status[key_of(value)], started_later.status[key_of(value)]
        assert mine.get("parents") == theirs.get("parents")
        assert mine.get("conditions") == theirs.get("conditions")
