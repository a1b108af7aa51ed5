"""The first documents: valid as written, never over existing ones, and clear about bad replicas."""

from dataclasses import replace

import pytest

from xds_server.config.initial import write_initial
from xds_server.config.loader import load_directory
from xds_server.mesh.implied import complete


def test_the_documents_load_without_problems_and_imply_nothing(tmp_path):
    written = write_initial(tmp_path / "new", ["127.0.0.1:9001", "[::1]:9002"], 8008)
    assert [file.name for file in written] == ["services.yaml", "routing.yaml"]
    loaded = load_directory(tmp_path / "new")
    assert loaded.problems == ()
    assert [str(endpoint.id) for endpoint in loaded.configuration.endpoints] == [
        "127.0.0.1:9001",
        "[::1]:9002",
    ]
    (gateway,) = loaded.configuration.gateways
    assert [server.port for server in gateway.servers] == [8008]
    routing = complete([loaded.configuration])
    assert routing.policies["models"].implied_by is None
    assert routing.gateways == loaded.configuration.gateways
    (made,), (written,) = routing.virtual_services, loaded.configuration.virtual_services
    assert replace(made, routes=tuple(replace(each, naming=None) for each in made.routes)) == written


def test_every_document_is_commented(tmp_path):
    for file in write_initial(tmp_path, ["10.0.0.1:9001"], 80):
        for document in file.read_text().split("---\n"):
            assert document.lstrip().startswith("#")


@pytest.mark.parametrize(
    ("replicas", "port", "error"),
    [
        ([], 8008, "no replica is given; expected at least one IP:PORT, such as 127.0.0.1:9001"),
        (
            ["models.ml:9001"],
            8008,
            (
                'the replica "models.ml:9001" has the name models.ml as its address; expected an IP address, '
                "since a ServiceEntry with resolution STATIC takes no names"
            ),
        ),
        (
            ["10.0.0.1"],
            8008,
            'the replica "10.0.0.1" has no valid port; expected IP:PORT, such as 127.0.0.1:9001',
        ),
        (
            ["10.0.0.1:0"],
            8008,
            'the replica "10.0.0.1:0" has no valid port; expected IP:PORT, such as 127.0.0.1:9001',
        ),
        (
            ["::1:80"],
            8008,
            'the replica "::1:80" is ambiguous; expected [IPV6]:PORT for an IPv6 address only',
        ),
        (
            ["0.0.0.0:80"],
            8008,
            'the replica "0.0.0.0:80" has no address of a machine; expected one such as 127.0.0.1',
        ),
        (["10.0.0.1:1", "10.0.0.1:1"], 8008, "the replica 10.0.0.1:1 is given twice; expected each once"),
        (["10.0.0.1:1"], 70000, "the gateway port is 70000; expected a number from 1 to 65535"),
    ],
)
def test_what_is_refused_writes_nothing(tmp_path, replicas, port, error):
    with pytest.raises(ValueError) as raised:
        write_initial(tmp_path / "new", replicas, port)
    assert str(raised.value) == error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["services.yaml", "routing.yaml"])
def test_existing_files_are_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=rf"has {name} already; expected a directory without"):
        write_initial(tmp_path, ["10.0.0.1:1"], 80)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"
