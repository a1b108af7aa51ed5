"""The stream to one server: the whole of what is heard at each change, a heartbeat while nothing changes.

A stream that breaks is begun anew, after a pause that grows; so the server loses freshness, and no model.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from xds_server.report_messages import (
    HEARTBEAT,
    METHOD,
    SERVICE,
    SILENCE,
    Failure,
    Listing,
    ReportRequest,
    ReportResponse,
    Row,
)

if TYPE_CHECKING:
    from pathlib import Path

    from xds_server.report.reading import Heard, Reading

BACKOFF = (0.2, 5.0)
"""Seconds between two attempts: the first, and what doubling them ends at."""

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose models these are: a pod or an endpoint (HOST:PORT); of one service, or of all."""

    pod: str = ""
    endpoint: str = ""
    service: str = ""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: who signed the server's certificate, and our own. `name`: what the server's is for."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    name: str = ""


class Streaming:
    """Tells one server (HOST:PORT) what the reading hears. `tls` None: plain text."""

    def __init__(self, server: str, subject: Subject, reading: Reading, tls: Tls | None) -> None:
        self._server = server
        self._subject = subject
        self._reading = reading
        self._tls = tls
        self._log = structlog.get_logger("report").bind(server=server)
        self._answers = 0
        self._known: list[str] | None = None

    async def run(self) -> None:
        """Stream until cancelled."""
        attempt, (first, last) = 0, BACKOFF
        while True:
            answers = self._answers
            try:
                async with await self._channel() as channel:
                    await self._stream(channel)
            except (grpc.RpcError, asyncio.InvalidStateError, TimeoutError, OSError) as error:
                self._log.warning("not told", error=_said(error))
                self._known = None
            attempt = 0 if self._answers > answers else attempt + 1
            wait = min(last, first * 2 ** min(attempt, 10))
            await asyncio.sleep(random.uniform(wait / 2, wait))  # noqa: S311 - jitter, no secret

    async def _channel(self) -> grpc.aio.Channel:
        """A new channel: certificates are read anew, so that a rotated one is used at the next connection."""
        tls = self._tls
        if tls is None:
            return grpc.aio.insecure_channel(self._server, _OPTIONS)
        files = (tls.ca, tls.key, tls.certificate)
        ca, key, certificate = await asyncio.to_thread(
            lambda: tuple(file.read_bytes() if file else None for file in files)
        )
        name = [("grpc.ssl_target_name_override", tls.name)] if tls.name else []
        credentials = grpc.ssl_channel_credentials(ca, key, certificate)
        return grpc.aio.secure_channel(self._server, credentials, [*_OPTIONS, *name])

    async def _stream(self, channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
        told: Heard | None = None
        try:
            while True:
                heard = await self._next(told)
                await call.write(bytes(self._request(heard, told)))
                told = heard
                async with asyncio.timeout(SILENCE):
                    answer = await call.read()
                if answer is grpc.aio.EOF:
                    raise TimeoutError(f"the server ended the stream: {await call.details()}")
                self._take(ReportResponse.parse(answer))
        finally:
            call.cancel()

    async def _next(self, told: Heard | None) -> Heard:
        """What is heard: at once when it changes, else as it was after a heartbeat."""
        try:
            async with asyncio.timeout(None if told is None else HEARTBEAT):
                return await self._reading.other_than(told)
        except TimeoutError:
            if told is None:
                raise
            return told

    def _request(self, heard: Heard, told: Heard | None) -> ReportRequest:
        subject = self._subject
        request = ReportRequest(pod=subject.pod, endpoint=subject.endpoint, service=subject.service)
        if heard is told:
            return request
        if heard.failure is not None:
            kind, error = heard.failure
            request.failure = Failure(kind=kind.value, error=error)
        else:
            rows = [Row(name=r.name, version=r.version, state=r.state, reason=r.reason) for r in heard.rows]
            request.listing = Listing(rows=rows)
        return request

    def _take(self, answer: ReportResponse) -> None:
        self._answers += 1
        if answer.endpoints != self._known:
            self._known = answer.endpoints
            if answer.endpoints:
                self._log.info("told", endpoints=answer.endpoints)
            else:
                self._log.warning(
                    "told, but the server knows no such endpoint in a pool that takes reports",
                    pod=self._subject.pod,
                    endpoint=self._subject.endpoint,
                )


def _said(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details() or 'no details'}"
    return str(error) or type(error).__name__
