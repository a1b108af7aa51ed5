"""The repository API of the Open Inference Protocol (KServe V2) over REST, as MLServer and Triton speak it.

The two dialects, as seen on MLServer 1.7.1 and Triton 2.51:

- The index is `POST /v2/repository/index`; MLServer answers 422 without a body, so `{}` is sent.
- Triton lists a model that was never loaded by its name alone; MLServer as UNAVAILABLE.
- A state may be written `State.READY` (an enum's name on Python 3.11).
- MLServer's second unload of a model is a 404; Triton's unload returns before the model is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from xds_server.mesh.events import ModelState
from xds_server.sources.runtimes.answers import RuntimeRefusedError, Shape
from xds_server.sources.runtimes.http import HTTP_OK

if TYPE_CHECKING:
    from xds_server.sources.runtimes.asking import Call

NEVER_LOADED = "UNAVAILABLE"
"""The state of a row that tells none: Triton's way to list a model that was never loaded."""

_NO_CONDITIONS = b"{}"
_INDEX = Shape("the repository index")


async def fetch(call: Call) -> bytes:
    """The repository index."""
    return await call.http.ask(call.question("/v2/repository/index", _NO_CONDITIONS))


def parse(body: bytes) -> tuple[ModelState, ...]:
    """The rows of a repository index, sorted.

    Raises:
        RuntimeUnreadableError: BAD_ANSWER, with what was found in place of an index.
    """
    return tuple(sorted(_row(number, row) for number, row in enumerate(_INDEX.rows(_INDEX.parsed(body)))))


async def load(call: Call, model: str) -> None:
    """Ask the runtime to load `model`; returns when it says that it did.

    Raises:
        RuntimeRefusedError: it answered with an error.
        RuntimeUnreadableError: it gave no answer.
    """
    status, body = await _order(call, model, "load")
    if status != HTTP_OK:
        raise RuntimeRefusedError("load", model, status, body)


async def unload(call: Call, model: str) -> None:
    """Ask the runtime to unload `model`; done as well if it says no, but does not have it READY.

    Raises:
        RuntimeRefusedError: it answered with an error, and its index still shows the model READY.
        RuntimeUnreadableError: it gave no answer.
    """
    status, body = await _order(call, model, "unload")
    if status == HTTP_OK:
        return
    if any(row.name == model and row.ready for row in parse(await fetch(call))):
        raise RuntimeRefusedError("unload", model, status, body)


def normalised(state: str) -> str:
    """A state in upper case and without the name of an enum before it; NEVER_LOADED for none."""
    return state.upper().removeprefix("STATE.") or NEVER_LOADED


async def _order(call: Call, model: str, action: str) -> tuple[int, str]:
    path = f"/v2/repository/models/{quote(model, safe='')}/{action}"
    return await call.http.order(call.question(path, _NO_CONDITIONS))


def _row(number: int, row: dict[str, object]) -> ModelState:
    name = _INDEX.name(number, row, "name")
    state = normalised(_INDEX.text(number, row, "state"))
    return ModelState(name, _INDEX.text(number, row, "version"), state, _INDEX.text(number, row, "reason"))
