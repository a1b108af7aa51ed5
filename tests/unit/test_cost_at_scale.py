"""What is done for one change in a large fleet, counted and not timed: that of what it touches."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from benchmarks.fleet import HOST, Fleet
from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.mesh import Mesh
from xds_server.publisher import Publisher
from xds_server.resources import laid, members
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.transport.encoder import SharedEncoder
from xds_server.xds.hub import Hub
from xds_server.xds.messages import DeltaRequest, Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, Node

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


@pytest.mark.parametrize("endpoints", [100, 1600])
def test_a_change_touches_one_endpoint_of_one_shard_whatever_the_size(
    endpoints: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Large(endpoints, 5, endpoints, PoolLayout(LayoutKind.SHARDED, 64))
    stats, hub = large.builder.stats, large.hub.stats
    looked: list[object] = []
    parts = members.parts

    def counted(*arguments: object) -> object:
        looked.append(arguments)
        return parts(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(laid.placing, "parts", counted)
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
