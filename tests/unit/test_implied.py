"""What is filled in where nobody wrote it, and that the order of sources never matters."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds_server.mesh.implied import complete, may_share_a_node
from xds_server.mesh.model import Protocol, Service, ServicePort
from xds_server.mesh.policies import Balancer, ConnectionPool, Fallback, Policy, Selector
from xds_server.mesh.pools import DEFAULT_SUBSET_KEY, OpenInference, Pool
from xds_server.mesh.routing import (
    Configuration,
    Destination,
    Gateway,
    GatewayServer,
    HeaderToKey,
    Route,
    RouteMatch,
    Routing,
    VirtualService,
)


def service(host: str = "models", *ports: int, protocol: Protocol = Protocol.HTTP) -> Service:
    return Service(host, "ml", tuple(ServicePort(n, f"p{n}", protocol) for n in ports or (8033,)))


def pool(host: str = "models", **fields) -> Pool:
    return Pool(f"ml/{host}", host, OpenInference(), **fields)


def route(*hosts: str, port: int | None = None, **fields) -> Route:
    matches = (RouteMatch(port=port),) if port else ()
    return Route("r", matches, tuple(Destination(host, 8033) for host in hosts or ("models",)), **fields)


def virtual_service(*routes: Route, name: str = "ml/vs", gateways=("mesh",), hosts=("*",)) -> VirtualService:
    return VirtualService(name, hosts, gateways, routes or (route(),))


def gateway(name: str, *ports: int, selector=None) -> Gateway:
    return Gateway(name, tuple(GatewayServer(port, f"http-{port}") for port in ports), selector)


def routing(**parts) -> Routing:
    return complete([Configuration(**parts)])


class TestPolicy:
    def test_a_pool_without_a_rule_implies_the_selector_on_its_key(self):
        policies = routing(services=(service(),), pools=(pool(subset_key="k"),)).policies
        assert policies == {
            "models": Policy(
                "ml/models",
                "models",
                selectors=(Selector(("k",), Fallback.NO_FALLBACK),),
                implied_by="ml/models",
            )
        }

    def test_with_the_pools_own_word_on_what_is_not_loaded(self):
        policies = routing(pools=(pool(not_loaded=Fallback.ANY_ENDPOINT),)).policies
        assert policies["models"].selectors[0].fallback is Fallback.ANY_ENDPOINT

    def test_a_rule_without_selectors_keeps_all_else_and_gets_the_pools(self):
        limits = ConnectionPool(max_connections=7)
        rule = Policy("ml/rule", "models", Balancer.ROUND_ROBIN, connection_pool=limits)
        policies = routing(pools=(pool(not_loaded=Fallback.ANY_ENDPOINT),), policies=(rule,)).policies
        selector = Selector((DEFAULT_SUBSET_KEY,), Fallback.ANY_ENDPOINT)
        assert policies == {"models": replace(rule, selectors=(selector,), implied_by="ml/models")}

    def test_a_rule_without_selectors_or_pool_is_used_as_it_is(self):
        rule = Policy("ml/rule", "other", Balancer.RANDOM)
        assert routing(pools=(pool(),), policies=(rule,)).policies["other"] == rule

    def test_a_rule_with_selectors_is_used_as_it_is(self):
        rule = Policy("ml/rule", "models", selectors=(Selector(("stage",)),))
        assert routing(pools=(pool(),), policies=(rule,)).policies == {"models": rule}

    def test_a_service_without_a_pool_gets_no_policy(self):
        assert routing(services=(service(),)).policies == {}


class TestHeaders:
    def test_a_route_to_a_pool_that_maps_no_header_maps_model(self):
        (vs,) = routing(
            services=(service(),), pools=(pool(),), virtual_services=(virtual_service(),)
        ).virtual_services
        assert vs.routes[0].header_to_key == (HeaderToKey("model", DEFAULT_SUBSET_KEY),)
        assert vs.routes[0].headers_implied_by == ("ml/models",)

    def test_a_route_that_maps_any_header_is_left_alone(self):
        mapped = route(header_to_key=(HeaderToKey("x", "stage"),))
        (vs,) = routing(pools=(pool(),), virtual_services=(virtual_service(mapped),)).virtual_services
        assert vs.routes == (mapped,)

    def test_a_route_to_no_pool_is_left_alone(self):
        (vs,) = routing(pools=(pool(),), virtual_services=(virtual_service(route("other")),)).virtual_services
        assert vs.routes == (route("other"),)

    def test_a_route_to_two_pools_maps_model_to_both_keys(self):
        pools = (pool("b", subset_key="k2"), pool("a", subset_key="k1"))
        (vs,) = routing(pools=pools, virtual_services=(virtual_service(route("b", "a")),)).virtual_services
        assert vs.routes[0].header_to_key == (HeaderToKey("model", "k1"), HeaderToKey("model", "k2"))
        assert vs.routes[0].headers_implied_by == ("ml/a", "ml/b")


class TestGateways:
    def test_a_reference_that_nothing_defines_implies_a_gateway_on_the_ports_of_the_matches(self):
        vs = virtual_service(route(port=8009), route(port=8008), gateways=("ml/g",))
        assert routing(virtual_services=(vs,)).gateways == (
            replace(gateway("ml/g", 8008, 8009), implied_by="ml/vs"),
        )

    def test_several_services_imply_one_gateway_together(self):
        one = virtual_service(route(port=8009), name="ml/one", gateways=("ml/g",))
        two = virtual_service(route(port=8008), name="ml/two", gateways=("ml/g",))
        none = virtual_service(name="ml/without", gateways=("ml/g",))
        assert routing(virtual_services=(two, none, one)).gateways == (
            replace(gateway("ml/g", 8008, 8009), implied_by="ml/one, ml/two"),
        )

    def test_a_gateway_that_is_defined_is_not_implied(self):
        vs = virtual_service(route(port=8009), gateways=("ml/g", "mesh"))
        defined = gateway("ml/g", 8008)
        assert routing(virtual_services=(vs,), gateways=(defined,)).gateways == (defined,)

    def test_nor_one_without_any_port(self):
        assert routing(virtual_services=(virtual_service(gateways=("ml/g",)),)).gateways == ()

    def test_a_gateway_that_another_source_defines_is_not_implied(self):
        vs = virtual_service(route(port=8009), gateways=("ml/g",))
        joined = complete(
            [Configuration(virtual_services=(vs,)), Configuration(gateways=(gateway("ml/g", 1),))]
        )
        assert joined.gateways == (gateway("ml/g", 1),)

    @pytest.mark.parametrize(
        ("one", "other", "share"),
        [
            (None, None, True),
            (None, {"a": "1"}, True),
            ({"a": "1"}, {"b": "2"}, True),
            ({"a": "1"}, {"a": "1", "b": "2"}, True),
            ({"a": "1", "b": "1"}, {"a": "1", "b": "2"}, False),
        ],
    )
    def test_gateways_share_a_node_unless_a_key_differs(self, one, other, share):
        assert may_share_a_node(gateway("x", 1, selector=one), gateway("y", 1, selector=other)) is share
        assert may_share_a_node(gateway("y", 1, selector=other), gateway("x", 1, selector=one)) is share


class TestRoutesForPools:
    def test_a_service_and_a_pool_alone_are_served(self):
        grpc = service("models", 8034, 8033, protocol=Protocol.GRPC)
        result = routing(services=(grpc,), pools=(pool(),))
        assert result.gateways == (
            Gateway(
                "ml/models",
                (
                    GatewayServer(8033, "grpc-8033", Protocol.GRPC),
                    GatewayServer(8034, "grpc-8034", Protocol.GRPC),
                ),
                implied_by="ml/models",
            ),
        )
        (vs,) = result.virtual_services
        assert (vs.name, vs.hosts, vs.implied_by) == ("ml/models", ("*",), "ml/models")
        assert vs.gateways == ("ml/models", "mesh")
        assert [(r.matches[0].port, r.destinations) for r in vs.routes] == [
            (8033, (Destination("models", 8033),)),
            (8034, (Destination("models", 8034),)),
        ]
        assert all(r.header_to_key == (HeaderToKey("model", DEFAULT_SUBSET_KEY),) for r in vs.routes)

    def test_a_pool_that_a_route_leads_to_gets_none(self):
        vs = virtual_service(gateways=("ml/g",))
        result = routing(services=(service(),), pools=(pool(),), virtual_services=(vs,))
        assert [v.name for v in result.virtual_services] == ["ml/vs"]
        assert result.gateways == ()

    def test_nor_one_without_a_service(self):
        result = routing(pools=(pool(),))
        assert (result.gateways, result.virtual_services) == ((), ())

    def test_a_port_that_a_gateway_has_is_not_taken(self):
        result = routing(
            services=(service("models", 8033, 8034),), pools=(pool(),), gateways=(gateway("ml/other", 8033),)
        )
        assert [(g.name, [s.port for s in g.servers]) for g in result.gateways] == [
            ("ml/models", [8034]),
            ("ml/other", [8033]),
        ]
        ports = {v.gateways: [r.matches[0].port for r in v.routes] for v in result.virtual_services}
        assert ports == {("ml/models",): [8034], ("mesh",): [8033, 8034]}

    def test_of_two_pools_on_one_port_the_first_by_name_takes_it(self):
        result = routing(services=(service("a"), service("b")), pools=(pool("b"), pool("a")))
        assert [g.name for g in result.gateways] == ["ml/a"]
        assert {(v.name, v.hosts, v.gateways) for v in result.virtual_services} == {
            ("ml/a", ("*",), ("ml/a", "mesh")),
            ("ml/b", ("b",), ("mesh",)),
        }

    def test_all_hosts_of_a_sidecars_port_are_left_to_the_route_that_has_them(self):
        vs = virtual_service(route("b"))
        result = routing(services=(service("a"), service("b")), pools=(pool("a"),), virtual_services=(vs,))
        implied = {v.gateways: v.hosts for v in result.virtual_services if v.implied_by}
        assert implied == {("ml/a",): ("*",), ("mesh",): ("a",)}

    def test_names_that_are_taken_are_not_used_again(self):
        result = routing(
            services=(service("models"), service("other")),
            pools=(pool(),),
            gateways=(gateway("ml/models", 80),),
            virtual_services=(virtual_service(route("other"), name="ml/models", gateways=("ml/models",)),),
        )
        assert [g.name for g in result.gateways] == ["ml/models", "ml/models-2"]
        assert [(v.name, v.gateways) for v in result.virtual_services] == [
            ("ml/models", ("ml/models",)),
            ("ml/models-2", ("ml/models-2", "mesh")),
        ]


hosts = st.sampled_from(["a", "b", "c"])
numbers = st.sampled_from([80, 81, 8033])
gateway_names = st.sampled_from(["ml/a", "ml/g", "mesh"])
services = st.builds(lambda host, ports: service(host, *sorted(ports)), hosts, st.sets(numbers, min_size=1))
pools = st.builds(lambda host, key: pool(host, subset_key=key), hosts, st.sampled_from(["k", "l"]))
policies = st.builds(
    lambda host, keys: Policy(f"ml/{host}", host, selectors=tuple(Selector((key,)) for key in keys)),
    hosts,
    st.lists(hosts, max_size=2, unique=True),
)
gateways = st.builds(
    lambda name, ports: gateway(name, *sorted(ports)),
    st.sampled_from(["ml/a", "ml/g"]),
    st.sets(numbers, min_size=1),
)
routes = st.builds(
    lambda to, port: route(*to, port=port), st.lists(hosts, min_size=1, max_size=2), st.none() | numbers
)
virtual_services = st.builds(
    lambda name, routes, gateways: virtual_service(*routes, name=f"ml/vs-{name}", gateways=tuple(gateways)),
    hosts,
    st.lists(routes, min_size=1, max_size=2),
    st.lists(gateway_names, min_size=1, max_size=2, unique=True),
)
configurations = st.builds(
    lambda **parts: Configuration(**{name: tuple(values) for name, values in parts.items()}),
    services=st.lists(services, max_size=3),
    pools=st.lists(pools, max_size=3),
    policies=st.lists(policies, max_size=2),
    gateways=st.lists(gateways, max_size=2),
    virtual_services=st.lists(virtual_services, max_size=3),
)


def shuffled(draw, configuration: Configuration) -> Configuration:
    def mixed(values):
        return tuple(draw(st.permutations(values)))

    return replace(
        configuration,
        services=mixed(configuration.services),
        pools=mixed(configuration.pools),
        policies=mixed(configuration.policies),
        gateways=mixed(configuration.gateways),
        virtual_services=mixed(configuration.virtual_services),
    )


@given(data=st.data(), parts=st.lists(configurations, max_size=3))
def test_the_order_of_sources_and_within_them_never_matters(data, parts):
    mixed = [shuffled(data.draw, part) for part in data.draw(st.permutations(parts))]
    result, other = complete(parts), complete(mixed)
    assert result == other
    for mapping in (result.services, result.policies, result.pools):
        assert list(mapping) == sorted(mapping)
    assert [list(result.policies), list(result.pools)] == [list(other.policies), list(other.pools)]
    assert [g.name for g in result.gateways] == sorted({g.name for g in result.gateways})
    assert [v.name for v in result.virtual_services] == sorted({v.name for v in result.virtual_services})


@given(parts=st.lists(configurations, max_size=2))
def test_every_pool_with_a_service_can_be_reached_and_is_grouped_by_its_key(parts):
    result = complete(parts)
    routed = {d.host for v in result.virtual_services for r in v.routes for d in r.destinations}
    written = {policy.host for part in parts for policy in part.policies if policy.selectors}
    for host, found in result.pools.items():
        assert host in routed or host not in result.services
        (*_, last) = result.policies[host].selectors
        assert host in written or last.keys == (found.subset_key,)


@given(parts=st.lists(configurations, max_size=2))
def test_what_a_pool_implies_takes_no_port_of_another_gateway(parts):
    result = complete(parts)
    pool_names = {pool.name for pool in result.pools.values()}
    for one in result.gateways:
        if one.implied_by in pool_names:
            taken = {s.port for g in result.gateways if g is not one for s in g.servers}
            assert taken.isdisjoint(s.port for s in one.servers)
