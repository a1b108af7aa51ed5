"""The seed's story, step by step, and the claims that it makes of itself."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xds_server.demo.admin import eventually
from xds_server.demo.load import OpenLoop
from xds_server.demo.modelmesh.stage import PODS, STANDBY
from xds_server.demo.steps import read_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.console import Console

    from xds_server.demo.modelmesh.stage import Stage
    from xds_server.demo.requests import Sample
    from xds_server.demo.results import Run

MODEL = "tf-mnist"
RATE = 100.0
"""Requests a second, as in the seed."""

STEADY = 60.0
"""Requests a second over both models while things are stopped and started."""

AWAY = 4.0
"""Seconds for which something is stopped."""


@dataclass
class Claims:
    """What the demo says of itself, each with whether it held."""

    console: Console
    found: list[tuple[str, bool]] = field(default_factory=list)

    def claim(self, text: str, holds: bool) -> None:
        """Note a claim and show it."""
        self.found.append((text, holds))
        mark = "[green]ok[/]   " if holds else "[bold red]FAILS[/]"
        self.console.print(f"  {mark} {text}", highlight=False)

    def say(self, text: str) -> None:
        """Show something that is no claim."""
        self.console.print(text, highlight=False)

    @property
    def hold(self) -> bool:
        """Whether all do."""
        return bool(self.found) and all(holds for _, holds in self.found)


async def tell(stage: Stage, claims: Claims, seconds: float) -> None:
    """All steps. `seconds`: of each latency test."""
    claims.say("\n[bold]1. A ModelMesh behind plain Envoy[/]: any pod, and what is elsewhere is handed on")
    before = await measure(stage, "before", seconds)
    show(claims, before)
    claims.claim("requests are forwarded from pod to pod", before.share_forwarded > 0)
    claims.claim("none fails", before.failed == 0)
    claims.say("\n[bold]2. The seed's manifests, and the pool that reads ModelMesh's registry[/]")
    await stage.turn_on()
    after = await measure(stage, "after", seconds)
    show(claims, after)
    claims.claim("the share of forwarded requests is zero", after.share_forwarded == 0)
    claims.claim("none fails", after.failed == 0)
    await known(stage, claims)
    await etcd_away(stage, claims)
    await pod_away(stage, claims)


async def measure(stage: Stage, name: str, seconds: float) -> Run:
    """The seed's latency test, by the load generator as a process of its own."""
    output = stage.directory / "modelmesh" / f"{name}.csv"
    command = [sys.executable, "-m", "xds_server.demo.load", "--gateway", stage.gateway, "--model", MODEL]
    command += ["--rate", str(RATE), "--seconds", str(seconds), "--output", str(output)]
    await stage.processes.finished(await stage.processes.start(f"load-{name}", command))
    return read_run(output)


def show(claims: Claims, run: Run) -> None:
    """Latencies in milliseconds, and the share that a pod handed on."""
    found = run.percentiles()
    figures = "  ".join(f"p{p:g} {found[p]:.1f}" for p in (50.0, 90.0, 99.0))
    claims.say(
        f"  {MODEL}, {RATE:.0f} a second, {len(run.latency)} requests: {figures} ms; "
        f"forwarded {run.share_forwarded:.1%}, failed {run.failed}"
    )


async def known(stage: Stage, claims: Claims) -> None:
    """Known but not loaded, unknown, and ModelMesh's own load on demand."""
    claims.say("\n[bold]3. Known, not loaded, unknown[/]")
    states = {row["name"]: row["state"] for row in (await stage.service())["known_models"]}
    claims.claim(
        f"{MODEL} and sklearn-mnist are Loaded", states.get(MODEL) == states.get("sklearn-mnist") == "Loaded"
    )
    claims.claim(
        f"{STANDBY} is known and not loaded ({states.get(STANDBY)})", states.get(STANDBY) == "Standby"
    )
    claims.claim("no-such-model is unknown", "no-such-model" not in states)
    async with stage.client() as client:
        first = await client.send(STANDBY)
        claims.claim(f"a request for {STANDBY} is answered: a pod loads it ({first.status})", first.ok)

        async def look() -> bool:
            return STANDBY in (await stage.admin.status())["models"]

        await eventually(f"{STANDBY} is routed", look, stage.processes.check)
        await eventually("Envoy has it", lambda: direct(client, stage), stage.processes.check)
        samples = [await client.send(STANDBY) for _ in range(20)]
    claims.claim("from then on it is reached directly", not any(s.forwarded_by or not s.ok for s in samples))


