"""Forwarding between replicas: who has a model, and handing a request on to one that has it.

This is what ModelMesh does when a request reaches an instance without the model. ModelMesh knows the holders
from its registry before a request comes; likewise the table here is kept fresh beside the requests, so that a
forwarded request costs a second hop and nothing more. What may not live here: models, steps of the demo.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterable

HOP = "x-forwarded-hop"
"""Marks a request that has been forwarded once: it is not forwarded again."""

SERVED_BY = "x-served-by"
FORWARDED_BY = "x-forwarded-by"
NOT_HERE = (400, 404)
"""How a runtime answers for a model that it has not: unknown or not loaded (404), not ready yet (400)."""

REFRESH = 1.0
"""Seconds between two looks at the other replicas' indexes."""

ANSWER_TIMEOUT = 30.0
"""Seconds that a forwarded request may take."""

INDEX_TIMEOUT = 5.0


class Peers:
    """Some replicas (HOST:PORT each) and the models that are READY on each, kept fresh by `run`."""

    def __init__(
        self, addresses: Iterable[str], session: aiohttp.ClientSession, interval: float = REFRESH
    ) -> None:
        self._ready: dict[str, frozenset[str]] = {address: frozenset() for address in addresses}
        self._session = session
        self._interval = interval
        self._turn = 0

    async def run(self) -> None:
        """Keeps the table fresh until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._interval)

    async def refresh(self) -> None:
        """Asks every replica once. One that cannot be asked is taken to have no model."""
        found = await asyncio.gather(*(self._ask(address) for address in self._ready))
        self._ready = dict(zip(self._ready, found, strict=True))

    def holders(self, model: str) -> list[str]:
        """The replicas that have the model, in turn first one and then another."""
        holders = [address for address, models in self._ready.items() if model in models]
        self._turn += 1
        start = self._turn % len(holders) if holders else 0
        return holders[start:] + holders[:start]

    async def forward(self, model: str, request: web.Request, body: bytes, name: str) -> web.Response | None:
        """Hands a request on to a holder of its model; None when it has been before, or nobody has it.

        A holder that lost the model, or that is gone, gives way to the next one. `name`: who forwards.
        """
        if HOP in request.headers:
            return None
        answer = await self._from_a_holder(model, request, body)
        if answer is None:
            # Nobody had it when the table was made, or its holders have lost it since.
            await self.refresh()
            answer = await self._from_a_holder(model, request, body)
        if answer is not None:
            answer.headers[FORWARDED_BY] = name
        return answer

    async def _from_a_holder(self, model: str, request: web.Request, body: bytes) -> web.Response | None:
        for address in self.holders(model):
            try:
                answer = await hand_on(self._session, address, request, body, {HOP: "1"})
            except (aiohttp.ClientError, TimeoutError):
                continue
            if answer.status != web.HTTPNotFound.status_code:
                return answer
        return None

    async def _ask(self, address: str) -> frozenset[str]:
        url = f"http://{address}/v2/repository/index"
        timeout = aiohttp.ClientTimeout(total=INDEX_TIMEOUT)
        try:
            async with self._session.post(
                url, data=b'{"ready": true}', timeout=timeout, headers=JSON
            ) as answer:
                answer.raise_for_status()
                rows = json.loads(await answer.read())
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return frozenset()
        return frozenset(row["name"] for row in rows if row.get("state") == "READY")


JSON = {"content-type": "application/json"}


def session() -> aiohttp.ClientSession:
    """Connections to other replicas, kept alive; as many at a time as requests need."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(ANSWER_TIMEOUT),
    )


async def hand_on(
    client: aiohttp.ClientSession, address: str, request: web.Request, body: bytes, headers: dict[str, str]
) -> web.Response:
    """Sends a request to another server and turns its answer into ours.

    Raises:
        aiohttp.ClientError, TimeoutError: it could not be sent, or no answer came.
    """
    sent = {**JSON, **headers}
    async with client.request(
        request.method, f"http://{address}{request.raw_path}", data=body, headers=sent
    ) as got:
        answer = web.Response(
            status=got.status, body=await got.read(), headers={"content-type": got.content_type}
        )
        if SERVED_BY in got.headers:
            answer.headers[SERVED_BY] = got.headers[SERVED_BY]
        return answer
