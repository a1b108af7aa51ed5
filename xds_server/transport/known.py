"""Whether anybody knows a model: asked by the script in Envoy where none has it (protos/known.proto)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.known_messages import KNOWN, UNKNOWN, parse_question
from xds_server.xds.messages import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable


class KnownAnswers:
    """Answers questions. `knows` says it of a host and a model; None: nothing is said to be unknown."""

    def __init__(self, knows: Callable[[str, str], bool] | None) -> None:
        self._knows = knows

    def answer(self, request: bytes) -> bytes:
        """Unknown is what none of the request's services knows. ProtocolError where it is no such request."""
        try:
            hosts, model = parse_question(request)
        except ValueError as error:
            raise ProtocolError(f"the request is not an IsKnownRequest: {error}") from error
        known = self._knows is None or not hosts or any(self._knows(host, model) for host in hosts)
        return KNOWN if known else UNKNOWN
