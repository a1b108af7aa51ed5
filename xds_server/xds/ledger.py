"""What one client was sent of one type, and what it answered. Shared by SotW and delta.

Content counts as held when it is acknowledged, not when it is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xds_server.xds.blame import named_in

if TYPE_CHECKING:
    from collections.abc import Mapping

ABSENT = ""
"""In place of a version: the client was told that the name does not exist."""

UNKNOWN = "?"
"""In place of a version: the client rejected an answer, of which it may have applied a part."""

_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """One response on its way: `contents` maps each name it speaks of to its version, or ABSENT.

    `serial` is the publication it was built from; `version` the type's at that moment. Clients that are
    sent the same share it: when it was sent is the ledger's.
    """

    nonce: str
    serial: int
    version: str
    contents: Mapping[str, str]
    through: Mapping[str, int]
    """What `Ledger.through` has of the same names once it is accepted."""


@dataclass(frozen=True, slots=True, eq=False)
class Rejection:
    """A NACK: the client's own words, and what it rejected. `blamed`: the names that its words speak of."""

    error: str
    sent: Sent
    at: float
    blamed: tuple[str, ...] = ()

    def of(self, name: str) -> str:
        """The rejected version of `name`."""
        return self.sent.contents[name]


@dataclass(slots=True)
class Ledger:
    """One client's accounts for one type.

    `held`: name to version (or ABSENT, UNKNOWN) as acknowledged. `through`: name to the latest serial
    whose content for it was acknowledged. `rejected`: names whose rejected content is not sent again.
    """

    held: dict[str, str] = field(default_factory=dict)
    through: dict[str, int] = field(default_factory=dict)
    outstanding: Sent | None = None
    rejected: dict[str, Rejection] = field(default_factory=dict)
    last_sent: Sent | None = None
    sent_at: float | None = None
    last_acked: Sent | None = None
    last_rejection: Rejection | None = None
    acked_at: float | None = None
    superseded: list[Rejection] = field(default_factory=list)

    def send(self, sent: Sent, now: float) -> None:
        """Note that `sent` is on its way. What it speaks of supersedes what was rejected."""
        self.outstanding = self.last_sent = sent
        self.sent_at = now
        for name in sent.contents if self.rejected else ():
            rejection = self.rejected.pop(name, None)
            if rejection is not None and rejection not in self.superseded:
                self.superseded.append(rejection)

    def acknowledge(self, now: float) -> tuple[Sent, frozenset[str]]:
        """The outstanding response was accepted. Returns it, and names that deserve another try.

        Envoy stops at the first resource that it cannot apply, so a good one may have been rejected
        with a bad one. Once a later version of one of them is accepted the others are tried once more,
        without it: a resource that is bad itself then ends up rejected alone.
        """
        sent = self._take()
        self.last_acked, self.acked_at = sent, now
        self.held.update(sent.contents)
        self.through.update(sent.through)
        if not self.superseded:
            return sent, _NONE
        retry = {name for name, rejection in self.rejected.items() if rejection in self.superseded}
        self.superseded.clear()
        for name in retry:
            del self.rejected[name]
        return sent, frozenset(retry)

    def reject(self, error: str, now: float) -> Rejection:
        """The outstanding response was refused; its content is not sent again until it differs."""
        sent = self._take()
        blamed = named_in(error, [name for name, version in sent.contents.items() if version != ABSENT])
        rejection = self.last_rejection = Rejection(error, sent, now, blamed)
        for name, version in sent.contents.items():
            self.rejected[name] = rejection
            if version != ABSENT or name in self.held:
                self.held[name] = UNKNOWN
        return rejection

    def has(self, name: str) -> bool:
        """Whether the client may have content of `name`."""
        return self.held.get(name, ABSENT) != ABSENT

    def forget(self, name: str) -> None:
        """The client no longer asks for `name`, and may have dropped it."""
        self.held.pop(name, None)
        self.through.pop(name, None)
        self.rejected.pop(name, None)

    def _take(self) -> Sent:
        sent = self.outstanding
        if sent is None:
            raise RuntimeError("an answer was recorded while no response is outstanding")
        self.outstanding = None
        return sent
