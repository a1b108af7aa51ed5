"""Sending inference requests through the gateway, and what is noted of each.

What may not live here: when requests are sent (load.py), what is concluded from them (steps.py).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import aiohttp

from xds_server.demo.forwarding import FORWARDED_BY, SERVED_BY

if TYPE_CHECKING:
    from types import TracebackType

TIMEOUT = 10.0
"""Seconds after which a request counts as failed."""

MODEL_HEADER = "model"
LABEL = "request"
"""The query parameter that finds a request again in Envoy's access log: a gateway gives every request an
`x-request-id` of its own, and it does not come back with the answer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times in seconds on `time.perf_counter`'s scale; `status` 0: no answer, see `error`."""

    label: str
    model: str
    intended: float
    sent: float
    done: float
    status: int
    served_by: str = ""
    forwarded_by: str = ""
    error: str = ""
    body: bytes = b""

    @property
    def latency(self) -> float:
        """Seconds from the moment at which the request was due, not from when it could be sent."""
        return self.done - self.intended

    @property
    def ok(self) -> bool:
        """Whether it was answered with 200."""
        return self.status == 200


class Client:
    """Sends one body to any model through the gateway at HOST:PORT, over as many connections as needed."""

    def __init__(self, gateway: str, body: bytes) -> None:
        self._gateway = gateway
        self._body = body
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
            headers={"content-type": "application/json"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, model: str, label: str = "", intended: float | None = None) -> Sample:
        """Sends a request for `model`; never raises for a request that fails."""
        if self._session is None:
            raise RuntimeError("the client is used outside of its `async with`")
        url = f"http://{self._gateway}/v2/models/{quote(model, safe='')}/infer" + (
            f"?{LABEL}={label}" if label else ""
        )
        sent = time.perf_counter()
        due = sent if intended is None else intended
        try:
            async with self._session.post(url, data=self._body, headers={MODEL_HEADER: model}) as answer:
                body = await answer.read()
                return Sample(
                    label,
                    model,
                    due,
                    sent,
                    time.perf_counter(),
                    answer.status,
                    answer.headers.get(SERVED_BY, ""),
                    answer.headers.get(FORWARDED_BY, ""),
                    "" if answer.status == 200 else body[:200].decode(errors="replace"),
                    body,
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            return Sample(label, model, due, sent, time.perf_counter(), 0, error=repr(error))
