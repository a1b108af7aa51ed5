"""Whatever the files say, loading them never raises, and says the same thing twice."""

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xds_server.config.loader import load_directory

HERE = Path(__file__).parent
VALID = [
    document
    for file in sorted((HERE.parent / "data" / "seed").glob("*.yaml"))
    + sorted(HERE.glob("malformed/*/*.yaml"))
    if "yaml-" not in str(file) and "utf" not in str(file)
    for document in yaml.safe_load_all(file.read_bytes())
    if document
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["*", "mesh", "models", "10.0.0.1", "1s", "HTTP", "DEFAULT_SUBSET", "a/b", "http", "("])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)


def paths(value, here=()):
    yield here
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from paths(inner, (*here, key))


@st.composite
def mutated(draw):
    """A document of some kind with one value in it replaced by anything at all."""
    document = copy.deepcopy(draw(st.sampled_from(VALID)))
    path = draw(st.sampled_from([path for path in paths(document) if path]))
    target = document
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = draw(values)
    return document


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def load_twice(directory: Path, text: str) -> None:
    (directory / "a.yaml").write_text(text, encoding="utf-8", errors="replace")
    loaded = load_directory(directory)
    assert bool(loaded.problems) == (loaded.configuration is None)
    assert loaded == load_directory(directory)
    assert all(str(problem).isprintable() for problem in loaded.problems)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(mutated(), min_size=1, max_size=4))
def test_documents_with_anything_in_them(directory, documents):
    load_twice(directory, yaml.safe_dump_all(documents))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"#%@ \n\t,?<=0\x01\u0085"), max_size=60))
def test_any_text(directory, text):
    load_twice(directory, text)
