"""Fixtures of the protocol's tests: a scene for each dialect."""

from __future__ import annotations

import pytest

from tests.protocol.peer import Scene
from xds_server.xds.messages import Variant


@pytest.fixture(params=list(Variant), ids=str)
def scene(request: pytest.FixtureRequest) -> Scene:
    """The same test, in both dialects."""
    return Scene(request.param)


@pytest.fixture
def delta() -> Scene:
    return Scene(Variant.DELTA)


@pytest.fixture
def sotw() -> Scene:
    return Scene(Variant.SOTW)
