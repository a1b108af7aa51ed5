"""The bodies that the admin port takes, checked. Errors name the field, what was found and what fits."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xds_server.moves.mover import DRAIN, RUNTIME_TIMEOUT, SETTLE, TIMEOUT

_LONGEST = 3600.0
"""Seconds: the longest wait that can be asked for."""

Seconds = Annotated[float, Field(ge=0, le=_LONGEST, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]


class BadRequestError(ValueError):
    """A body that cannot be used; the text says why."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _MoveBody(_Body):
    """What every move says: which model, on which endpoint (HOST:PORT), how long for Envoys to agree."""

    model: Name
    endpoint: Name
    service: Name | None = None
    timeout: Seconds = TIMEOUT


class LoadBody(_MoveBody):
    """`POST /v1/loads`. Times in seconds."""

    runtime_timeout: Seconds = RUNTIME_TIMEOUT


class _LeavingBody(_MoveBody):
    """What a move says that takes a model off an endpoint."""

    settle: Seconds = SETTLE
    drain: Seconds = DRAIN
    force: bool = False


class WithdrawalBody(_LeavingBody):
    """`POST /v1/withdrawals`. Times in seconds."""

    keep: bool = False


class UnloadBody(_LeavingBody):
    """`POST /v1/unloads`. Times in seconds."""

    runtime_timeout: Seconds = RUNTIME_TIMEOUT


BodyType = TypeVar("BodyType", bound=_Body)


def parse(kind: type[BodyType], raw: bytes) -> BodyType:
    """Read a JSON body.

    Raises:
        BadRequestError: not JSON, not an object, or a field that is unknown, missing or of no use.
    """
    try:
        document: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON that can be read: {error}") from error
    if not isinstance(document, dict):
        raise BadRequestError(
            "the body must be a JSON object with the fields " + ", ".join(kind.model_fields)
        )
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        allowed = ", ".join(kind.model_fields)
        raise BadRequestError("; ".join(_said(each, allowed) for each in error.errors())) from error


def _said(error: Any, allowed: str) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"field {where!r} is missing"
    if error["type"] == "extra_forbidden":
        return f"field {where!r} is unknown; known: {allowed}"
    wanted = str(error["msg"]).removeprefix("Input ")
    return f"field {where!r}: found {json.dumps(error['input'])}, which {wanted}"
