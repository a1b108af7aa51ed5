"""ModelMesh's records, pods and runtimes in any order end in the same picture and the same bytes."""

from __future__ import annotations

import asyncio
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mesh_events import DISCOVERY, HOST, configuration, endpoint, refused, reported
from xds_server.mesh.events import ConfigurationReplaced
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.pools import ModelMesh
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.sources.modelmesh.changes import Change
from xds_server.sources.modelmesh.source import ModelMeshSource, targets
from xds_server.xds.model import ORDER, Node

LETTERS = "abc"
PODS = {letter: f"modelmesh-serving-6f7d9c8b5-{letter * 5}" for letter in LETTERS}
INSTANCES = {letter: pod[-12:] for letter, pod in PODS.items()}
POOL = ModelMesh("/nowhere", "mm/s/", 30, DISCOVERY)


class Driven(ModelMeshSource):
    """Told by the test what etcd would tell."""

    async def _run(self, reader):  # noqa: ARG002 - nobody is asked
        await asyncio.Event().wait()

    def feed(self, change):
        for reader in self.readers:
            touched = reader.registry.apply(change)
            reader.listings = 1
            self._tell(reader, self._endpoints(reader, touched))
            self._tell_known(reader)


def put(key, value):
    return Change(key, None if value is None else json.dumps(value).encode())


def configured(letters):
    base = configuration("", discovery=POOL)
    endpoints = tuple(endpoint(letter, pod=PODS[letter]) for letter in letters)
    whole = type(base)(services=base.services, pools=base.pools, endpoints=endpoints)
    return ConfigurationReplaced(source="files", configuration=whole)


held = st.dictionaries(
    st.sampled_from(sorted(INSTANCES.values())), st.sampled_from([1000, 50_000]), max_size=3
)
records = st.one_of(
    st.none(),
    st.builds(lambda on, failed: {"instanceIds": on, "failedIn": failed}, held, held),
    st.just({"instanceIds": 7}),
)
vmodels = st.one_of(st.none(), st.builds(lambda model: {"amid": model}, st.sampled_from(["m-1", "m-2"])))
instances = st.one_of(st.none(), st.builds(lambda ending: {"shutdown": ending}, st.booleans()))


@st.composite
def histories(draw):
    """Each key's events in their order: records, endpoints that come, what runtimes answer."""
    found = [[configured(LETTERS[: draw(st.integers(0, 2))]), configured(LETTERS)]]
    for key, values in (("registry/m-1", records), ("registry/m-2", records), ("vmodels/m", vmodels)):
        found.append([put(key, value) for value in draw(st.lists(values, max_size=4))])
    for letter, instance in INSTANCES.items():
        found.append([put(f"instances/{instance}", value) for value in draw(st.lists(instances, max_size=3))])
        times = sorted(draw(st.lists(st.integers(0, 40), max_size=3, unique=True)))
        outcomes = [draw(st.sampled_from(["m-1", "m-1 m-2=LOADING", "", None])) for _ in times]
        found.append(
            [
                refused(letter, at) if outcome is None else reported(letter, outcome, at)
                for outcome, at in zip(outcomes, times, strict=True)
            ]
        )
    return [history for history in found if history]


def woven(histories, data):
    rest, order = [list(history) for history in histories], []
    while rest:
        order.append(rest[data.draw(st.integers(0, len(rest) - 1))].pop(0))
        rest = [history for history in rest if history]
    return order


async def ended(order):
    """The picture, the status and the bytes after the events in this order."""
    mesh = Mesh()
    source = Driven(mesh.apply, on_error=lambda _: None, clock=lambda: 41.0)
    early = []
    for event in order:
        if isinstance(event, Change):
            source.feed(event) if source.readers else early.append(event)
            continue
        mesh.apply(event)
        if isinstance(event, ConfigurationReplaced):
            source.set_targets(targets(mesh.routing, mesh.services()))
            for change in early:
                source.feed(change)
            early = []
    for reader in source.readers:
        source._tell(reader, None)
    mesh.expire(45)
    await source.close()
    status = [(each.endpoint.id, each.health, each.models, each.routed) for each in mesh.status(HOST)]
    catalog = Builder(BuildOptions()).build(mesh.routing, mesh.services(), 1)
    snapshot = catalog.snapshot_for(Node("gateway-1", "gateway"))
    bodies = {url: {n: r.body for n, r in snapshot.of(url).resources.items()} for url in ORDER}
    return dict(mesh.services()), status, mesh.known_models(HOST), bodies


@settings(max_examples=100)
@given(histories(), st.data())
def test_any_order_of_etcd_pods_and_runtimes_ends_in_the_same_picture_and_bytes(found, data):
    async def both():
        return await ended(woven(found, data)), await ended(woven(found, data))

    one, other = asyncio.run(both())
    assert one == other
