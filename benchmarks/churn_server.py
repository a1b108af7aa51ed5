"""The real server over a made-up fleet, so that any xDS client can measure what one change costs.

    python -m benchmarks.churn_server --endpoints 1000 --models-per-endpoint 20 --models 1000 \\
        --xds 127.0.0.1:18000 --trigger 127.0.0.1:18001

Mesh, builder, publisher, hub and gRPC server are those of `xds-server serve`; only the source is made up.
The one cluster and its assignment are called `modelmesh-serving`. `POST /churn?n=K` on the trigger address
redraws the models of K random endpoints and answers at once. A line of JSON on standard output says when
clients can come.
"""

from __future__ import annotations

import asyncio
import gc
import time
from math import inf

import structlog

from benchmarks.fleet import Fleet
from benchmarks.serving import Options, parse, until_signal
from benchmarks.trigger import Trigger
from xds_server import logs
from xds_server.mesh.mesh import Mesh
from xds_server.publisher import Publisher
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.resources.shards import Sharding
from xds_server.transport.server import XdsServer
from xds_server.xds.hub import Hub


def _by_host(host: str, _port: int) -> str:
    return host


def _state(hub: Hub) -> dict[str, object]:
    """What there is now, for a soak that asks whether anything is left behind."""
    stats = hub.stats
    return {
        "streams": stats.streams_open,
        "subscriptions": len(hub.index),
        "tasks": len(asyncio.all_tasks()),
        "publications": stats.publications,
        "pushes": sum(stats.pushes.values()),
        "acks": sum(stats.acks.values()),
        "nacks": sum(stats.nacks.values()),
        "encoded": sum(stats.encoded.values()),
        "shared": sum(stats.shared.values()),
    }


async def main(options: Options) -> None:
    fleet = Fleet(options.endpoints, options.models_per_endpoint, options.models)
    notify: list[Publisher] = []
    mesh = Mesh(on_change=lambda: [each.notify() for each in notify] and None)
    hub = Hub(time.monotonic)
    # No rests between pushes: each change is published by itself.
    publisher = Publisher(mesh, Builder(BuildOptions(sharding=Sharding(_by_host))), hub, share=inf)
    notify.append(publisher)
    mesh.apply(fleet.configuration())
    for report in fleet.reports(range(options.endpoints)):
        mesh.apply(report)
    publisher.start()
    gc.freeze()  # as serve does

    def churn(count: int) -> dict[str, object]:
        begun = time.time_ns()
        for report in fleet.reports(fleet.churn(count)):
            mesh.apply(report)
        return {"t_start_unix_ns": begun}

    server = XdsServer(hub, options.xds)
    await server.start()
    trigger = await Trigger(churn, lambda: _state(hub)).start(options.trigger)
    running = asyncio.create_task(publisher.run(), name="publisher")
    await until_signal()
    running.cancel()
    trigger.close()
    await server.stop(1.0)
    stats = hub.stats
    structlog.get_logger("churn").info(
        "encodings", done=dict(stats.encoded), saved=dict(stats.shared), pushes=dict(stats.pushes)
    )


if __name__ == "__main__":
    logs.configure(level="warning", as_json=True)
    asyncio.run(main(parse(__doc__)))
