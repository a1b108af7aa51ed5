"""The request that is explained, as a client would send it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile("%(2[dDeE]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aAeE])")
_MALFORMED = re.compile(rb"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Request:
    """A request. Header names in lower case; `path` with its query; `port`: of the listener, None: any."""

    path: str
    headers: tuple[tuple[str, str], ...] = ()
    authority: str = ""
    method: str = "POST"
    body: bytes = b""
    port: int | None = None

    def values(self, name: str) -> list[str]:
        """All values of a header, as Envoy's matchers see it."""
        pseudo = {":path": self.path, ":authority": self.authority, ":method": self.method}
        if name in pseudo:
            return [pseudo[name]]
        return [value for each, value in self.headers if each == name]

    def value(self, name: str) -> str | None:
        """The header's value, several of them joined as Envoy joins them; None where it is absent."""
        found = self.values(name)
        return ",".join(found) if found else None


def normalised(path: str) -> str:
    """The path as Envoy's listeners normalise it: unreserved characters are not percent-encoded."""
    target, mark, query = path.partition("?")
    plain = _UNRESERVED.sub(lambda found: chr(int(found[1], 16)), target)
    return f"{plain}{mark}{query}"


def usual(model: str, header: str = "model") -> Request:
    """The request that names a model the most usual way: header and path of the Open Inference Protocol."""
    return Request(f"/v2/models/{encoded(model)}/infer", ((header, model),))


def encoded(text: str) -> str:
    """A segment of a path: everything but unreserved characters percent-encoded."""
    return quote(text, safe="")


def decoded(text: str) -> str | None:
    """A segment of a path without its percent-encoding; None where that is malformed, or no UTF-8."""
    raw = text.encode()
    if _MALFORMED.search(raw):
        return None
    try:
        return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), raw).decode()
    except UnicodeDecodeError:
        return None
