"""A client that pings an idle connection, as every Envoy does, keeps it."""

from __future__ import annotations

import asyncio
import time

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, PingAckReceived

from xds_server.transport.server import ServerOptions, XdsServer
from xds_server.xds.hub import Hub

PINGS = 6
"""gRPC forgives two pings that come too soon."""


async def pings(port: int, pause: float) -> int:
    """Ping an idle connection, `pause` seconds apart; how many were answered before the server ended it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    answered = 0
    try:
        for number in range(PINGS):
            connection.ping(number.to_bytes(8, "big"))
            writer.write(connection.data_to_send())
            arrived = False
            while not arrived:
                data = await asyncio.wait_for(reader.read(65536), 10)
                events = connection.receive_data(data)
                if not data or any(isinstance(event, ConnectionTerminated) for event in events):
                    return answered
                arrived = any(isinstance(event, PingAckReceived) for event in events)
            answered += 1
            await asyncio.sleep(pause)
    finally:
        writer.close()
    return answered


@pytest.mark.parametrize(("shortest", "expected"), [(0.05, PINGS), (30.0, 3)])
async def test_pings_no_sooner_than_allowed_are_answered(shortest: float, expected: int) -> None:
    server = XdsServer(Hub(time.monotonic), "127.0.0.1:0", ServerOptions(shortest_ping=shortest))
    port = await server.start()
    try:
        answered = await pings(port, 0.1)
    finally:
        await server.stop(1)
    assert answered == PINGS if expected == PINGS else answered <= expected


def test_an_envoys_own_interval_is_allowed() -> None:
    assert ServerOptions().shortest_ping < 10
