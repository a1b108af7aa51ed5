"""HTTP to runtimes: kept connections, bounded answers, and every way to get none as one of three kinds.

What is asked and how an answer is read is each runtime's own file.
"""

from __future__ import annotations

import errno
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from xds_server.mesh.events import FailureKind
from xds_server.sources.runtimes.answers import RuntimeUnreadableError, bad, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from types import SimpleNamespace

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer that are read at most: an index row has some 70, so this is for 200,000 models."""

MAX_LINE = 64 * 1024
"""Bytes of one line of an event stream that are read at most."""

HTTP_OK = 200
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_JSON = {"Content-Type": "application/json"}
_CONNECTIONS_PER_RUNTIME = 2
_REFUSALS = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})


@dataclass(frozen=True, slots=True)
class Question:
    """One request to a runtime. `path` is encoded already, and begins with a slash."""

    url: str
    path: str
    body: bytes | None = None
    """Sent as JSON by POST; None: a GET."""
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    method: str = ""

    @property
    def verb(self) -> str:
        """The method: the one given, else GET or POST by whether there is a body."""
        return self.method or ("GET" if self.body is None else "POST")

    @property
    def target(self) -> URL:
        """Where it is sent, with nothing encoded a second time."""
        return URL(f"{self.url}{self.path}", encoded=True)

    @property
    def all_headers(self) -> dict[str, str]:
        """With the body's type, where there is a body."""
        return {**({} if self.body is None else _JSON), **self.headers}


@dataclass(slots=True)
class _Attempt:
    """How far a request got: over a connection that had been used before, to an answer's beginning."""

    reused: bool = False
    answered: bool = False


class HttpClient:
    """Talks to many runtimes, each over a kept-alive connection. Create it on the running event loop.

    Redirects are not followed and no proxy is used: what answers must be the replica itself. No time
    limits of its own: the caller's.
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
        # So does a stream of events, which never ends.
        self._long = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=MAX_LINE,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._polls.close()
        await self._long.close()

    async def ask(self, question: Question) -> bytes:
        """The body of an answer with status 200.

        Raises:
            RuntimeUnreadableError: no answer, another status, or a body that is too long.
        """
        status, body = await self.answer(question)
        if status != HTTP_OK:
            text = shown(body.decode(errors="replace"))
            raise bad(f"{question.target} answered HTTP {status} {text}".rstrip())
        return body

    async def answer(self, question: Question) -> tuple[int, bytes]:
        """Status and body of an answer to something that may be asked twice.

        Raises:
            RuntimeUnreadableError: no answer, or a body that is too long.
        """
        url = question.url
        while True:
            attempt = _Attempt()
            try:
                async with (
                    _readable(url),
                    self._polls.request(
                        question.verb,
                        question.target,
                        data=question.body,
                        headers=question.all_headers,
                        allow_redirects=False,
                        trace_request_ctx=attempt,
                    ) as answer,
                ):
                    attempt.answered = True
                    return answer.status, await _bounded(answer.content, url)
            except RuntimeUnreadableError as error:
                if error.kind is not FailureKind.REFUSED:
                    raise
                if attempt.answered:
                    raise bad(f"{url} broke off in the middle of its answer") from error
                if not attempt.reused:
                    raise
                # The peer had closed a connection that was kept for the next request: it refused nothing.

    async def order(self, question: Question) -> tuple[int, str]:
        """Status and body of an answer to something that is to be done once.

        Raises:
            RuntimeUnreadableError: no answer, or a body that is too long.
        """
        async with (
            _readable(question.url),
            self._long.request(
                question.verb,
                question.target,
                data=question.body,
                headers=question.all_headers,
                allow_redirects=False,
            ) as answer,
        ):
            body = await _bounded(answer.content, question.url)
        return answer.status, body.decode(errors="replace")

    async def lines(self, question: Question) -> AsyncIterator[bytes]:
        """The lines of an answer that goes on, as they come, until the runtime ends it.

        Raises:
            RuntimeUnreadableError: no answer, another status, or a line that is too long.
        """
        async with (
            _readable(question.url),
            self._long.request(
                question.verb, question.target, headers=question.all_headers, allow_redirects=False
            ) as answer,
        ):
            if answer.status != HTTP_OK:
                raise bad(f"{question.target} answered HTTP {answer.status}")
            try:
                async for line in answer.content:
                    yield line
            except ValueError:
                raise bad(f"{question.target} sent a line of more than {MAX_LINE} bytes") from None


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
        raise bad(f"{url}: TLS failed: {error}") from error
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
        raise bad(f"{url} answered something that is no HTTP: {shown(str(error))}") from error


def _reason(error: OSError) -> str:
    """What the system said. aiohttp writes its own words over them, and the URL a second time."""
    return os.strerror(error.errno) if error.errno else str(error.__cause__ or error.strerror or error)


async def _bounded(content: aiohttp.StreamReader, url: str) -> bytes:
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise bad(f"{url} answered with more than {MAX_ANSWER} bytes")
    return bytes(body)


async def _note_reuse(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.reused = True
