"""Services, slices and pods joined into what the mesh is told: by rule, and in any order of arrival."""

from __future__ import annotations

import json

import pytest

from tests.kubernetes_objects import HOST, NAMESPACE, endpoint_slice, entry, pod, service
from xds_server.mesh.events import ConfigurationReplaced, EndpointsChanged, ModelsReported, ReportFailed
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.model import Condition, Health, Locality, Protocol
from xds_server.mesh.pools import Annotations, Pool
from xds_server.mesh.routing import Configuration
from xds_server.sources.kubernetes import objects
from xds_server.sources.kubernetes.cluster import Cluster

POOL = Configuration(pools=(Pool("models/pool", HOST, Annotations()),))


class World:
    """A cluster and the mesh that is told of it at each change."""

    def __init__(self, *, want=True):
        self.cluster = Cluster(lambda: 100.0)
        self.mesh = Mesh()
        self.mesh.apply(ConfigurationReplaced(source="files", configuration=POOL))
        self.events = []
        if want:
            self.cluster.want([HOST])

    def tell(self, *items):
        for item in items:
            self._take(item, gone=False)
        return self.flush()

    def drop(self, *items):
        for item in items:
            self._take(item, gone=True)
        return self.flush()

    def flush(self):
        self.events = self.cluster.events()
        for event in self.events:
            self.mesh.apply(event)
        return self

    def _take(self, item, *, gone):
        kinds = {
            "Service": (self.cluster.change_services, objects.service),
            "EndpointSlice": (self.cluster.change_slices, objects.endpoint_slice),
            "Pod": (self.cluster.change_pods, objects.pod),
        }
        change, keep = kinds[item["kind"]]
        change({(NAMESPACE, item["metadata"]["name"]): None if gone else keep(item)})

    @property
    def endpoints(self):
        return {each.endpoint.id.address: each.endpoint for each in self.mesh.service(HOST).endpoints}

    def seen(self, address):
        status = next(s for s in self.mesh.status(HOST) if s.endpoint.id.address == address)
        return status.health, " ".join(status.routed)


def told(*items):
    return World().tell(*items)


def listing(*models, state="READY"):
    return json.dumps([{"model": model, "state": state} for model in models])


def test_a_replica_is_joined_from_its_slice_and_its_pod():
    found = told(
        service(),
        endpoint_slice("s1", entry("10.0.0.1", "p1", zone="z1")),
        pod("p1", labels={"app": "triton"}),
    ).endpoints["10.0.0.1"]
    assert (found.id.service, found.id.port, found.ports) == (HOST, 8080, {"http": 8080})
    assert (found.pod, found.labels, found.locality) == ("p1", {"app": "triton"}, Locality("", "z1", ""))
    assert found.condition is Condition.READY


def test_only_what_is_wanted_is_told_and_only_as_long():
    world = World(want=False).tell(service(), endpoint_slice("s1", entry("10.0.0.1")))
    assert world.events == []
    assert HOST in world.cluster.services
    world.cluster.want([HOST, "example.com", "other.models.svc.cluster.local"])
    world.flush()
    assert isinstance(world.events[0], EndpointsChanged)  # before the service: it is never without them
    assert isinstance(world.events[-1], ConfigurationReplaced)
    assert world.cluster.problems() == ["service other is not in namespace models (yet), or is not watched"]
    world.cluster.want([])
    world.flush()
    assert world.mesh.services() == {}
    world.cluster.want([HOST])
    assert list(world.flush().endpoints) == ["10.0.0.1"]


def test_a_service_that_is_wanted_before_it_is_there():
    world = World()
    assert world.cluster.problems() == ["service triton is not in namespace models (yet), or is not watched"]
    world.tell(service())
    assert world.cluster.problems() == []
    assert not world.mesh.service(HOST).endpoints


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, Condition.READY),
        ({"ready": None}, Condition.READY),
        ({"ready": False}, Condition.NOT_READY),
        ({"ready": False, "serving": True, "terminating": True}, Condition.TERMINATING),
        ({"ready": True, "serving": True, "terminating": True}, Condition.TERMINATING),
    ],
)
def test_conditions(conditions, expected):
    item = entry("10.0.0.1")
    item["conditions"] = conditions
    assert told(service(), endpoint_slice("s1", item)).endpoints["10.0.0.1"].condition is expected


def test_a_terminating_replica_takes_nothing_and_stays_until_its_entry_goes():
    world = told(
        service(),
        pod("p1", writers={"w": listing("m")}),
        endpoint_slice("s1", entry("10.0.0.1", "p1")),
    )
    assert world.seen("10.0.0.1") == (Health.OK, "m")
    world.tell(endpoint_slice("s1", entry("10.0.0.1", "p1", ready=False, serving=True, terminating=True)))
    assert world.seen("10.0.0.1") == (Health.TERMINATING, "")
    world.tell(endpoint_slice("s1"))
    assert world.endpoints == {}


def test_a_pod_that_is_being_deleted_is_terminating_before_its_slice_says_so():
    world = told(service(), endpoint_slice("s1", entry("10.0.0.1", "p1")), pod("p1", deleted=True))
    assert world.endpoints["10.0.0.1"].condition is Condition.TERMINATING


