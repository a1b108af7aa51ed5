"""Ollama: `/api/ps` lists what is in memory now; `/api/tags`, what is on disk, says nothing.

A name without a tag means the tag `latest`, so a model that is loaded as `mistral:latest` has both names.
Each model has a time at which it is dropped unless it is asked again (`expires_at`).
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

from xds_server.mesh.events import ModelState
from xds_server.sources.runtimes.answers import RuntimeRefusedError, Shape
from xds_server.sources.runtimes.http import HTTP_OK

if TYPE_CHECKING:
    from xds_server.sources.runtimes.asking import Call

_LIST = Shape("the list of loaded models")
_LATEST = ":latest"


async def fetch(call: Call) -> bytes:
    """The models in memory."""
    return await call.http.ask(call.question("/api/ps"))


def parse(body: bytes) -> tuple[ModelState, ...]:
    """Each model in memory, READY; one with the tag `latest` also under its name alone."""
    found: set[ModelState] = set()
    for number, row in enumerate(_rows(body)):
        name = _LIST.name(number, row, "name")
        last = name.rpartition("/")[2]
        full = name if ":" in last else name + _LATEST
        found.add(ModelState(full))
        if full.endswith(_LATEST):
            found.add(ModelState(full.removesuffix(_LATEST)))
    return tuple(sorted(found))


def until(body: bytes) -> float | None:
    """When (epoch seconds) the first of the models is dropped if nobody asks for it; None: never."""
    times = [_time(_LIST.text(number, row, "expires_at")) for number, row in enumerate(_rows(body))]
    return min((time for time in times if time is not None), default=None)


def _rows(body: bytes) -> list[dict[str, object]]:
    return _LIST.rows_under(_LIST.parsed(body), "models")


def _time(text: str) -> float | None:
    """Its times have up to nine digits of a second and a zone. One that is no time promises nothing."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.timestamp() if found.tzinfo is not None else None


async def load(call: Call, model: str) -> None:
    """Ask for nothing of `model`, which loads it. Errors: Orders."""
    status, body = await _order(call, model, {})
    if status != HTTP_OK:
        raise RuntimeRefusedError("load", model, status, body)


async def unload(call: Call, model: str) -> None:
    """Let `model` be dropped now; done as well if it says no, but does not have it. Errors: Orders."""
    status, body = await _order(call, model, {"keep_alive": 0})
    if status != HTTP_OK and any(row.name == model for row in parse(await fetch(call))):
        raise RuntimeRefusedError("unload", model, status, body)


async def _order(call: Call, model: str, more: dict[str, object]) -> tuple[int, str]:
    body = json.dumps({"model": model, "stream": False, **more}).encode()
    return await call.http.order(call.question("/api/generate", body))
