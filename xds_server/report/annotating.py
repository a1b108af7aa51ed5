"""The pod's annotation of one writer, kept at what is heard: for servers that watch pods and take no streams.

A failure to read the runtime leaves the annotation as it is: who reads it cannot ask back. A refused
connection is different: nobody listens, so nothing is READY.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

import structlog

from xds_server.mesh.events import FailureKind
from xds_server.sources.kubernetes.access import AccessError
from xds_server.sources.kubernetes.api import Api, ApiError, ApiUnreachableError, Request

if TYPE_CHECKING:
    from xds_server.report.reading import Heard, Reading
    from xds_server.sources.kubernetes.access import Login

PREFIX = "models.xds-server.dev/"
"""An annotation of this group for each writer."""

RETRY = 5.0
"""Seconds at most between attempts that failed."""


class Annotating:
    """Writes the annotation `models.xds-server.dev/WRITER` of one pod by merge patch."""

    def __init__(self, login: Login, namespace: str, pod: str, writer: str, reading: Reading) -> None:
        self._login = login
        self._path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
        self._key = PREFIX + writer
        self._reading = reading
        self._log = structlog.get_logger("report").bind(pod=f"{namespace}/{pod}")

    async def run(self) -> None:
        """Keep it until cancelled."""
        api = Api(self._login)
        try:
            await self._open(api)
            told: Heard | None = None
            while True:
                told = await self._reading.other_than(told)
                await self._write(api, told)
        finally:
            await api.close()

    async def _open(self, api: Api) -> None:
        while True:
            try:
                await api.open()
            except AccessError as error:
                await self._wait(str(error))
            else:
                return

    async def _write(self, api: Api, heard: Heard) -> None:
        """Write what is heard; what comes meanwhile is written after it."""
        rows = annotation(heard)
        if rows is None:
            return
        text = json.dumps(rows, separators=(",", ":"))
        body = {"metadata": {"annotations": {self._key: text}}}
        request = Request(
            path=self._path, method="PATCH", body=body, content_type="application/merge-patch+json"
        )
        while True:
            try:
                await api.json(request)
            except (ApiError, ApiUnreachableError) as error:
                await self._wait(str(error))
                if self._reading.heard != heard:
                    return
            else:
                self._log.info("annotated", models=len(rows))
                return

    async def _wait(self, error: str) -> None:
        self._log.warning("not annotated", error=error)
        await asyncio.sleep(random.uniform(RETRY / 2, RETRY))  # noqa: S311 - jitter, no secret


def annotation(heard: Heard) -> list[dict[str, Any]] | None:
    """The annotation's value: `{model, version?, state}` for each row; None: it is left as it is."""
    if heard.failure is not None and heard.failure[0] is not FailureKind.REFUSED:
        return None
    return [
        {"model": row.name, **({"version": row.version} if row.version else {}), "state": row.state}
        for row in heard.rows
    ]
