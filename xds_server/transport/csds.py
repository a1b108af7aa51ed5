"""The client status discovery service (CSDS): how each client stands, for tools that ask over gRPC.

Each client has one entry for each type, and one more for each resource that it rejected by name.
Contents are never part of it. Who may ask for a node here is who may be that node.
"""

from __future__ import annotations

import collections
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.admin.v3 import ClientResourceStatus, UpdateFailureState
from envoy_data_plane.envoy.config.core.v3 import Node as NodeMessage
from envoy_data_plane.envoy.service.status.v3 import (
    ClientConfig,
    ClientConfigGenericXdsConfig,
    ClientStatusRequest,
    ClientStatusResponse,
    ConfigStatus,
)

from xds_server import wire
from xds_server.xds.messages import ProtocolError
from xds_server.xds.status import SyncState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from envoy_data_plane.envoy.type.matcher.v3 import NodeMatcher, StringMatcher

    from xds_server.xds.hub import Hub
    from xds_server.xds.model import Node
    from xds_server.xds.status import ClientStatus, TypeStatus

SERVICE = "envoy.service.status.v3.ClientStatusDiscoveryService"

_STATES = {
    SyncState.SYNCED: (ConfigStatus.SYNCED, ClientResourceStatus.ACKED),
    SyncState.STALE: (ConfigStatus.STALE, ClientResourceStatus.REQUESTED),
    SyncState.NOT_SENT: (ConfigStatus.NOT_SENT, ClientResourceStatus.REQUESTED),
    SyncState.ERROR: (ConfigStatus.ERROR, ClientResourceStatus.NACKED),
}


class ClientStatuses:
    """Answers requests. `clock`: seconds since the epoch."""

    def __init__(self, hub: Hub, clock: Callable[[], float]) -> None:
        self._hub = hub
        self._clock = clock

    def answer(self, request: bytes, may_see: Callable[[Node], bool]) -> bytes:
        """The clients that the request asks for, of those that its sender may see.

        Raises:
            ProtocolError: it is no ClientStatusRequest, or matches nodes by what is not supported.
        """
        try:
            collections.deque(wire.fields(request), maxlen=0)  # the library takes truncated bytes as they are
            message = ClientStatusRequest.parse(request)
        except Exception as error:  # the library fails in many ways on bytes that are no message
            raise ProtocolError(f"the request is not a ClientStatusRequest: {error!r}") from error
        wanted = [_matcher(each) for each in message.node_matchers]
        configs = [
            self._config(client, client.node)
            for client in self._hub.clients(with_names=False)
            if client.node is not None
            and may_see(client.node)
            and (not wanted or any(match(client.node.id) for match in wanted))
        ]
        return bytes(ClientStatusResponse(config=configs))

    def _config(self, client: ClientStatus, node: Node) -> ClientConfig:
        return ClientConfig(
            node=NodeMessage(id=node.id, cluster=node.cluster),
            generic_xds_configs=[entry for each in client.types for entry in self._entries(each)],
            client_scope=client.id,
        )

    def _entries(self, each: TypeStatus) -> Iterator[ClientConfigGenericXdsConfig]:
        config, client = _STATES[each.state]
        failure = None
        if each.error:
            failure = UpdateFailureState(
                details=each.error,
                version_info=each.rejected_version,
                last_update_attempt=self._date(each.rejected_at),
            )
        yield ClientConfigGenericXdsConfig(
            type_url=each.type_url,
            version_info=each.acked_version or each.sent_version,
            last_updated=self._date(each.acked_at or each.sent_at),
            config_status=config,
            client_status=client,
            error_state=failure,
        )
        for name in each.blamed:
            yield ClientConfigGenericXdsConfig(
                type_url=each.type_url,
                name=name,
                version_info=each.acked_version,
                config_status=ConfigStatus.ERROR,
                client_status=ClientResourceStatus.NACKED,
                error_state=failure,
            )

    def _date(self, at: float | None) -> datetime | None:
        """A moment of the hub's clock, which is monotonic, as a date."""
        if at is None:
            return None
        return datetime.fromtimestamp(self._clock() - (self._hub.clock() - at), tz=UTC)


def _matcher(matcher: NodeMatcher) -> Callable[[str], bool]:
    if matcher.node_metadatas:
        raise ProtocolError("node_matchers: node_metadatas is not supported; match by node_id")
    text = matcher.node_id
    return _always if text is None else _text_matcher(text)


def _always(_: str) -> bool:
    return True


def _text_matcher(text: StringMatcher) -> Callable[[str], bool]:
    """By exact, prefix, suffix or contains. A foreign regular expression could hold up the whole server."""
    fold = str.lower if text.ignore_case else str
    for wanted, meets in (
        (text.exact, str.__eq__),
        (text.prefix, str.startswith),
        (text.suffix, str.endswith),
        (text.contains, str.__contains__),
    ):
        if wanted is not None:
            folded = fold(wanted)
            return lambda name, meets=meets: bool(meets(fold(name), folded))  # type: ignore[misc]
    raise ProtocolError("node_matchers: node_id: expected exact, prefix, suffix or contains")
