"""`/v1/explain`: the question as it comes over HTTP, the answer in words for `xds-server explain`."""

from __future__ import annotations

import base64
import binascii
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from xds_server.admin import requests, tables
from xds_server.admin.ask import AskError, RefusedError, UsageError, ask
from xds_server.admin.requests import BadRequestError
from xds_server.explain import answer as explaining
from xds_server.explain.request import Request, usual

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from xds_server.admin.state import AdminState

BODY_LIMIT = 32 * 1024 * 1024
"""Bytes of a question: the body that it describes may be a large one."""

_JSON_TYPE = "application/json"


class ExplainBody(requests._Body):  # noqa: SLF001 - the rules of all bodies
    """`POST /v1/explain`. `body`: the request's body in base64. `model`: what it is expected to name.

    Without a path, headers or a body, the usual request for `model` is explained.
    """

    model: str | None = None
    path: Annotated[str, Field(pattern="^/")] | None = None
    headers: list[Annotated[list[str], Field(min_length=2, max_length=2)]] | None = None
    authority: str = ""
    method: str = "POST"
    body: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None


def from_query(query: Mapping[str, str], headers: Sequence[str]) -> ExplainBody:
    """`GET /v1/explain?model=..&path=..&header=NAME:VALUE&authority=..&port=..`.

    Raises:
        BadRequestError: a parameter that is unknown or of no use.
    """
    known = {"model", "path", "header", "authority", "method", "port"}
    if unknown := sorted(set(query) - known):
        raise BadRequestError(f"parameter {unknown[0]!r} is unknown; known: {', '.join(sorted(known))}")
    given: dict[str, Any] = {name: query[name] for name in known - {"header", "port"} if name in query}
    if "port" in query:
        given["port"] = int(query["port"]) if query["port"].isdecimal() else query["port"]
    if headers:
        given["headers"] = [list(pair(each)) for each in headers]
    return requests.parse(ExplainBody, json.dumps(given).encode())


def pair(text: str) -> tuple[str, str]:
    """A header as NAME:VALUE; BadRequestError if it is none."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise BadRequestError(f"header: found {text!r}; expected NAME:VALUE")
    return name.strip().lower(), value.strip()


def explain(state: AdminState, asked: ExplainBody) -> dict[str, Any]:
    """Answer the question.

    Raises:
        BadRequestError: it is not clear which listener is meant, or what the body is.
    """
    request = _request(asked)
    try:
        known = explaining.Known(state.mesh, state.hub, state.clock())
        answer = explaining.explain(known, request)
    except explaining.UnexplainableError as error:
        raise BadRequestError(str(error)) from error
    described = {
        "method": request.method,
        "path": request.path,
        "authority": request.authority,
        "headers": [list(each) for each in request.headers],
        "body_bytes": len(request.body),
    }
    return {"request": described, "expected": asked.model, **answer}


def _request(asked: ExplainBody) -> Request:
    if asked.path is None and not asked.headers and asked.body is None:
        if not asked.model:
            raise BadRequestError("the request is not described: name a model, or a path, headers or a body")
        simple = usual(asked.model)
        return Request(simple.path, simple.headers, asked.authority, asked.method, port=asked.port)
    try:
        body = base64.b64decode(asked.body or "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequestError(f"field 'body': found no base64: {error}") from error
    headers = [(name.lower(), value) for name, value in asked.headers or []]
    if body and not any(name == "content-type" for name, _ in headers):
        headers.append(("content-type", _JSON_TYPE))
    path = asked.path or (usual(asked.model).path if asked.model else "/")
    return Request(path, tuple(headers), asked.authority, asked.method, body, asked.port)


def command(
    admin: str,
    *,
    model: str | None,
    path: str | None,
    headers: Sequence[str],
    body: str | None,
    authority: str,
    port: int | None,
    as_json: bool,
) -> int:
    """Ask a running server and print its answer; returns the exit code."""
    try:
        question: dict[str, Any] = {"authority": authority}
        if headers:
            question["headers"] = [list(pair(each)) for each in headers]
        if body is not None:
            question["body"] = base64.b64encode(Path(body).read_bytes()).decode()
        question |= {
            name: value for name, value in (("model", model), ("path", path), ("port", port)) if value
        }
        answer = ask(admin, "POST", "/v1/explain", question)
    except (BadRequestError, OSError) as error:
        sys.stderr.write(f"xds-server: {error}\n")
        return 2
    except AskError as error:
        sys.stderr.write(f"xds-server: {tables.plain(str(error))}\n")
        return 2 if isinstance(error, UsageError) else 1 if isinstance(error, RefusedError) else 3
    if as_json:
        sys.stdout.write(answer.text)
    else:
        sys.stdout.write("".join(f"{tables.plain(line)}\n" for line in lines(answer.document)))
    return 0


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The answer in words."""
    request = document["request"]
    yield f"{request['method']} {request['path']}"
    for name, value in request["headers"]:
        yield f"  {name}: {value}"
    yield f"listener  {document['listener']}"
    if "problem" in document:
        yield document["problem"]
    for route in document["routes"]:
        yield from _route(route, document["expected"])


def _route(route: Mapping[str, Any], expected: str | None) -> Iterator[str]:
    share = "" if route["share"] == 1 else f" ({route['share']:.1%} of such requests)"
    yield f"route     {route['route']}{share}"
    if route.get("outcome") == "REFUSED":
        yield f"answer    {route['status']} from Envoy: {route['why']}"
        return
    if route["model"] is None:
        yield "model     none"
    else:
        yield f"model     {route['model']}, from {route['from']}, under the key {route['key']}"
    if expected is not None and route["model"] not in (None, expected):
        yield f"          note: that is not {expected}"
    for target in route["targets"]:
        yield from _target(target, route["model"])
    acknowledged = route["acknowledged"]
    count = len(acknowledged["clients"])
    if acknowledged["all"]:
        yield f"envoys    all {count} that ask for it have acknowledged this picture"
    for client, names in acknowledged["waiting"].items():
        yield f"envoys    {client} has not acknowledged {', '.join(names)} yet"
    for client, error in acknowledged["rejected"].items():
        yield f"envoys    {client} rejected it: {error}"


def _target(target: Mapping[str, Any], model: str | None) -> Iterator[str]:
    share = "" if target["share"] == 1 else f" ({target['share']:.1%})"
    name = target.get("name")
    means = f", means {name}" if name not in (None, model) else ""
    yield f"service   {target['service']}, cluster {target['cluster']}{share}{means}"
    if target["outcome"] == "MISS":
        answer = f", so Envoy answers {target['status']}" if "status" in target else ""
        yield f"miss      {target['miss']}: {target['why']}; policy {target['policy']}{answer}"
    elif target["outcome"] != "ROUTED":
        yield f"outcome   {target['outcome']}: {target.get('why', '')}".rstrip(": ")
    holders = target.get("holders", ())
    if holders and target["own_zone_first"]:
        yield "zones     an Envoy that knows its zone sends to the holders there first"
    for holder in holders:
        age = "" if holder["age"] is None else f", told {holder['age']:.1f} s ago"
        pod = f" ({holder['pod']})" if holder["pod"] else ""
        zone = f" in zone {holder['zone']}" if holder["zone"] else ""
        why = f": {holder['why']}" if holder["why"] else ""
        why += f", asked for {holder['asked_as']}" if holder.get("asked_as", model) != model else ""
        yield f"  -> {holder['endpoint']}{pod}{zone} {holder['state']}, weight {holder['weight']}{age}{why}"
    for other in target.get("others", ()):
        yield f"  not {other['endpoint']}: {other['why']}"
