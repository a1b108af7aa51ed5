"""The commands that talk to a running server: status, withdraw, cancel, load, unload.

Each prints what happened, in words or tables, and returns the process's exit code.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from rich.console import Console

from xds_server.admin import tables
from xds_server.admin.ask import AskError, RefusedError, UnreachableError, UsageError, ask
from xds_server.admin.model import Status

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_DONE = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3

RUNTIME_LIMIT = 300.0
"""Seconds that the runtime has for a load or an unload, and again to report it."""

_MARGIN = 15.0
"""Seconds that an answer may take beyond the waits that were asked for."""


def status(admin: str, *, as_json: bool) -> int:
    """Print the server's status, as tables or as its JSON."""

    def run() -> None:
        answer = ask(admin, "GET", "/status")
        found: Any = answer.document
        if not isinstance(found, dict) or not Status.__required_keys__ <= found.keys():
            raise UnreachableError(f"what answers at {admin} is not an xds-server of this version")
        if as_json:
            sys.stdout.write(answer.text)
        else:
            tables.show(cast("Status", found), tables.console())

    return _guarded(run)


def withdraw(
    admin: str,
    model: str,
    endpoint: str,
    *,
    service: str | None,
    settle: float,
    drain: float,
    timeout: float,
    force: bool,
) -> int:
    """Take a model off a replica; returns when it is safe to unload it there. Times in seconds."""
    body = _body(model, endpoint, service) | {
        "settle": settle,
        "drain": drain,
        "timeout": timeout,
        "force": force,
    }

    def run() -> None:
        done = _move(
            admin,
            "/v1/withdrawals",
            body,
            settle + drain + timeout,
            f"withdrawing {model} from {endpoint}: every Envoy's acknowledgement, then {settle + drain:g} s",
        )
        _say(
            f"withdrawn: {done['model']} from {done['endpoint']} (service {done['service']}), "
            f"withdrawal {done['id']}",
            _agreement(done),
            f"It is safe to unload it there now ({done['seconds']['total']:.2f} s in all).",
            "The withdrawal ends when the runtime reports the model gone, or with: "
            f"xds-server cancel {done['id']}",
        )

    return _guarded(run)


def unload(
    admin: str,
    model: str,
    endpoint: str,
    *,
    service: str | None,
    settle: float,
    drain: float,
    timeout: float,
    force: bool,
) -> int:
    """Withdraw a model, wait, unload it through the runtime. Times in seconds."""
    body = _body(model, endpoint, service) | {
        "settle": settle,
        "drain": drain,
        "timeout": timeout,
        "force": force,
        "runtime_timeout": RUNTIME_LIMIT,
    }

    def run() -> None:
        done = _move(
            admin,
            "/v1/unloads",
            body,
            settle + drain + timeout + 2 * RUNTIME_LIMIT,
            f"unloading {model} on {endpoint}: acknowledgements, {settle + drain:g} s, the runtime",
        )
        seconds = done["seconds"]
        _say(
            f"unloaded: {done['model']} on {done['endpoint']} (service {done['service']})",
            _agreement(done),
            f"Requests under way then had {settle + drain:g} s to end. Counted from the beginning, the "
            f"runtime had unloaded it after {seconds['unloaded']:.2f} s and reported it gone after "
            f"{seconds['gone']:.2f} s.",
        )

    return _guarded(run)


def load(admin: str, model: str, endpoint: str, *, service: str | None, timeout: float) -> int:
    """Load a model on a replica; returns when every connected Envoy routes to it. Times in seconds."""
    body = _body(model, endpoint, service) | {"timeout": timeout, "runtime_timeout": RUNTIME_LIMIT}

    def run() -> None:
        done = _move(
            admin,
            "/v1/loads",
            body,
            timeout + 2 * RUNTIME_LIMIT,
            f"loading {model} on {endpoint}: the runtime, READY, every Envoy's acknowledgement",
        )
        seconds = done["seconds"]
        _say(
            f"loaded: {done['model']} on {done['endpoint']} (service {done['service']})",
            f"The runtime answered after {seconds['loaded']:.2f} s and reported it READY after "
            f"{seconds['ready']:.2f} s.",
            _agreement(done),
        )

    return _guarded(run)


def cancel(admin: str, withdrawal: str) -> int:
    """End a withdrawal: the model is routed to its replica again."""

    def run() -> None:
        done = ask(admin, "DELETE", f"/v1/withdrawals/{quote(withdrawal, safe='')}").document
        _say(f"cancelled: {done['model']} is routed to {done['endpoint']} (service {done['service']}) again")

    return _guarded(run)


def _guarded(run: Callable[[], None]) -> int:
    """Run a command; what goes wrong is said on standard error and becomes the exit code."""
    try:
        run()
    except AskError as error:
        sys.stderr.write(f"xds-server: {tables.plain(str(error))}\n")
        return _CODES[type(error)]
    return EXIT_DONE


_CODES: dict[type[AskError], int] = {
    UsageError: EXIT_USAGE,
    UnreachableError: EXIT_UNREACHABLE,
    RefusedError: EXIT_REFUSED,
}


def _body(model: str, endpoint: str, service: str | None) -> dict[str, Any]:
    return {"model": model, "endpoint": endpoint} | ({} if service is None else {"service": service})


def _move(admin: str, path: str, body: dict[str, Any], waits: float, what: str) -> dict[str, Any]:
    """Ask for a move; on a terminal a line says what is being waited for."""
    with Console(stderr=True, markup=False, highlight=False).status(tables.plain(what)):
        document: dict[str, Any] = ask(admin, "POST", path, body, waits + _MARGIN).document
    return document


def _agreement(done: dict[str, Any]) -> str:
    clients, left, seconds = done["acknowledged"], done["left"], done["seconds"]["acknowledged"]
    if clients:
        said = f"Acknowledged after {seconds:.2f} s by {len(clients)} Envoy{'s' * (len(clients) > 1)}: "
        said += ", ".join(clients)
    else:
        said = "No Envoy is connected that routes to this service: nobody had to acknowledge."
    if left:
        said += (
            f"\nNot acknowledged by {', '.join(left)}: gone meanwhile, perhaps still serving what it knew."
        )
    return said


def _say(*lines: str) -> None:
    for line in lines:
        sys.stdout.write("\n".join(tables.plain(part) for part in line.split("\n")) + "\n")
