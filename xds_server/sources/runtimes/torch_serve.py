"""TorchServe's management API (port 8081 unless configured otherwise).

A registered model may have no worker, and then serves nothing: READY is a version with a worker that is.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

from xds_server.mesh.events import ModelState
from xds_server.sources.runtimes.answers import Shape, bad

if TYPE_CHECKING:
    from xds_server.sources.runtimes.asking import Call

PAGES = 1000
"""Pages of PAGE models that are read at most: a server that always names a next one must not hold us."""
PAGE = 100

_LIST = Shape("the list of models")
_ALL = Shape("the models' descriptions")


async def fetch(call: Call) -> bytes:
    """The descriptions of all versions of all models, as one array."""
    names = await _names(call)
    described = await asyncio.gather(*(_describe(call, name) for name in names))
    return json.dumps([version for versions in described for version in versions]).encode()


async def _names(call: Call) -> list[str]:
    names: list[str] = []
    token = ""
    for _ in range(PAGES):
        following = f"&next_page_token={quote(token, safe='')}" if token else ""
        answer = _LIST.mapping(
            _LIST.parsed(await call.http.ask(call.question(f"/models?limit={PAGE}{following}")))
        )
        rows = _LIST.rows_under(answer, "models")
        names += [_LIST.name(number, row, "modelName") for number, row in enumerate(rows)]
        token = _LIST.text(0, answer, "nextPageToken")
        if not token:
            return names
    raise bad(f"{call.url} lists more than {PAGES * PAGE} models")


async def _describe(call: Call, model: str) -> list[dict[str, object]]:
    shape = Shape(f"the description of {model!r}")
    return shape.rows(
        shape.parsed(await call.http.ask(call.question(f"/models/{quote(model, safe='')}/all")))
    )


def parse(body: bytes) -> tuple[ModelState, ...]:
    """Each version of each model: READY, LOADING while no worker is ready yet, UNAVAILABLE without any."""
    return tuple(sorted(_row(number, row) for number, row in enumerate(_ALL.rows(_ALL.parsed(body)))))


def _row(number: int, row: dict[str, object]) -> ModelState:
    workers = Shape(f"row {number} of {_ALL.what}").rows_under(row, "workers")
    ready = sum(worker.get("status") == "READY" for worker in workers)
    return ModelState(
        _ALL.name(number, row, "modelName"),
        _ALL.text(number, row, "modelVersion"),
        "READY" if ready else "LOADING" if workers else "UNAVAILABLE",
        "" if ready or not workers else f"none of {len(workers)} workers is ready",
    )
