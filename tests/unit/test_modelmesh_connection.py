"""ModelMesh's connection file: every mistake in it is one error, and no error holds a password."""

import json

import pytest

from xds_server.sources.modelmesh.connection import ConnectionFileError, read_connection

GOOD = {"endpoints": "http://etcd:2379", "userid": "root", "password": "s3cret"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"endpoints": "http://[::1:2379"}, "endpoints: found 'http://[::1:2379'; expected http://HOST:PORT"),
        ({"endpoints": "http://root:s3cret@etcd"}, "endpoints: found 'etcd'; expected http://HOST:PORT"),
        ({"password": ["s3cret"]}, "password: found a value of type list; expected a string"),
    ],
)
def test_a_mistake_is_said_without_secrets(tmp_path, wrong, said):
    file = tmp_path / "etcd_connection"
    file.write_text(json.dumps(GOOD | wrong))
    with pytest.raises(ConnectionFileError) as caught:
        read_connection(file)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)
