"""Which resources Envoy's words speak of: its own texts, as seen from Envoy 1.40."""

from __future__ import annotations

import pytest

from xds_server.xds.blame import named_in

DUMPED = """\
goo.gle/debugstr
name: "a"
type: EDS
eds_cluster_config {
  service_name: "b"
}
: Proto constraint validation failed (ClusterValidationError.ConnectTimeout: value must be greater than 0s)"""


@pytest.mark.parametrize(
    ("error", "names", "blamed"),
    [
        (DUMPED, "a b", "a"),
        (DUMPED.replace('name: "a"', 'cluster_name: "a|8033"'), "a a|8033 b", "a|8033"),
        (DUMPED.replace('"a"', r'"\342\230\203"'), "☃ b", "☃"),
        ("Error adding/updating cluster(s) a: no good, c: bad", "a b c", "a c"),
        (
            "Error adding/updating listener(s) gateway: error adding listener named 'x': y",
            "gateway x1",
            "gateway",
        ),
        ("Only a single wildcard domain is permitted in route routes", "routes other", "routes"),
        ("route: unknown cluster 'b'", "a b", "b"),
        ("a bad one", "a b", ""),
        ("no good", "a b", ""),
        ("no good", "a", "a"),
        ("unknown cluster models.example", "models models.example", "models.example"),
        ("no good", "", ""),
    ],
)
def test_the_names_that_an_error_speaks_of(error: str, names: str, blamed: str) -> None:
    assert named_in(error, names.split()) == tuple(blamed.split())