def test_several_slices_of_a_service_add_up():
    world = told(service(), endpoint_slice("s1", entry("10.0.0.1")), endpoint_slice("s2", entry("10.0.0.2")))
    assert list(world.endpoints) == ["10.0.0.1", "10.0.0.2"]
    world.drop(endpoint_slice("s1"))
    assert list(world.endpoints) == ["10.0.0.2"]


def test_a_replica_in_two_slices_is_one_and_ready_if_either_says_so():
    one = endpoint_slice("s1", entry("10.0.0.1", ready=False, terminating=True))
    other = endpoint_slice("s2", entry("10.0.0.1", zone="z2"))
    for items in ((one, other), (other, one)):
        found = told(service(), *items).endpoints["10.0.0.1"]
        assert (found.condition, found.locality.zone) == (Condition.READY, "z2")


def test_ports_by_name_differ_between_slices():
    ports = (("http", 8008), ("grpc", 8033))
    world = told(
        service(ports),
        endpoint_slice("s1", entry("10.0.0.1"), ports=(("grpc", 9000), ("http", 8080))),
        endpoint_slice("s2", entry("10.0.0.2"), ports=(("http", 8081), ("grpc", 9001))),
    )
    assert world.endpoints["10.0.0.1"].ports == {"http": 8080, "grpc": 9000}
    assert world.endpoints["10.0.0.2"].id.port == 8081
    served = world.mesh.service(HOST).service
    assert [(p.number, p.name, p.protocol) for p in served.ports] == [
        (8008, "http", Protocol.HTTP),
        (8033, "grpc", Protocol.GRPC),
    ]


def test_two_replicas_on_one_address_are_two():
    """Pods on the host's network, each with its own port."""
    world = told(
        service(),
        endpoint_slice("s1", entry("10.0.0.1", "p1"), ports=(("http", 8080),)),
        endpoint_slice("s2", entry("10.0.0.1", "p2"), ports=(("http", 8081),)),
    )
    found = [(each.endpoint.id.port, each.endpoint.pod) for each in world.mesh.service(HOST).endpoints]
    assert found == [(8080, "p1"), (8081, "p2")]


def test_an_unnamed_port_is_called_by_its_number():
    world = told(service(((None, 8008),)), endpoint_slice("s1", entry("10.0.0.1"), ports=((None, 8080),)))
    assert world.endpoints["10.0.0.1"].ports == {"8008": 8080}


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({"name": "grpc-infer"}, Protocol.GRPC),
        ({"name": "http2"}, Protocol.HTTP2),
        ({"name": "x", "appProtocol": "kubernetes.io/h2c"}, Protocol.HTTP2),
        ({"name": "grpc", "appProtocol": "http"}, Protocol.HTTP),
        ({"name": "anything"}, Protocol.HTTP),
    ],
)
def test_protocols(port, expected):
    item = service()
    item["spec"]["ports"] = [{"port": 80, "protocol": "UDP"}, {"port": 81, **port}]
    (found,) = objects.service(item).ports
    assert (found.number, found.protocol) == (81, expected)


@pytest.mark.parametrize("families", [("IPv4", "IPv6"), ("IPv6", "IPv4"), ()])
def test_of_two_families_one_is_used(families):
    four, six = (
        endpoint_slice("s4", entry("10.0.0.1")),
        endpoint_slice("s6", entry("fd00::1"), family="IPv6"),
    )
    for order in ((four, six), (six, four)):
        assert list(told(service(families=families), *order).endpoints) == [
            "fd00::1" if families[:1] == ("IPv6",) else "10.0.0.1"
        ]


def test_the_other_family_where_the_first_has_no_slice():
    six = endpoint_slice("s6", entry("fd00::1"), family="IPv6")
    world = told(service(families=("IPv4", "IPv6")), six)
    assert list(world.endpoints) == ["fd00::1"]
    world.tell(endpoint_slice("s4"))  # the controller has one for each family, empty or not
    assert list(world.endpoints) == []


def test_what_cannot_be_used_is_said():
    names = endpoint_slice("s1", entry("host.example"), family="FQDN")
    lacking = endpoint_slice("s2", entry("10.0.0.1"), ports=(("metrics", 1),))
    assert told(service(), names, lacking).cluster.problems() == [
        f"slice models/s1 of {HOST}: addressType FQDN; expected an IP's",
        f"slice models/s2 of {HOST}: no port http",
    ]
    external = service(ports=(), type="ExternalName")
    assert told(external).cluster.problems() == [
        "service models/triton is of type ExternalName: write a ServiceEntry for it"
    ]
    assert told(service(ports=())).cluster.problems() == ["service models/triton has no TCP port"]


def test_a_service_without_selector_has_replicas_without_pods():
    world = told(service(), endpoint_slice("mine", entry("192.0.2.1")))
    assert (world.endpoints["192.0.2.1"].pod, world.endpoints["192.0.2.1"].labels) == ("", {})