async def direct(client: object, stage: Stage) -> bool:
    """Whether a request is answered where it came to."""
    del client
    async with stage.client() as fresh:
        sample = await fresh.send(STANDBY)
    return sample.ok and not sample.forwarded_by


async def etcd_away(stage: Stage, claims: Claims) -> None:
    """The registry is out of reach, and comes back."""
    claims.say("\n[bold]4. etcd is stopped and started under traffic[/]")
    async with traffic(stage) as samples:
        await stage.end("etcd")
        began = time.monotonic()
        await eventually("the loss is seen", lambda: all_in(stage, "STALE"), stage.processes.check)
        seen = time.monotonic() - began
        await asyncio.sleep(AWAY)
        endpoint = (await stage.service())["endpoints"][0]
        registry = next(s for s in endpoint["sources"] if s["source"] == "modelmesh")
        away = time.monotonic() - began
        await stage.start_etcd()
        began = time.monotonic()
        await eventually("the registry is read again", lambda: all_in(stage, "OK"), stage.processes.check)
        back = time.monotonic() - began
    claims.say(f"  STALE after {seen:.1f} s; the registry was read {back:.1f} s after etcd answered")
    stale = registry["stale_seconds"] or 0.0
    claims.claim(
        f"status told that the registry was stale, for {stale:.1f} s by then",
        endpoint["health"] == "STALE" and 0 < stale <= away + 1,
    )
    judge(claims, samples)


async def pod_away(stage: Stage, claims: Claims) -> None:
    """A pod that has both models is stopped, and comes back."""
    pod = PODS[1]
    claims.say(
        f"\n[bold]5. {stage.name(pod)}, which has both models, is stopped and started under traffic[/]"
    )
    async with traffic(stage) as samples:
        await stage.end(pod)
        await eventually("its models are gone", lambda: routed_to(stage, pod, 0), stage.processes.check)
        await asyncio.sleep(AWAY)
        shown = next(e for e in (await stage.service())["endpoints"] if e["pod"] == pod)
        await stage.start_pod(pod)
        await eventually("its models are back", lambda: routed_to(stage, pod, 2), stage.processes.check)
    failing = next((s for s in shown["sources"] if s["failure"]), None)
    text = f"{failing['failure']['kind']}, for {failing['stale_seconds']:.1f} s" if failing else "nothing"
    claims.claim(
        f"status told of the pod: {shown['health']}, {text}",
        shown["health"] == "DOWN" and failing is not None,
    )
    judge(claims, samples)


def judge(claims: Claims, samples: list[Sample]) -> None:
    """No request may have failed, since a live pod had its model all the time."""
    failed = [sample for sample in samples if not sample.ok]
    forwarded = sum(bool(sample.forwarded_by) for sample in samples)
    claims.claim(f"{len(samples)} requests meanwhile: none failed", not failed)
    for sample in failed[:3]:
        claims.say(f"         {sample.model}: {sample.status} {sample.error}")
    claims.claim("and none was forwarded", forwarded == 0)


@asynccontextmanager
async def traffic(stage: Stage) -> AsyncIterator[list[Sample]]:
    """Requests for both models in turn, at a steady rate; the list is filled when they have ended."""
    samples: list[Sample] = []
    async with stage.client() as client:
        loop = OpenLoop(client, ["sklearn-mnist", MODEL], STEADY)
        running = asyncio.create_task(loop.run(), name="traffic")
        try:
            await asyncio.sleep(1.0)
            yield samples
            await asyncio.sleep(1.0)
        finally:
            loop.stop()
            samples += await running


async def all_in(stage: Stage, health: str) -> bool:
    """Whether every endpoint that is asked stands so."""
    return all(endpoint["health"] == health for endpoint in (await stage.service())["endpoints"])


async def routed_to(stage: Stage, pod: str, least: int) -> bool:
    """Whether so many models, or with 0 none, are routed to the pod."""
    routed = next(len(e["routed"]) for e in (await stage.service())["endpoints"] if e["pod"] == pod)
    return routed == 0 if least == 0 else routed >= least
