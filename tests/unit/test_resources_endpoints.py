"""Assignments: spliced bytes equal the library's own, in any order, and only what changed is encoded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.endpoint.v3 as endpoint_v3
import pytest
from envoy_data_plane.google.protobuf import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.resources_pictures import HOST, KEY, picture, placed, policy, pool, service
from xds_server.mesh.model import Endpoint, EndpointId, Locality, PlacedEndpoint, ServicePort
from xds_server.mesh.policies import Selector
from xds_server.resources import endpoints
from xds_server.resources.endpoints import AssignmentEncoder, MetadataKeys, metadata_keys
from xds_server.resources.shards import Shard

if TYPE_CHECKING:
    from xds_server.mesh.model import ServicePicture

SHARD = Shard(HOST, 8033)

texts = st.text(max_size=20) | st.sampled_from(["tf-mnist", 'quo"te', "a/b", "ünï-☃", "\\", "a,b", "*"])
keys = st.sampled_from(["stage", "version", "zone", "näme/☃", KEY])
localities = st.builds(Locality, *[st.sampled_from(["", "a", "b"])] * 3)


@st.composite
def placements(draw: st.DrawFn) -> tuple[PlacedEndpoint, ...]:
    ids = draw(
        st.lists(
            st.builds(
                EndpointId,
                st.just(HOST),
                st.sampled_from(["10.0.0.1", "10.0.0.2", "::1"]),
                st.integers(1, 65535),
            ),
            unique=True,
            max_size=5,
        )
    )
    return tuple(
        PlacedEndpoint(
            Endpoint(
                each,
                draw(st.sampled_from([{"http": each.port}, {"http": each.port, "rest": 1}, {}])),
                draw(st.dictionaries(keys, texts, max_size=5)),
                draw(localities),
                draw(st.integers(1, 2**32 - 1)),
            ),
            tuple(sorted(draw(st.sets(texts, max_size=5)))),
            draw(st.booleans()),
            tuple(sorted(draw(st.dictionaries(texts, texts, max_size=2)).items())),
        )
        for each in sorted(ids)
    )


def library_bytes(of: ServicePicture) -> bytes:
    """The same message, built and encoded by envoy-data-plane."""
    groups: dict[Locality, list[PlacedEndpoint]] = {}
    for each in of.endpoints:
        groups.setdefault(each.endpoint.locality, []).append(each)
    return bytes(
        endpoint_v3.ClusterLoadAssignment(
            cluster_name=SHARD.name,
            endpoints=[
                endpoint_v3.LocalityLbEndpoints(
                    locality=core.Locality(region=place.region, zone=place.zone, sub_zone=place.sub_zone),
                    lb_endpoints=[
                        library_endpoint(each, metadata_keys(of))
                        for each in sorted(groups[place], key=lambda each: each.endpoint.id)
                    ],
                )
                for place in sorted(groups)
            ],
        )
    )


def library_endpoint(each: PlacedEndpoint, keys: MetadataKeys) -> endpoint_v3.LbEndpoint:
    values: dict[str, Any] = {key: value for key, value in each.endpoint.labels.items() if key in keys.labels}
    if keys.models is not None and each.models:
        values[keys.models] = list(each.models)
    spaces = {"envoy.lb": Struct.from_dict(dict(sorted(values.items())))} if values else {}
    if keys.models is not None and each.known_as:
        pairs = [f"&{quote(name, safe='') or '*'}={quote(known, safe='')}" for name, known in each.known_as]
        spaces["xds-server"] = Struct.from_dict({"known_as": "".join(pairs) + "&"})
    return endpoint_v3.LbEndpoint(
        endpoint=endpoint_v3.Endpoint(
            address=core.Address(
                socket_address=core.SocketAddress(
                    address=each.endpoint.id.address, port_value=each.endpoint.ports.get("http", 8033)
                )
            )
        ),
        health_status=core.HealthStatus.UNKNOWN if each.healthy else core.HealthStatus.UNHEALTHY,
        metadata=core.Metadata(filter_metadata=spaces) if spaces else None,
        load_balancing_weight=each.endpoint.weight,
    )


@settings(max_examples=60, deadline=None)
@given(placements(), st.booleans(), st.sets(keys, min_size=1))
def test_the_spliced_bytes_are_the_librarys(
    endpoints: tuple[PlacedEndpoint, ...], pooled: bool, selected: set[str]
) -> None:
    of = picture(
        *endpoints,
        policy=policy(Selector(tuple(sorted(selected))), default_subset={"zone": "a"}),
        pool=pool() if pooled else None,
    )
    assert AssignmentEncoder(SHARD).encode(of).body == library_bytes(of)


@settings(max_examples=40, deadline=None)
@given(placements(), st.randoms(use_true_random=False))
def test_the_order_of_endpoints_labels_and_models_leaves_no_trace(
    endpoints: tuple[PlacedEndpoint, ...], random: Any
) -> None:
    shuffled = [
        PlacedEndpoint(
            replace(each.endpoint, labels=dict(reversed(each.endpoint.labels.items()))),
            tuple(reversed(each.models)),
            each.healthy,
            each.known_as,
        )
        for each in endpoints
    ]
    random.shuffle(shuffled)
    rules = {"policy": policy(Selector(("stage", KEY))), "pool": pool()}
    one = AssignmentEncoder(SHARD).encode(picture(*shuffled, **rules))
    other = AssignmentEncoder(SHARD).encode(picture(*endpoints, **rules))
    assert (one.body, one.version) == (other.body, other.version)


@settings(max_examples=40, deadline=None)
@given(st.lists(placements(), min_size=2, max_size=4))
def test_what_is_remembered_never_shows(history: list[tuple[PlacedEndpoint, ...]]) -> None:
    encoder = AssignmentEncoder(SHARD)
    for present in history:
        of = picture(*present, policy=policy(), pool=pool())
        one, other = encoder.encode(of), AssignmentEncoder(SHARD).encode(of)
        assert (one.body, one.version) == (other.body, other.version)


def test_only_a_changed_endpoint_is_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    real = endpoints.encode_endpoint

    def spy(each: PlacedEndpoint, port: ServicePort, keys: MetadataKeys) -> bytes:
        encoded.append(each.endpoint.id.port)
        return real(each, port, keys)

    monkeypatch.setattr(endpoints, "encode_endpoint", spy)
    encoder = AssignmentEncoder(SHARD)
    first, second = placed(1, ["a"]), placed(2, ["b"])
    encoder.encode(picture(first, second, pool=pool()))
    encoder.encode(picture(first, replace(second, models=("b", "c")), pool=pool()))
    encoder.encode(picture(placed(1, ["a"]), replace(second, models=("b", "c")), pool=pool()))
    assert encoded == [1, 2, 2]
    encoder.encode(picture(first, second, pool=pool(subset_key="other")))
    assert encoded == [1, 2, 2, 1, 2]


def decoded(of: ServicePicture) -> dict[str, Any]:
    return endpoint_v3.ClusterLoadAssignment.parse(AssignmentEncoder(SHARD).encode(of).body).to_dict()


def lb_metadata(of: ServicePicture) -> dict[str, Any]:
    metadata = decoded(of)["endpoints"][0]["lbEndpoints"][0].get("metadata")
    return metadata["filterMetadata"]["envoy.lb"] if metadata else {}


def test_labels_that_a_selector_or_the_default_subset_names_are_in_the_metadata() -> None:
    labels = {"stage": "prod", "version": "v1", "zone": "a", "secret": "x"}
    rule = policy(Selector(("stage", "version")), Selector(("missing",)), default_subset={"zone": "a"})
    assert lb_metadata(picture(placed(1, [], labels), policy=rule)) == {
        "stage": "prod",
        "version": "v1",
        "zone": "a",
    }


def test_a_pools_models_win_over_a_label_of_the_same_key() -> None:
    of = picture(placed(1, ["m"], {KEY: "label"}), policy=policy(), pool=pool())
    assert lb_metadata(of) == {KEY: ["m"]}
    assert lb_metadata(replace(of, endpoints=(placed(1, [], {KEY: "label"}),))) == {}


def test_no_models_means_no_key_because_an_empty_list_makes_envoy_forget_the_other_keys() -> None:
    rule = policy(Selector((KEY, "stage")))
    assert lb_metadata(picture(placed(1, [], {"stage": "prod"}), policy=rule, pool=pool())) == {
        "stage": "prod"
    }


def test_what_an_endpoint_has_to_be_asked_under_is_one_text() -> None:
    one = replace(placed(1, ["a b", "m"]), known_as=(("", "m"), ("a b", "m/versions/2"), ("m", "m")))
    of = picture(one, policy=policy(Selector((KEY,))), pool=pool())
    (only,) = endpoint_v3.ClusterLoadAssignment.parse(library_bytes(of)).endpoints[0].lb_endpoints
    assert only.metadata is not None
    told = only.metadata.filter_metadata["xds-server"].fields["known_as"].string_value
    assert told == "&*=m&a%20b=m%2Fversions%2F2&m=m&"
    assert AssignmentEncoder(SHARD).encode(of).body == library_bytes(of)


def test_a_service_without_endpoints_is_an_assignment_without_endpoints() -> None:
    assert decoded(picture(pool=pool())) == {"clusterName": f"{HOST}|8033"}


def test_each_port_of_a_service_has_its_endpoints_own_port() -> None:
    two = service(HOST, ServicePort(8033, "http"), ServicePort(8034, "grpc"))
    of = picture(placed(9001, ports={"http": 9001, "grpc": 9002}), of=two)
    ports = []
    for number in (8033, 8034):
        body = AssignmentEncoder(Shard(HOST, number)).encode(of).body
        assignment = endpoint_v3.ClusterLoadAssignment.parse(body)
        endpoint = assignment.endpoints[0].lb_endpoints[0].endpoint
        assert endpoint is not None
        assert endpoint.address is not None
        assert endpoint.address.socket_address is not None
        ports.append(endpoint.address.socket_address.port_value)
    assert ports == [9001, 9002]


def test_a_port_that_the_service_does_not_have_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="has no port 1"):
        AssignmentEncoder(Shard(HOST, 1)).encode(picture())
