"""KServe's own Python server: it lists names without states, and has no repository index.

Seen on 0.21: `/v2/models` lists the models that it holds; `/v2/models/{m}/ready` tells whether one may be
asked, with status 503 if not; a second unload is a 404.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

from xds_server.mesh.events import ModelState
from xds_server.sources.runtimes import open_inference
from xds_server.sources.runtimes.answers import RuntimeRefusedError, Shape, bad, shown
from xds_server.sources.runtimes.http import HTTP_OK

if TYPE_CHECKING:
    from xds_server.sources.runtimes.asking import Call

_LIST = Shape("the list of models")
_ALL = Shape("the models' readiness")


async def fetch(call: Call) -> bytes:
    """Each listed name with whether it is ready, as one object."""
    names = _names(await call.http.ask(call.question("/v2/models")))
    ready = await asyncio.gather(*(_ready(call, name) for name in names))
    return json.dumps(dict(zip(names, ready, strict=True))).encode()


def _names(body: bytes) -> list[str]:
    names = _LIST.mapping(_LIST.parsed(body)).get("models")
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise bad(f"models of {_LIST.what} is no array of names: {shown(json.dumps(names))}")
    return sorted(set(names))


async def _ready(call: Call, model: str) -> bool:
    status, body = await call.http.answer(call.question(f"/v2/models/{quote(model, safe='')}/ready"))
    if status != HTTP_OK:
        return False
    shape = Shape(f"the readiness of {model!r}")
    return shape.mapping(shape.parsed(body)).get("ready") is True


def parse(body: bytes) -> tuple[ModelState, ...]:
    """Each listed model: READY, or UNKNOWN while it is not."""
    models = _ALL.mapping(_ALL.parsed(body))
    return tuple(
        sorted(ModelState(name, "", "READY" if ready else "UNKNOWN") for name, ready in models.items())
    )


load = open_inference.load


async def unload(call: Call, model: str) -> None:
    """Ask for an unload; done as well if it says no, but does not list the model. Errors: Orders."""
    path = f"/v2/repository/models/{quote(model, safe='')}/unload"
    status, body = await call.http.order(call.question(path, b"{}"))
    if status != HTTP_OK and model in _names(await call.http.ask(call.question("/v2/models"))):
        raise RuntimeRefusedError("unload", model, status, body)
