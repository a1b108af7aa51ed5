"""The CRD that is shipped: made from the models of the document, and in the form that an API server takes."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from xds_server import cli
from xds_server.config.crd import RULES, model_pool_crd, model_pool_crd_yaml
from xds_server.config.documents.model_pool import ModelPoolSpec
from xds_server.config.documents.pool_models import WAYS
from xds_server.config.problems import Place
from xds_server.config.schema import SchemaError, schema_of
from xds_server.config.shape import shape_part

FILE = Path(__file__).parents[2] / "deploy" / "crd" / "modelpools.yaml"


def nodes(schema, path=""):
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


def spec_schema():
    return model_pool_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def test_the_file_is_what_the_models_say():
    assert FILE.read_text() == model_pool_crd_yaml(), "run `make crd`"


def test_the_command_prints_it(capsys):
    assert cli.main(["crd"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == model_pool_crd()


def test_the_schema_is_structural():
    """Every node has a type, and only what a structural schema may have."""
    allowed = {
        *("type", "description", "properties", "items", "additionalProperties", "required", "enum", "format"),
        *("pattern", "minLength", "maxLength", "minItems", "minProperties", "minimum", "maximum"),
        *("x-kubernetes-int-or-string", "x-kubernetes-validations"),
        *("x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
    }
    for path, schema in nodes(spec_schema()):
        assert set(schema) <= allowed, path
        assert "type" in schema or schema.get("x-kubernetes-int-or-string"), path
        assert not ("properties" in schema and "additionalProperties" in schema), path
        for name in schema.get("x-kubernetes-list-map-keys", ()):
            assert name in schema["items"]["required"], path


def test_patterns_are_go_regular_expressions():
    """RE2 has no lookaround and no backreferences."""
    for path, schema in nodes(spec_schema()):
        if "pattern" in schema:
            re.compile(schema["pattern"])
            assert not re.search(r"\(\?[=!<]|\\[1-9]", schema["pattern"]), path


def test_every_field_of_the_document_is_there():
    properties = spec_schema()["properties"]["spec"]["properties"]
    assert set(properties) == {field.alias for field in ModelPoolSpec.model_fields.values()}
    assert {"openInference", "static"} <= set(properties["models"]["properties"])


def test_the_rules_name_fields_that_exist():
    for model, rules in RULES.items():
        names = {field.alias for field in model.model_fields.values()}
        for rule, _ in rules:
            assert set(re.findall(r"self\.(\w+)", rule)) <= names


def test_exactly_one_way():
    (rule,) = spec_schema()["properties"]["spec"]["properties"]["models"]["x-kubernetes-validations"]
    assert rule["rule"].count("has(self.") == len(WAYS)
    assert rule["message"].startswith("exactly one of openInference")


def test_columns_show_what_is_in_the_status():
    version = model_pool_crd()["spec"]["versions"][0]
    names = [column["name"] for column in version["additionalPrinterColumns"]]
    assert [name for name in names if name not in ("Ready", "Why")] == [
        *("Host", "Models", "Endpoints", "Accepted", "Programmed", "Age"),
    ]
    known = version["schema"]["openAPIV3Schema"]["properties"]
    for column in version["additionalPrinterColumns"]:
        section, field = re.match(r"\.(\w+)\.(\w+)", column["jsonPath"]).groups()
        assert section == "metadata" or field in known[section]["properties"]
    assert version["subresources"] == {"status": {}}


@pytest.mark.parametrize("value", ["10s", "1.5s", "100ms", "1m30s", "0s", "", "10", "s", "1 s", "-1s"])
def test_the_schema_refuses_durations_that_the_models_refuse(value):
    properties = spec_schema()["properties"]["spec"]["properties"]["models"]["properties"]
    pattern = properties["openInference"]["properties"]["grace"]["pattern"]
    spec = {"host": "models", "models": {"openInference": {"grace": value}}}
    _, problems = shape_part(Place("", 0), "spec", ModelPoolSpec, spec)
    assert bool(re.search(pattern, value)) == (not problems)


def test_a_type_without_a_schema_is_an_error_here_and_not_in_a_cluster():
    class Odd(BaseModel):
        """Odd."""

        when: set[str]

    with pytest.raises(SchemaError, match=r"Odd\.when"):
        schema_of(Odd, {})
