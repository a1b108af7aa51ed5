"""A client of the Open Inference Protocol's repository API (KServe V2), as MLServer and Triton speak it.

What lives here: requests, and the reading of answers nobody vouches for. When to ask is poller.py's.

The two dialects, as seen on MLServer 1.7.1 and Triton 2.51:

- The index is `POST /v2/repository/index`; MLServer answers 422 without a body, so `{}` is sent.
- Triton lists a model that was never loaded by its name alone; MLServer as UNAVAILABLE.
- A state may be written `State.READY` (an enum's name on Python 3.11).
- MLServer's second unload of a model is a 404; Triton's unload returns before the model is gone.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from xds_server.mesh.events import FailureKind, ModelState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import SimpleNamespace

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer that are read at most: an index row has some 70, so this is for 200,000 models."""

SHOWN = 200
"""Characters of an unexpected answer that an error shows."""

NEVER_LOADED = "UNAVAILABLE"
"""The state of a row that tells none: Triton's way to list a model that was never loaded."""

_HTTP_OK = 200
_NO_CONDITIONS = b"{}"
_JSON = {"Content-Type": "application/json"}
_CONNECTIONS_PER_RUNTIME = 2
_REFUSALS = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})


class RuntimeUnreadableError(RuntimeError):
    """The runtime gave no usable answer; `kind` says in which way, the text what was seen."""

    def __init__(self, kind: FailureKind, error: str) -> None:
        super().__init__(error)
        self.kind = kind


class RuntimeRefusedError(RuntimeError):
    """The runtime answered a load or an unload with an error: `status` and `body`, as it gave them."""

    def __init__(self, action: str, model: str, status: int, body: str) -> None:
        super().__init__(f"the runtime refused to {action} {model!r}: HTTP {status} {_shown(body)}".rstrip())
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class Index:
    """One answer: its rows, sorted, and the bytes they were read from."""

    body: bytes
    rows: tuple[ModelState, ...]


@dataclass(slots=True)
class _Attempt:
    """How far a request got: over a connection that had been used before, to an answer's beginning."""

    reused: bool = False
    answered: bool = False


class OpenInferenceClient:
    """Talks to many runtimes, each over a kept-alive connection. Create it on the running event loop.

    `url` is always a runtime's base, such as `http://10.0.0.7:8080`. Times in seconds. Redirects are
    not followed and no proxy is used: what answers must be the replica itself.
    """

    def __init__(self) -> None:
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        self._polls = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=_CONNECTIONS_PER_RUNTIME),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            trace_configs=[tracing],
        )
        # A load takes as long as it takes: it must neither use up a poll's connection nor meet a stale one.
        self._moves = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._polls.close()
        await self._moves.close()

    async def index(self, url: str, timeout: float) -> tuple[ModelState, ...]:  # noqa: ASYNC109
        """All rows of the repository index, sorted.

        Raises:
            RuntimeUnreadableError: no answer, or one that is no index.
        """
        return (await self.read(url, timeout)).rows

    async def read(self, url: str, timeout: float, previous: Index | None = None) -> Index:  # noqa: ASYNC109
        """The repository index; `previous` itself if the answer has the same bytes.

        Raises:
            RuntimeUnreadableError: no answer, or one that is no index.
        """
        try:
            async with asyncio.timeout(timeout):
                body = await self._read_body(url)
        except TimeoutError:
            error = f"no answer from {url} within {timeout:g} s"
            raise RuntimeUnreadableError(FailureKind.TIMEOUT, error) from None
        if previous is not None and previous.body == body:
            return previous
        return Index(body, parse_index(body))

    async def load(self, url: str, model: str, timeout: float) -> None:  # noqa: ASYNC109
        """Ask the runtime to load `model`; returns when it says that it did.

        Raises:
            RuntimeRefusedError: it answered with an error.
            RuntimeUnreadableError: it did not answer within `timeout`.
        """
        status, body = await self._order(url, model, "load", timeout)
        if status != _HTTP_OK:
            raise RuntimeRefusedError("load", model, status, body)

    async def unload(self, url: str, model: str, timeout: float) -> None:  # noqa: ASYNC109
        """Ask the runtime to unload `model`; done as well if it says no, but does not have it READY.

        Raises:
            RuntimeRefusedError: it answered with an error, and its index still shows the model READY.
            RuntimeUnreadableError: it did not answer within `timeout`.
        """
        status, body = await self._order(url, model, "unload", timeout)
        if status == _HTTP_OK:
            return
        rows = await self.index(url, timeout)
        if any(row.name == model and row.ready for row in rows):
            raise RuntimeRefusedError("unload", model, status, body)

    async def _read_body(self, url: str) -> bytes:
        target = URL(f"{url}/v2/repository/index", encoded=True)
        while True:
            attempt = _Attempt()
            try:
                async with (
                    _readable(url),
                    self._polls.post(
                        target,
                        data=_NO_CONDITIONS,
                        headers=_JSON,
                        allow_redirects=False,
                        trace_request_ctx=attempt,
                    ) as answer,
                ):
                    attempt.answered = True
                    body = await _bounded(answer.content, url)
            except RuntimeUnreadableError as error:
                if error.kind is not FailureKind.REFUSED:
                    raise
                if attempt.answered:
                    raise _bad(f"{url} broke off in the middle of its answer") from error
                if not attempt.reused:
                    raise
                # The peer had closed a connection that was kept for the next request: it refused nothing.
                continue
            if answer.status != _HTTP_OK:
                text = _shown(body.decode(errors="replace"))
                raise _bad(f"{target} answered HTTP {answer.status} {text}".rstrip())
            return body

    async def _order(self, url: str, model: str, action: str, timeout: float) -> tuple[int, str]:  # noqa: ASYNC109
        target = URL(f"{url}/v2/repository/models/{quote(model, safe='')}/{action}", encoded=True)
        try:
            async with (
                asyncio.timeout(timeout),
                _readable(url),
                self._moves.post(target, data=_NO_CONDITIONS, headers=_JSON, allow_redirects=False) as answer,
            ):
                body = await _bounded(answer.content, url)
        except TimeoutError:
            error = f"{url} did not answer the {action} of {model!r} within {timeout:g} s"
            raise RuntimeUnreadableError(FailureKind.TIMEOUT, error) from None
        return answer.status, body.decode(errors="replace")


