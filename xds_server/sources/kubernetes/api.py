"""Requests to the Kubernetes API: one session, a fresh token in time, errors that say what to do.

A token is read again once a minute in a pod, where the kubelet renews it, and after a 401 anywhere.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import aiohttp
import structlog

from xds_server import __version__
from xds_server.sources.kubernetes.access import AccessError, find_access

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from xds_server.sources.kubernetes.access import Access, Login

TOKEN_AGE = 60.0
"""Seconds after which a pod's token is read again, before the next request."""

TIMEOUT = aiohttp.ClientTimeout(total=30.0, sock_connect=10.0)
"""For a request that is no watch, in seconds."""

_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""A peer that has vanished is noticed after 30 s, although a watch sends nothing."""

_UNAUTHORIZED = 401
_ERROR_BYTES = 64 * 1024


class ApiError(Exception):
    """The API server answered with an error; `status` is the HTTP status, `retry_after` in seconds."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class ApiUnreachableError(Exception):
    """The API server did not answer, or ceased to. The text says what was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. `path` begins with a slash; `body` is JSON unless `content_type` says otherwise."""

    path: str
    method: str = "GET"
    params: Mapping[str, str] | None = None
    body: Any = None
    content_type: str = "application/json"
    accept: str = "application/json"
    timeout: aiohttp.ClientTimeout = TIMEOUT

    def lasting(self, timeout: aiohttp.ClientTimeout) -> Request:
        """The same with other limits."""
        return replace(self, timeout=timeout)


class Api:
    """The API server. Create it on the running event loop, `open` it, and close it.

    Args:
        login: how to find it.
        find: reads what `login` means; find_access.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        login: Login,
        *,
        find: Callable[[Login], Awaitable[Access]] = find_access,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.login = login
        self._find = find
        self._clock = clock
        self._access: Access | None = None
        self._session: aiohttp.ClientSession | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()
        self._log = structlog.get_logger("kubernetes")

    @property
    def url(self) -> str:
        """The API server's address; empty before `open`."""
        return self._access.url if self._access else ""

    async def open(self) -> None:
        """Read what is needed for requests; nothing is sent yet. Raises AccessError."""
        await self._read()

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def json(self, request: Request) -> Any:
        """The decoded answer. Raises ApiError, ApiUnreachableError."""
        async with self.send(request) as response:
            content = await response.read()
        try:
            return json.loads(content)
        except ValueError as error:
            raise ApiUnreachableError(f"{self.url} answered {request.path} with no JSON: {error}") from error

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose body is not read yet. Raises ApiError, ApiUnreachableError, also from the body."""
        try:
            async with await self._answer(request) as response:
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # TimeoutError is an OSError; its text is empty.
            raise ApiUnreachableError(_said(error)) from error

    async def _answer(self, request: Request) -> aiohttp.ClientResponse:
        access = await self._fresh()
        response = await self._request(access, request)
        if response.status == _UNAUTHORIZED:
            response.release()
            access = await self._renewed(access)
            response = await self._request(access, request)
        if response.ok:
            return response
        async with response:
            raise await _error(response)

    async def _request(self, access: Access, request: Request) -> aiohttp.ClientResponse:
        headers = {"Accept": request.accept, "User-Agent": f"xds-server/{__version__}"}
        if access.authorization is not None:
            headers["Authorization"] = access.authorization
        data = None
        if request.body is not None:
            headers["Content-Type"] = request.content_type
            data = json.dumps(request.body).encode()
        if self._session is None:
            raise ApiUnreachableError("the connection to the Kubernetes API is closed")
        return await self._session.request(
            request.method,
            access.url + request.path,
            params=request.params,
            headers=headers,
            data=data,
            timeout=request.timeout,
            proxy=access.proxy,
            server_hostname=access.server_name,
        )

    async def _fresh(self) -> Access:
        """What to send with; a pod's token is read again when it may have been renewed."""
        access = self._access
        if access is None:
            raise ApiUnreachableError("the connection to the Kubernetes API is not open")
        if self._clock() - self._read_at > TOKEN_AGE and self.login.in_cluster():
            return await self._renewed(access)
        return access

    async def _renewed(self, refused: Access) -> Access:
        """What to send with instead of `refused`: read anew, once for all that were refused together."""
        async with self._reading:
            if self._access is not None and self._access is not refused:
                return self._access
            try:
                return await self._read()
            except AccessError as error:
                raise ApiUnreachableError(str(error)) from error

    async def _read(self) -> Access:
        before, access = self._access, await self._find(self.login)
        self._read_at = self._clock()
        self._access = access
        if self._session is None or before is None or before.trust != access.trust:
            former, self._session = self._session, _session(access)
            self._log.info("kubernetes", server=access.url, login=str(self.login))
            if former is not None:
                await (
                    former.close()
                )  # last, since it takes a while: a request meanwhile needs an open session
        return access


def _session(access: Access) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=0, ssl=access.tls if access.tls is not None else True, socket_factory=_socket
    )
    return aiohttp.ClientSession(connector=connector, trust_env=True)


def _socket(found: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = found
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # not every system has them
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


async def _error(response: aiohttp.ClientResponse) -> ApiError:
    content = await response.content.read(_ERROR_BYTES)
    try:
        message = str(json.loads(content)["message"])
    except (ValueError, LookupError, TypeError):
        message = content.decode(errors="replace").strip()[:200] or str(response.reason)
    return ApiError(response.status, f"{response.status}: {message}", _retry_after(response))


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """The header in seconds. The API server sends a number, never a date."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


def _said(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
