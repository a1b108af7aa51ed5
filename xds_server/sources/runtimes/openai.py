"""OpenAI-style servers: vLLM, SGLang and others that list what they serve under `/v1/models`.

What is listed is served: vLLM lists an adapter only after the engine has taken it. An adapter's `parent` is
its base model. SGLang (`owned_by: sglang`) lists an adapter by its own name, and its clients write
`base:adapter`; both are names of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.mesh.events import ModelState
from xds_server.sources.runtimes.answers import Shape

if TYPE_CHECKING:
    from xds_server.sources.runtimes.asking import Call

_LIST = Shape("the list of models")
_SGLANG = "sglang"


async def fetch(call: Call) -> bytes:
    """The list of models and adapters."""
    return await call.http.ask(call.question("/v1/models"))


def parse(body: bytes) -> tuple[ModelState, ...]:
    """Each listed model and adapter, READY; an adapter of SGLang's under both of its names."""
    found: set[ModelState] = set()
    for number, row in enumerate(_LIST.rows_under(_LIST.parsed(body), "data")):
        name, base = _LIST.name(number, row, "id"), _LIST.text(number, row, "parent")
        found.add(ModelState(name, base=base))
        if base and _LIST.text(number, row, "owned_by").lower() == _SGLANG:
            found.add(ModelState(f"{base}:{name}", base=base))
    return tuple(sorted(found))
