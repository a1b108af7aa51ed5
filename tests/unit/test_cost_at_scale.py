"""What is done for one change in a large fleet, counted and not timed: that of what it touches."""

from __future__ import annotations

import functools
import itertools
import time
from typing import TYPE_CHECKING

import pytest

from benchmarks.fleet import HOST, SOURCE, Fleet
from xds_server.mesh import service_view
from xds_server.mesh.events import EndpointsChanged, FailureKind, ReportFailed
from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.model import Endpoint, EndpointId
from xds_server.mesh.placed import PlacedEndpoints
from xds_server.publisher import Publisher
from xds_server.resources import members
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.resources.service_state import ServiceState
from xds_server.resources.views import ViewCatalog
from xds_server.transport.encoder import SharedEncoder
from xds_server.xds.hub import Hub
from xds_server.xds.messages import DeltaRequest, Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, Node
from xds_server.xds.watch import Watch

if TYPE_CHECKING:
    from xds_server.xds.session import Session

CLIENTS = 4


class Large:
    """The server's parts without I/O over a made-up fleet, with clients in sync."""

    def __init__(self, endpoints: int, each: int, models: int, layout: PoolLayout) -> None:
        self.fleet = Fleet(endpoints, each, models, layout=layout, covering=True)
        self.mesh = Mesh()
        self.hub = Hub(itertools.count().__next__)
        self.builder = Builder(BuildOptions(access_log=False))
        self.publisher = Publisher(self.mesh, self.builder, self.hub)
        self.encoder = SharedEncoder(self.hub)
        self.mesh.apply(self.fleet.configuration())
        for report in self.fleet.reports(range(endpoints)):
            self.mesh.apply(report)
        self.publisher.start()
        self.sessions = [self.hub.open(Variant.DELTA, None, "peer", lambda: None) for _ in range(CLIENTS)]
        for number, session in enumerate(self.sessions):
            session.receive(DeltaRequest(type_url=CLUSTER, node=Node(f"{number}", "gateway")))
            self.settle(session)
            names = self.builder.assignments(HOST)
            session.receive(DeltaRequest(type_url=ENDPOINT, subscribe=names))
            self.settle(session)
        self._turn = 0

    def settle(self, session: Session) -> list[tuple[str, ...]]:
        sent = []
        while responses := session.take():
            for response in responses:
                self.encoder.encode(response)
                sent.append(tuple(each.name for each in response.resources))
                session.receive(DeltaRequest(type_url=response.type_url, response_nonce=response.nonce))
        return sent

    def change(self) -> str:
        """One model on one more endpoint, or off it again; returns the model."""
        self._turn += 1
        model = self.fleet.toggle(self._turn)
        for report in self.fleet.reports([self.fleet.toggled]):
            self.mesh.apply(report)
        self.publisher.flush()
        return model


def counted(monkeypatch: pytest.MonkeyPatch, where: object, name: str) -> list[object]:
    """What a function or class is called with from now on."""
    calls: list[object] = []
    original = getattr(where, name)

    def wrapper(*arguments: object, **named: object) -> object:
        calls.append(arguments)
        return original(*arguments, **named)

    monkeypatch.setattr(where, name, wrapper)
    return calls