def parse_index(body: bytes) -> tuple[ModelState, ...]:
    """The rows of a repository index, sorted.

    Raises:
        RuntimeUnreadableError: BAD_ANSWER, with what was found in place of an index.
    """
    try:
        rows = json.loads(body)
    except (ValueError, RecursionError):
        raise _bad(f"the repository index is no JSON: {_shown(body.decode(errors='replace'))}") from None
    if not isinstance(rows, list):
        raise _bad(f"the repository index is not an array: {_shown(json.dumps(rows))}")
    return tuple(sorted(_row(number, row) for number, row in enumerate(rows)))


def _row(number: int, row: object) -> ModelState:
    if not isinstance(row, dict):
        raise _bad(f"row {number} of the repository index is not an object: {_shown(json.dumps(row))}")
    name = _text(number, row, "name")
    if not name:
        raise _bad(f"row {number} of the repository index has no name: {_shown(json.dumps(row))}")
    state = _text(number, row, "state").upper().removeprefix("STATE.") or NEVER_LOADED
    return ModelState(name, _text(number, row, "version"), state, _text(number, row, "reason"))


def _text(number: int, row: dict[str, object], field_name: str) -> str:
    """A field as text; absent and null are empty, a number is written out."""
    value = row.get(field_name)
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise _bad(
            f"row {number} of the repository index: {field_name} is no text: {_shown(json.dumps(value))}"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _bad(
            f"row {number} of the repository index: {field_name} is no Unicode text: {value!a}"
        ) from None
    return value


@asynccontextmanager
async def _readable(url: str) -> AsyncIterator[None]:
    """Turn aiohttp's errors into ours. The order matters: its classes overlap."""
    try:
        yield
    except aiohttp.ClientConnectorDNSError as error:
        raise RuntimeUnreadableError(
            FailureKind.TIMEOUT, f"{url}: the name has no address: {error.os_error}"
        ) from error
    except aiohttp.ClientSSLError as error:
        raise _bad(f"{url}: TLS failed: {error}") from error
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientConnectionResetError) as error:
        raise RuntimeUnreadableError(
            FailureKind.REFUSED, f"{url} closed the connection without an answer"
        ) from error
    except aiohttp.ClientOSError as error:
        # A connection that breaks while the request is written may have no errno, but it has its cause.
        broken = error.errno in _REFUSALS or isinstance(error.__cause__, ConnectionError)
        kind = FailureKind.REFUSED if broken else FailureKind.TIMEOUT
        raise RuntimeUnreadableError(kind, f"{url}: {_reason(error)}") from error
    except aiohttp.ClientError as error:
        raise _bad(f"{url} answered something that is no HTTP: {_shown(str(error))}") from error


def _reason(error: OSError) -> str:
    """What the system said. aiohttp writes its own words over them, and the URL a second time."""
    return os.strerror(error.errno) if error.errno else str(error.__cause__ or error.strerror or error)


async def _bounded(content: aiohttp.StreamReader, url: str) -> bytes:
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise _bad(f"{url} answered with more than {MAX_ANSWER} bytes")
    return bytes(body)


async def _note_reuse(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.reused = True


def _bad(error: str) -> RuntimeUnreadableError:
    return RuntimeUnreadableError(FailureKind.BAD_ANSWER, error)


def _shown(text: str) -> str:
    """One line of at most SHOWN characters."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"
