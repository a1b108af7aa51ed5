"""What the measured servers have in common: their options, their ready line, and how they end."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """Addresses are HOST:PORT."""

    endpoints: int
    models_per_endpoint: int
    models: int
    xds: str
    trigger: str


def parse(description: str | None) -> Options:
    """Read the command line that all measured servers share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--endpoints", type=int, required=True)
    parser.add_argument("--models-per-endpoint", type=int, default=20)
    parser.add_argument("--models", type=int, default=1000, help="how many there are to draw from")
    parser.add_argument("--xds", default="127.0.0.1:18000")
    parser.add_argument("--trigger", default="127.0.0.1:18001")
    return Options(**vars(parser.parse_args()))


async def until_signal(**facts: object) -> None:
    """Say on standard output that the server is ready, with its CPU seconds so far; wait for the end."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    line = {"ready": True, "cpu_seconds": round(time.process_time(), 3), **facts}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    await stop.wait()