@pytest.mark.parametrize("endpoints", [100, 1600])
def test_a_change_touches_one_endpoint_of_one_shard_whatever_the_size(
    endpoints: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Large(endpoints, 5, endpoints, PoolLayout(LayoutKind.SHARDED, 64))
    stats, hub = large.builder.stats, large.hub.stats
    looked = counted(monkeypatch, members, "parts")
    for _ in range(4):
        encoded, assignments, responses = stats.encoded, stats.assignments, hub.encoded[ENDPOINT]
        services = stats.looked_at
        looked.clear()
        model = large.change()
        (name,) = large.builder.assignments(HOST, model)
        assert [large.settle(session) for session in large.sessions] == [[(name,)]] * CLIENTS
        assert len(looked) == 1, "one endpoint was placed anew"
        assert stats.looked_at == services + 1
        assert stats.assignments == assignments + 1
        assert stats.encoded - encoded <= 1
        assert hub.encoded[ENDPOINT] == responses + 1


@pytest.mark.parametrize("kind", [LayoutKind.SINGLE, LayoutKind.SHARDED])
@pytest.mark.parametrize("endpoints", [100, 1600])
def test_a_change_joins_one_endpoints_records_and_shares_the_rest_of_the_picture(
    kind: LayoutKind, endpoints: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Large(endpoints, 5, endpoints, PoolLayout(kind))
    joined = counted(monkeypatch, service_view, "Joined")
    gathered = counted(monkeypatch, ServiceState, "collect")
    for _ in range(4):
        before = large.mesh.service(HOST).endpoints
        joined.clear()
        large.change()
        after = large.mesh.service(HOST).endpoints
        assert isinstance(before, PlacedEndpoints)
        assert isinstance(after, PlacedEndpoints)
        others = {*map(id, after.chunks)} - {*map(id, before.chunks)}
        assert len(others) == 1, "one chunk is another"
        assert len(joined) == 3, "for its mark, its deadline and its place"
        assert not gathered, "the other clusters are not put together anew"


@pytest.mark.parametrize("endpoints", [100, 1600])
def test_a_replica_that_fails_comes_or_leaves_costs_no_look_at_the_others(
    endpoints: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Large(endpoints, 5, endpoints, PoolLayout(LayoutKind.SINGLE))
    keys = [placed.endpoint.id for placed in large.mesh.service(HOST).endpoints]
    new = Endpoint(EndpointId(HOST, "10.200.0.1", 8033), {"http": 8033})

    def refused(key: EndpointId) -> ReportFailed:
        at = time.time() + 60
        return ReportFailed(endpoint=key, source=SOURCE, kind=FailureKind.REFUSED, error="refused", at=at)

    large.mesh.apply(refused(keys[0]))  # until then they had begun together
    large.publisher.flush()
    joined = counted(monkeypatch, service_view, "Joined")
    for event, bytes_made, size in (
        (refused(keys[1]), 1, endpoints),
        (EndpointsChanged(source="others", service=HOST, declared=(new,)), 1, endpoints + 1),
        (EndpointsChanged(source="others", service=HOST, removed=(new.id,)), 0, endpoints),
    ):
        joined.clear()
        encoded = large.builder.stats.encoded
        large.mesh.apply(event)
        large.publisher.flush()
        assert len(large.mesh.service(HOST).endpoints) == size
        assert len(joined) <= 4
        assert large.builder.stats.encoded == encoded + bytes_made


def test_a_change_looks_at_no_session_that_does_not_subscribe_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    large = Large(20, 5, 20, PoolLayout(LayoutKind.SHARDED, 4))
    for session in large.sessions[1:]:
        names = large.builder.assignments(HOST)
        session.receive(DeltaRequest(type_url=ENDPOINT, unsubscribe=names))
        large.settle(session)
    asked = counted(monkeypatch, ViewCatalog, "snapshot_for")
    marked = counted(monkeypatch, Watch, "concern")
    woken: list[int] = []
    for session in large.sessions:
        session.wake = functools.partial(woken.append, session.number)
    for _ in range(4):
        for seen in (asked, marked, woken):
            seen.clear()
        large.change()
        assert (len(asked), len(marked), woken) == (1, 1, [large.sessions[0].number])
        assert [bool(large.settle(session)) for session in large.sessions] == [True] + [False] * (CLIENTS - 1)


def test_a_change_of_one_service_looks_at_no_other() -> None:
    large = Large(20, 5, 20, PoolLayout(LayoutKind.SHARDED, 4))
    before = large.builder.stats.looked_at
    large.publisher.flush()
    assert large.builder.stats.looked_at == before


def test_a_change_of_a_model_with_a_cluster_of_its_own_is_an_assignment_of_its_replicas() -> None:
    large = Large(60, 5, 60, PoolLayout(LayoutKind.PER_MODEL))
    sizes = []
    for _ in range(4):
        sent = large.hub.stats.bytes[ENDPOINT]
        assignments = large.builder.stats.assignments
        model = large.change()
        names = large.builder.assignments(HOST, model)
        assert [large.settle(session) for session in large.sessions] == [[names]] * CLIENTS
        # The cluster without models has the endpoint too, as it was before.
        assert large.builder.stats.assignments == assignments + 1
        sizes.append(large.hub.stats.bytes[ENDPOINT] - sent)
    assert max(sizes) < 10_000
