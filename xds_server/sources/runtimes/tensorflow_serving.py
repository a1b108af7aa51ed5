"""TensorFlow Serving. It lists nothing: each model that the pool names is asked for by itself."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING
from urllib.parse import quote

from xds_server.mesh.pools import TensorFlowServing
from xds_server.sources.runtimes import version_status
from xds_server.sources.runtimes.answers import Shape, bad, shown

if TYPE_CHECKING:
    from xds_server.mesh.events import ModelState
    from xds_server.sources.runtimes.asking import Call

_ALL = Shape("the models' states")


async def fetch(call: Call) -> bytes:
    """The status of each of the pool's models, as one object; a model that it does not know is left out."""
    if not isinstance(call.discovery, TensorFlowServing):
        raise TypeError(f"{call.discovery!r} names no models to ask for")
    names = call.discovery.models
    answers = await asyncio.gather(*(_status(call, name) for name in names))
    known = {name: answer for name, answer in zip(names, answers, strict=True) if answer is not None}
    return json.dumps(known).encode()


async def _status(call: Call, model: str) -> object:
    question = call.question(f"/v1/models/{quote(model, safe='')}")
    status, body = await call.http.answer(question)
    if status == HTTPStatus.NOT_FOUND:
        return None
    if status != HTTPStatus.OK:
        raise bad(f"{question.target} answered HTTP {status} {shown(body.decode(errors='replace'))}".rstrip())
    return Shape(f"the status of {model!r}").parsed(body)


def parse(body: bytes) -> tuple[ModelState, ...]:
    """Each version of each model."""
    answers = _ALL.mapping(_ALL.parsed(body))
    rows = (version_status.rows(model, answer) for model, answer in answers.items())
    return tuple(sorted(chain.from_iterable(rows)))
