"""In whatever order slices, pods, services, runtimes and ModelMesh's registry speak: the same bytes."""

from __future__ import annotations

import json
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kubernetes_objects import HOST, NAME, NAMESPACE, endpoint_slice, entry, pod, service
from tests.unit.test_mesh_order import woven
from xds_server.mesh.events import ConfigurationReplaced, ModelsReported, ModelState
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.model import EndpointId
from xds_server.mesh.policies import Fallback, Policy, Selector
from xds_server.mesh.pools import Annotations, ModelMesh, OpenInference, Pool
from xds_server.mesh.routing import Configuration
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.sources.kubernetes import objects
from xds_server.sources.kubernetes.cluster import Cluster
from xds_server.sources.modelmesh.changes import Change
from xds_server.sources.modelmesh.registry import Registry
from xds_server.sources.modelmesh.source import targets
from xds_server.xds.model import ORDER, Node

ASKED = OpenInference(interval=1, timeout=2, grace=10)
WAYS = [Annotations(), ASKED, ModelMesh("file", "mm/"), ModelMesh("file", "mm/", 30, ASKED)]
ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
PODS = [f"triton-abcde-{number}" for number in (1, 2, 3)]
KEY = "stage"


def configuration(way):
    """A pool, and a rule that also selects on a label."""
    pool = Pool("models/pool", HOST, way)
    selectors = (Selector((pool.subset_key,), Fallback.NO_FALLBACK), Selector((KEY,), Fallback.NO_FALLBACK))
    rule = Policy(name="models/rule", host=HOST, selectors=selectors)
    return ConfigurationReplaced(source="files", configuration=Configuration(pools=(pool,), policies=(rule,)))


class World:
    """All sources and the mesh, without their I/O. `flushing`: whether the mesh is told after each step."""

    def __init__(self, way, *, flushing):
        self.cluster = Cluster(lambda: 100.0)
        self.registry = Registry(30.0)
        self.mesh = Mesh()
        self.flushing = flushing
        self.mesh.apply(configuration(way))
        self._told = {}

    def take(self, step):
        step(self)
        if self.flushing:
            self.flush()

    def flush(self):
        for event in self.cluster.events():
            self.mesh.apply(event)
        for target in targets(self.mesh.routing, self.mesh.services()).values():
            for endpoint, instance in target.instances.items():
                rows = self.registry.rows(instance) if instance else ()
                if self._told.get(endpoint) != rows:
                    self._told[endpoint] = rows
                    report = ModelsReported(endpoint=endpoint, source="modelmesh", models=rows, at=100.0)
                    self.mesh.apply(report)

    def content(self, now):
        self.flush()
        self.mesh.expire(now)
        built = Builder(BuildOptions()).build(self.mesh.routing, self.mesh.services(), 1)
        snapshot = built.snapshot_for(Node(id="gateway", cluster="gateway"))
        return {
            url: (
                snapshot.of(url).version,
                {name: (bytes(each.body), each.version) for name, each in snapshot.of(url).resources.items()},
            )
            for url in ORDER
        }


def _change(kind, name, value, world):
    """An object as it is now, told by its watch."""
    change, keep = {
        "service": (world.cluster.change_services, objects.service),
        "slice": (world.cluster.change_slices, objects.endpoint_slice),
        "pod": (world.cluster.change_pods, objects.pod),
    }[kind]
    change({(NAMESPACE, name): None if value is None else keep(value)})


def _registry(key, value, world):
    world.registry.apply(Change(key, None if value is None else json.dumps(value).encode()))


def _report(address, names, at, world):
    rows = tuple(ModelState(name) for name in sorted(names))
    endpoint = EndpointId(HOST, address, 8080)
    world.mesh.apply(ModelsReported(endpoint=endpoint, source=ASKED.source, models=rows, at=at))


def _want(hosts, world):
    world.cluster.want(hosts)


