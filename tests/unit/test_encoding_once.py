"""From a report to the bytes for every client: what is encoded is counted, so that a regression shows."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.endpoint.v3 as endpoint_v3
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fleet import HOST as FLEET
from benchmarks.fleet import Fleet
from tests.resources_pictures import GATEWAY, HOST, gateway, picture, placed, policy, pool, virtual_service
from tests.unit.test_resources_builder import build
from tests.unit.test_resources_endpoints import SHARD, library_bytes, placements
from xds_server.mesh.mesh import Mesh
from xds_server.publisher import Publisher
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.resources.endpoints import AssignmentEncoder
from xds_server.resources.parts import resource, type_snapshot
from xds_server.resources.shards import Sharding
from xds_server.resources.views import Entitlements, entitlement
from xds_server.transport.encoder import SharedEncoder
from xds_server.xds.hub import Hub
from xds_server.xds.messages import DeltaRequest, Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, ROUTE, Node

if TYPE_CHECKING:
    import pytest

    from xds_server.mesh.model import PlacedEndpoint
    from xds_server.xds.session import Session

ENDPOINTS = 30
CLIENTS = 5


class Whole:
    """Mesh, builder, publisher and hub over a made-up fleet, with clients in sync."""

    def __init__(self) -> None:
        self.fleet = Fleet(ENDPOINTS, 3, 20)
        self.mesh = Mesh()
        self.builder = Builder(BuildOptions(sharding=Sharding(lambda host, _: host)))
        self.hub = Hub(itertools.count().__next__)
        self.publisher = Publisher(self.mesh, self.builder, self.hub)
        self.encoder = SharedEncoder(self.hub)
        self.mesh.apply(self.fleet.configuration())
        self.report(range(ENDPOINTS))
        self.publisher.start()
        self.sessions = [self.hub.open(Variant.DELTA, None, "peer", lambda: None) for _ in range(CLIENTS)]
        for number, session in enumerate(self.sessions):
            session.receive(DeltaRequest(type_url=CLUSTER, node=Node(f"{number}", "gateway")))
            self.settle(session)
            session.receive(DeltaRequest(type_url=ENDPOINT, subscribe=(FLEET,)))
            self.settle(session)

    def report(self, numbers: range | list[int]) -> None:
        for report in self.fleet.reports(numbers):
            self.mesh.apply(report)

    def settle(self, session: Session) -> list[bytes]:
        payloads = []
        while responses := session.take():
            for response in responses:
                payloads.append(self.encoder.encode(response))
                session.receive(DeltaRequest(type_url=response.type_url, response_nonce=response.nonce))
        return payloads


def test_one_changed_endpoint_costs_one_encoding_of_it_and_one_of_the_response() -> None:
    whole = Whole()
    hub, builder = whole.hub.stats, whole.builder.stats
    assert (builder.encoded, builder.kept) == (ENDPOINTS, 0)
    assert (hub.encoded[ENDPOINT], hub.shared[ENDPOINT]) == (1, CLIENTS - 1)
    for change in range(1, 4):
        whole.report(whole.fleet.churn(1))
        whole.publisher.flush()
        payloads = [whole.settle(session) for session in whole.sessions]
        assert [len(each) for each in payloads] == [1] * CLIENTS
        assert len({id(payload) for (payload,) in payloads}) == 1
        assert (builder.encoded, builder.kept) == (ENDPOINTS + change, change * (ENDPOINTS - 1))
        assert (hub.encoded[ENDPOINT], hub.shared[ENDPOINT]) == (1 + change, (1 + change) * (CLIENTS - 1))
    assert hub.encoded[CLUSTER] == 1


def test_a_report_that_changes_nothing_encodes_nothing() -> None:
    whole = Whole()
    whole.report(range(ENDPOINTS))
    whole.publisher.flush()
    assert [whole.settle(session) for session in whole.sessions] == [[]] * CLIENTS
    assert whole.builder.stats.encoded == ENDPOINTS


changes = st.lists(
    st.tuples(st.integers(0, 4), st.sets(st.sampled_from("abcde"), max_size=4), st.booleans()), max_size=6
)


@settings(max_examples=60, deadline=None)
@given(placements(), changes)
def test_an_endpoint_that_changes_in_place_gives_the_librarys_bytes_and_the_version_of_a_fresh_start(
    endpoints: tuple[PlacedEndpoint, ...], changes: list[tuple[int, set[str], bool]]
) -> None:
    encoder = AssignmentEncoder(SHARD)
    encoder.encode(picture(*endpoints, policy=policy(), pool=pool()))
    for number, models, healthy in changes:
        if number >= len(endpoints):
            continue
        changed = replace(endpoints[number], models=tuple(sorted(models)), healthy=healthy)
        endpoints = (*endpoints[:number], changed, *endpoints[number + 1 :])
        of = picture(*endpoints, policy=policy(), pool=pool())
        made, fresh = encoder.encode(of), AssignmentEncoder(SHARD).encode(of)
        assert encoder.encoded <= 1
        assert made.body == library_bytes(of)
        assert (made.version, made.pieces.size) == (fresh.version, len(made.body))


def test_a_catalogs_pieces_do_not_change_with_the_next_one() -> None:
    encoder = AssignmentEncoder(SHARD)
    first = encoder.encode(picture(placed(1, ["a"]), pool=pool()))
    before = first.body
    encoder.encode(picture(placed(1, ["b"]), pool=pool()))
    assert first.body == before


def test_an_endpoint_that_moves_to_another_locality_is_found_there() -> None:
    encoder = AssignmentEncoder(SHARD)
    one, other = placed(1, ["a"]), placed(2, ["b"])
    encoder.encode(picture(one, other, pool=pool()))
    moved = replace(one, endpoint=replace(one.endpoint, locality=replace(one.endpoint.locality, zone="z")))
    of = picture(moved, other, pool=pool())
    made = encoder.encode(of)
    assert made.body == library_bytes(of)
    assert made.version == AssignmentEncoder(SHARD).encode(of).version
    assert len(endpoint_v3.ClusterLoadAssignment.parse(made.body).endpoints) == 2


names = st.sampled_from("abcdef")


@given(st.lists(st.dictionaries(names, st.binary(max_size=3)), min_size=1, max_size=5))
def test_a_types_version_depends_on_its_content_alone(history: list[dict[str, bytes]]) -> None:
    carried, versions = None, {}
    kept = {(name, body): resource(ENDPOINT, name, body) for each in history for name, body in each.items()}
    for contents in history:
        made = [kept[each] for each in contents.items()]
        carried = type_snapshot(made, previous=carried)
        fresh = type_snapshot([resource(ENDPOINT, name, body) for name, body in reversed(contents.items())])
        assert carried.snapshot.version == fresh.snapshot.version
        assert list(carried.snapshot.resources) == sorted(contents)
        versions[frozenset(contents.items())] = carried.snapshot.version
    assert len(set(versions.values())) == len(versions)


SCRIPT = """
from tests.unit.test_encoding_once import Whole
from xds_server.xds.model import ORDER, Node
whole = Whole()
snapshot = whole.hub.view_of(Node("a", "gateway"))
for url in ORDER:
    of = snapshot.of(url)
    print("version", of.version, *[each.version for each in of.resources.values()])
