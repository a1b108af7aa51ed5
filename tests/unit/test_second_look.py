"""Second looks: which answers lead to a poll, how many, and when."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.mesh_events import HOST, configured, eid, told
from tests.scripted_runtime import Request, rows, scripted
from xds_server.mesh.model import Endpoint
from xds_server.sources.runtimes import second_look
from xds_server.sources.runtimes.poller import Poller
from xds_server.sources.runtimes.second_look import SecondLook
from xds_server.sources.runtimes.targets import Target

if TYPE_CHECKING:
    from xds_server.mesh.model import EndpointId

A, B = eid("a"), eid("b")
AT_A, AT_B = "10.0.0.1:8080", "10.0.0.2:8080"
LIMIT = 5.0


class Watched:
    """A poller that notes whom it was to hurry for. Only those in `asked` are being asked."""

    def __init__(self, *asked: EndpointId) -> None:
        self.asked = set(asked)
        self.hurried: list[EndpointId] = []
        self.times: list[float] = []
        self._more = asyncio.Event()

    def hurry(self, endpoint: EndpointId) -> bool:
        if endpoint not in self.asked:
            return False
        self.hurried.append(endpoint)
        self.times.append(asyncio.get_running_loop().time())
        self._more.set()
        return True

    async def until(self, count: int) -> None:
        async with asyncio.timeout(LIMIT):
            while len(self.hurried) < count:
                self._more.clear()
                await self._more.wait()


def looking(poller: Watched, letters: str = "ab") -> SecondLook:
    return SecondLook(told(configured(letters)).find_endpoints, poller)


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(second_look, "PAUSE", 0.2)
    return 0.2


async def test_an_answer_leads_to_a_poll_of_that_replica_at_once() -> None:
    poller = Watched(A, B)
    look = looking(poller)
    look.take({AT_A: 3})
    assert poller.hurried == [A]
    assert (look.looks, look.answers) == (1, {"polled": 3, "other": 0})


async def test_any_port_of_a_replica_names_it() -> None:
    poller = Watched(A)
    looking(poller).take({"10.0.0.1:9090": 1})
    assert poller.hurried == [A]


async def test_many_answers_are_one_more_poll_after_the_pause(pause: float) -> None:
    poller = Watched(A)
    look = looking(poller)
    for _ in range(100):
        look.take({AT_A: 1})
    assert poller.hurried == [A]
    await poller.until(2)
    assert poller.times[1] - poller.times[0] >= pause * 0.99
    look.take({AT_A: 1})  # within the second pause
    await poller.until(3)
    assert poller.times[2] - poller.times[1] >= pause * 0.99
    assert look.looks == 3


async def test_without_another_answer_there_is_no_further_poll(pause: float) -> None:
    """The loop runs a timer of the pause before a later one, however busy the machine."""
    poller = Watched(A, B)
    look = looking(poller)
    look.take({AT_A: 1})
    await asyncio.sleep(pause * 1.2)
    look.take({AT_B: 1, AT_A: 1})
    assert poller.hurried == [A, B, A]


@pytest.mark.parametrize("address", ["10.0.0.1:1", "10.9.9.9:8080", "", "no address", "[::1]:8080"])
async def test_who_is_no_endpoint_is_ignored(address: str) -> None:
    poller = Watched(A, B)
    look = looking(poller)
    look.take({address: 2})
    assert poller.hurried == []
    assert look.answers == {"polled": 0, "other": 2}


async def test_an_endpoint_that_is_not_asked_is_left_alone() -> None:
    look = looking(Watched(B))
    look.take({AT_A: 1})
    assert (look.looks, look.answers) == (0, {"polled": 0, "other": 1})


async def test_an_endpoint_that_goes_in_its_pause_is_not_asked_after_it(pause: float) -> None:
    poller = Watched(A, B)
    look = looking(poller)
    look.take({AT_A: 1})
    look.take({AT_A: 1, AT_B: 1})
    look.take({AT_B: 1})
    poller.asked.discard(A)
    await poller.until(3)
    assert poller.hurried == [A, B, B]
    assert look.looks == 3


async def test_no_stampede(monkeypatch: pytest.MonkeyPatch, pause: float) -> None:
    monkeypatch.setattr(second_look, "MOST", 5)
    found = [Endpoint(eid(letter), {"http": 8080}) for letter in "abcdefgh"]
    poller = Watched(*(each.id for each in found))
    look = SecondLook(lambda _: found, poller)
    look.take({"all": 1})
    assert poller.hurried == [each.id for each in found[:5]]
    await asyncio.sleep(pause * 1.2)
    look.take({"all": 1})
    assert len(poller.hurried) == 10


async def test_a_poller_that_rests_for_long_is_woken() -> None:
    """With the real poller: the poll comes a minute before it is due, and one at a time."""
    polled: asyncio.Queue[None] = asyncio.Queue()
    go_on = asyncio.Event()

    async def script(request: Request) -> None:
        polled.put_nowait(None)
        await go_on.wait()
        await request.answer(rows("m"))

    async with scripted(script) as runtime, asyncio.timeout(LIMIT):
        poller = Poller(lambda _: None, on_error=lambda _: None)
        port = int(runtime.url.rpartition(":")[2])
        endpoint = Endpoint(type(A)(HOST, "127.0.0.1", port), {"http": port})
        look = SecondLook(lambda address: [endpoint] if address == f"127.0.0.1:{port}" else [], poller)
        try:
            look.take({f"127.0.0.1:{port}": 1})
            assert look.looks == 0
            poller.set_targets({endpoint.id: Target(runtime.url, 60.0, 5.0)})
            await polled.get()
            look.take({f"127.0.0.1:{port}": 1})  # while it is being asked: that answer may be older
            assert polled.empty()
            go_on.set()
            await polled.get()
            assert look.looks == 1
        finally:
            await poller.close()
