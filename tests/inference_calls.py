"""Calls in the Open Inference Protocol over gRPC, with messages from the project's own descriptor set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

if TYPE_CHECKING:
    import grpc

SERVICE = "inference.GRPCInferenceService"
DESCRIPTORS = Path(__file__).parents[1] / "xds_server" / "resources" / "open_inference.pb"

_POOL = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
    _POOL.Add(_file)


def message(name: str) -> Any:
    """The class of a message of the protocol."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))


async def call(
    channel: grpc.aio.Channel, method: str, metadata: tuple[tuple[str, str], ...] = (), **fields: Any
) -> Any:
    """Make one unary call; grpc.aio.AioRpcError if it fails."""
    request = message(f"{method}Request")(**fields)
    made = channel.unary_unary(
        f"/{SERVICE}/{method}",
        request_serializer=lambda each: each.SerializeToString(),
        response_deserializer=message(f"{method}Response").FromString,
    )
    return await made(request, metadata=metadata, timeout=20)


def tensor(values: tuple[float, ...] = (1.0,)) -> dict[str, Any]:
    """An input as a call takes it."""
    return {
        "name": "x",
        "shape": [len(values)],
        "datatype": "FP32",
        "contents": {"fp32_contents": list(values)},
    }
