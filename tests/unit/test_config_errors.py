"""Malformed configurations: the full text of each error, and that the documentation shows the same."""

import re
from pathlib import Path

import pytest

from xds_server.config.loader import load_directory
from xds_server.config.problems import Problem

HERE = Path(__file__).parent
CASES = sorted((HERE / "malformed").iterdir())
ERRORS_DOC = HERE.parents[1] / "docs" / "errors.md"


def printed(directory: Path) -> list[str]:
    loaded = load_directory(directory)
    assert (loaded.configuration is None) == bool(loaded.problems)
    return [str(problem).replace(str(directory), "DIR") for problem in loaded.problems]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_configuration_gives_exactly_this_text(case):
    assert printed(case) == (case / "expected.txt").read_text().splitlines()


def test_there_are_at_least_25_cases():
    assert len(CASES) >= 25


def test_the_documentation_shows_the_errors_as_they_are_printed():
    shown = re.findall(r"```text\n(.*?)```", ERRORS_DOC.read_text(), flags=re.DOTALL)
    assert shown == [(case / "expected.txt").read_text() for case in CASES]


def test_a_missing_directory_is_a_problem(tmp_path):
    assert printed(tmp_path / "nowhere") == [
        (
            "DIR: found no directory that can be read: No such file or directory; expected a directory of "
            "documents; `xds-server init DIR --replicas HOST:PORT,...` writes a first set"
        )
    ]


def test_a_file_as_the_directory_is_a_problem(tmp_path):
    (tmp_path / "a.yaml").write_text("kind: Gateway\n")
    (line,) = printed(tmp_path / "a.yaml")
    assert line.startswith("DIR: found no directory that can be read: Not a directory")


def test_a_link_to_nothing_is_a_problem_of_that_file(tmp_path):
    (tmp_path / "a.yaml").symlink_to("nowhere")
    assert printed(tmp_path) == [
        "a.yaml: found a file that cannot be read: No such file or directory; expected a readable file"
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[" * 100_000, "found more than 64 levels of nesting; expected a document of the supported kinds"),
        ("&a [*a]", "found the alias *a; expected an anchor &a that ends before it"),
        ("a: !!int foo", 'found "foo" tagged as int; expected a valid int'),
        ("<<: 3", "found the number 3 after <<; expected an alias of a mapping"),
        ("? [a]\n: b", "found a key that is not plain text; expected keys that are strings"),
        ("\x01", "control characters are not allowed; expected valid YAML"),
        ("'", "found a YAML syntax error at column 2: found unexpected end of stream; expected valid YAML"),
        ("text", 'found "text" as the document; expected a mapping with apiVersion, kind, metadata and spec'),
        ("apiVersion: v1\nkind: List", "items: found nothing; expected a list of documents"),
        ("apiVersion: v1\nkind: List\nitems: [3]", "items[0]: found the number 3 as the document; expected"),
        ("kind: {}", "kind: found an empty mapping; expected DestinationRule, Gateway"),
        ("kind: Gateway\nmetadata: 3", "metadata: found the number 3; expected a mapping"),
        ("kind: Gateway\nspec:", "spec: found null; expected a value, since the field is required"),
    ],
)
def test_text_that_is_no_document(tmp_path, text, error):
    (tmp_path / "a.yaml").write_text(text)
    assert any(error in line for line in printed(tmp_path)), printed(tmp_path)


def test_aliases_cannot_blow_up_a_document(tmp_path):
    lines = ["a: &a [x, x]"]
    lines += [
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    (line,) = printed(tmp_path)
    assert "found more than 2000000 values in one file; expected a smaller file" in line


def test_what_a_broken_file_may_define_is_not_called_undefined(tmp_path):
    rule = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: models}
spec: {host: models}
"""
    (tmp_path / "a.yaml").write_text("a: b: c\n")
    (tmp_path / "b.yaml").write_text(rule)
    assert [line.partition(":")[0] for line in printed(tmp_path)] == ["a.yaml"]


def test_what_a_broken_document_defines_is_not_called_undefined(tmp_path):
    text = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntri
metadata: {name: models}
spec: {hosts: [models.default.svc.cluster.local]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front}
spec: {servers: []}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: models}
spec:
  hosts: ["*"]
  gateways: [front]
  http: [{route: [{destination: {host: models}}]}]
"""
    (tmp_path / "a.yaml").write_text(text)
    assert [line.rpartition(" found ")[0] for line in printed(tmp_path)] == [
        "a.yaml:2: document 1 (ServiceEntri default/models), kind:",
        "a.yaml:9: document 2 (Gateway default/front), spec.servers:",
    ]


def test_problems_are_in_the_order_of_reading_not_of_characters():
    problems = [
        Problem("a.yaml", document, "", f"spec.http[{line}]", "x", "y", line)
        for document, line in ((10, 1), (2, 3), (2, 30), (2, 4))
    ]
    assert [(p.document, p.line) for p in sorted(problems)] == [(2, 3), (2, 4), (2, 30), (10, 1)]
