from __future__ import annotations

import hashlib

import pytest
import yaml

from xds_server.config.loader import load_directory
from xds_server.demo import documents, payload
from xds_server.mesh.model import Protocol
from xds_server.mesh.policies import Fallback
from xds_server.mesh.pools import OpenInference

ENDPOINTS = [
    {"address": "127.0.0.1", "http": 9001, "rest": 9001, "grpc": 9201},
    {"address": "127.0.0.1", "http": 9002, "rest": 9102, "grpc": 9202},
]
PARTS = documents.Parts(8008, 8033, "/infer")

AS_PUBLISHED = {
    "destination-rule.yaml": "6f9370b5f5a18d4a6aa26e48e4a9261a9c904c418af8a86eb03ab42bad35ea1e",
    "virtual-service.yaml": "881214479bb1315f2e8f840f701ca61f6d5a6bd0274f0d1f75d2ce66443fd149",
    "infer-payload.json": "28c5180b335a73b6ab811f5241997a0e04a3cb0a8db81ad7a964a362932d6464",
}


@pytest.mark.parametrize("name", AS_PUBLISHED)
def test_the_seeds_documents_are_used_byte_for_byte(name):
    found = hashlib.sha256((payload.DOCUMENTS / name).read_bytes()).hexdigest()
    assert found == AS_PUBLISHED[name]


def test_with_subsets_the_directory_holds_the_seeds_documents_as_they_are(tmp_path):
    documents.write(tmp_path, PARTS.with_subsets(ENDPOINTS))
    for name in (documents.DESTINATION_RULE, documents.VIRTUAL_SERVICE):
        assert (tmp_path / name).read_bytes() == (payload.DOCUMENTS / name).read_bytes()


def test_with_subsets_the_server_groups_by_model_and_asks_the_discovery_port(tmp_path):
    documents.write(tmp_path, PARTS.with_subsets(ENDPOINTS))
    loaded = load_directory(tmp_path)
    assert loaded.problems == ()
    (policy,) = loaded.configuration.policies
    assert policy.selectors[0].keys == (documents.SUBSET_KEY,)
    assert policy.selectors[0].fallback is Fallback.ANY_ENDPOINT
    (pool,) = loaded.configuration.pools
    assert isinstance(pool.discovery, OpenInference)
    assert pool.discovery.port == "rest"
    assert [dict(each.ports) for each in loaded.configuration.endpoints] == [
        {"http": 9001, "rest": 9001, "grpc": 9201},
        {"http": 9002, "rest": 9102, "grpc": 9202},
    ]


def test_a_body_may_name_its_model_on_one_path_and_grpc_has_a_port(tmp_path):
    documents.write(tmp_path, PARTS.with_subsets(ENDPOINTS))
    configuration = load_directory(tmp_path).configuration
    (pool,) = configuration.pools
    assert pool.request.json.paths == ("/infer",)
    assert pool.request.grpc
    (service,) = configuration.services
    assert [(port.number, port.protocol) for port in service.ports] == [
        (documents.REST_PORT, Protocol.HTTP),
        (documents.GRPC_PORT, Protocol.GRPC),
    ]
    matched = {
        match.port for each in configuration.virtual_services for r in each.routes for match in r.matches
    }
    assert matched == {8008, 8033}


def test_without_subsets_the_same_service_knows_nothing_of_models(tmp_path):
    documents.write(tmp_path, PARTS.with_subsets(ENDPOINTS))
    documents.write(tmp_path, PARTS.without_subsets(ENDPOINTS))
    loaded = load_directory(tmp_path)
    assert loaded.problems == ()
    assert loaded.configuration.policies == ()
    assert loaded.configuration.pools == ()
    services = loaded.configuration.virtual_services
    assert [route.header_to_key for service in services for route in service.routes] == [(), ()]
    assert len(loaded.configuration.endpoints) == 2


def test_another_gateway_port_changes_the_matched_port_and_nothing_else():
    changed = yaml.safe_load(documents.virtual_service(18008))
    as_published = yaml.safe_load(documents.seed_document(documents.VIRTUAL_SERVICE))
    assert changed["spec"]["http"][0]["match"] == [{"port": 18008}]
    changed["spec"]["http"][0]["match"] = [{"port": 8008}]
    assert changed == as_published


def test_clear_leaves_an_empty_directory(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "left-over.yaml").write_text("kind: Gateway")
    documents.clear(tmp_path / "config")
    assert list((tmp_path / "config").iterdir()) == []
