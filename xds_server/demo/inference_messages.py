"""The messages of the Open Inference Protocol over gRPC that the demo sends and answers.

Field numbers are those of protos/open_inference.proto; what the demo does not use is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import betterproto2
from betterproto2 import field

SERVICE = "inference.GRPCInferenceService"


@dataclass(eq=False, repr=False)
class ServerLiveRequest(betterproto2.Message):
    """Whether the server runs at all."""


@dataclass(eq=False, repr=False)
class ServerLiveResponse(betterproto2.Message):
    """It does."""

    live: bool = field(1, betterproto2.TYPE_BOOL)


@dataclass(eq=False, repr=False)
class Contents(betterproto2.Message):
    """A tensor's values, row by row, in the list of its datatype."""

    int64_contents: list[int] = field(3, betterproto2.TYPE_INT64, repeated=True)
    fp32_contents: list[float] = field(6, betterproto2.TYPE_FLOAT, repeated=True)
    fp64_contents: list[float] = field(7, betterproto2.TYPE_DOUBLE, repeated=True)


@dataclass(eq=False, repr=False)
class Tensor(betterproto2.Message):
    """An input or an output."""

    name: str = field(1, betterproto2.TYPE_STRING)
    datatype: str = field(2, betterproto2.TYPE_STRING)
    shape: list[int] = field(3, betterproto2.TYPE_INT64, repeated=True)
    contents: Contents | None = field(5, betterproto2.TYPE_MESSAGE, optional=True)


@dataclass(eq=False, repr=False)
class ModelInferRequest(betterproto2.Message):
    """One inference."""

    model_name: str = field(1, betterproto2.TYPE_STRING)
    inputs: list[Tensor] = field(5, betterproto2.TYPE_MESSAGE, repeated=True)


@dataclass(eq=False, repr=False)
class ModelInferResponse(betterproto2.Message):
    """Its answer."""

    model_name: str = field(1, betterproto2.TYPE_STRING)
    model_version: str = field(2, betterproto2.TYPE_STRING)
    outputs: list[Tensor] = field(5, betterproto2.TYPE_MESSAGE, repeated=True)
