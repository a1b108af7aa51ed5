"""A client for the scenarios: acknowledges whatever it gets, and tells what that was."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.service.discovery.v3 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)

from tests.conformance.state import ADS, SERVICES
from xds_server.xds.messages import Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds_server.xds.hub import Hub

LIMIT = 10.0
"""Seconds to wait for what has to come."""

QUIET = 0.04
"""Seconds without a message that are taken for silence. A response on loopback takes about 2 ms."""

KINDS = {service.type_url: kind for kind, service in SERVICES.items()}


@dataclass(frozen=True)
class Heard:
    """One response: name to revision, as the messages themselves say; versions as the protocol says."""

    kind: str
    contents: Mapping[str, str]
    removed: tuple[str, ...]
    version: str
    versions: Mapping[str, str]
    nonce: str


class Client:
    """One stream. A task reads it: a read that is given up would end the call."""

    def __init__(self, channel: grpc.aio.Channel, hub: Hub, variant: Variant, kind: str | None) -> None:
        self.variant = variant
        self._hub = hub
        self._node: Node | None = Node(id="conformance", cluster="test")
        self._names: dict[str, set[str]] = {}
        self._nonces: dict[str, str] = {}
        self._versions: dict[str, str] = {}
        service, what = ADS if kind is None else SERVICES[kind].rpc
        prefix = "Delta" if variant is Variant.DELTA else "Stream"
        self._call = channel.stream_stream(f"/{service}/{prefix}{what}")()
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read(), name="conformance client")

    async def _read(self) -> None:
        while (data := await self._call.read()) is not grpc.aio.EOF:
            self._inbox.put_nowait(data)

    async def close(self) -> None:
        self._call.cancel()
        await asyncio.wait([self._reader])

    # What it asks for

    async def subscribe(self, kind: str, names: str) -> None:
        """Ask for these names too."""
        more = set(names.split())
        self._names[kind] = self._names.get(kind, set()) | more
        if self.variant is Variant.DELTA:
            await self._send(
                DeltaDiscoveryRequest(
                    node=self._take_node(),
                    type_url=SERVICES[kind].type_url,
                    resource_names_subscribe=sorted(more),
                )
            )
        else:
            await self._ask(kind)

    async def subscribe_to_everything(self, kind: str) -> None:
        """The first request of a type names nothing."""
        self._names[kind] = set()
        await self._ask(kind)

    async def keep_only(self, kind: str, names: str = "") -> None:
        """Drop every other name; returns once the server has read it."""
        dropped = self._names[kind] - set(names.split())
        self._names[kind] -= dropped
        if self.variant is Variant.DELTA:
            await self._send(
                DeltaDiscoveryRequest(
                    type_url=SERVICES[kind].type_url, resource_names_unsubscribe=sorted(dropped)
                )
            )
        else:
            await self._ask(kind)
        wanted = tuple(sorted(self._names[kind]))
        await until(lambda: self._subscribed(kind) == wanted)

    async def _ask(self, kind: str) -> None:
        """State of the world: everything that is asked for, answering the last response."""
        await self._send(
            DiscoveryRequest(
                node=self._take_node(),
                type_url=SERVICES[kind].type_url,
                resource_names=sorted(self._names[kind]),
                version_info=self._versions.get(kind, ""),
                response_nonce=self._nonces.get(kind, ""),
            )
        )

    async def _send(self, message: DiscoveryRequest | DeltaDiscoveryRequest) -> None:
        await self._call.write(bytes(message))

    def _take_node(self) -> Node | None:
        node, self._node = self._node, None
        return node

    def _subscribed(self, kind: str) -> tuple[str, ...]:
        (status,) = self._hub.clients()
        (subscribed,) = [each.subscribed for each in status.types if KINDS[each.type_url] == kind]
        return subscribed

    # What it gets

    async def hear(self) -> Heard:
        """The next response, acknowledged."""
        async with asyncio.timeout(LIMIT):
            data = await self._inbox.get()
        heard = self._parse(data)
        self._nonces[heard.kind], self._versions[heard.kind] = heard.nonce, heard.version
        if self.variant is Variant.DELTA:
            await self._send(
                DeltaDiscoveryRequest(type_url=SERVICES[heard.kind].type_url, response_nonce=heard.nonce)
            )
        else:
            await self._ask(heard.kind)
        return heard

    async def silence(self) -> None:
        """No further message: the last ACK closed the exchange."""
        await asyncio.sleep(QUIET)
        assert self._inbox.empty(), f"not needed: {self._parse(self._inbox.get_nowait())}"

    def _parse(self, data: bytes) -> Heard:
        if self.variant is Variant.SOTW:
            return _whole(DiscoveryResponse.parse(data))
        return _incremental(DeltaDiscoveryResponse.parse(data))


def _whole(response: DiscoveryResponse) -> Heard:
    kind = KINDS[response.type_url]
    assert {each.type_url for each in response.resources} <= {response.type_url}
    contents = dict(SERVICES[kind].read(each.value) for each in response.resources)
    assert len(contents) == len(response.resources)
    return Heard(kind, contents, (), response.version_info, {}, response.nonce)


def _incremental(response: DeltaDiscoveryResponse) -> Heard:
    kind = KINDS[response.type_url]
    contents: dict[str, str] = {}
    for each in response.resources:
        assert each.resource is not None
        assert each.resource.type_url == response.type_url
        name, revision = SERVICES[kind].read(each.resource.value)
        assert each.name == name
        contents[name] = revision
    assert len(contents) == len(response.resources)
    return Heard(
        kind,
        contents,
        tuple(response.removed_resources),
        response.system_version_info,
        {each.name: each.version for each in response.resources},
        response.nonce,
    )


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not check():  # noqa: ASYNC110 - reading a request is no event that others can wait for
            await asyncio.sleep(0.002)
