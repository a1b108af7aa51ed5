"""The messages of `xds_server.known.v1` (protos/known.proto): whether anybody knows a model.

A leaf, used by the server and by what tells the script in Envoy whom to ask. The script writes the question
and reads the answer byte by byte (resources/answers.lua).
"""

from __future__ import annotations

from xds_server import wire

SERVICE = "xds_server.known.v1.Models"
METHOD = "IsKnown"
IS_KNOWN_PATH = f"/{SERVICE}/{METHOD}"

_HOSTS, _MODEL = 1, 2

KNOWN = wire.uint(1, 1)
UNKNOWN = wire.uint(1, 2)
"""The two answers. Neither is empty, so that nothing that was lost on the way reads as one of them."""


def parse_question(data: bytes) -> tuple[tuple[str, ...], str]:
    """Read an IsKnownRequest: hosts and model. ValueError where the bytes are none, or name no model."""
    hosts: list[str] = []
    model = ""
    for number, _, payload in wire.fields(data):
        if number == _HOSTS:
            hosts.append(payload.decode())
        elif number == _MODEL:
            model = payload.decode()
    if not model:
        raise ValueError("it names no model")
    return tuple(hosts), model
