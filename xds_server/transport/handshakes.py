"""TLS handshakes, as far as gRPC lets them be counted: it tells when one begins, and never how it ends.

What came of it shows with the first call on the connection. Clients of this port call at once, so the
handshakes without a connection are those that failed: no certificate, a foreign one, no TLS at all.
"""

from __future__ import annotations

from threading import Lock

REMEMBERED = 65_536
"""Connections that are told apart: as many as one address has ports, and more than there can be streams."""


class Handshakes:
    """Counts since the process started."""

    def __init__(self) -> None:
        self.begun = 0
        """Handshakes begun."""
        self.connections = 0
        """Connections that carried a call."""
        self._peers: dict[str, None] = {}
        """Those that were met last, the earliest first: a connection is known by its address and port."""
        self._lock = Lock()

    def begin(self) -> None:
        """One begins. Called by gRPC, on threads of its own."""
        with self._lock:
            self.begun += 1

    def met(self, peer: str) -> None:
        """There is a call from `peer`, gRPC's words for its address and port."""
        if peer in self._peers:
            return
        self.connections += 1
        self._peers[peer] = None
        if len(self._peers) > REMEMBERED:
            del self._peers[next(iter(self._peers))]
