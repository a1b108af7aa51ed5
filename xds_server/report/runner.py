"""One run of `xds-server report`: the reading, a stream to each server, the annotation; signals end it."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds_server.report.annotating import Annotating
from xds_server.report.reading import Reading
from xds_server.report.streaming import Streaming, Subject, Tls

if TYPE_CHECKING:
    from xds_server.sources.kubernetes.access import Login
    from xds_server.sources.runtimes.asking import Target


@dataclass(frozen=True, slots=True)
class Annotate:
    """Which annotation is to be kept, and how the API server is reached."""

    login: Login
    namespace: str
    pod: str
    writer: str


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What was asked for. `servers` are HOST:PORT; there is one of them, or an annotation to be kept."""

    target: Target
    subject: Subject
    servers: tuple[str, ...] = ()
    tls: Tls | None = None
    annotate: Annotate | None = None


async def report(options: ReportOptions) -> int:
    """Run until SIGTERM or SIGINT; returns the process's exit code."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(options, stop)
    return 0


async def run(options: ReportOptions, stop: asyncio.Event) -> None:
    """Run until `stop` is set."""
    reading = Reading(options.target)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(reading.run(), name="runtime")]
        for server in options.servers:
            streaming = Streaming(server, options.subject, reading, options.tls)
            running.append(group.create_task(streaming.run(), name=f"report to {server}"))
        if (wanted := options.annotate) is not None:
            annotating = Annotating(wanted.login, wanted.namespace, wanted.pod, wanted.writer, reading)
            running.append(group.create_task(annotating.run(), name="annotation"))
        await stop.wait()
        for task in running:
            task.cancel()
