"""The file of clients: what it allows, the text of each error, and its live reload."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from xds_server.config.clients import load_clients
from xds_server.sources.clients import ClientsSource
from xds_server.xds.access import may_be
from xds_server.xds.model import Node

if TYPE_CHECKING:
    from pathlib import Path

    from xds_server.xds.access import AccessList

GOOD = """\
- identity: spiffe://mesh/ns/gateways/sa/envoy
  clusters: [gateway]
- identity: edge-1.example
  nodes: ["edge-1-*", edge-1]
  clusters: [edge]
  labels: {zone: [a, "b*"]}
- identity: edge-1.example
  nodes: [probe]
"""


def access(tmp_path: Path, text: str) -> AccessList:
    path = tmp_path / "clients.yaml"
    path.write_text(text)
    loaded = load_clients(path)
    assert loaded.access is not None, [str(problem) for problem in loaded.problems]
    return loaded.access


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    path = tmp_path / "clients.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    loaded = load_clients(path)
    assert loaded.access is None
    return [str(problem).removeprefix(str(path)) for problem in loaded.problems]


@pytest.mark.parametrize(
    ("identity", "node", "allowed"),
    [
        ("spiffe://mesh/ns/gateways/sa/envoy", Node("anything", "gateway"), True),
        ("spiffe://mesh/ns/gateways/sa/envoy", Node("anything", "gateway", {"zone": "z"}), True),
        ("spiffe://mesh/ns/gateways/sa/envoy", Node("anything", "Gateway"), False),
        ("spiffe://mesh/ns/gateways/sa/envoy2", Node("anything", "gateway"), False),
        ("edge-1.example", Node("edge-1", "edge"), True),
        ("edge-1.example", Node("edge-1-7", "edge", {"zone": "b7"}), True),
        ("edge-1.example", Node("edge-1-7", "edge", {"zone": "c"}), False),
        ("edge-1.example", Node("edge-1-7", "edge", {"other": "a"}), False),
        ("edge-1.example", Node("edge-2", "edge"), False),
        ("edge-1.example", Node("edge-1", "gateway"), False),
        ("edge-1.example", Node("probe", "any"), True),
    ],
)
def test_an_identity_may_be_what_one_of_its_entries_covers(
    tmp_path: Path, identity: str, node: Node, allowed: bool
) -> None:
    listed = access(tmp_path, GOOD)
    assert len(listed) == 2
    assert may_be(listed.grants([identity]), node) is allowed
    assert may_be(listed.grants(["other", identity]), node) is allowed


def test_labels_that_are_an_empty_mapping_allow_no_label(tmp_path: Path) -> None:
    listed = access(tmp_path, "[{identity: a, nodes: [n], labels: {}}]")
    assert may_be(listed.grants(["a"]), Node("n", ""))
    assert not may_be(listed.grants(["a"]), Node("n", "", {"zone": "a"}))
    assert str(listed.grants(["a"])[0]) == "node id n, labels none"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "- identity: a\n  nodes: [x]\n  cluster: y\n",
            [
                (
                    ":3: document 1, [0].cluster: found an unknown field; "
                    "expected clusters, identity, labels, nodes or reports (did you mean clusters?)"
                )
            ],
        ),
        (
            "- identity: a\n- identity: ''\n  nodes: []\n",
            [
                (
                    ":1: document 1, [0]: found neither nodes nor clusters; "
                    'expected nodes or clusters, such as clusters: ["gateway"]'
                ),
                ':2: document 1, [1].identity: found ""; expected a string that is not empty',
                ":3: document 1, [1].nodes: found an empty list; expected at least one entry",
            ],
        ),
        (
            "- identity: a\n  nodes: [x, x]\n- 7\n",
            [
                ':2: document 1, [0].nodes[1]: found "x" again; expected each pattern once',
                ":3: document 1, [1]: found the number 7; expected a mapping",
            ],
        ),
        (
            "identity: a\n",
            [
                (
                    ":1: document 1: found a mapping with identity; "
                    "expected a list of clients, each with identity and nodes or clusters"
                )
            ],
        ),
        ("", [": found no documents; expected a list of clients, each with identity and nodes or clusters"]),
        (
            "[{identity: a, nodes: [b]}]\n---\n[]\n",
            [": found 2 documents; expected a list of clients, each with identity and nodes or clusters"],
        ),
        (b"\xff", [": found bytes that are not UTF-8 at offset 0; expected a text file in UTF-8"]),
    ],
)
def test_each_mistake_has_its_text(tmp_path: Path, text: str | bytes, expected: list[str]) -> None:
    assert problems(tmp_path, text) == expected


def test_text_that_is_no_yaml_is_a_problem(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, "- [\n")
    assert "a YAML syntax error" in line


async def test_a_change_is_taken_over_and_a_bad_one_leaves_the_last_good_list(tmp_path: Path) -> None:
    path = tmp_path / "clients.yaml"
    path.write_text("[{identity: a, nodes: [b]}]")
    taken: list[AccessList] = []
    source = ClientsSource(path, taken.append, clock=lambda: 7.0)
    await source.check()
    await source.check()
    assert (len(taken), source.problems, source.loaded_at) == (1, (), 7.0)
    with capture_logs() as logs:
        path.write_text("[{identity: a}]")
        await source.check()
        path.unlink()
        await source.check()
    assert [each["event"] for each in logs] == ["clients refused; the last good list stays in force"] * 2
    assert len(taken) == 1
    assert "a file that cannot be read" in str(source.problems[0])
    path.write_text("[{identity: c, nodes: [b]}]")
    await source.check()
    assert source.problems == ()
    assert taken[-1].grants(["c"])
    assert not taken[-1].grants(["a"])
