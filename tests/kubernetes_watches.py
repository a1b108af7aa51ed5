"""A running watch for tests, which remembers what it told."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, suppress

from xds_server.sources.kubernetes.api import Api
from xds_server.sources.kubernetes.watching import Resource, Scope, Timing, Watch

LIMIT = 30.0
PODS = Resource("", "v1", "pods")
QUICK = Timing(server=60.0, late=1.0, inactivity=30.0, first=0.01, most=0.05, absent=0.05, brief=0.02)


def name_and_labels(item):
    return item["metadata"]["name"], tuple(sorted((item["metadata"].get("labels") or {}).items()))


class Seen:
    """What a watch told, one mapping for each time."""

    def __init__(self):
        self.changes = []

    def __call__(self, changes):
        self.changes.append(dict(changes))


@asynccontextmanager
async def watching(cluster, resource=PODS, scope=None, timing=QUICK, **options):
    """A running watch; it must not end by itself."""
    api = Api(cluster.login())
    await api.open()
    seen = Seen()
    watch = Watch(
        api,
        resource,
        scope or Scope(),
        keep=name_and_labels,
        on_change=seen,
        timing=timing,
        rng=random.Random(1),
        **options,
    )
    watch.seen = seen
    task = asyncio.create_task(watch.run())
    try:
        yield watch
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await api.close()


def names(watch):
    return sorted(name for _, name in watch.objects())


def one_status(watch):
    (only,) = watch.status()
    return only


async def listed(watch):
    async with asyncio.timeout(LIMIT):
        await watch.listed()
