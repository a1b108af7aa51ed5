"""The baseline: the least that a Python server can do to send one assignment to C streams.

Each endpoint's bytes are kept, joined for every change and wrapped in one response, whose bytes go to all
streams. No hash, no ledger, no views, no order, no limits. gRPC and the garbage collector are set as they
are in the full server, so that what differs is the work alone. Options as those of benchmarks.churn_server.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time

import grpc

from benchmarks.fleet import HOST, PORT, Fleet
from benchmarks.serving import Options, parse, until_signal
from benchmarks.trigger import Trigger
from xds_server.mesh.pools import DEFAULT_SUBSET_KEY
from xds_server.transport.channel import channel_options
from xds_server.transport.server import ServerOptions
from xds_server.wire import field, header, string, uint
from xds_server.xds.model import CLUSTER, ENDPOINT

Context = grpc.aio.ServicerContext
ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService"


def endpoint(address: str, models: list[str]) -> bytes:
    """One LbEndpoint, as a field of its locality."""
    names = b"".join(field(1, string(3, model)) for model in models)
    entry = field(1, string(1, DEFAULT_SUBSET_KEY) + field(2, field(6, names)))
    metadata = field(3, field(1, string(1, "envoy.lb") + field(2, entry)))
    return field(2, field(1, field(1, field(1, string(2, address) + uint(3, PORT)))) + metadata)


class Bare:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._parts = [endpoint(*each) for each in zip(fleet.addresses, fleet.names, strict=True)]
        self._number = 0
        self._wakes: set[asyncio.Event] = set()
        self._responses: dict[bool, bytes] = {}
        self._changed = asyncio.Event()

    def churn(self, count: int) -> dict[str, object]:
        for number in self._fleet.churn(count):
            self._parts[number] = endpoint(self._fleet.addresses[number], self._fleet.names[number])
        self._changed.set()
        return {"t_start_unix_ns": time.time_ns()}

    async def publish(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._number += 1
            self._responses.clear()
            for wake in self._wakes:
                wake.set()

    def response(self, *, delta: bool) -> bytes:
        made = self._responses.get(delta)
        if made is None:
            head = string(1, HOST) + header(2, sum(map(len, self._parts)))
            made = self._responses[delta] = self._wrap(ENDPOINT, [head, *self._parts], delta=delta)
        return made

    def _wrap(self, kind: str, body: list[bytes], *, delta: bool) -> bytes:
        """Wrap a resource in Any, in Resource where the dialect has it, and in a response; joined once."""
        version = str(self._number)
        size = sum(map(len, body))
        head = string(1, kind) + header(2, size)
        head = header(2, len(head) + size) + head
        if delta:
            resource = string(3, HOST) + string(1, version)
            head = header(2, len(resource) + len(head) + size) + resource + head
        return b"".join([string(1, version), head, *body, string(4, kind), string(5, version)])

    async def delta(self, _: object, context: Context) -> None:
        await self._stream(context, delta=True)

    async def sotw(self, _: object, context: Context) -> None:
        await self._stream(context, delta=False)

    async def _stream(self, context: Context, *, delta: bool) -> None:
        wake = asyncio.Event()
        reader = asyncio.create_task(self._read(context, wake, delta=delta))
        try:
            while True:
                await wake.wait()
                wake.clear()
                await context.write(self.response(delta=delta))
        finally:
            self._wakes.discard(wake)
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def _read(self, context: Context, wake: asyncio.Event, *, delta: bool) -> None:
        asked: set[str] = set()
        while (data := await context.read()) is not grpc.aio.EOF:
            kind = ENDPOINT if b"ClusterLoadAssignment" in data else CLUSTER
            if kind in asked:
                continue
            asked.add(kind)
            if kind == CLUSTER:
                await context.write(self._wrap(CLUSTER, [string(1, HOST) + uint(2, 3)], delta=delta))
            else:
                self._wakes.add(wake)
                wake.set()


async def main(options: Options) -> None:
    bare = Bare(Fleet(options.endpoints, options.models_per_endpoint, options.models))
    server = grpc.aio.server(options=channel_options(ServerOptions()))
    handlers = {
        "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(bare.sotw),
        "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(bare.delta),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ADS, handlers),))
    server.add_insecure_port(options.xds)
    await server.start()
    trigger = await Trigger(bare.churn).start(options.trigger)
    gc.freeze()  # as the full server does
    publisher = asyncio.create_task(bare.publish(), name="publisher")
    await until_signal()
    publisher.cancel()
    trigger.close()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main(parse(__doc__)))