"""


def test_versions_are_equal_in_every_process() -> None:
    """However a process hashes texts, and so orders its sets."""
    said = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        for seed in ("1", "2")
    ]
    one, other = ([line for line in lines if line.startswith("version ")] for lines in said)
    assert one == other
    assert len(one) == 4


@given(
    st.lists(st.dictionaries(st.sampled_from(["zone", "tier"]), st.sampled_from("abc")), max_size=4),
    st.lists(
        st.tuples(
            st.sampled_from(["", "a", "b", "sidecar", "x"]),
            st.dictionaries(st.sampled_from(["zone", "tier", "other"]), st.sampled_from("abcd")),
        ),
        max_size=8,
    ),
)
def test_what_is_remembered_of_entitlements_never_shows(
    selectors: list[dict[str, str]], nodes: list[tuple[str, dict[str, str]]]
) -> None:
    gateways = [gateway(f"ns/{number}", selector=each or None) for number, each in enumerate(selectors)]
    known = Entitlements(gateways)
    for cluster, labels in nodes:
        node = Node("n", cluster, labels)
        assert known.of(node) == entitlement(node, gateways)


def test_a_front_that_did_not_change_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder(BuildOptions())
    first = build(picture(placed(1, ["a"]), pool=pool()), builder=builder)
    monkeypatch.setattr("xds_server.resources.builder.resource", None)  # nothing but assignments may be made
    second = build(picture(placed(1, ["b"]), pool=pool()), builder=builder, serial=2)
    routes = [catalog.snapshot_for(GATEWAY).of(ROUTE) for catalog in (first, second)]
    assert routes[0] is routes[1]


def test_a_shard_may_be_given_another_name() -> None:
    builder = Builder(BuildOptions(sharding=Sharding(lambda host, port: f"{host}-{port}")))
    snapshot = build(
        picture(placed(1, ["a"])), builder=builder, virtual_services=(virtual_service(),)
    ).snapshot_for(GATEWAY)
    assert list(snapshot.of(CLUSTER).resources) == list(snapshot.of(ENDPOINT).resources) == [f"{HOST}-8033"]
    assert f"{HOST}-8033".encode() in next(iter(snapshot.of(ROUTE).resources.values())).body
