"""A second look: a replica that answered "not found" is polled at once, whenever its next poll is due.

Something has unloaded a model behind our back, or a caller has asked for what no runtime has. So the
answer is no fact: what the runtime tells of its models when it is asked is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from xds_server.mesh.model import Endpoint, EndpointId

PAUSE = 1.0
"""Seconds from one second look at a replica to the next one. What is told meanwhile is one more, after it."""

MOST = 200
"""Replicas that may be looked at within a PAUSE. Of those above it, the next answer tells again."""


class Hurries(Protocol):
    """The poller."""

    def hurry(self, endpoint: EndpointId) -> bool:
        """Poll it at once. Returns whether it is being asked at all."""


class Answerer(StrEnum):
    """Who answered "not found"."""

    POLLED = "polled"
    OTHER = "other"
    """No endpoint, or one whose runtime is not asked."""


class SecondLook:
    """Takes answers by address, and asks for polls. Create it on the running event loop.

    Args:
        find: the endpoints that HOST:PORT names.
        poller: polls them.
    """

    def __init__(self, find: Callable[[str], Iterable[Endpoint]], poller: Hurries) -> None:
        self._find = find
        self._poller = poller
        self._loop = asyncio.get_running_loop()
        self._again: dict[EndpointId, bool] = {}
        """Those looked at within the last PAUSE, and whether there was another answer since."""
        self.answers = Counter[str](dict.fromkeys(Answerer, 0))
        self.looks = 0
        """Polls that were asked for."""

    def take(self, answers: Mapping[str, int]) -> None:
        """How many times the replica at each HOST:PORT has answered "not found"."""
        for host_port, count in answers.items():
            polled = [self._ask(endpoint.id) for endpoint in self._find(host_port)]
            self.answers[Answerer.POLLED if any(polled) else Answerer.OTHER] += count

    def _ask(self, endpoint: EndpointId) -> bool:
        """Look at it now, or when its pause is over. Returns whether it is one that is polled."""
        if endpoint in self._again:
            self._again[endpoint] = True
            return True
        return len(self._again) >= MOST or self._look(endpoint)

    def _look(self, endpoint: EndpointId) -> bool:
        if not self._poller.hurry(endpoint):
            return False
        self.looks += 1
        self._again[endpoint] = False
        self._loop.call_later(PAUSE, self._rested, endpoint)
        return True

    def _rested(self, endpoint: EndpointId) -> None:
        if self._again.pop(endpoint):
            self._look(endpoint)
