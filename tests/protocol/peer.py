"""A client without a socket: says what a test tells it to, in either dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.catalogs import NODE, Clock, World
from xds_server.xds.hub import Hub
from xds_server.xds.messages import DeltaRequest, DeltaResponse, Request, Response, Variant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds_server.xds.model import Node
    from xds_server.xds.session import Session
    from xds_server.xds.status import TypeStatus

Reply = Response | DeltaResponse


class Peer:
    """One stream. `asked` keeps the names of SotW subscriptions, as a client has to repeat them."""

    def __init__(self, hub: Hub, variant: Variant, type_url: str | None = None, node: Node = NODE) -> None:
        self.variant = variant
        self.node: Node | None = node
        self.woken = 0
        self.asked: dict[str, set[str]] = {}
        self.nonces: dict[str, str] = {}
        self.session: Session = hub.open(variant, type_url, "127.0.0.1:1", self._wake)

    def _wake(self) -> None:
        self.woken += 1

    @property
    def delta(self) -> bool:
        return self.variant is Variant.DELTA

    def ask(
        self,
        type_url: str,
        *names: str,
        drop: Iterable[str] = (),
        held: Mapping[str, str] | None = None,
        nonce: str = "",
        error: str | None = None,
    ) -> list[Reply]:
        """Subscribe to `names`, unsubscribe from `drop`, and take what follows."""
        node, self.node = self.node, None
        asked = self.asked.setdefault(type_url, set())
        asked.update(names)
        asked.difference_update(drop)
        request: Request | DeltaRequest
        if self.delta:
            request = DeltaRequest(
                type_url=type_url,
                subscribe=names,
                unsubscribe=tuple(drop),
                initial_resource_versions=held or {},
                response_nonce=nonce,
                error_detail=error,
                node=node,
            )
        else:
            request = Request(
                type_url=type_url,
                resource_names=tuple(sorted(asked)),
                response_nonce=nonce or self.nonces.get(type_url, ""),
                error_detail=error,
                node=node,
            )
        self.session.receive(request)
        return self.take()

    def take(self) -> list[Reply]:
        return self.session.take()

    def ack(self, *replies: Reply) -> list[Reply]:
        """Acknowledge each, and take what follows."""
        taken: list[Reply] = []
        for reply in replies:
            self.nonces[reply.type_url] = reply.nonce
            taken += self.ask(reply.type_url, nonce=reply.nonce)
        return taken

    def nack(self, reply: Reply, error: str = "no good") -> list[Reply]:
        self.nonces[reply.type_url] = reply.nonce
        return self.ask(reply.type_url, nonce=reply.nonce, error=error)

    def settle(self, replies: Iterable[Reply]) -> list[Reply]:
        """Acknowledge until nothing follows. Returns everything that was received, `replies` first."""
        seen: list[Reply] = []
        waiting = list(replies)
        while waiting:
            reply = waiting.pop(0)
            seen.append(reply)
            waiting += self.ack(reply)
        return seen

    def status(self, type_url: str) -> TypeStatus:
        return next(each for each in self.session.status().types if each.type_url == type_url)


class Scene:
    """A hub with a clock and a world. `peer` opens a stream, `publish` shows the world to all."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.clock = Clock()
        self.hub = Hub(self.clock)
        self.world = World()

    def publish(self) -> None:
        self.world.publish(self.hub.publish)

    def peer(self, type_url: str | None = None, node: Node = NODE) -> Peer:
        return Peer(self.hub, self.variant, type_url, node)


def names(reply: Reply) -> list[str]:
    return [resource.name for resource in reply.resources]


def bodies(reply: Reply) -> dict[str, str]:
    return {resource.name: resource.body.decode().partition("=")[2] for resource in reply.resources}


def removed(reply: Reply) -> tuple[str, ...]:
    return reply.removed if isinstance(reply, DeltaResponse) else ()


def only(replies: list[Reply]) -> Reply:
    """The one reply there is."""
    assert len(replies) == 1, replies
    return replies[0]
