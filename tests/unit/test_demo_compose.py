from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from xds_server.config.loader import load_directory
from xds_server.demo.payload import as_rest, seed_request
from xds_server.resources.bootstrap import bootstrap

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "xds_server" / "demo" / "documents" / "compose"


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def mounts(service):
    """Container path to the file beside docker-compose.yml that is mounted there."""
    pairs = (volume.split(":") for volume in service["volumes"] if volume.startswith("./"))
    return {inside: ROOT / outside for outside, inside, *_ in pairs}


def test_every_file_that_is_mounted_exists(compose):
    found = [
        path
        for service in compose["services"].values()
        for path in mounts({"volumes": [], **service}).values()
    ]
    assert len(found) >= 6
    assert [path for path in found if not path.is_file()] == []


def test_the_documents_are_without_error_and_name_the_replicas_addresses(compose, tmp_path):
    for inside, path in mounts(compose["services"]["xds-server"]).items():
        assert inside.startswith("/etc/xds-server/")
        shutil.copy(path, tmp_path / Path(inside).name)
    loaded = load_directory(tmp_path)
    assert loaded.problems == ()
    named = {endpoint.id.address for endpoint in loaded.configuration.endpoints}
    given = {
        service["networks"]["demo"]["ipv4_address"]
        for name, service in compose["services"].items()
        if name.startswith("mlserver-")
    }
    assert named == given
    assert len(given) == 3


def test_envoys_bootstrap_is_what_the_command_prints():
    made = bootstrap(
        "xds-server:18000", node_id="gateway-1", cluster="gateway", admin="0.0.0.0:9901", labels={}
    )
    assert (COMPOSE / "envoy.yaml").read_text() == made


def test_the_request_is_the_seeds_in_the_form_that_mlserver_takes():
    assert (COMPOSE / "request.json").read_bytes() == as_rest(seed_request()) + b"\n"


def test_only_loopback_ports_are_published(compose):
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
