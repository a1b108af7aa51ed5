"""docs/documents.md names every field there is, and its examples are valid together."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from xds_server.config.documents import KINDS
from xds_server.config.documents.base import ObjectMeta, Part
from xds_server.config.loader import load_directory

DOCUMENTS = Path(__file__).parents[2] / "docs" / "documents.md"


def parts(model: type[BaseModel]) -> set[type[BaseModel]]:
    """The model and all models under it."""
    found = {model}
    for field in model.model_fields.values():
        names = re.findall(r"\.(\w+Part)\b", repr(field.annotation))
        for part in Part.__subclasses__() + [
            sub for p in Part.__subclasses__() for sub in p.__subclasses__()
        ]:
            if part.__name__ in names:
                found |= parts(part)
    return found


@pytest.mark.parametrize("model", [ObjectMeta, *(kind.spec for kind in KINDS.values())])
def test_every_field_is_described(model):
    text = DOCUMENTS.read_text()
    models = parts(model)
    assert model is ObjectMeta or len(models) > 2
    for part in models:
        for field in part.model_fields.values():
            assert re.search(rf"\b{field.alias}\b", text), f"{part.__name__}: {field.alias}"


def test_the_examples_are_valid_together(tmp_path):
    examples = re.findall(r"```yaml\n(.*?)```", DOCUMENTS.read_text(), flags=re.DOTALL)
    assert len(examples) >= 6
    (tmp_path / "documents.yaml").write_text("---\n".join(examples))
    loaded = load_directory(tmp_path)
    assert not loaded.problems, [str(problem) for problem in loaded.problems]
    assert len(loaded.configuration.services) == 3
