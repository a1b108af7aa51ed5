"""llama.cpp's server in router mode: one process, many models, each a child that it starts and stops.

It tells of changes by itself (`/models/sse`), but only that something changed is taken from there; what is
loaded is always read anew. With `--models-max` it drops models without a word in any answer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from xds_server.mesh.events import ModelState
from xds_server.sources.runtimes.answers import RuntimeRefusedError, Shape
from xds_server.sources.runtimes.http import HTTP_OK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from xds_server.sources.runtimes.asking import Call

_LIST = Shape("the list of models")
_STATES = {"LOADED": "READY", "UNLOADED": "UNAVAILABLE"}
"""Its words for ours. A sleeping model is not READY: the next request would wait for all of a load."""


async def fetch(call: Call) -> bytes:
    """The models with their states. Asking for them wakes none."""
    return await call.http.ask(call.question("/models"))


def parse(body: bytes) -> tuple[ModelState, ...]:
    """Each model; one whose child has failed with its exit code as the reason."""
    return tuple(
        sorted(_row(number, row) for number, row in enumerate(_LIST.rows_under(_LIST.parsed(body), "data")))
    )


def _row(number: int, row: dict[str, object]) -> ModelState:
    status = Shape(f"status of row {number} of {_LIST.what}").mapping(row.get("status", {}))
    said = _LIST.text(number, status, "value").upper()
    code = _LIST.text(number, status, "exit_code")
    reason = f"failed with exit code {code or 'unknown'}" if status.get("failed") else ""
    return ModelState(_LIST.name(number, row, "id"), "", _STATES.get(said, said or "UNAVAILABLE"), reason)


async def changes(call: Call) -> AsyncIterator[None]:
    """One item for each event of the router's stream."""
    async for line in call.http.lines(call.question("/models/sse")):
        if line.startswith(b"data:"):
            yield None


async def load(call: Call, model: str) -> None:
    """Let it begin to load `model`: it answers at once, and its state tells when it has. Errors: Orders."""
    status, body = await _order(call, model, "load")
    if status != HTTP_OK and not await _in_state(call, model, "READY"):
        raise RuntimeRefusedError("load", model, status, body)


async def unload(call: Call, model: str) -> None:
    """Let it stop the child of `model`; done as well if there is none. Errors: Orders."""
    status, body = await _order(call, model, "unload")
    if status != HTTP_OK and await _in_state(call, model, "READY"):
        raise RuntimeRefusedError("unload", model, status, body)


async def _order(call: Call, model: str, action: str) -> tuple[int, str]:
    return await call.http.order(call.question(f"/models/{action}", json.dumps({"model": model}).encode()))


async def _in_state(call: Call, model: str, state: str) -> bool:
    return any(row.name == model and row.state == state for row in parse(await fetch(call)))
