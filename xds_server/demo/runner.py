"""The demo from beginning to end: start, the steps, the report, and the end of every process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from rich.console import Console

from xds_server.demo import machine, placement, steps, ways
from xds_server.demo.display import Display, tally_text
from xds_server.demo.options import Options, parse
from xds_server.demo.processes import DemoError, Processes
from xds_server.demo.results import Results
from xds_server.demo.stage import Stage, check_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from xds_server.demo.results import MoveResult

STARTED = "DEMO_STARTED"
"""Seconds since the epoch when `make demo` began to make the environment; counted into the total time."""

FAILED, ASTRAY, INTERRUPTED = 1, 2, 130


class Runner:
    """One run of the demo."""

    def __init__(self, options: Options, display: Display, stage: Stage, results: Results) -> None:
        self._options = options
        self._display = display
        self._stage = stage
        self._results = results

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._results.seconds[what] = time.monotonic() - began

    async def run(self) -> None:
        """Start-up and the steps; the results are filled in as they come."""
        with self._timed("Training"):
            await self._train()
        with self._timed("Start"):
            await self._start()
        with self._timed("Steps 1 to 3"):
            await self._read()
            await self._matrix()
            await self._ways()
        with self._timed("Step 4"):
            await self._moves()
        with self._timed("Step 5"):
            await self._compare()

    async def _train(self) -> None:
        with self._display.running("training the models on scikit-learn's digits"):
            self._results.training = await self._stage.train()
        count = len(self._stage.placement)
        self._display.say(f"  {count} models in {self._stage.repository}")

    async def _start(self) -> None:
        what = f"{len(self._options.replicas)} {self._options.runtime} replicas"
        with self._display.running(f"starting {what}, the server and Envoy"):
            await asyncio.gather(self._stage.start_replicas(), self._stage.start_server())
            await self._stage.start_envoy()
        for name, address in zip(self._options.names, self._options.replicas, strict=True):
            models = ", ".join(placement.loaded_on(self._stage.placement, address))
            self._display.say(f"  {name} {address}  {models}")
        self._display.say(f"  gateway {self._options.gateway} (Envoy {self._results.machine['Envoy']})")
        if self._options.port != 8008:
            self._display.say(f"  the seed's VirtualService was changed to match port {self._options.port}")

    async def _read(self) -> None:
        self._display.heading(1, "The seed's own request")
        self._results.reading = await steps.read_seed(self._stage)
        self._display.reading(self._results.reading)

    async def _matrix(self) -> None:
        self._display.heading(2, "Every model, and the replica that Envoy chose")
        with self._display.running("asking every model") as advance:
            self._results.matrix = await steps.fill_matrix(self._stage, advance)
        self._display.matrix(self._results.matrix)

    async def _ways(self) -> None:
        self._display.heading(3, "The same request, its model named in four ways")
        self._results.ways = await ways.send_all(self._stage)
        self._display.ways(self._results.ways)

    async def _moves(self) -> None:
        self._display.heading(4, "Models move while requests run")
        done = 0
        with self._display.running("moving models") as advance:
            self._display.moves_heading()

            def told(result: MoveResult) -> None:
                nonlocal done
                done += 1
                advance(done / self._options.moves)
                self._display.move(result, self._stage.name)

            self._results.moves = await steps.move_models(self._stage, told)
        self._display.moves(self._results.moves)

    async def _compare(self) -> None:
        rate, seconds = self._options.rate, self._options.seconds
        self._display.heading(
            5, f"{rate:g} requests a second for {seconds:g} s: without subsets, then with them"
        )
        with self._display.running("before: no subsets, replicas forward; then: subsets") as advance:

            def told(which: str, share: float) -> None:
                advance(share / 2 + (which == "after") / 2)

            self._results.comparison = await steps.compare(self._stage, told)
        self._display.comparison(self._results.comparison)

    def what_to_try(self) -> None:
        """The URLs and commands for what is left running."""
        options = self._options
        request = options.directory / "request.json"
        request.write_bytes(self._stage.body)
        move = placement.next_move(self._stage.placement, options.replicas, 0)
        command, admin = _shortest(Path(sys.executable).with_name("xds-server")), f"--admin {options.admin}"
        self._display.say(
            "\n[bold]Everything is left running; Ctrl-C ends it.[/] To try:\n"
            f"  curl -s -i -H 'model: tf-mnist' -H 'content-type: application/json' \\\n"
            f"    -d @{_shortest(request)} \\\n"
            f"    http://{options.gateway}/v2/models/tf-mnist/infer\n"
            f"  {command} status {admin}\n"
            f"  {command} load {move.model} {move.target} {admin}\n"
            f"  {command} unload {move.model} {move.source} {admin}\n"
            f"  curl -s http://{options.admin}/status\n"
            f"  curl -s http://{options.admin}/metrics\n"
            f"  curl -s http://{options.envoy_admin}/clusters\n"
            f"  documents, reloaded live: {_shortest(options.directory / 'config')}\n"
            f"  logs: {_shortest(options.directory / 'logs')}"
        )


def _shortest(path: Path) -> Path:
    """As one would type it here."""
    whole = path.absolute()
    return whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole


async def _run(options: Options, display: Display, began: float) -> int:
    check_ports(options)
    names = dict(zip(options.replicas, options.names, strict=True))
    results = Results(options.runtime, await machine.describe(options), names)
    async with Processes(options.directory / "logs") as processes, aiohttp.ClientSession() as session:
        stage = Stage(options, processes, session)
        runner = Runner(options, display, stage, results)
        await runner.run()
        results.seconds["Total, with the environment" if STARTED in os.environ else "Total"] = (
            time.time() - began
        )
        with display.running("writing the report"):
            page = await asyncio.to_thread(_write_report, options.report, results)
        display.say(f"\n  report: {page}")
        _conclude(display, results, time.time() - began)
        if options.keep:
            runner.what_to_try()
            await _until_interrupted(processes)
    if options.keep:
        display.say("\n  everything has been stopped")
    return 0 if results.tally.clean else ASTRAY


def _write_report(directory: Path, results: Results) -> Path:
    from xds_server.demo import report  # noqa: PLC0415 - matplotlib is slow to import and only needed now

    return report.write(directory, results)


def _conclude(display: Display, results: Results, seconds: float) -> None:
    verdict = "[bold green]Done" if results.tally.clean else "[bold red]Not as it should be"
    display.say(f"  {verdict}[/] in {seconds:.0f} s. {tally_text(results.tally)}")


async def _until_interrupted(processes: Processes) -> None:
    try:
        while True:
            processes.check()
            await asyncio.sleep(1.0)
    except asyncio.CancelledError:
        # Ctrl-C is how a kept demo ends: the results stand.
        return


async def _interruptible(options: Options, display: Display, began: float) -> int:
    """SIGTERM ends the demo as Ctrl-C does: everything is stopped in order."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await _run(options, display, began)


def main(arguments: Sequence[str] | None = None, began: float | None = None) -> int:
    """Runs the demo. `began`: when the process did, in seconds since the epoch; now unless given.

    Returns:
        0: every request was answered by a replica that has its model. 1: the demo could not be run.
        2: requests failed or went astray. 130: interrupted.
    """
    options = parse(arguments)
    display = Display(Console())
    start = float(os.environ.get(STARTED) or began or time.time())
    try:
        return asyncio.run(_interruptible(options, display, start))
    except DemoError as error:
        display.console.print(f"\n{error}", style="bold red", markup=False, highlight=False)
        return FAILED
    except (KeyboardInterrupt, asyncio.CancelledError):
        display.say("\n  interrupted; everything has been stopped")
        return INTERRUPTED
