"""A server, its state and one client, for one scenario."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.conformance.client import Client, Heard
from tests.conformance.state import State
from tests.protocol.wire_client import connected, served
from xds_server.xds.hub import Hub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from xds_server.xds.messages import Variant

either_stream = pytest.mark.parametrize("aggregated", [False, True], ids=["per-type", "ADS"])
"""Every scenario of a single type holds on the type's own service and on the aggregated one."""


class Scene:
    """What a scenario says, in its own words."""

    def __init__(self, state: State, client: Client) -> None:
        self.state = state
        self.client = client
        self._nonces: set[str] = set()

    async def gets(self, kind: str, names: str, *, absent: str = "") -> Heard:
        """The next response tells exactly this, in one message.

        `names`: "a b=2" is a at revision 1 and b at revision 2; `absent`: what is said not to exist.
        """
        heard = await self._next(kind)
        expected = {name: revision or "1" for name, _, revision in (n.partition("=") for n in names.split())}
        assert heard.contents == expected
        assert heard.removed == tuple(absent.split())
        return heard

    async def _next(self, kind: str) -> Heard:
        heard = await self.client.hear()
        assert heard.kind == kind
        assert heard.nonce not in self._nonces | {""}
        assert heard.version == self.state.version(kind)
        for name, version in heard.versions.items():
            assert version == self.state.version_of(kind, name)
        self._nonces.add(heard.nonce)
        return heard

    async def gets_nothing(self) -> None:
        await self.client.silence()


@asynccontextmanager
async def scene(variant: Variant, kind: str, aggregated: bool) -> AsyncIterator[Scene]:
    """A scene for one type, or for several where the stream is aggregated."""
    hub = Hub(time.monotonic)
    async with served(hub) as port, connected(port) as channel:
        client = Client(channel, hub, variant, None if aggregated else kind)
        try:
            yield Scene(State(hub), client)
        finally:
            await client.close()
