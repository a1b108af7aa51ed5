"""The states that TensorFlow Serving and OpenVINO Model Server give for each version of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.mesh.events import ModelState
from xds_server.sources.runtimes.answers import Shape

if TYPE_CHECKING:
    from collections.abc import Iterable

_STATES = {"AVAILABLE": "READY"}
"""AVAILABLE is said only while the version can be used: from after its load to before its unload."""


def rows(model: str, status: object) -> Iterable[ModelState]:
    """A row for each version in a model's status; versions that have ended stay listed, as END."""
    shape = Shape(f"the status of {model!r}")
    for number, row in enumerate(shape.rows_under(status, "model_version_status")):
        state = shape.text(number, row, "state").upper()
        error = Shape(f"status of row {number} of {shape.what}").mapping(row.get("status", {}))
        yield ModelState(
            model,
            shape.text(number, row, "version"),
            _STATES.get(state, state or "UNKNOWN"),
            shape.text(number, error, "error_message"),
        )
