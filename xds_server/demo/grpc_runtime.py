"""The gRPC side of one embedded replica: ModelInfer and ServerLive of the Open Inference Protocol.

A request for a model that is not loaded here is NOT_FOUND: only the REST side forwards.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc

from xds_server.demo.inference_messages import (
    SERVICE,
    Contents,
    ModelInferRequest,
    ModelInferResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    Tensor,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from xds_server.demo.repository import Repository

GRACE = 2.0
"""Seconds that calls under way get when the replica is stopped."""


class GrpcRuntime:
    """Answers calls from the models of a repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    @asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[int]:
        """Serves until the block ends; yields the port, a free one where `port` is 0."""
        server = grpc.aio.server()
        handlers = {
            "ServerLive": grpc.unary_unary_rpc_method_handler(
                _live, ServerLiveRequest.parse, ServerLiveResponse.__bytes__
            ),
            "ModelInfer": grpc.unary_unary_rpc_method_handler(
                self._infer, ModelInferRequest.parse, ModelInferResponse.__bytes__
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        chosen = server.add_insecure_port(f"{host}:{port}")
        await server.start()
        try:
            yield chosen
        finally:
            await server.stop(GRACE)

    async def _infer(
        self,
        request: ModelInferRequest,
        context: grpc.aio.ServicerContext[ModelInferRequest, ModelInferResponse],
    ) -> ModelInferResponse:
        model = request.model_name
        if not self._repository.is_ready(model):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Model {model} not found")
        contents = request.inputs[0].contents if request.inputs else None
        try:
            prediction = await self._repository.predict(model, contents.fp32_contents if contents else [])
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        outputs = [Tensor("predict", "INT64", [1, 1], Contents(int64_contents=[prediction.digit]))]
        if (likely := prediction.probabilities) is not None:
            outputs.append(Tensor("predict_proba", "FP64", [1, len(likely)], Contents(fp64_contents=likely)))
        return ModelInferResponse(model_name=model, model_version="v1", outputs=outputs)


async def _live(
    _request: ServerLiveRequest, _context: grpc.aio.ServicerContext[ServerLiveRequest, ServerLiveResponse]
) -> ServerLiveResponse:
    return ServerLiveResponse(live=True)
