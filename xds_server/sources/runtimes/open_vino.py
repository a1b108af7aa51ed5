"""OpenVINO Model Server: `/v1/config` has every model of its configuration with the state of each version."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from xds_server.sources.runtimes import version_status
from xds_server.sources.runtimes.answers import Shape

if TYPE_CHECKING:
    from xds_server.mesh.events import ModelState
    from xds_server.sources.runtimes.asking import Call

_CONFIG = Shape("the configuration")


async def fetch(call: Call) -> bytes:
    """The states of all models."""
    return await call.http.ask(call.question("/v1/config"))


def parse(body: bytes) -> tuple[ModelState, ...]:
    """Each version of each model."""
    models = _CONFIG.mapping(_CONFIG.parsed(body))
    rows = (version_status.rows(model, status) for model, status in models.items())
    return tuple(sorted(chain.from_iterable(rows)))
