"""What the writer of status remembers: the objects that there are, not all that there ever were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xds_server.sources.kubernetes.api import ApiError
from xds_server.sources.kubernetes.kinds import MODEL_POOLS
from xds_server.sources.kubernetes.status_writer import INTERVAL, LONGEST_PAUSE, StatusWriter

if TYPE_CHECKING:
    from xds_server.sources.kubernetes.api import Request


class Answering:
    """An API server that takes every write, or answers with `status`."""

    def __init__(self) -> None:
        self.status: int | None = None

    async def json(self, request: Request) -> dict[str, Any]:
        if self.status is not None:
            raise ApiError(self.status, request.path)
        return {}


def pool(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ml"}}


async def test_objects_that_are_gone_are_forgotten() -> None:
    now = [1000.0]
    api = Answering()
    writer = StatusWriter(api, clock=lambda: now[0])  # type: ignore[arg-type]
    for number in range(500):
        api.status = 403 if number % 2 else None
        await writer.apply(MODEL_POOLS, pool(f"old-{number}"), {})
        await writer.apply(MODEL_POOLS, pool("there"), {})
        assert not writer.may(MODEL_POOLS, pool("there"), "xds-server")
        now[0] += LONGEST_PAUSE / 10
    assert len(writer._not_before) < 150
    assert writer._failures.keys() <= writer._not_before.keys()
    now[0] += LONGEST_PAUSE
    assert writer.may(MODEL_POOLS, pool("there"), "xds-server")


async def test_an_object_that_has_gone_has_no_failures() -> None:
    now = [1000.0]
    api = Answering()
    writer = StatusWriter(api, clock=lambda: now[0])  # type: ignore[arg-type]
    for status in (403, 404):
        api.status = status
        await writer.apply(MODEL_POOLS, pool("a"), {})
        now[0] += 10 * INTERVAL
    assert (writer.failures, writer._failures) == (1, {})
