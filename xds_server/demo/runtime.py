"""The embedded Open Inference runtime: one process is one replica.

It is a stand-in for a multi-model runtime with ModelMesh-style forwarding, so that the demo needs nothing but
Python: `python -m xds_server.demo.runtime --name replica-1 --port 9001 --repository DIR`. Its models are real
ones and really compute; its protocol is the REST part of the Open Inference Protocol (KServe V2) that routing
needs, with `/infer` for a body that names its model; `grpc_runtime.py` has as much of it over gRPC. It is not
meant to serve anybody: no authentication, no batching.

A request for a model that is not loaded here is forwarded to a replica that has it, when `--peers` names
some, and the answer then carries `x-forwarded-by`; without peers it is a 404. `x-served-by` names the replica
whose model computed the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from xds_server.demo import forwarding
from xds_server.demo.grpc_runtime import GrpcRuntime
from xds_server.demo.payload import BadPayloadError, answer, read_tensor
from xds_server.demo.repository import NotReadyError, Repository, UnknownModelError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

LARGEST_BODY = 16 * 1024 * 1024


class Runtime:
    """The HTTP side of one replica."""

    def __init__(self, name: str, repository: Repository, peers: Sequence[str]) -> None:
        self._name = name
        self._repository = repository
        self._addresses = tuple(peers)
        self._peers: forwarding.Peers | None = None

    def application(self) -> web.Application:
        """The web application: the protocol's paths."""
        application = web.Application(client_max_size=LARGEST_BODY)
        application.add_routes(
            [
                web.get("/v2/health/live", self._healthy),
                web.get("/v2/health/ready", self._healthy),
                web.post("/v2/repository/index", self._index),
                web.post("/v2/repository/models/{model}/load", self._load),
                web.post("/v2/repository/models/{model}/unload", self._unload),
                web.get("/v2/models/{model}", self._metadata),
                web.get("/v2/models/{model}/ready", self._ready),
                web.post("/v2/models/{model}/infer", self._infer),
                web.post("/infer", self._infer_named),
            ]
        )
        application.cleanup_ctx.append(self._running)
        return application

    async def _running(self, _: web.Application) -> AsyncIterator[None]:
        """Holds the connections to the other replicas while the application runs."""
        async with forwarding.session() as client:
            self._peers = forwarding.Peers(self._addresses, client)
            refreshing = asyncio.create_task(self._peers.run(), name="peers")
            yield
            refreshing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await refreshing
        self._repository.close()

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.json_response({})

    async def _index(self, request: web.Request) -> web.Response:
        body = await request.json() if await request.read() else {}
        rows = self._repository.index()
        return web.json_response([row for row in rows if not body.get("ready") or row["state"] == "READY"])

    async def _load(self, request: web.Request) -> web.Response:
        try:
            await self._repository.load(request.match_info["model"])
        except UnknownModelError as error:
            return _refused(404, error)
        return web.Response()

    async def _unload(self, request: web.Request) -> web.Response:
        try:
            self._repository.unload(request.match_info["model"])
        except (UnknownModelError, NotReadyError) as error:
            return _refused(404, error)
        return web.Response()

    async def _metadata(self, request: web.Request) -> web.Response:
        model = request.match_info["model"]
        if not self._repository.is_ready(model):
            return _refused(404, f"Model {model} not found")
        inputs = [{"name": "inputs", "datatype": "FP32", "shape": [1, 784]}]
        outputs = [{"name": "predict", "datatype": "INT64", "shape": [1, 1]}]
        return web.json_response(
            {"name": model, "versions": ["v1"], "platform": "sklearn", "inputs": inputs, "outputs": outputs}
        )

    async def _ready(self, request: web.Request) -> web.Response:
        model = request.match_info["model"]
        if self._repository.is_ready(model):
            return web.json_response({"name": model, "ready": True})
        return _refused(400, f"Model {model} is not ready")

    async def _infer(self, request: web.Request) -> web.Response:
        return await self._served(request.match_info["model"], request, await request.read())

    async def _infer_named(self, request: web.Request) -> web.Response:
        """The same request with a `model` beside `inputs`."""
        body = await request.read()
        try:
            model = str(json.loads(body)["model"])
        except (ValueError, TypeError, KeyError) as error:
            return _refused(400, f"expected a V2 inference request with `model` beside `inputs`: {error!r}")
        return await self._served(model, request, body)

    async def _served(self, model: str, request: web.Request, body: bytes) -> web.Response:
        if not self._repository.is_ready(model):
            return await self._forwarded(model, request, body)
        try:
            _, values = read_tensor(body)
            prediction = await self._repository.predict(model, values)
        except (BadPayloadError, ValueError) as error:
            return _refused(400, error)
        document = answer(model, prediction.digit, prediction.probabilities)
        return web.json_response(document, headers={forwarding.SERVED_BY: self._name})

    async def _forwarded(self, model: str, request: web.Request, body: bytes) -> web.Response:
        if self._peers is None:
            raise RuntimeError("a request came before the application had started")
        response = await self._peers.forward(model, request, body, self._name)
        return response or _refused(404, f"Model {model} not found")


def _refused(status: int, error: Exception | str) -> web.Response:
    return web.json_response({"error": str(error)}, status=status)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line of one replica."""
    parser = argparse.ArgumentParser(prog="python -m xds_server.demo.runtime", description=__doc__)
    parser.add_argument("--name", required=True, help="what x-served-by says")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, help="no gRPC unless given")
    parser.add_argument("--repository", type=Path, required=True, help="folder of MODEL/model.joblib")
    parser.add_argument("--load", nargs="*", default=[], metavar="MODEL", help="loaded before the port opens")
    parser.add_argument("--peers", nargs="*", default=[], metavar="HOST:PORT", help="replicas to forward to")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one replica until it is told to stop."""
    options = parse(arguments)
    repository = Repository(options.repository)

    async def start() -> web.Application:
        for model in options.load:
            await repository.load(model)
        application = Runtime(options.name, repository, options.peers).application()
        if options.grpc_port is None:
            return application

        async def grpc_side(_: web.Application) -> AsyncIterator[None]:
            async with GrpcRuntime(repository).listening(options.host, options.grpc_port):
                yield

        application.cleanup_ctx.append(grpc_side)
        return application

    # Requests that are under way are finished, but nobody waits long for them in a demo.
    web.run_app(
        start(), host=options.host, port=options.port, access_log=None, print=None, shutdown_timeout=2.0
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
