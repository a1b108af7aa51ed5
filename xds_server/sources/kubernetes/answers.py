"""The status of every object that is a document: looked at in rounds, and written where it differs.

Level-triggered: a round compares what should stand there with what the watch shows. So a lost write, another
server's and a restart are all the same case, and nothing is written that is there already.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from xds_server.config.gateway_api import CONTROLLER
from xds_server.config.istio_status import PREFIX
from xds_server.config.objects import key_of
from xds_server.config.pool_status import common_status
from xds_server.sources.kubernetes.kinds import GATEWAY_CLASSES, GATEWAYS, HTTP_ROUTES, ISTIO, MODEL_POOLS
from xds_server.sources.kubernetes.status_values import complete, holds
from xds_server.sources.kubernetes.status_writer import MANAGER, own_manager

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.sources.kubernetes.documents import KubernetesDocuments
    from xds_server.sources.kubernetes.kinds import DocumentKind
    from xds_server.sources.kubernetes.pool_report import PoolReporter, Rejections
    from xds_server.sources.kubernetes.servers import Servers
    from xds_server.sources.kubernetes.status_writer import StatusWriter

ROUND = 1.0
"""Seconds between rounds; a compilation begins one at once."""

POOLS = 50
"""Pools whose status is looked at in one round."""

Value = dict[str, Any]


class Answers:
    """Keeps the status of all objects.

    Args:
        documents: the objects, and what came of them.
        reporter: what this server sees of a pool.
        writer: writes.
        servers: this server among the others.
    """

    def __init__(
        self, documents: KubernetesDocuments, reporter: PoolReporter, writer: StatusWriter, servers: Servers
    ) -> None:
        self._documents = documents
        self._reporter = reporter
        self._writer = writer
        self._servers = servers
        self._next = 0
        self._said: dict[str, Value] = {}
        """What was last written to objects that are no ModelPools: a listener that has gone is taken out."""

    async def run(self) -> None:
        """Rounds until cancelled. Begins with the first compilation."""
        await self._documents.compiled.wait()
        while True:
            self._documents.compiled.clear()
            await self.round()
            try:
                async with asyncio.timeout(ROUND):
                    await self._documents.compiled.wait()
            except TimeoutError:
                continue

    async def round(self) -> None:
        """Look at every object once."""
        rejections = self._reporter.begin()
        for value in self._turn():
            await self._answer_pool(value, rejections)
            await asyncio.sleep(0)  # the loop has other work
        for kind in (GATEWAY_CLASSES, GATEWAYS):
            for value in self._documents.present(kind).values():
                if (wanted := self._documents.state.status.get(key_of(value))) is not None:
                    await self._write(kind, value, wanted)
        for value in self._documents.present(HTTP_ROUTES).values():
            await self._answer_route(value)
        for kind in ISTIO:
            for value in self._documents.present(kind).values():
                await self._answer_istio(kind, value)

    def _turn(self) -> list[Value]:
        """The pools whose turn it is, and all whose spec has not been answered yet.

        What a pool costs grows with the number of Envoys, so no more than POOLS are looked at in a round.
        """
        pools = self._documents.present(MODEL_POOLS)
        keys = sorted(pools)
        begin = self._next % len(keys) if keys else 0
        self._next = begin + POOLS
        turn = dict.fromkeys((keys + keys)[begin : begin + min(POOLS, len(keys))])
        for key, value in pools.items():
            seen = (value.get("status") or {}).get("observedGeneration")
            answered = seen == value["metadata"].get("generation", 1)
            if not answered and self._writer.may(MODEL_POOLS, value, MANAGER):
                turn[key] = None
        return [pools[key] for key in turn]

    async def _answer_pool(self, value: Value, rejections: Rejections) -> None:
        """First what this server sees, under its own name; then what follows for all from what all wrote."""
        state, key = self._documents.state, key_of(value)
        if key not in state.generations:
            return  # it came after the last compilation
        seen = self._reporter.report(state.hosts.get(key, ""), state.generations[key], rejections)
        entry = seen.entry(self._servers.name)
        entries = _entries(value)
        manager = own_manager(self._servers.name)
        if entries.get(self._servers.name) != entry and self._writer.may(MODEL_POOLS, value, manager):
            written = await self._writer.apply(MODEL_POOLS, value, {"servers": [entry]}, manager)
            value = written or value
            entries = _entries(value)
        for name in [name for name in entries if not self._servers.lives(name)]:
            del entries[name]
            manager = own_manager(name)
            if self._writer.may(MODEL_POOLS, value, manager):
                # In the dead one's name: to apply nothing is to take out what it had applied.
                await self._writer.apply(MODEL_POOLS, value, {}, manager)
        generation = value["metadata"].get("generation", 1)
        if self._servers.name in entries:
            wanted = common_status(generation, state.problems.get(key, ()), entries.values())
            await self._write(MODEL_POOLS, value, wanted)

    async def _answer_route(self, value: Value) -> None:
        """Our entries among the parents, which is a list that is replaced as a whole."""
        wanted = self._documents.state.status.get(key_of(value), {"parents": []})["parents"]
        there = _listed(value, "parents")
        ours = [each for each in there if each.get("controllerName") == CONTROLLER]
        parents = complete(wanted, ours, _now())
        if len(ours) == len(parents) and holds(parents, ours):
            return
        others = [each for each in there if each.get("controllerName") != CONTROLLER]
        if self._writer.may(HTTP_ROUTES, value, MANAGER):
            await self._writer.apply(HTTP_ROUTES, value, {"parents": [*others, *parents]}, guarded=True)

    async def _answer_istio(self, kind: DocumentKind, value: Value) -> None:
        """Our conditions among Istio's own, in a list that is replaced as a whole."""
        wanted = self._documents.state.status.get(key_of(value))
        there = _listed(value, "conditions")
        ours = [each for each in there if str(each.get("type", "")).startswith(PREFIX)]
        conditions = complete(wanted or {"conditions": []}, {"conditions": ours}, _now())["conditions"]
        if len(ours) == len(conditions) and holds(conditions, ours):
            return
        others = [each for each in there if each not in ours]
        if self._writer.may(kind, value, MANAGER):
            await self._writer.apply(kind, value, {"conditions": [*others, *conditions]}, guarded=True)

    async def _write(self, kind: DocumentKind, value: Value, wanted: Mapping[str, Any]) -> None:
        """A status of which every part has a name: others' parts stay by themselves."""
        there = value.get("status") or {}
        status: Value = complete(wanted, there, _now())
        key = key_of(value)
        stale = self._said.get(key, {}).get("listeners", status.get("listeners")) != status.get("listeners")
        if holds(status, there) and not (stale and _names(there) - _names(status)):
            self._said[key] = status
            return
        if not self._writer.may(kind, value, MANAGER):
            return
        if await self._writer.apply(kind, value, status) is not None:
            self._said[key] = status


def _entries(value: Mapping[str, Any]) -> dict[str, Value]:
    return {str(each.get("name")): each for each in _listed(value, "servers")}


def _listed(value: Mapping[str, Any], field: str) -> list[Value]:
    status = value.get("status")
    listed = status.get(field) if isinstance(status, dict) else None
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _names(status: Mapping[str, Any]) -> set[str]:
    return {str(each.get("name")) for each in status.get("listeners") or ()}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
