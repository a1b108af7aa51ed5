"""Reading a stream's next request, for as long as anyone wants it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

import grpc

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]


async def next_request(context: Context, ending: asyncio.Event, silence: float | None = None) -> bytes | None:
    """The next request; None at the stream's end, or the server's.

    Raises:
        TimeoutError: nothing has come for `silence` seconds; None: that may take for ever.
    """
    reading = asyncio.ensure_future(context.read())
    stopping = asyncio.ensure_future(ending.wait())
    try:
        done, _ = await asyncio.wait(
            (reading, stopping), timeout=silence, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            raise TimeoutError
        return reading.result() if reading.done() and reading.result() is not grpc.aio.EOF else None
    finally:
        for each in (reading, stopping):
            each.cancel()
        await asyncio.gather(reading, stopping, return_exceptions=True)
