"""The repository API of the Open Inference Protocol over gRPC, as MLServer and Triton speak it.

Field numbers are those of protos/open_inference.proto. MLServer says `State.READY` where Triton says
`READY`. KServe's own server has another wire form of the orders and no index: it is asked over REST.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import betterproto2

from xds_server.mesh.events import ModelState
from xds_server.sources.runtimes.answers import RuntimeRefusedError, bad
from xds_server.sources.runtimes.open_inference import normalised
from xds_server.wire import string

if TYPE_CHECKING:
    from xds_server.sources.runtimes.asking import Call

_SERVICE = "/inference.GRPCInferenceService"


@dataclass(eq=False, repr=False)
class ModelIndex(betterproto2.Message):
    """One row of the index."""

    name: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    version: str = betterproto2.field(2, betterproto2.TYPE_STRING)
    state: str = betterproto2.field(3, betterproto2.TYPE_STRING)
    reason: str = betterproto2.field(4, betterproto2.TYPE_STRING)


@dataclass(eq=False, repr=False)
class RepositoryIndexResponse(betterproto2.Message):
    """The index."""

    models: list[ModelIndex] = betterproto2.field(1, betterproto2.TYPE_MESSAGE, repeated=True)  # noqa: RUF009


async def fetch(call: Call) -> bytes:
    """The repository index."""
    return await call.grpc.ask(call, f"{_SERVICE}/RepositoryIndex", b"")


def parse(body: bytes) -> tuple[ModelState, ...]:
    """The rows of a repository index, sorted.

    Raises:
        RuntimeUnreadableError: BAD_ANSWER, where the bytes are no index.
    """
    try:
        rows = RepositoryIndexResponse.parse(body).models
    except (ValueError, EOFError, IndexError) as error:
        raise bad(f"the repository index is no message of its kind: {error}") from error
    for number, row in enumerate(rows):
        if not row.name:
            raise bad(f"row {number} of the repository index has no name")
    return tuple(sorted(ModelState(r.name, r.version, normalised(r.state), r.reason) for r in rows))


async def load(call: Call, model: str) -> None:
    """Ask the runtime to load `model`; returns when it says that it did. Errors: Orders."""
    refused = await call.grpc.order(call, f"{_SERVICE}/RepositoryModelLoad", string(2, model))
    if refused is not None:
        raise RuntimeRefusedError("load", model, *refused)


async def unload(call: Call, model: str) -> None:
    """Ask for an unload; done as well if it says no, but does not have the model READY. Errors: Orders."""
    refused = await call.grpc.order(call, f"{_SERVICE}/RepositoryModelUnload", string(2, model))
    if refused is None:
        return
    if any(row.name == model and row.ready for row in parse(await fetch(call))):
        raise RuntimeRefusedError("unload", model, *refused)
