"""One question to the admin port of a running server, over plain HTTP, and what can go wrong with it.

Never through a proxy: the port is on loopback, and an environment that names a proxy for the rest of
the world is common.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from xds_server.admin.guard import split_address

_CONNECT_LIMIT = 5.0


class AskError(Exception):
    """The question was not answered as wanted. The text is for the person who asked."""


class UsageError(AskError):
    """The question itself cannot be asked like this."""


class UnreachableError(AskError):
    """Nobody who is an xds-server answered there."""


class RefusedError(AskError):
    """The server answered that it did not do it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said: a JSON document, and its text as received."""

    document: Any
    text: str


def ask(
    admin: str, method: str, path: str, body: dict[str, Any] | None = None, limit: float = 10.0
) -> Answer:
    """Ask, and wait at most `limit` seconds for the answer.

    Raises:
        UsageError: `admin` is not HOST:PORT, or the server found the request malformed.
        UnreachableError: no connection, no answer in time, or not an xds-server's answer.
        RefusedError: the server said no; the text is its own.
    """
    try:
        host, port = split_address(admin)
    except ValueError as error:
        raise UsageError(f"--admin: {error}") from error
    connection = http.client.HTTPConnection(host, port, timeout=_CONNECT_LIMIT)
    try:
        connection.connect()
    except OSError as error:
        raise UnreachableError(
            f"cannot reach the server's admin port at {admin}: {_reason(error)}; is `xds-server serve` "
            "running? Name its admin port with --admin HOST:PORT"
        ) from error
    try:
        connection.sock.settimeout(limit)
        code, raw = _exchange(connection, method, path, body)
    except TimeoutError as error:
        raise UnreachableError(
            f"no answer from the admin port at {admin} within {limit:g} s; `xds-server status` shows how "
            "things stand"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        # RemoteDisconnected is a BadStatusLine as well: no line at all.
        if isinstance(error, http.client.BadStatusLine) and not isinstance(error, OSError):
            raise UnreachableError(
                f"what answers at {admin} does not speak HTTP/1.1; is that the xDS port? The admin port is "
                "another"
            ) from error
        raise UnreachableError(
            f"the connection to the admin port at {admin} broke before the answer: {_reason(error)}; has the "
            "server stopped?"
        ) from error
    finally:
        connection.close()
    return _read(admin, code, raw)


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: dict[str, Any] | None
) -> tuple[int, bytes]:
    payload = None if body is None else json.dumps(body).encode()
    headers = {} if payload is None else {"Content-Type": "application/json"}
    connection.request(method, path, payload, headers)
    response = connection.getresponse()
    return response.status, response.read()


def _read(admin: str, code: int, raw: bytes) -> Answer:
    try:
        text = raw.decode()
        document = json.loads(text)
    except ValueError as error:
        raise UnreachableError(
            f"what answers at {admin} is not an xds-server's admin port (HTTP {code}, no JSON)"
        ) from error
    if code == HTTPStatus.OK:
        return Answer(document, text)
    said = document.get("error") if isinstance(document, dict) else None
    if not isinstance(said, str):
        raise UnreachableError(f"what answers at {admin} is not an xds-server's admin port (HTTP {code})")
    if code == HTTPStatus.BAD_REQUEST:
        raise UsageError(said)
    raise RefusedError(said)


def _reason(error: Exception) -> str:
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error) or type(error).__name__
