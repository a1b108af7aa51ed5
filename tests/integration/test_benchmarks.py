"""The benchmarks run: their figures are for people, that they can be had is tested."""

from __future__ import annotations

import asyncio
import sys

import pytest

from benchmarks.streams import Head, head
from xds_server.transport.codec import encode_response
from xds_server.xds.messages import DeltaResponse, Response
from xds_server.xds.model import ENDPOINT, Resource


async def run(*command: str) -> tuple[int | None, str]:
    """A program of this environment: its exit code, and all that it wrote."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


@pytest.mark.parametrize("dialect", ["--sotw", None])
async def test_the_churn_of_a_small_fleet_is_measured(dialect: str | None) -> None:
    command = ["-m", "benchmarks.churn", "--case", "200,2", "--runs", "1", "--changes", "2"]
    code, said = await run(*command, *([dialect] if dialect else []))
    assert code == 0, said
    assert said.splitlines()[-1].startswith("| 200 | 2 | ")


async def test_the_parts_of_a_change_are_measured() -> None:
    size = ["--endpoints", "20", "--per-endpoint", "3", "--models", "30", "--clients", "2", "--changes", "2"]
    code, said = await run("-m", "benchmarks.change_parts", *size, "--layout", "perModel")
    assert code == 0, said
    assert "layout perModel: 31 clusters" in said
    assert [line.split(":")[0].strip() for line in said.splitlines()[-6:]] == [
        "apply",
        "settle",
        "build",
        "publish",
        "sessions",
        "all",
    ]


async def test_a_short_soak_leaves_everyone_in_sync_and_nothing_behind() -> None:
    options = ["--minutes", "0.15", "--clients", "12", "--life", "0.5", "--endpoints", "10"]
    code, said = await run("-m", "benchmarks.soak", *options)
    assert code == 0, said
    assert said.splitlines()[-1].startswith("everyone in sync")


async def test_what_a_change_costs_a_real_envoy_is_measured() -> None:
    code, said = await run(
        "-m", "benchmarks.scale", "--rows", "10,3,12", "--layouts", "auto", "--seconds", "1"
    )
    assert code == 0, said
    assert any(line.startswith("| 10, 3, 12 | auto | 1 | 0.0") for line in said.splitlines()), said


async def test_a_fleet_without_envoys_converges() -> None:
    size = ["--clients", "5", "--endpoints", "20", "--per-endpoint", "3", "--models", "30", "--seconds", "1"]
    code, said = await run("-m", "benchmarks.fleet_simulation", *size, "--layout", "sharded")
    assert code == 0, said
    assert "convergence of all clients: mean 0." in said


async def test_a_small_cluster_is_measured_beside_documents() -> None:
    code, said = await run("-m", "benchmarks.kubernetes_start", "--quick")
    assert code == 0, said
    assert said.splitlines()[-1].startswith("| ms to a change's arrival | ")


@pytest.mark.parametrize("size", [0, 1, 200, 70_000])
def test_a_responses_head_is_read_past_its_resources(size: int) -> None:
    resources = (Resource(ENDPOINT, "a", b"x" * size, "v"),) * 2
    expected = Head(b"version", ENDPOINT.encode(), b"1.0")
    for response in (
        Response(type_url=ENDPOINT, version="version", nonce="1.0", resources=resources),
        DeltaResponse(
            type_url=ENDPOINT, version="version", nonce="1.0", resources=resources, removed=("b", "c")
        ),
    ):
        assert head(encode_response(response)) == expected