entries = st.lists(
    st.tuples(
        st.sampled_from(range(3)),
        st.booleans(),
        st.booleans(),
        st.sampled_from([None, "z1", "z2"]),
        st.booleans(),
    ),
    max_size=3,
    unique_by=lambda each: each[0],
)
names = st.lists(st.sampled_from(["m", "n"]), unique=True, max_size=2)
ANNOTATIONS = [
    {},
    {"a": '[{"model": "m", "state": "READY"}]'},
    {"a": "nonsense", "b": '[{"model": "n", "state": "READY"}]'},
    {"b": '[{"model": "m", "state": "LOADING"}]'},
]
MODELS = [
    None,
    {"type": "t", "instanceIds": {"on-abcde-1": 1000}, "failedIn": {}},
    {"type": "t", "instanceIds": {PODS[1][-12:]: 1000, PODS[0][-12:]: 90_000_000}, "failedIn": {}},
    {"type": "t", "instanceIds": {}, "failedIn": {PODS[0][-12:]: 2000}},
]


@st.composite
def slices(draw, name):
    listed = [
        entry(ADDRESSES[n], PODS[n] if known else None, ready=ready, terminating=terminating, zone=zone)
        for n, ready, terminating, zone, known in draw(entries)
    ]
    family = draw(st.sampled_from(["IPv4", "IPv4", "IPv4", "IPv6"]))
    return endpoint_slice(name, *listed, family=family)


@st.composite
def pods(draw, name):
    labels = draw(st.sampled_from([{}, {KEY: "x"}, {KEY: "y", "other": "1"}]))
    writers = draw(st.sampled_from(ANNOTATIONS))
    return pod(
        name, labels=labels, writers=writers, uid=name, deleted=draw(st.sampled_from([False] * 4 + [True]))
    )


def several(value):
    return st.lists(st.one_of(st.none(), value), max_size=3)


@st.composite
def histories(draw):
    """The steps of each key, in its own order."""
    found = [
        [
            partial(_want, hosts)
            for hosts in (*draw(st.lists(st.sampled_from([[], [HOST]]), max_size=2)), [HOST])
        ]
    ]
    variants = [service(), service((("http", 8008), ("grpc", 8033))), service(families=("IPv6", "IPv4"))]
    listed = [*draw(several(st.sampled_from(variants))), draw(st.sampled_from(variants))]
    found.append([partial(_change, "service", NAME, each) for each in listed])
    for name in ("s1", "s2"):
        listed = [*draw(several(slices(name))), draw(slices(name))]
        found.append([partial(_change, "slice", name, each) for each in listed])
    for name in PODS:
        listed = draw(several(pods(name)))
        found.append([partial(_change, "pod", name, each) for each in listed])
    for address in ADDRESSES:
        told = draw(st.lists(names, min_size=1, max_size=3))
        found.append([partial(_report, address, each, 50.0 + at) for at, each in enumerate(told)])
    for key, values in (
        ("registry/m__1", MODELS),
        ("vmodels/m", [None, {"o": "ksp", "amid": "m__1", "tmid": "m__1"}]),
        (f"instances/{PODS[0][-12:]}", [None, {"count": 1}, {"shutdown": True}]),
        (f"instances/{PODS[1][-12:]}", [None, {"count": 1}]),
    ):
        told = draw(st.lists(st.sampled_from(values), max_size=3))
        found.append([partial(_registry, key, each) for each in told])
    return found


@pytest.mark.parametrize("way", WAYS, ids=["annotations", "asked", "modelmesh", "modelmesh-confirmed"])
@settings(max_examples=50)
@given(histories(), st.data())
def test_any_interleaving_ends_in_the_same_bytes(way, found, data):
    ends = []
    for flushing in (True, False):
        world = World(way, flushing=flushing)
        for step in woven(found, data):
            world.take(step)
        ends.append(world.content(now=10_000.0))
    assert ends[0] == ends[1]


def test_what_the_interleavings_end_in_is_something():
    """The property would hold for empty pictures too."""
    world = World(Annotations(), flushing=True)
    for step in (
        partial(_want, [HOST]),
        partial(_change, "service", NAME, service()),
        partial(_change, "slice", "s1", endpoint_slice("s1", entry(ADDRESSES[0], PODS[0]))),
        partial(_change, "pod", PODS[0], pod(PODS[0], labels={KEY: "x"}, writers=ANNOTATIONS[1])),
    ):
        world.take(step)
    bodies = world.content(now=10_000.0)
    (assignment,) = bodies[next(url for url in ORDER if "Endpoint" in url or "ClusterLoadAssignment" in url)][
        1
    ].values()
    assert b"10.0.0.1" in assignment[0]
    assert b"stage" in assignment[0]
