"""The open-loop load generator: requests leave at fixed times, whether or not earlier ones were answered.

A closed loop would stop asking while the service stalls, and hide the stall; here a request's latency counts
from the moment at which it was due. `python -m xds_server.demo.load` runs it in a process of its own, so that
the display of the demo does not disturb what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import gc
import itertools
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from xds_server.demo.payload import as_rest, seed_request
from xds_server.demo.requests import Client, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_UP = 30
"""Requests before the measured ones: connections are opened, code is loaded."""

LEAD = 0.2
"""Seconds between the start and the first request."""

COLUMNS = (
    "due_seconds",
    "sent_late_ms",
    "latency_ms",
    "model",
    "status",
    "served_by",
    "forwarded_by",
    "error",
)


class OpenLoop:
    """Sends requests for `models` in turn, `rate` a second, until `count` of them or `stop`.

    A thread keeps the time: an event loop's own timers are a millisecond coarse.
    """

    def __init__(self, client: Client, models: Sequence[str], rate: float, prefix: str = "") -> None:
        self._client = client
        self._models = itertools.cycle(models)
        self._rate = rate
        self._prefix = prefix
        self._stopped = threading.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._samples: list[Sample] = []

    @property
    def answered(self) -> int:
        """Requests that have come to an end so far."""
        return len(self._samples)

    def stop(self) -> None:
        """No more requests; `run` returns when those under way have ended."""
        self._stopped.set()

    async def run(self, count: int | None = None) -> list[Sample]:
        """Sends the requests and returns all of them, in the order in which they ended."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, self._keep_time, loop, count)
        finally:
            self.stop()
        while self._under_way:
            await asyncio.wait(self._under_way)
        return self._samples

    def _keep_time(self, loop: asyncio.AbstractEventLoop, count: int | None) -> None:
        start = time.perf_counter() + LEAD
        for number in itertools.count() if count is None else range(count):
            due = start + number / self._rate
            if self._stopped.wait(max(0.0, due - time.perf_counter())):
                return
            loop.call_soon_threadsafe(self._send, number, due)

    def _send(self, number: int, due: float) -> None:
        label = f"{self._prefix}{number}" if self._prefix else ""
        task = asyncio.create_task(self._one(next(self._models), label, due), name=f"request-{number}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _one(self, model: str, label: str, due: float) -> None:
        self._samples.append(await self._client.send(model, label, due))


def write(path: Path, samples: Sequence[Sample]) -> None:
    """Writes the samples as CSV, in the order in which they were due; times from the first one's."""
    ordered = sorted(samples, key=lambda sample: sample.intended)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for sample in ordered:
            due = sample.intended - ordered[0].intended
            late, latency = (sample.sent - sample.intended) * 1000, sample.latency * 1000
            numbers = (f"{due:.4f}", f"{late:.3f}", f"{latency:.3f}")
            rows.writerow(
                (*numbers, sample.model, sample.status, sample.served_by, sample.forwarded_by, sample.error)
            )


async def measure(
    gateway: str, body: bytes, models: Sequence[str], rate: float, seconds: float
) -> list[Sample]:
    """Warms up, then measures for `seconds`."""
    async with Client(gateway, body) as client:
        for model in itertools.islice(itertools.cycle(models), WARM_UP):
            await client.send(model)
        # A collection of garbage in the middle would be taken for latency of the service.
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            return await OpenLoop(client, models, rate).run(round(rate * seconds))
        finally:
            gc.enable()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: measure, and write one line a request."""
    parser = argparse.ArgumentParser(prog="python -m xds_server.demo.load", description=__doc__)
    parser.add_argument("--gateway", default="127.0.0.1:8008", metavar="HOST:PORT")
    parser.add_argument("--model", action="append", required=True, help="repeatable: asked in turn")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--form", choices=("seed", "rest"), default="seed", help="protobuf-JSON, or V2 REST")
    parser.add_argument("--output", type=Path, required=True, help="CSV file to write")
    options = parser.parse_args(arguments)
    body = seed_request() if options.form == "seed" else as_rest(seed_request())
    samples = asyncio.run(measure(options.gateway, body, options.model, options.rate, options.seconds))
    write(options.output, samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
