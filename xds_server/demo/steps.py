"""The demo's steps but that of ways.py: each runs requests against the stage and returns what it found."""

from __future__ import annotations

import asyncio
import csv
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from xds_server.demo import placement
from xds_server.demo.load import OpenLoop
from xds_server.demo.options import MLSERVER
from xds_server.demo.payload import read_digit
from xds_server.demo.processes import DemoError
from xds_server.demo.results import Comparison, Matrix, MoveResult, Moves, Reading, Run, tally

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xds_server.demo.placement import Move
    from xds_server.demo.requests import Client, Sample
    from xds_server.demo.results import Tally
    from xds_server.demo.stage import Stage

SEED_MODEL = "tf-mnist"

EACH = 24
"""Requests for each model in the matrix."""

STEADY = 50.0
"""Requests a second over all models while models move."""

PROBES = 100.0
"""Requests a second for the model that moves."""

SETTLE, DRAIN = 1.0, 0.5
"""Seconds before an unload: for Envoy's workers to follow its acknowledgement, and for requests under way."""

WATCHED = 0.3
"""Seconds of requests between a load and the unload that follows it, and after that."""


async def read_seed(stage: Stage) -> Reading:
    """Step 1: the seed's own request, for its model, to its path."""
    async with stage.client() as client:
        sample = await client.send(SEED_MODEL)
    if not sample.ok:
        raise DemoError(f"the seed's request was answered with {sample.status}: {sample.error}")
    line = await stage.access_log.last()
    upstream = str(line["upstream"])
    counted = tally([sample], {"": upstream}, stage.placement)
    milliseconds = sample.latency * 1000
    return Reading(SEED_MODEL, read_digit(sample.body), stage.name(upstream), milliseconds, counted)


async def fill_matrix(stage: Stage, advance: Callable[[float], None]) -> Matrix:
    """Step 2: requests for every model; which replica Envoy sent each to. `advance`: the share done."""
    models = list(stage.placement)
    total = EACH * len(models)
    async with stage.client() as client:
        loop = OpenLoop(client, models, stage.options.rate, "matrix-")
        samples = await _followed(loop, total, advance)
    upstreams = await stage.access_log.upstreams([sample.label for sample in samples])
    counts: dict[str, Counter[str]] = {model: Counter() for model in models}
    for sample in samples:
        counts[sample.model][stage.name(upstreams[sample.label])] += 1
    named = {model: tuple(map(stage.name, replicas)) for model, replicas in stage.placement.items()}
    plain = {model: dict(by_replica) for model, by_replica in counts.items()}
    return Matrix(stage.options.names, plain, named, tally(samples, upstreams, stage.placement))


async def _followed(loop: OpenLoop, total: int, advance: Callable[[float], None]) -> list[Sample]:
    running = asyncio.create_task(loop.run(total), name="load")
    try:
        while not running.done():
            await asyncio.wait([running], timeout=0.25)
            advance(loop.answered / total)
    finally:
        loop.stop()
    return await running


async def move_models(stage: Stage, told: Callable[[MoveResult], None]) -> Moves:
    """Step 4: models move between replicas while requests for all of them run. `told`: after each move."""
    results = []
    async with stage.client() as client:
        steady = OpenLoop(client, list(stage.placement), STEADY, "steady-")
        running = asyncio.create_task(steady.run(), name="steady-load")
        try:
            for number in range(stage.options.moves):
                move = placement.next_move(stage.placement, stage.options.replicas, number)
                results.append(await _move(stage, client, move, number))
                told(results[-1])
        finally:
            steady.stop()
            samples = await running
    counted: Tally = sum((result.tally for result in results), tally(samples))
    return Moves(tuple(results), counted)


async def _move(stage: Stage, client: Client, move: Move, number: int) -> MoveResult:
    """One move: load at the target, then unload at the source, with a stream of requests for the model."""
    probes = OpenLoop(client, [move.model], PROBES, f"move-{number}-")
    running = asyncio.create_task(probes.run(), name="probes")
    try:
        await asyncio.sleep(WATCHED)
        asked_to_load = time.perf_counter()
        loaded = await stage.admin.load(move.model, move.target)
        await asyncio.sleep(WATCHED)
        asked_to_unload = time.perf_counter()
        unloaded = await stage.admin.unload(move.model, move.source, SETTLE, DRAIN)
        await asyncio.sleep(WATCHED)
    finally:
        probes.stop()
        samples = await running
    stage.placement = placement.moved(stage.placement, move)
    upstreams = await stage.access_log.upstreams([sample.label for sample in samples])
    at_target = [sample.done for sample in samples if upstreams[sample.label] == move.target and sample.ok]
    at_source = [sample.sent for sample in samples if upstreams[sample.label] == move.source]
    if not at_target:
        raise DemoError(f"{move.model} was loaded on {move.target}, but no request has reached it there")
    ready = asked_to_load + loaded["seconds"]["loaded"]
    return MoveResult(
        move=move,
        loading=loaded["seconds"]["loaded"] * 1000,
        routed=max(0.0, min(at_target) - ready) * 1000,
        acknowledged=unloaded["seconds"]["acknowledged"] * 1000,
        last_at_source=max(0.0, max(at_source, default=asked_to_unload) - asked_to_unload) * 1000,
        unloading=unloaded["seconds"]["total"] * 1000,
        tally=tally(samples),
    )


async def compare(stage: Stage, advance: Callable[[str, float], None]) -> Comparison:
    """Step 5: the latency test without subsets, then with them. `advance`: which run, its share done."""
    report = stage.options.report
    report.mkdir(parents=True, exist_ok=True)
    await stage.without_subsets(SEED_MODEL)
    before = await _measure(stage, report / "before.csv", lambda share: advance("before", share))
    await stage.with_subsets(SEED_MODEL)
    after = await _measure(stage, report / "after.csv", lambda share: advance("after", share))
    return Comparison(SEED_MODEL, stage.options.rate, before, after)


async def _measure(stage: Stage, output: Path, advance: Callable[[float], None]) -> Run:
    """Runs the load generator as a process of its own and reads what it wrote."""
    options = stage.options
    command = [
        sys.executable,
        "-m",
        "xds_server.demo.load",
        "--gateway",
        options.gateway,
        "--model",
        SEED_MODEL,
    ]
    command += ["--rate", str(options.rate), "--seconds", str(options.seconds), "--output", str(output)]
    command += ["--form", "rest" if options.runtime == MLSERVER else "seed"]
    child = await stage.processes.start(f"load-{output.stem}", command)
    finished = asyncio.create_task(stage.processes.finished(child), name="load")
    began = time.monotonic()
    while not finished.done():
        await asyncio.wait([finished], timeout=0.5)
        advance(min(1.0, (time.monotonic() - began) / options.seconds))
    await finished
    return read_run(output)


def read_run(path: Path) -> Run:
    """What the load generator wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return Run(
        due=np.array([float(row["due_seconds"]) for row in rows]),
        latency=np.array([float(row["latency_ms"]) for row in rows]),
        late=np.array([float(row["sent_late_ms"]) for row in rows]),
        forwarded=np.array([bool(row["forwarded_by"]) for row in rows]),
        failed=sum(row["status"] != "200" for row in rows),
    )
