"""A client of every runtime there is a file for: what a target speaks decides which is used."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Self

from xds_server.mesh.events import FailureKind
from xds_server.mesh.pools import (
    KServe,
    LlamaCpp,
    Ollama,
    OpenAI,
    OpenInference,
    OpenInferenceProtocol,
    OpenVino,
    TensorFlowServing,
    TorchServe,
)
from xds_server.sources.runtimes import (
    kserve,
    llama_cpp,
    ollama,
    open_inference,
    open_inference_grpc,
    open_vino,
    openai,
    tensorflow_serving,
    torch_serve,
)
from xds_server.sources.runtimes.answers import Index, RuntimeUnreadableError, bad
from xds_server.sources.runtimes.asking import Call
from xds_server.sources.runtimes.grpc_calls import GrpcCalls
from xds_server.sources.runtimes.http import NO_HEADERS, HttpClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from xds_server.mesh.pools import Asked, SecretHeader
    from xds_server.sources.runtimes.asking import Follows, Orders, Runtime, Target

_RUNTIMES: dict[type[Asked], Runtime] = {
    KServe: kserve,
    LlamaCpp: llama_cpp,
    Ollama: ollama,
    OpenAI: openai,
    OpenInference: open_inference,
    OpenVino: open_vino,
    TensorFlowServing: tensorflow_serving,
    TorchServe: torch_serve,
}
_ORDERS: dict[type[Asked], Orders] = {
    KServe: kserve,
    LlamaCpp: llama_cpp,
    Ollama: ollama,
    OpenInference: open_inference,
}
_FOLLOWS: dict[type[Asked], Follows] = {LlamaCpp: llama_cpp}


_OURS = Path("/var/run/secrets/kubernetes.io")
"""What proves to an API server who we are. Whoever may write a pool names a file: this is sent to nobody."""


class NoOrdersError(RuntimeError):
    """The runtime has no call that loads or unloads a model by its name."""


class RuntimeClient:
    """Talks to many runtimes, each over connections that are kept. Create it on the running event loop."""

    def __init__(self) -> None:
        self._http = HttpClient()
        self._grpc = GrpcCalls()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._http.close()
        await self._grpc.close()

    async def forget(self, target: Target) -> None:
        """Close what is kept for a runtime that is no longer asked."""
        await self._grpc.forget(target.url)

    async def read(self, target: Target, previous: Index | None = None) -> Index:
        """What the runtime has, in any state; `previous` itself if the answer has the same bytes.

        Raises:
            RuntimeUnreadableError: no answer, or one that cannot be read.
        """
        runtime = _runtime(target.discovery)
        try:
            async with asyncio.timeout(target.timeout):
                body = await runtime.fetch(await self._call(target))
        except TimeoutError:
            error = f"no answer from {target.url} within {target.timeout:g} s"
            raise RuntimeUnreadableError(FailureKind.TIMEOUT, error) from None
        if previous is not None and previous.body == body:
            return previous
        until = ollama.until(body) if runtime is ollama else None
        return Index(body, runtime.parse(body), until)

    async def load(self, target: Target, model: str, limit: float) -> None:
        """Ask for a load; returns when the runtime says that it did or began. `limit` in seconds.

        Raises:
            NoOrdersError: it has no such call.
            RuntimeRefusedError: it answered with an error.
            RuntimeUnreadableError: it did not answer within `limit`.
        """
        orders = _orders(target.discovery)
        async with _within(limit, target, f"load of {model!r}"):
            await orders.load(await self._call(target), model)

    async def unload(self, target: Target, model: str, limit: float) -> None:
        """Ask for an unload; done as well if it says no, but does not have it READY. Errors as for load."""
        orders = _orders(target.discovery)
        async with _within(limit, target, f"unload of {model!r}"):
            await orders.unload(await self._call(target), model)

    def follows(self, target: Target) -> bool:
        """Whether the runtime tells of changes by itself."""
        return type(target.discovery) in _FOLLOWS

    async def changes(self, target: Target) -> AsyncIterator[None]:
        """One item for each change that the runtime tells of, until it ends that.

        Raises:
            RuntimeUnreadableError: it cannot be followed, or no longer.
        """
        call = await self._call(target)
        async for change in _FOLLOWS[type(target.discovery)].changes(call):
            yield change

    async def _call(self, target: Target) -> Call:
        header = target.discovery.header
        headers = NO_HEADERS if header is None else await asyncio.to_thread(_header, header)
        return Call(self._http, self._grpc, target.url, target.discovery, headers)


class _within:  # noqa: N801 - used as a context, like asyncio.timeout
    """A time limit whose end is an error of ours."""

    def __init__(self, limit: float, target: Target, what: str) -> None:
        self._timeout = asyncio.timeout(limit)
        self._error = f"{target.url} did not answer the {what} within {limit:g} s"

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        try:
            await self._timeout.__aexit__(*error)  # type: ignore[arg-type]
        except TimeoutError:
            raise RuntimeUnreadableError(FailureKind.TIMEOUT, self._error) from None


def loads(discovery: Asked) -> bool:
    """Whether the runtime has a call that loads and unloads models by their names."""
    return type(discovery) in _ORDERS


def _runtime(discovery: Asked) -> Runtime:
    if _over_grpc(discovery):
        return open_inference_grpc
    return _RUNTIMES[type(discovery)]


def _orders(discovery: Asked) -> Orders:
    if _over_grpc(discovery):
        return open_inference_grpc
    orders = _ORDERS.get(type(discovery))
    if orders is None:
        raise NoOrdersError(f"{discovery.source} has no call to load or unload a model by its name")
    return orders


def _over_grpc(discovery: Asked) -> bool:
    return isinstance(discovery, OpenInference) and discovery.protocol is OpenInferenceProtocol.GRPC


def _header(header: SecretHeader) -> Mapping[str, str]:
    """Read anew each time: a secret that is rotated is used at the next question. Blocks: for a thread."""
    file = Path(header.file).resolve()
    if file.is_relative_to(_OURS.resolve()):
        raise bad(f"header {header.name}: {header.file} is this server's own; expected a file for runtimes")
    try:
        value = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise bad(f"header {header.name}: {header.file} cannot be read: {error}") from error
    if not value.isprintable():
        raise bad(f"header {header.name}: {header.file} holds more than one line of text")
    return {header.name: value}
