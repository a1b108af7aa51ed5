"""Whether anybody knows a model, asked over real connections as the script in Envoy asks it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.certificates import Authority
from tests.protocol.test_security import SPIFFE, secured
from tests.protocol.wire_client import connected
from xds_server import wire
from xds_server.known_messages import IS_KNOWN_PATH, KNOWN, UNKNOWN
from xds_server.transport.server import XdsServer
from xds_server.xds.access import AccessList, Grant
from xds_server.xds.hub import Hub
from xds_server.xds.status import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def question(model: str, *hosts: str) -> bytes:
    return b"".join(wire.field(1, host.encode()) for host in hosts) + wire.string(2, model)


async def answers(knows: Callable[[str, str], bool] | None, *questions: bytes) -> list[bytes]:
    hub = Hub(time.monotonic)
    server = XdsServer(hub, "127.0.0.1:0", knows=knows)
    port = await server.start()
    try:
        async with connected(port) as channel:
            return [await channel.unary_unary(IS_KNOWN_PATH)(each, timeout=10) for each in questions]
    finally:
        await server.stop(1.0)


async def test_a_model_is_unknown_where_none_of_the_services_knows_it() -> None:
    def knows(host: str, model: str) -> bool:
        return (host, model) == ("one", "mödel")

    asked = [question("mödel", "one"), question("mödel", "two", "one"), question("mödel", "two", "three")]
    assert await answers(knows, *asked) == [KNOWN, KNOWN, UNKNOWN]


async def test_nothing_is_unknown_to_who_cannot_tell() -> None:
    assert await answers(None, question("m", "one")) == [KNOWN]
    assert await answers(lambda *_: False, question("m")) == [KNOWN], "no service is named"


@pytest.mark.parametrize("data", [b"\xff", b"", question("", "one"), b"\x12\x01\xff"])
async def test_what_is_no_question(data: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers(lambda *_: True, data)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the request is not an IsKnownRequest" in (caught.value.details() or "")


@pytest.mark.parametrize(
    ("grants", "reason"),
    [
        ([Grant(SPIFFE, nodes=("gateway-*",))], None),
        ([Grant(SPIFFE, reports=("p",)), Grant(SPIFFE, clusters=("gateway",))], None),
        ([Grant("someone")], Refusal.UNKNOWN_IDENTITY),
        ([Grant(SPIFFE, reports=("p",))], Refusal.FOREIGN_NODE),
    ],
    ids=["node", "node-too", "stranger", "reporter"],
)
async def test_whoever_may_be_a_node_may_ask(
    tmp_path: Path, grants: list[Grant], reason: Refusal | None
) -> None:
    authority = Authority(tmp_path)
    client = authority.issue("client", f"URI:{SPIFFE}")
    async with secured(authority.issue("server", "DNS:localhost")) as made:
        made.server.allow(AccessList(grants))
        async with made.channel(authority.ca, client) as channel:
            ask = channel.unary_unary(IS_KNOWN_PATH)
            if reason is None:
                assert await ask(question("m", "one"), timeout=10) == KNOWN
                return
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(question("m", "one"), timeout=10)
        assert f"identity {SPIFFE}" in (caught.value.details() or "")
        assert made.hub.stats.refusals[reason] == 1