def test_a_slice_that_changes_its_owner():
    world = told(service(), endpoint_slice("s1", entry("10.0.0.1")))
    world.tell(endpoint_slice("s1", entry("10.0.0.1"), service="other"))
    assert world.endpoints == {}
    world.tell(endpoint_slice("s1", entry("10.0.0.1")))
    assert list(world.endpoints) == ["10.0.0.1"]
    world.tell(endpoint_slice("s1", entry("10.0.0.1"), service=None))
    assert world.endpoints == {}


def test_a_service_that_goes_and_comes_back():
    world = told(service(), endpoint_slice("s1", entry("10.0.0.1")))
    world.drop(service())
    assert world.mesh.services() == {}
    assert list(world.tell(service()).endpoints) == ["10.0.0.1"]


def test_one_replicas_change_is_one_endpoints_event():
    entries = [entry(f"10.0.0.{number}", f"p{number}") for number in range(1, 101)]
    world = told(service(), endpoint_slice("s1", *entries), *(pod(f"p{number}") for number in range(1, 101)))
    world.tell(pod("p7", labels={"x": "1"}))
    (event,) = world.events
    assert [each.pod for each in event.declared] == ["p7"]
    world.tell(endpoint_slice("s1", *entries[1:]))
    assert world.events[0].declared == ()
    assert [each.address for each in world.events[0].removed] == ["10.0.0.1"]
    assert world.tell(pod("p7", labels={"x": "1"})).events == []


def test_annotations_one_for_each_writer():
    world = told(
        service(),
        endpoint_slice("s1", entry("10.0.0.1", "p1"), entry("10.0.0.2", "p2")),
        pod("p1", writers={"a": listing("m"), "b": listing("n", "m")}),
        pod("p2", writers={"a": json.dumps([{"model": "m", "version": "2", "state": "loading"}])}),
    )
    assert world.seen("10.0.0.1") == (Health.OK, "m n")
    assert world.seen("10.0.0.2") == (Health.OK, "")
    world.tell(pod("p1", writers={"b": listing("n", "m")}))
    assert world.seen("10.0.0.1") == (Health.OK, "m n")
    world.tell(pod("p1"))
    assert world.seen("10.0.0.1") == (Health.OK, "")
    world.drop(pod("p1"))
    assert world.seen("10.0.0.1") == (Health.OK, "")


_LIST = 'a JSON list of {"model": NAME, "version": TEXT (may be left out), "state": "READY" or another}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", f"no JSON (Expecting value: line 1 column 2 (char 1)); expected {_LIST}"),
        ('{"model": "m"}', f'{{"model": "m"}}; expected {_LIST}'),
        ('["m"]', f'[0] is "m"; expected {_LIST}'),
        ('[{"state": "READY"}]', "[0].model is missing; expected the model's name"),
        ('[{"model": 1, "state": "READY"}]', "[0].model is 1; expected the model's name"),
        ('[{"model": "m"}]', '[0].state is missing; expected "READY", or what it is instead'),
        (
            '[{"model": "m", "state": "READY"}, {"model": "m", "state": "READY", "version": 1}]',
            '[1].version is 1; expected a text such as "1", or none',
        ),
    ],
)
def test_a_malformed_annotation_leaves_the_last_good_one_and_is_said(text, said):
    world = told(
        service(),
        endpoint_slice("s1", entry("10.0.0.1", "p1")),
        pod("p1", writers={"w": listing("m")}, uid="1"),
    )
    world.tell(pod("p1", writers={"w": text}, uid="1"))
    problem = f"pod models/p1, annotation models.xds-server.dev/w: {said}"
    assert world.cluster.problems() == [problem]
    (event,) = world.events
    assert isinstance(event, ReportFailed)
    assert event.error == problem
    assert world.seen("10.0.0.1") == (Health.SUSPECT, "m")
    world.mesh.expire(10.0**9)  # however long it takes
    assert world.seen("10.0.0.1") == (Health.SUSPECT, "m")
    world.tell(pod("p1", writers={"w": text}, uid="2"))  # another pod of that name: it inherits nothing
    assert world.seen("10.0.0.1")[1] == ""
    world.tell(pod("p1", writers={"w": listing("n")}, uid="2"))
    assert world.seen("10.0.0.1") == (Health.OK, "n")
    assert world.cluster.problems() == []


def test_fields_that_a_newer_writer_adds_are_left_alone():
    text = json.dumps([{"model": "m", "state": "READY", "port": 8080}])
    world = told(service(), endpoint_slice("s1", entry("10.0.0.1", "p1")), pod("p1", writers={"w": text}))
    assert world.seen("10.0.0.1") == (Health.OK, "m")
    reports = [event for event in world.events if isinstance(event, ModelsReported)]
    assert {event.source for event in reports} == {"annotation", "annotation/w"}


def test_objects_with_nothing_in_them():
    assert objects.service({}).ports == ()
    assert objects.endpoint_slice({"metadata": None, "endpoints": None, "ports": None}).entries == ()
    assert objects.endpoint_slice({"endpoints": [{"addresses": []}, {"addresses": ["10.0.0.1"]}]}).entries
    assert objects.pod({"metadata": {}}).uid == ""
