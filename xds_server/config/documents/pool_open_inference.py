"""ModelPool's `openInference`: how a runtime's own API is asked."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator

from xds_server.config.documents.base import Duration, OneOf, Part, Seconds, expected

_LAST_PORT = 65535


class Scheme(StrEnum):
    """How a runtime's API is spoken to."""

    HTTP = "http"
    HTTPS = "https"


def _port_or_name(value: object) -> str | int:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LAST_PORT:
        return value
    raise expected("a name in the endpoints' ports, or a port number from 1 to 65535")


class OpenInferencePart(Part):
    """The repository index of the Open Inference Protocol (KServe V2)."""

    port: Annotated[str | int, BeforeValidator(_port_or_name)] | None = None
    scheme: Annotated[Scheme, BeforeValidator(OneOf(Scheme))] = Scheme.HTTP
    interval: Annotated[float, BeforeValidator(Seconds(0.01))] = 1.0
    timeout: Annotated[float, BeforeValidator(Seconds(0.01))] = 2.0
    grace: Duration = 10.0
