"""A replica that answers only to the names that it has: V2 over REST and gRPC, and OpenAI's chat completions.

It is a fake, and stricter than a runtime: what it was asked under is in every answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import grpc
from aiohttp import web

from tests.inference_calls import SERVICE, message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BODY_LIMIT = 1 << 25


class NamedReplica:
    """`has`: names with their versions, all READY; `adapters`: names of OpenAI's list, with their bases."""

    def __init__(self, name: str, has: dict[str, list[str]], adapters: dict[str, str] | None = None) -> None:
        self.name = name
        self.has = has
        self.adapters = adapters or {}
        self.asked: list[str] = []
        """What it was asked under, all of it: MODEL, or MODEL@VERSION."""
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.broken = False
        """It lists what it has, and answers to none of it."""
        self.port = self.grpc_port = 0
        self._runner = web.AppRunner(self._application())
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", BODY_LIMIT)])

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self.grpc_port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Answer nobody any more."""
        await self._server.stop(0)
        await self._runner.cleanup()

    def answers_to(self, model: str, version: str = "") -> bool:
        """Whether it has that; a version of "" is any."""
        self.asked.append(f"{model}@{version}" if version else model)
        return not self.broken and model in self.has and (not version or version in self.has[model])

    def endpoint(self, *, grpc_traffic: bool = False) -> dict[str, Any]:
        ports = {"http": self.grpc_port if grpc_traffic else self.port, "api": self.port}
        return {"address": "127.0.0.1", "ports": ports}

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=BODY_LIMIT)
        application.router.add_post("/v2/repository/index", self._index)
        application.router.add_get("/v1/models", self._list)
        application.router.add_post("/v2/models/{model}/infer", self._infer)
        application.router.add_post("/v2/models/{model}/versions/{version}/infer", self._infer)
        application.router.add_post("/v1/chat/completions", self._chat)
        return application

    async def _index(self, _: web.Request) -> web.Response:
        rows = [(name, version) for name in self.has for version in self.has[name] or [""]]
        return web.json_response([{"name": n, "version": v, "state": "READY", "reason": ""} for n, v in rows])

    async def _list(self, _: web.Request) -> web.Response:
        rows = [{"id": name, "parent": self.adapters.get(name)} for name in self.has]
        return web.json_response({"object": "list", "data": rows})

    async def _infer(self, request: web.Request) -> web.Response:
        where = request.match_info
        return self._answer(request, await request.read(), where["model"], where.get("version", ""))

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.read()
        return self._answer(request, body, (await request.json()).get("model"))

    def _answer(self, request: web.Request, body: bytes, model: str, version: str = "") -> web.Response:
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if not self.answers_to(model, version):
            return web.json_response({"error": f"{self.name} has no {self.asked[-1]}"}, status=404)
        return web.json_response({"by": self.name, "as": self.asked[-1]})


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, replica: NamedReplica) -> None:
        self._replica = replica

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method.rpartition("/")[2]
        if not handler_call_details.method.startswith(f"/{SERVICE}/Model"):
            return None
        if method == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(getattr(self, method))

    def _has(self, body: bytes, kind: str) -> Any:
        self._replica.bodies.append(body)
        asked = message(kind).FromString(body)
        name, version = (
            (asked.model_name, asked.model_version)
            if kind == "ModelInferRequest"
            else (asked.name, asked.version)
        )
        return asked if self._replica.answers_to(name, version) else None

    async def _refuse(self, context: Any) -> None:
        text = f"{self._replica.name} has no {self._replica.asked[-1]}"
        await context.abort(grpc.StatusCode.NOT_FOUND, text)

    async def ModelInfer(self, body: bytes, context: Any) -> bytes:  # noqa: N802 - the protocol's name
        if self._has(body, "ModelInferRequest") is None:
            await self._refuse(context)
        return self._inferred()

    async def ModelMetadata(self, body: bytes, context: Any) -> bytes:  # noqa: N802
        if self._has(body, "ModelMetadataRequest") is None:
            await self._refuse(context)
        answer: bytes = message("ModelMetadataResponse")(name=self._replica.asked[-1]).SerializeToString()
        return answer

    async def ModelReady(self, body: bytes, _: Any) -> bytes:  # noqa: N802
        ready = self._has(body, "ModelReadyRequest") is not None
        answer: bytes = message("ModelReadyResponse")(ready=ready).SerializeToString()
        return answer

    async def _stream(self, bodies: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for body in bodies:
            if self._has(body, "ModelInferRequest") is None:
                await self._refuse(context)
            inferred = message("ModelInferResponse").FromString(self._inferred())
            yield message("ModelStreamInferResponse")(infer_response=inferred).SerializeToString()

    def _inferred(self) -> bytes:
        made = message("ModelInferResponse")(model_name=self._replica.asked[-1], id=self._replica.name)
        inferred: bytes = made.SerializeToString()
        return inferred
