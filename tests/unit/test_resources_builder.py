"""The builder and the views: entitlement, sharing, what is withheld, and equal bytes for equal input."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.resources_pictures import (
    GATEWAY,
    HOST,
    KEY,
    SIDECAR,
    gateway,
    picture,
    placed,
    policy,
    pool,
    route,
    routing,
    service,
    services,
    the_listener,
    the_routes,
    virtual_service,
)
from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.model import Locality, ServicePicture, ServicePort
from xds_server.mesh.policies import Fallback, Selector
from xds_server.mesh.routing import Destination, Gateway, GatewayServer, Routing
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.resources.endpoints import AssignmentEncoder
from xds_server.resources.views import ViewCatalog, entitlement
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ORDER, ROUTE, Node, Resource, Snapshot

NAME = f"{HOST}|8033"
DR = policy()
POOL = pool()


def build(
    *pictures: ServicePicture,
    builder: Builder | None = None,
    serial: int = 1,
    virtual_services: tuple[Any, ...] = (virtual_service(),),
    gateways: tuple[Gateway, ...] = (gateway(),),
) -> ViewCatalog:
    return (builder or Builder(BuildOptions())).build(
        routing(pictures, virtual_services, gateways), services(*pictures), serial
    )


def models(*endpoints: Any, known: bool = True) -> ServicePicture:
    return picture(*endpoints, policy=DR, pool=POOL, known=known)


def content(snapshot: Snapshot) -> dict[str, Any]:
    return {
        url: (
            snapshot.of(url).version,
            {
                name: (each.body, each.version, each.requires)
                for name, each in snapshot.of(url).resources.items()
            },
            snapshot.of(url).withheld,
        )
        for url in ORDER
    }


def test_all_four_types_of_a_first_service() -> None:
    snapshot = build(models(placed(1, ["a"]))).snapshot_for(GATEWAY)
    assert {url: list(snapshot.of(url).resources) for url in ORDER} == {
        CLUSTER: [NAME],
        ENDPOINT: [NAME],
        LISTENER: ["gateway|8008"],
        ROUTE: ["gateway|8008"],
    }
    assert snapshot.serial == 1


def test_an_unchanged_picture_keeps_its_objects() -> None:
    builder, of = Builder(BuildOptions()), models(placed(1, ["a"]))
    first = build(of, builder=builder).snapshot_for(GATEWAY)
    second = build(of, builder=builder, serial=2).snapshot_for(GATEWAY)
    assert second.serial == 2
    for url in ORDER:
        assert second.of(url) is first.of(url)


def test_a_loaded_model_changes_the_assignment_alone() -> None:
    builder = Builder(BuildOptions())
    first = build(models(placed(1, ["a"])), builder=builder).snapshot_for(GATEWAY)
    second = build(models(placed(1, ["a", "b"])), builder=builder).snapshot_for(GATEWAY)
    for url in (CLUSTER, LISTENER, ROUTE):
        assert second.of(url) is first.of(url)
    assert second.of(ENDPOINT).version != first.of(ENDPOINT).version
    assert second.of(ENDPOINT).resources[NAME].version != first.of(ENDPOINT).resources[NAME].version


def test_content_that_comes_back_has_its_version_again() -> None:
    builder = Builder(BuildOptions())
    first = build(models(placed(1, ["a"])), builder=builder).snapshot_for(GATEWAY)
    build(models(placed(1, [])), builder=builder)
    third = build(models(placed(1, ["a"])), builder=builder).snapshot_for(GATEWAY)
    assert content(third) == content(first)


def test_an_equal_picture_in_a_new_object_keeps_the_resources() -> None:
    builder = Builder(BuildOptions())
    first = build(models(placed(1, ["a"])), builder=builder).snapshot_for(GATEWAY)
    second = build(models(placed(1, ["a"])), builder=builder).snapshot_for(GATEWAY)
    for url in ORDER:
        assert second.of(url) is first.of(url)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_input_leaves_no_trace(random: Any) -> None:
    def shuffled(items: Any) -> list[Any]:
        mixed = list(items)
        random.shuffle(mixed)
        return mixed

    def world(order: Any) -> Snapshot:
        pictures = [
            picture(
                *order(
                    placed(
                        port,
                        order(["a", "b", "c"]),
                        dict(order([("stage", "x"), ("version", "y")])),
                        host=host,
                        locality=Locality(zone=str(port % 2)),
                    )
                    for port in range(1, 4)
                ),
                of=service(host, *order([ServicePort(8033, "http"), ServicePort(8034, "grpc")])),
                policy=policy(
                    *order([Selector(("stage",)), Selector(("version", "stage"), Fallback.ANY_ENDPOINT)]),
                    host=host,
                    default_subset=dict(order([("stage", "x"), ("version", "y")])),
                ),
            )
            for host in order([HOST, "other", "third"])
        ]
        sorted_routing = routing(
            pictures,
            [
                virtual_service(name="ns/a", gateways=tuple(order(["ns/gateway", "mesh"]))),
                virtual_service(
                    route(Destination("other", 8034)), name="ns/b", hosts=tuple(order(["other", "x"]))
                ),
            ],
            [gateway(), gateway("ns/second", 9000)],
        )
        mixed = Routing(
            dict(order(sorted_routing.services.items())),
            dict(order(sorted_routing.policies.items())),
            dict(order(sorted_routing.pools.items())),
            tuple(order(sorted_routing.gateways)),
            tuple(order(sorted_routing.virtual_services)),
        )
        by_host = {each.service.host: each for each in pictures}
        return Builder(BuildOptions()).build(mixed, by_host, 1).snapshot_for(SIDECAR)

    assert content(world(shuffled)) == content(world(list))


def test_an_unknown_pool_is_withheld_and_not_waited_for() -> None:
    builder = Builder(BuildOptions())
    snapshot = build(models(placed(1), known=False), builder=builder).snapshot_for(GATEWAY)
    assert dict(snapshot.of(ENDPOINT).resources) == {}
    assert snapshot.of(ENDPOINT).withheld == {NAME}
    assert snapshot.of(ROUTE).resources["gateway|8008"].requires == {(CLUSTER, NAME)}
    after = build(models(placed(1)), builder=builder).snapshot_for(GATEWAY)
    assert list(after.of(ENDPOINT).resources) == [NAME]
    assert after.of(ENDPOINT).withheld == frozenset()
    assert after.of(ROUTE).resources["gateway|8008"].requires == {(CLUSTER, NAME), (ENDPOINT, NAME)}
    assert after.of(ROUTE).version == snapshot.of(ROUTE).version
    assert after.of(CLUSTER) is snapshot.of(CLUSTER)


def test_a_known_service_without_endpoints_has_an_assignment() -> None:
    assert list(build(models()).snapshot_for(GATEWAY).of(ENDPOINT).resources) == [NAME]


def test_nodes_with_equal_entitlement_share_one_snapshot() -> None:
    catalog = build(models(placed(1)))
    one = catalog.snapshot_for(Node("a", "gateway", {"x": "1"}))
    assert catalog.snapshot_for(Node("b", "edge", {"y": "2"})) is one
    sidecar = catalog.snapshot_for(SIDECAR)
    assert sidecar is not one
    assert sidecar.of(CLUSTER).resources[NAME] is one.of(CLUSTER).resources[NAME]
    assert sidecar.of(ENDPOINT).resources[NAME] is one.of(ENDPOINT).resources[NAME]


def test_a_node_gets_only_what_its_routes_use() -> None:
    other = picture(of=service("other"))
    catalog = build(models(), other)
    assert list(catalog.snapshot_for(GATEWAY).of(CLUSTER).resources) == [NAME]
    assert list(catalog.snapshot_for(SIDECAR).of(CLUSTER).resources) == [NAME, "other|8033"]


def test_only_the_ports_that_are_used_have_clusters_in_a_view() -> None:
    two = picture(of=service(HOST, ServicePort(8033, "http"), ServicePort(8034, "grpc")))
    assert list(build(two).snapshot_for(GATEWAY).of(CLUSTER).resources) == [NAME]


@pytest.mark.parametrize(
    ("selector", "node", "selected"),
    [
        (None, Node("n", "any"), True),
        ({}, Node("n", "any"), True),
        ({"istio": "ingress"}, Node("n", "any", {"istio": "ingress"}), True),
        ({"istio": "ingress"}, Node("n", "ingress"), True),
        ({"istio": "ingress"}, Node("n", "any", {"istio": "other"}), False),
        ({"istio": "ingress"}, Node("n", "any"), False),
        ({"istio": "ingress", "zone": "a"}, Node("n", "ingress", {"zone": "a"}), True),
        ({"istio": "ingress", "zone": "a"}, Node("n", "ingress"), False),
    ],
)
def test_a_selector_is_met_by_labels_or_by_the_nodes_cluster(
    selector: dict[str, str] | None, node: Node, selected: bool
) -> None:
    assert entitlement(node, [gateway(selector=selector)]) == (
        frozenset({"ns/gateway"}) if selected else frozenset()
    )


def test_of_two_gateways_on_one_port_the_first_by_name_has_it_at_a_node_of_both() -> None:
    first = Gateway("ns/a", (GatewayServer(8008, "x", hosts=("a.test",)),))
    second = Gateway("ns/b", (GatewayServer(8008, "x"), GatewayServer(8009, "y")), {"only": "b"})
    both = virtual_service(gateways=("ns/a", "ns/b"))
    catalog = build(models(), gateways=(second, first), virtual_services=(both,))
    assert list(the_routes(catalog)) == ["a.test"]
    node_of_both = catalog.snapshot_for(Node("n", "b"))
    assert list(node_of_both.of(LISTENER).resources) == ["gateway|8008", "gateway|8009"]
    shared = catalog.snapshot_for(GATEWAY).of(ROUTE).resources["gateway|8008"]
    assert node_of_both.of(ROUTE).resources["gateway|8008"] is shared


def test_the_same_name_may_mean_other_content_in_another_view() -> None:
    one = Gateway("ns/a", (GatewayServer(8008, "x", hosts=("a.test",)),), {"is": "a"})
    other = Gateway("ns/b", (GatewayServer(8008, "x", hosts=("b.test",)),), {"is": "b"})
    catalog = build(
        models(), gateways=(one, other), virtual_services=(virtual_service(gateways=("ns/a", "ns/b")),)
    )
    a = catalog.snapshot_for(Node("1", "a")).of(ROUTE)
    b = catalog.snapshot_for(Node("2", "b")).of(ROUTE)
    assert a.version != b.version
    assert a.resources["gateway|8008"].body != b.resources["gateway|8008"].body


def test_changed_documents_change_what_they_say_and_no_more() -> None:
    builder, of = Builder(BuildOptions()), models(placed(1, ["a"]))
    first = build(of, builder=builder).snapshot_for(GATEWAY)
    catalog = build(of, builder=builder, virtual_services=(virtual_service(hosts=("new.test",)),))
    second = catalog.snapshot_for(GATEWAY)
    assert second.of(ROUTE).version != first.of(ROUTE).version
    for url in (CLUSTER, ENDPOINT, LISTENER):
        assert second.of(url).version == first.of(url).version
        assert list(second.of(url).resources.values()) == list(first.of(url).resources.values())
    assert list(the_routes(catalog)) == ["new.test"]
    assert the_listener(catalog)


def test_a_changed_rule_changes_the_cluster_and_keeps_the_assignment() -> None:
    builder = Builder(BuildOptions())
    first = build(models(placed(1, ["a"])), builder=builder).snapshot_for(GATEWAY)
    changed = replace(models(placed(1, ["a"])), policy=policy(Selector((KEY,), Fallback.ANY_ENDPOINT)))
    second = build(changed, builder=builder).snapshot_for(GATEWAY)
    assert second.of(CLUSTER).version != first.of(CLUSTER).version
    assert second.of(ENDPOINT).resources[NAME] is first.of(ENDPOINT).resources[NAME]


def test_a_services_assignments_are_named_for_who_waits_for_them() -> None:
    builder = Builder(BuildOptions())
    two = picture(of=service(HOST, ServicePort(8033, "http"), ServicePort(8034, "grpc")))
    build(two, builder=builder)
    assert builder.assignments(HOST) == (NAME, f"{HOST}|8034")
    assert builder.assignments("gone") == ()


def test_a_service_that_goes_leaves_nothing_behind() -> None:
    builder = Builder(BuildOptions())
    build(models(placed(1, ["a"])), builder=builder)
    snapshot = build(builder=builder).snapshot_for(GATEWAY)
    assert dict(snapshot.of(CLUSTER).resources) == {}
    assert snapshot.of(ROUTE).resources["gateway|8008"].requires == frozenset()
    assert builder.assignments(HOST) == ()


@pytest.mark.parametrize("node", [GATEWAY, SIDECAR], ids=["gateway", "sidecar"])
@pytest.mark.parametrize("holds_models", [True, False])
def test_listeners_without_pools_do_not_ask_for_attempts(node: Node, holds_models: bool) -> None:
    made = models(placed(1, ["m"])) if holds_models else picture(placed(1))
    listeners = build(made).snapshot_for(node).types[LISTENER].resources.values()
    assert listeners
    assert {b"AccessLogConfig" in each.body for each in listeners} == {holds_models}


def test_a_build_that_fails_half_way_leaves_nothing_out_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(*names: str) -> ServicePicture:
        return picture(
            placed(1, names), policy=DR, pool=replace(POOL, layout=PoolLayout(LayoutKind.SHARDED, 4))
        )

    builder, first, second = Builder(BuildOptions()), of("a"), of(*"abcdefgh")
    documents = routing((first,), (virtual_service(),), (gateway(),))
    before = builder.build(documents, services(first), 1).snapshot_for(GATEWAY)
    encode, encoded = AssignmentEncoder.encode, Counter[str]()

    def breaking(encoder: AssignmentEncoder, part: ServicePicture) -> Resource:
        encoded["all"] += 1
        if encoded["all"] == 3:
            raise RuntimeError("a defect")
        return encode(encoder, part)

    monkeypatch.setattr(AssignmentEncoder, "encode", breaking)
    with pytest.raises(RuntimeError, match="a defect"):
        builder.build(documents, services(second), 2, dirty={HOST})
    after = builder.build(documents, services(second), 2, dirty={HOST}).snapshot_for(GATEWAY)
    anew = Builder(BuildOptions()).build(documents, services(second), 1).snapshot_for(GATEWAY)
    assert content(after) == content(anew)
    assert content(after) != content(before)
