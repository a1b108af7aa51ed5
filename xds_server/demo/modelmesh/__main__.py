"""`python -m xds_server.demo.modelmesh`: the whole story, from nothing to the end of every process."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from pathlib import Path

import aiohttp
from rich.console import Console

from xds_server.demo.modelmesh.stage import PODS, Stage
from xds_server.demo.modelmesh.story import Claims, tell
from xds_server.demo.processes import DemoError, Processes

FAILED, BROKEN = 2, 1


def main() -> int:
    """Run it. Returns 0: every claim held; 2: one did not; 1: it could not be run."""
    parser = argparse.ArgumentParser(prog="python -m xds_server.demo.modelmesh", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each latency test (15)")
    parser.add_argument(
        "--directory", type=Path, default=Path(".demo"), help="models, documents, logs (.demo)"
    )
    parser.add_argument("--envoy", type=Path, default=Path(sys.executable).with_name("envoy"))
    options = parser.parse_args()
    claims, began = Claims(Console()), time.monotonic()
    try:
        asyncio.run(_run(options, claims))
    except DemoError as error:
        claims.console.print(f"\n{error}", style="bold red", markup=False, highlight=False)
        return BROKEN
    verdict = "every claim held" if claims.hold else "NOT every claim held"
    claims.say(f"\n{len(claims.found)} claims, {verdict}; {time.monotonic() - began:.0f} s")
    return 0 if claims.hold else FAILED


async def _run(options: argparse.Namespace, claims: Claims) -> None:
    directory: Path = options.directory
    await asyncio.to_thread(shutil.rmtree, directory / "modelmesh", ignore_errors=True)
    logs = directory / "modelmesh" / "logs"
    async with Processes(logs) as processes, aiohttp.ClientSession() as session:
        stage = Stage(directory, options.envoy, processes, session)
        claims.say("starting etcd, four pods, the server and Envoy")
        await asyncio.gather(stage.train(), stage.start_etcd())
        await stage.write_registry()
        await asyncio.gather(*(stage.start_pod(pod) for pod in PODS), stage.start_server())
        await stage.start_envoy()
        claims.say(
            f"  gateway {stage.gateway}, server's admin port 127.0.0.1:{stage.admin_port}, logs {logs}"
        )
        await tell(stage, claims, options.seconds)


if __name__ == "__main__":
    sys.exit(main())
