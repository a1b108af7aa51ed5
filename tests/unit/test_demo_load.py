from __future__ import annotations

import asyncio
import csv
import itertools

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from xds_server.demo import load
from xds_server.demo.requests import Client
from xds_server.demo.steps import read_run


class Service:
    """Counts requests; answers nothing until it is let go."""

    def __init__(self):
        self.models = []
        self.labels = []
        self.open = asyncio.Event()
        self.arrived = asyncio.Event()
        self.wanted = 0

    async def handle(self, request):
        self.models.append(request.headers["model"])
        self.labels.append(request.query.get("request"))
        assert request.match_info["model"] == request.headers["model"]
        if len(self.models) >= self.wanted:
            self.arrived.set()
        await self.open.wait()
        return web.json_response({}, headers={"x-served-by": "r1", "x-forwarded-by": "r2"})


@pytest.fixture
async def service():
    found = Service()
    application = web.Application()
    application.add_routes([web.post("/v2/models/{model}/infer", found.handle)])
    server = TestServer(application)
    await server.start_server()
    found.address = f"{server.host}:{server.port}"
    yield found
    await server.close()


async def test_a_stall_neither_stops_the_requests_nor_hides_from_the_latencies(service):
    service.wanted = 40
    async with Client(service.address, b"{}") as client:
        loop = load.OpenLoop(client, ["a", "b"], 200.0)
        running = asyncio.create_task(loop.run(40))
        # All 40 requests come although none has been answered: the loop is open.
        await asyncio.wait_for(service.arrived.wait(), 10)
        assert loop.answered == 0
        service.open.set()
        samples = await running
    assert len(samples) == 40
    in_order = sorted(samples, key=lambda sample: sample.intended)
    gaps = [after.intended - before.intended for before, after in itertools.pairwise(in_order)]
    assert gaps == pytest.approx([1 / 200] * 39, abs=1e-6)
    # Who was due first waited for the others' due times too: 39 gaps of 5 ms.
    assert in_order[0].latency - in_order[-1].latency > 0.1
    assert in_order[0].latency >= 39 / 200


async def test_models_take_turns_and_labels_are_in_the_path(service):
    service.open.set()
    async with Client(service.address, b"{}") as client:
        samples = await load.OpenLoop(client, ["a", "b"], 500.0, "x-").run(4)
    assert sorted(service.models) == ["a", "a", "b", "b"]
    assert sorted(service.labels) == ["x-0", "x-1", "x-2", "x-3"]
    assert all(sample.ok and sample.served_by == "r1" and sample.forwarded_by == "r2" for sample in samples)


async def test_stop_ends_an_endless_run_after_what_is_under_way(service):
    service.wanted = 3
    async with Client(service.address, b"{}") as client:
        loop = load.OpenLoop(client, ["a"], 500.0)
        running = asyncio.create_task(loop.run())
        await asyncio.wait_for(service.arrived.wait(), 10)
        loop.stop()
        service.open.set()
        samples = await running
    assert len(samples) == len(service.models) >= 3


async def test_a_request_that_gets_no_answer_is_a_sample_too():
    async with Client("127.0.0.1:1", b"{}") as client:
        sample = await client.send("a")
    assert sample.status == 0
    assert not sample.ok
    assert "Connect" in sample.error


async def test_what_is_written_is_read_back(service, tmp_path):
    service.open.set()
    samples = await load.measure(service.address, b"{}", ["a"], 200.0, 0.1)
    path = tmp_path / "run.csv"
    load.write(path, samples)
    with path.open(newline="") as file:
        assert next(csv.reader(file)) == list(load.COLUMNS)
    run = read_run(path)
    assert len(run.latency) == len(samples) == 20
    assert run.failed == 0
    assert run.share_forwarded == 1.0
    assert run.due[0] == 0
    assert list(run.due) == sorted(run.due)
    assert run.percentiles()[100] == pytest.approx(max(s.latency for s in samples) * 1000, abs=0.01)
