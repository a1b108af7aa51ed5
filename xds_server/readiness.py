"""Whether clients are answered yet, and what is waited for. Set by the app, read by the admin."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Readiness:
    """Whether clients are answered, and why not. `waits_for`: says it while something is waited for."""

    def __init__(self) -> None:
        self.ready = False
        self.started_at = time.time()
        self.waits_for: Callable[[], str] | None = None
        self._reason = "starting"

    @property
    def reason(self) -> str:
        """Why clients are not answered, or what the server does."""
        return (self.waits_for() if self.waits_for is not None else "") or self._reason

    @reason.setter
    def reason(self, reason: str) -> None:
        self._reason = reason
