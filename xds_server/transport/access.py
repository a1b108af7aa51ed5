"""Who is let in: the identity that a client's certificate proves, held against the list of clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from xds_server.xds.access import may_be
from xds_server.xds.status import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.xds.access import AccessList
    from xds_server.xds.model import Node

CODES = {
    Refusal.NO_IDENTITY: grpc.StatusCode.UNAUTHENTICATED,
    Refusal.UNKNOWN_IDENTITY: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.FOREIGN_NODE: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.FOREIGN_REPORT: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.TOO_MANY_STREAMS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refusal.REQUEST_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refusal.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refusal.PROTOCOL: grpc.StatusCode.INVALID_ARGUMENT,
}
"""How a client is told."""

_NAMES = ("peer_uri", "peer_dns")
"""Where gRPC puts the URIs (a SPIFFE id is one) and DNS names of a client's certificate."""


class RefusedError(Exception):
    """A stream is not taken on, or is ended by the server. The text is for the client."""

    def __init__(self, reason: Refusal, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Doorkeeper:
    """Judges clients by the list in force. Without a list whoever can connect may be anyone."""

    def __init__(self) -> None:
        self.access: AccessList | None = None

    def admit(self, identities: tuple[str, ...]) -> None:
        """Let the holder of these identities in, or raise RefusedError."""
        if self.access is None:
            return
        if not identities:
            text = "the client's certificate has no URI or DNS name among its subject alternative names"
            raise RefusedError(Refusal.NO_IDENTITY, f"{text}, so it proves no identity")
        if not self.access.grants(identities):
            text = f"identity {' or '.join(identities)}: not in this server's list of clients"
            raise RefusedError(Refusal.UNKNOWN_IDENTITY, text)

    def admit_node(self, identities: tuple[str, ...], node: Node) -> None:
        """Let the holder of these identities be `node`, or raise RefusedError."""
        self.admit(identities)
        if self.may_see(identities, node):
            return
        grants = self.access.grants(identities) if self.access is not None else ()
        labels = "".join(f", {key}={value}" for key, value in sorted(node.labels.items()))
        text = (
            f"identity {grants[0].identity} may not be node {node.id!r} of cluster {node.cluster!r}{labels}; "
            f"it may be: {'; or '.join(map(str, grants))}"
        )
        raise RefusedError(Refusal.FOREIGN_NODE, text)

    def admit_some_node(self, identities: tuple[str, ...]) -> None:
        """Let the holder of these identities ask what nodes may ask, or raise RefusedError."""
        self.admit(identities)
        grants = () if self.access is None else self.access.grants(identities)
        if grants and all(each.reports_only for each in grants):
            text = (
                f"identity {grants[0].identity} may be no node; it may be: {'; or '.join(map(str, grants))}"
            )
            raise RefusedError(Refusal.FOREIGN_NODE, text)

    def admit_report(self, identities: tuple[str, ...], subject: str) -> None:
        """Let the holder of these identities report on a pod or endpoint, or raise RefusedError."""
        self.admit(identities)
        if self.access is None or any(each.may_report(subject) for each in self.access.grants(identities)):
            return
        grants = self.access.grants(identities)
        may = "; or ".join(map(str, grants))
        text = f"identity {grants[0].identity} may not report on {subject}; it may be: {may}"
        raise RefusedError(Refusal.FOREIGN_REPORT, text)

    def may_see(self, identities: tuple[str, ...], node: Node) -> bool:
        """Whether the holder of these identities could be `node`."""
        return self.access is None or may_be(self.access.grants(identities), node)


def identities(auth: Mapping[str, list[bytes]]) -> tuple[str, ...]:
    """The identities that a connection proves, from gRPC's authentication context."""
    return tuple(value.decode(errors="backslashreplace") for kind in _NAMES for value in auth.get(kind) or ())
