"""The poller on a real loopback connection: schedules, changes of targets, polls on demand, faults."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from tests.mesh_events import eid
from tests.scripted_runtime import answering, rows, scripted
from xds_server.mesh.events import FailureKind, ModelsReported, ModelState, ReportFailed, ReportsForgotten
from xds_server.mesh.pools import OpenInference
from xds_server.sources.runtimes.answers import Index, RuntimeUnreadableError
from xds_server.sources.runtimes.poller import Poller
from xds_server.sources.runtimes.targets import Target

LIMIT = 5.0
SOURCE = OpenInference.source
A, B = eid("a"), eid("b")


class Heard:
    """Takes events, and lets a test wait for the n-th."""

    def __init__(self):
        self.events = []
        self._grown = asyncio.Condition()
        self._tasks = set()

    def __call__(self, event):
        self.events.append(event)
        task = asyncio.create_task(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self):
        async with self._grown:
            self._grown.notify_all()

    async def until(self, count):
        async with asyncio.timeout(LIMIT), self._grown:
            await self._grown.wait_for(lambda: len(self.events) >= count)
        return self.events[count - 1]


@asynccontextmanager
async def polling(heard, **options):
    """A poller that must not fail, ended with the test."""
    defects = []
    poller = Poller(heard, on_error=defects.append, clock=lambda: 100.0, **options)
    try:
        yield poller
    finally:
        await poller.close()
    assert not defects


def target(runtime, interval=0.05, timeout=1.0):
    return Target(runtime.url, interval, timeout)


class FakeClient:
    """Answers at once or when told, and notes when it was asked. For schedules, where no network matters."""

    def __init__(self, takes=0.0):
        self.asked = []
        self.takes = takes
        self.closed = False
        self.forgotten = []

    async def read(self, target, *_):
        self.asked.append((asyncio.get_running_loop().time(), target.url))
        await asyncio.sleep(self.takes)
        return Index(b"[]", ())

    async def forget(self, target):
        self.forgotten.append(target.url)

    def follows(self, _target):
        return False

    async def close(self):
        self.closed = True


async def test_every_poll_is_reported_over_one_connection():
    heard = Heard()
    async with answering("m") as runtime, polling(heard) as poller:
        poller.set_targets({A: target(runtime, 0.01)})
        assert await heard.until(5) == ModelsReported(
            endpoint=A, source=SOURCE, models=(ModelState("m", "1"),), at=100.0
        )
        assert runtime.connections == 1
        assert poller.polls >= 5
        assert poller.failures == 0


async def test_a_failure_is_reported_with_its_kind():
    heard = Heard()

    async def script(request):
        await request.answer(b"sorry", "500 Internal Server Error")

    async with scripted(script) as runtime, polling(heard) as poller:
        poller.set_targets({A: target(runtime)})
        event = await heard.until(1)
        assert event == ReportFailed(
            endpoint=A,
            source=SOURCE,
            kind=FailureKind.BAD_ANSWER,
            error=f"{runtime.url}/v2/repository/index answered HTTP 500 sorry",
            at=100.0,
            asked=100.0,
        )
        assert poller.failures == 1


async def test_gaps_are_jittered_and_never_longer_than_the_interval():
    client, heard = FakeClient(), Heard()
    async with polling(heard, client=client) as poller:
        poller.set_targets({A: Target("http://a", 0.1, 1)})
        await heard.until(12)
    times = [at for at, _ in client.asked]
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) >= 0.089
    assert sorted(gaps)[len(gaps) // 2] <= 0.14
    assert len({round(gap, 3) for gap in gaps}) > 1


async def test_the_gap_counts_from_the_start_of_a_poll_and_polls_do_not_overlap():
    client, heard = FakeClient(takes=0.08), Heard()
    async with polling(heard, client=client) as poller:
        poller.set_targets({A: Target("http://a", 0.1, 1), B: Target("http://b", 0.02, 1)})
        await heard.until(14)
    slow = [at for at, url in client.asked if url == "http://a"]
    gaps = sorted(after - before for before, after in pairwise(slow))
    assert gaps[len(gaps) // 2] <= 0.16
    fast = [at for at, url in client.asked if url == "http://b"]
    assert all(after - before >= 0.079 for before, after in pairwise(fast))


async def test_phases_are_spread_from_the_start():
    client, heard = FakeClient(), Heard()
    async with polling(heard, client=client) as poller:
        begun = asyncio.get_running_loop().time()
        poller.set_targets({eid(chr(97 + n)): Target(f"http://{n}", 1.0, 1) for n in range(100)})
        await heard.until(100)
    phases = [at - begun for at, _ in client.asked[:100]]
    early = sum(phase < 0.5 for phase in phases)
    assert 20 < early < 80


async def test_a_long_interval_does_not_delay_the_first_poll():
    client, heard = FakeClient(), Heard()
    async with polling(heard, client=client) as poller:
        poller.set_targets({A: Target("http://a", 3600, 1)})
        assert await poller.first_round(2)
    assert len(heard.events) == 1


async def test_poll_now_asks_at_once_and_returns_after_the_event():
    heard = Heard()
    async with answering("m") as runtime, polling(heard) as poller:
        poller.set_targets({A: target(runtime, 3600)})
        await poller.poll_now(A)
        assert len(heard.events) == 1
        await poller.poll_now(A)
        assert len(heard.events) == 2


async def test_poll_now_joins_only_a_poll_that_started_after_it():
    heard = Heard()
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def script(request):
        arrived.set()
        if len(runtime.requests) == 1:
            await gate.wait()
        await request.answer(rows(f"m{len(runtime.requests)}"))

    async with scripted(script) as runtime, polling(heard) as poller:
        poller.set_targets({A: target(runtime, 3600)})
        first = asyncio.create_task(poller.poll_now(A))
        await asyncio.wait_for(arrived.wait(), LIMIT)
        later = [asyncio.create_task(poller.poll_now(A)) for _ in range(3)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.wait_for(first, LIMIT)
        await asyncio.wait_for(asyncio.gather(*later), LIMIT)
        assert [event.models[0].name for event in heard.events] == ["m1", "m2"]


async def test_a_caller_that_gives_up_disturbs_nobody():
    heard = Heard()
    async with answering("m") as runtime, polling(heard) as poller:
        poller.set_targets({A: target(runtime, 3600)})
        impatient = asyncio.create_task(poller.poll_now(A))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.wait([impatient])
        await asyncio.wait_for(poller.poll_now(A), LIMIT)


async def test_poll_now_of_what_is_not_polled():
    async with polling(Heard()) as poller:
        with pytest.raises(LookupError, match=r"10\.0\.0\.1:8080 of models is not being asked"):
            await poller.poll_now(A)


async def test_a_removed_target_is_forgotten_and_says_nothing_more():
    heard = Heard()
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def script(request):
        arrived.set()
        await gate.wait()
        await request.answer(rows("m"))

    async with scripted(script) as runtime, polling(heard) as poller:
        poller.set_targets({A: target(runtime)})
        waiting = asyncio.create_task(poller.poll_now(A))
        await asyncio.wait_for(arrived.wait(), LIMIT)
        poller.set_targets({})
        assert heard.events == [ReportsForgotten(endpoint=A, source=SOURCE)]
        with pytest.raises(LookupError, match="no longer asked"):
            await waiting
        gate.set()
    assert len(heard.events) == 1


async def test_other_targets_notice_nothing_of_a_change():
    heard = Heard()
    async with answering("m") as one, answering("n") as two, polling(heard) as poller:
        poller.set_targets({A: target(one, 0.01)})
        await heard.until(2)
        tasks = {task.get_name(): task for task in asyncio.all_tasks()}
        task = tasks["poll 10.0.0.1:8080 of models"]
        poller.set_targets({A: target(one, 0.01), B: target(two, 0.01)})
        await poller.poll_now(B)
        poller.set_targets({A: target(one, 0.01)})
        await poller.poll_now(A)
        assert not task.done()
        assert one.connections == 1


async def test_a_changed_url_is_asked_at_once_and_the_old_answer_is_dropped():
    heard = Heard()
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def script(request):
        arrived.set()
        await gate.wait()
        await request.answer(rows("old"))

    async with scripted(script) as old, answering("new") as new, polling(heard) as poller:
        poller.set_targets({A: target(old, 3600)})
        waiting = asyncio.create_task(poller.poll_now(A))
        await asyncio.wait_for(arrived.wait(), LIMIT)
        poller.set_targets({A: target(new, 3600)})
        gate.set()
        await asyncio.wait_for(waiting, LIMIT)
        assert [event.models[0].name for event in heard.events] == ["new"]


async def test_a_shorter_interval_applies_at_once():
    client, heard = FakeClient(), Heard()
    async with polling(heard, client=client) as poller:
        poller.set_targets({A: Target("http://a", 3600, 1)})
        await poller.poll_now(A)
        poller.set_targets({A: Target("http://a", 0.01, 1)})
        await heard.until(4)


async def test_first_round_waits_for_each_and_gives_up_at_its_limit():
    heard = Heard()
    hang = asyncio.Event()

    async def script(request):
        await hang.wait()

    async with scripted(script) as silent, answering("m") as runtime, polling(heard) as poller:
        assert await poller.first_round(0.01)
        poller.set_targets({A: target(runtime), B: target(silent, timeout=0.2)})
        assert not await poller.first_round(0.01)
        assert await poller.first_round(LIMIT)
        assert {event.endpoint for event in heard.events} == {A, B}
        assert await poller.first_round(0)


async def test_a_first_round_that_is_given_up_leaves_no_error_behind():
    """A server that is stopped while it starts: what the poller then tells its waiters must be taken."""
    lost = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: lost.append(context["message"]))
    async with polling(Heard(), client=FakeClient(takes=60)) as poller:
        poller.set_targets({A: Target("http://a", 0.01, 1)})
        waiting = asyncio.create_task(poller.first_round(LIMIT))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    gc.collect()
    await asyncio.sleep(0)
    assert lost == []


async def test_first_round_does_not_wait_for_what_is_removed():
    heard = Heard()
    async with polling(heard, client=FakeClient(takes=3600)) as poller:
        poller.set_targets({A: Target("http://a", 0.01, 1)})
        waiting = asyncio.create_task(poller.first_round(LIMIT))
        await asyncio.sleep(0.02)
        poller.set_targets({})
        assert await waiting


async def test_close_leaves_no_task_and_no_connection():
    heard = Heard()
    async with answering("m") as runtime:
        async with polling(heard) as poller:
            poller.set_targets({A: target(runtime, 0.01), B: target(runtime, 0.01)})
            await heard.until(4)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("poll ")]
        count = len(heard.events)
        await asyncio.wait_for(runtime.closed(), LIMIT)
        assert len(heard.events) == count
    with pytest.raises(RuntimeError, match="closed"):
        poller.set_targets({})


async def test_closing_ends_those_who_wait():
    async with polling(Heard(), client=FakeClient(takes=3600)) as poller:
        poller.set_targets({A: Target("http://a", 0.01, 1)})
        waiting = asyncio.create_task(poller.poll_now(A))
        await asyncio.sleep(0)
    with pytest.raises(LookupError):
        await waiting


async def test_a_defect_surfaces_and_ends_those_who_wait():
    def broken(event):
        raise ZeroDivisionError("a defect")

    told = asyncio.get_running_loop().create_future()
    async with answering("m") as runtime:
        poller = Poller(broken, on_error=told.set_result)
        with capture_logs() as logs:
            poller.set_targets({A: target(runtime)})
            with pytest.raises(ZeroDivisionError):
                await poller.poll_now(A)
            with pytest.raises(LookupError):
                await poller.poll_now(A)
            defect = await asyncio.wait_for(told, LIMIT)
        await poller.close()
    assert isinstance(defect, ZeroDivisionError)
    assert logs[-1]["event"] == "polling ended by a defect"
    assert logs[-1]["exc_info"] is defect


async def test_log_lines_come_at_changes_only():
    answers = [rows("m"), rows("m"), RuntimeUnreadableError(FailureKind.REFUSED, "refused")]
    answers += [RuntimeUnreadableError(FailureKind.REFUSED, "again"), rows("m"), rows("m", "n"), rows("n")]

    class Scripted(FakeClient):
        async def read(self, *_):
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return Index(repr(answer).encode(), tuple(ModelState(row["name"]) for row in answer))

    async with polling(Heard(), client=Scripted()) as poller:
        poller.set_targets({A: Target("http://a", 3600, 1)})
        with capture_logs() as logs:
            while answers:
                await poller.poll_now(A)
    assert [(log["event"], log.get("loaded", log.get("error")), log.get("unloaded")) for log in logs] == [
        ("runtime's models", ["m"], []),
        ("runtime cannot be read", "refused", None),
        ("runtime's models", [], []),
        ("runtime's models", ["n"], []),
        ("runtime's models", [], ["m"]),
    ]
