"""One pod of the model of ModelMesh: the embedded runtime, its entry in etcd, and forwarding.

The runtime knows models by their concrete ids; clients ask by InferenceService names or by ids. A request for
a model that is not here goes on to a pod that has it. One that nobody has is loaded here, and entered before
the load begins. A request for a model that is here is answered here if it says `mm-balanced`; otherwise, as
ModelMesh takes it for one that came to any pod, each holder of the model gets its turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import ClientSession, web

from xds_server.demo import forwarding
from xds_server.demo.modelmesh.etcd import EtcdWriter, EtcdWriterError
from xds_server.demo.modelmesh.records import Record, Registry
from xds_server.demo.payload import BadPayloadError, answer, read_tensor
from xds_server.demo.repository import Repository
from xds_server.demo.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

LEASE = 5
"""Seconds after which an instance that has ended without a word is gone from etcd."""

KEEP_ALIVE = 1.0
BALANCED = ("mm-balanced", "grpc-metadata-mm-balanced")


class Pod(Runtime):
    """The HTTP side of a pod. `names`: of clients, to the ids of their active models."""

    def __init__(
        self,
        name: str,
        repository: Repository,
        peers: Sequence[str],
        names: Mapping[str, str],
        registry: Registry,
    ) -> None:
        super().__init__(name, repository, peers)
        self._names = names
        self._registry = registry
        self._loading = asyncio.Lock()
        self._turns = 0

    def application(self) -> web.Application:
        """The runtime's, and the pod's entry in etcd for as long as it runs."""
        application = super().application()
        application.cleanup_ctx.append(self._entered)
        return application

    async def _entered(self, _: web.Application) -> AsyncIterator[None]:
        keeping = asyncio.create_task(self._keep_entered(), name="lease")
        yield
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping

    async def _keep_entered(self) -> None:
        """Keep the instance's record alive through whatever etcd does; take it out at the end."""
        writer, lease = self._registry.writer, ""
        try:
            while True:
                try:
                    if not lease:
                        lease = await writer.grant(LEASE)
                        await self._registry.join(self._name, lease)
                    await writer.keep_alive(lease)
                except EtcdWriterError as error:
                    lease = "" if "has ended" in str(error) else lease
                await asyncio.sleep(KEEP_ALIVE)
        finally:
            with contextlib.suppress(EtcdWriterError):
                await writer.revoke(lease)

    async def _infer(self, request: web.Request) -> web.Response:
        asked, body = request.match_info["model"], await request.read()
        model = self._names.get(asked, asked)
        if self._peers is None:
            raise RuntimeError("a request came before the application had started")
        if not self._repository.is_ready(model):
            found = await self._forwarded(model, request, body)
            if found.status != web.HTTPNotFound.status_code or forwarding.HOP in request.headers:
                return found
            if not await self._load_here(model):
                return found
        elif self._is_anothers_turn(model, request):
            return await self._forwarded(model, request, body)
        return await self._answer(asked, model, body)

    def _is_anothers_turn(self, model: str, request: web.Request) -> bool:
        """Whether an unbalanced request goes on although the model is here: each holder gets its turn."""
        if forwarding.HOP in request.headers or any(name in request.headers for name in BALANCED):
            return False
        others = self._peers.holders(model) if self._peers is not None else []
        self._turns += 1
        return self._turns % (len(others) + 1) != 0

    async def _load_here(self, model: str) -> bool:
        """What nobody has is loaded on demand; False where there is no such model."""
        async with self._loading:
            if self._repository.is_ready(model):
                return True
            if not any(row["name"] == model for row in self._repository.index()):
                return False
            self._registry.models[model] = Record("mt:sklearn", model)
            await self._registry.enter(model, self._name)
            await self._repository.load(model)
        return True

    async def _answer(self, asked: str, model: str, body: bytes) -> web.Response:
        try:
            _, values = read_tensor(body)
            prediction = await self._repository.predict(model, values)
        except (BadPayloadError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        document = answer(asked, prediction.digit, prediction.probabilities)
        return web.json_response(document, headers={forwarding.SERVED_BY: self._name})


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line of one pod."""
    parser = argparse.ArgumentParser(prog="python -m xds_server.demo.modelmesh.pod", description=__doc__)
    parser.add_argument("--pod", required=True, help="its name; the last 12 characters are the instance's")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--repository", type=Path, required=True, help="folder of MODEL-ID/model.joblib")
    parser.add_argument("--etcd", required=True, metavar="URL")
    parser.add_argument("--prefix", required=True, help="of the service's keys")
    parser.add_argument("--names", nargs="*", default=[], metavar="NAME=ID", help="clients' names")
    parser.add_argument("--load", nargs="*", default=[], metavar="ID", help="loaded before the port opens")
    parser.add_argument("--peers", nargs="*", default=[], metavar="HOST:PORT", help="the other pods")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one pod until it is told to stop."""
    options = parse(arguments)
    repository = Repository(options.repository)
    names = dict(each.split("=", 1) for each in options.names)

    async def start() -> web.Application:
        for model in options.load:
            await repository.load(model)
        writer = EtcdWriter(ClientSession(), options.etcd)
        registry = Registry(writer, options.prefix)
        application = Pod(options.pod, repository, options.peers, names, registry).application()

        async def close(_: web.Application) -> None:
            await writer.close()

        application.on_cleanup.append(close)
        return application

    web.run_app(
        start(), host="127.0.0.1", port=options.port, access_log=None, print=None, shutdown_timeout=2.0
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
