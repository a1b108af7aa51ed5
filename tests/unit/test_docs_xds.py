"""The table of rules: every rule is there, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import yaml

from xds_server.config.clients import load_clients

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "xds.md").read_text()


def named_tests(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            inner = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}::{each.name}" for each in inner}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found


def test_every_rule_has_its_row_and_every_test_in_it_exists() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+)$", PAGE, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 26))
    for number, row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", row)
        assert named, number
        for path, name in named:
            assert name in named_tests(ROOT / path), f"{path}::{name}"


def test_the_list_of_clients_in_the_documentation_is_without_error(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "security.md").read_text(), re.DOTALL)
    (tmp_path / "clients.yaml").write_text(shown)
    loaded = load_clients(tmp_path / "clients.yaml")
    assert loaded.problems == ()
    assert len(yaml.safe_load(shown)) == 4
