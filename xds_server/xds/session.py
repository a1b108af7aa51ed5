"""One stream of one client, without I/O: requests in, responses out, a wake call in between.

Pull model: whatever happens marks watches; `take` makes the responses that are owed at that moment,
at most one outstanding for each type. No queue, no task, no clock of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.xds import delta, heartbeat, order, sotw
from xds_server.xds.ledger import Rejection, Sent
from xds_server.xds.messages import DeltaRequest, DeltaResponse, ProtocolError, Request, Response, Variant
from xds_server.xds.model import CLUSTER, EMPTY_SNAPSHOT, ENDPOINT, Node, Resource, Snapshot
from xds_server.xds.snapshot import Audience
from xds_server.xds.status import ClientStatus, type_status
from xds_server.xds.watch import Verdict, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds_server.xds.hub import Hub
    from xds_server.xds.model import TypeSnapshot
    from xds_server.xds.plan import Issue, Plan
    from xds_server.xds.snapshot import Move

MAX_TYPES = 32
"""Types that one stream may ask for: far above what Envoy knows, low enough to bound a hostile client."""


class Session:
    """What one stream wants, has and lacks. Made by `Hub.open`; `close` it on every way out."""

    __slots__ = (
        "__weakref__",
        "_audience",
        "_closed",
        "_heart",
        "_hub",
        "_type_url",
        "_warming",
        "aggregated",
        "node",
        "number",
        "opened_at",
        "peer",
        "variant",
        "wake",
        "watches",
    )

    def __init__(
        self,
        hub: Hub,
        number: int,
        *,
        variant: Variant,
        type_url: str | None,
        peer: str,
        wake: Callable[[], None],
    ) -> None:
        self.number = number
        self.variant = variant
        self.peer = peer
        self.opened_at = hub.clock()
        self.node: Node | None = None
        self._audience = Audience(None, EMPTY_SNAPSHOT)
        self.watches: dict[str, Watch] = {}
        self.wake = wake
        self._hub = hub
        self._type_url = type_url
        self.aggregated = type_url is None
        """Whether the stream carries several types."""
        self._heart = heartbeat.Heart(hub.ttl if variant is Variant.DELTA else None)
        self._warming: frozenset[str] = frozenset()
        """Assignments of clusters that were sent before this stream asked for any assignment."""
        self._closed = False

    @property
    def snapshot(self) -> Snapshot:
        """What the client is entitled to, as of the last publication."""
        return self._audience.snapshot

    @property
    def id(self) -> str:
        """Unique among connected clients, and readable: the node's id and the stream's number."""
        return f"{self.node.id if self.node and self.node.id else 'unknown'}/{self.number}"

    # In

    def receive(self, request: Request | DeltaRequest) -> None:
        """Read one request: what it answers, then what it asks for. ProtocolError ends the stream.

        An answer with a stale nonce says nothing, yet what it asks for counts (envoy 10363).
        """
        if self._closed:
            raise RuntimeError("a request was read after the session was closed")
        watch = self.watches.get(request.type_url) or self._watch(self._type_of(request))
        if self.node is None:
            self.node = request.node or Node("", "")
            self._hub.seat(self)
        self._hub.stats.requests[watch.counted] += 1
        first = watch.fresh
        if first:
            watch.foreign_nonce = request.response_nonce
        answered = bool(request.response_nonce) and self._answer(watch, request)
        if isinstance(request, DeltaRequest):
            delta.read(watch, request)
        else:
            sotw.read(watch, request)
        if first:
            self._heart.begin(watch, self._hub.clock())
        if self._warming and watch.type_url == ENDPOINT:
            watch.mark(self._warming, resend=True)
            self._warming = frozenset()
        if answered:
            self._hub.notify()
        if self._has_something_to_say(answered=answered):
            self.wake()

    def _has_something_to_say(self, *, answered: bool) -> bool:
        """Whether `take` may give something now; with a time to live, or one response less, it may."""
        if answered and self._hub.ttl is not None:
            return True  # the deadline of its next renewal counts from now on
        for watch in self.watches.values():  # noqa: SIM110 - run for each ACK, it costs half of `any`
            if watch.marked and watch.ledger.outstanding is None:
                return True
        return False

    def _type_of(self, request: Request | DeltaRequest) -> str:
        if self._type_url is None:
            if not request.type_url:
                raise ProtocolError("type_url: empty; a request on an aggregated stream has to name its type")
            return request.type_url
        if request.type_url not in {"", self._type_url}:
            raise ProtocolError(
                f"type_url: found {request.type_url!r}; this stream serves {self._type_url!r} only"
            )
        return self._type_url

    def _watch(self, type_url: str) -> Watch:
        watch = self.watches.get(type_url)
        if watch is None:
            if len(self.watches) >= MAX_TYPES:
                raise ProtocolError(
                    f"type_url: {type_url!r} is one type too many; a stream may ask for {MAX_TYPES}"
                )
            watch = Watch(self.number, type_url, self.variant, self._hub.index)
            self.watches[type_url] = watch
            self.watches = dict(sorted(self.watches.items(), key=lambda each: (order.rank(each[0]), each[0])))
        return watch

    def _answer(self, watch: Watch, request: Request | DeltaRequest) -> bool:
        outstanding = watch.ledger.outstanding
        if outstanding is None or outstanding.nonce != request.response_nonce:
            last = watch.ledger.last_sent
            if not watch.fresh and (last is None or last.nonce != request.response_nonce):
                self._hub.stats.stale[watch.counted] += 1
            return False  # with the nonce of what was answered before: another subscription, in SotW
        now = self._hub.clock()
        if request.error_detail is None:
            watch.acknowledge(now)
            self._hub.stats.acks[watch.counted] += 1
        else:
            watch.reject(request.error_detail, now)
            self._hub.stats.nacks[watch.counted] += 1
        if not watch.held_back:
            watch.rounds.answered(outstanding.serial)
        return True

    def sit(self, audience: Audience) -> None:
        """See what this audience sees from now on."""
        self._audience.sessions.discard(self.number)
        self._audience = audience
        audience.sessions.add(self.number)

    def retain(self, move: Move) -> None:
        """Of the clusters that a move changed, keep what vanished for whole responses to include.

        Until it may be removed, which only a stream of several types can tell.
        """
        clusters = self.watches.get(CLUSTER)
        if clusters is None or not clusters.whole or not self.aggregated:
            return
        old, new = move.before.of(CLUSTER).resources, move.after.of(CLUSTER).resources
        outstanding = clusters.ledger.outstanding
        for name in move.changes[CLUSTER]:
            if name in new:
                clusters.retained.pop(name, None)
            elif name in old:
                sent = clusters.ledger.has(name) or (outstanding is not None and name in outstanding.contents)
                if sent and clusters.subscription.covers(name):
                    clusters.retained[name] = old[name]

    # Out

    def take(self) -> list[Response | DeltaResponse]:
        """The responses to write now, in order. Nothing before the hub has a catalog (istio 25100)."""
        responses: list[Response | DeltaResponse] = []
        if not self._closed and self._hub.serial:
            for watch in self.watches.values():
                if watch.ledger.outstanding is None:
                    plan = self._owed(watch) if watch.marked or self._heart.beats else None
                    if plan is not None:
                        responses.append(self._send(watch, plan))
                    elif watch.rounds and not watch.marked:
                        watch.rounds.answered(self._audience.snapshot.serial)
        return responses

    def next_deadline(self) -> float | None:
        """When, by the hub's clock, `take` has something to say even if nothing happens; None: never."""
        ends: list[float] = []
        for watch in self.watches.values():
            if watch.held_back and watch.ledger.outstanding is None:
                ends += [at + order.HOLD_LIMIT for at in watch.held_back.values()]
            if self._heart.beats and (at := self._heart.deadline(watch)) is not None:
                ends.append(at)
        return min(ends) if ends else None

    def _owed(self, watch: Watch) -> Plan | None:
        plan = self._shared_plan(watch) if watch.marked else None
        if not self._heart.beats or not (renewed := self._renewed(watch)):
            return plan
        return heartbeat.joined(plan, renewed, self._audience.snapshot.of(watch.type_url).version)

    def _renewed(self, watch: Watch) -> tuple[tuple[str, str], ...]:
        """What has to be kept from ending at the client, when it is time for that."""
        if not self._heart.due(watch, self._hub.clock()):
            return ()
        return heartbeat.renewed(watch, self._audience.snapshot.of(watch.type_url))

    def _shared_plan(self, watch: Watch) -> Plan | None:
        """What others have been sent of this publication, where nothing tells this watch apart from them."""
        view = self._audience.snapshot.of(watch.type_url)
        lone = watch.lone()
        if lone is None:
            return self._plan(watch, view)
        plan = self._hub.plans.alone(watch.variant, view, lone)
        if plan is not None and watch.ledger.held.get(lone) != plan.contents[lone]:
            watch.looked(())
            return plan
        plan = self._plan(watch, view)
        resource = view.resources.get(lone)
        if plan is not None and resource is not None and order.waits_for_nothing(resource):
            self._hub.plans.keep_alone(watch.variant, view, lone, plan)
        return plan

    def _plan(self, watch: Watch, view: TypeSnapshot) -> Plan | None:
        if watch.whole and any(watch.subscription.covers(name) for name in view.withheld):
            watch.held_back.clear()
            return None  # an omission would be read as a removal
        content: list[Resource] = []
        absent: list[str] = []
        waiting: list[str] = []
        for name in watch.candidates(view):
            resource = view.resources.get(name)
            if watch.verdict_on(name, resource, view, self._audience.snapshot) is Verdict.NOTHING:
                if resource is None and not watch.tells_absence:
                    watch.lapse(name)
            elif self._waits(watch, name, resource):
                waiting.append(name)
            elif resource is None:
                absent.append(name)
            else:
                content.append(resource)
        if waiting and watch.whole and watch.type_url != CLUSTER:
            watch.looked([*waiting, *absent, *(resource.name for resource in content)])
            return None
        watch.looked(waiting)
        for name in absent:
            watch.retained.pop(name, None)
        shape = sotw.shape if self.variant is Variant.SOTW else delta.shape
        return shape(watch, content, absent, view, self._hub.plans)

    def _waits(self, watch: Watch, name: str, resource: Resource | None) -> bool:
        """Whether what is owed about `name` has to wait for another type of this stream."""
        if not self.aggregated:
            return False
        if resource is not None:
            waits = order.waits(watch, resource, self.watches, self._audience.snapshot)
        elif watch.type_url == ENDPOINT:
            return order.cluster_remains(name, self.watches)
        elif watch.type_url != CLUSTER or not watch.ledger.has(name):
            return False
        elif order.removal_waits(self.watches, self._audience.snapshot):
            watch.held_back.pop(name, None)  # no deadline: the old cluster does no harm
            return True
        else:
            waits = order.routes_unknown(watch, name, self.watches)
        now = self._hub.clock()
        return waits and now < watch.hold(name, now) + order.HOLD_LIMIT

    def _send(self, watch: Watch, plan: Plan) -> Response | DeltaResponse:
        number = watch.count_response(self._audience.snapshot.serial)
        response, sent = plan.issued.get(number) or self._issue(watch, plan, number)
        if watch.type_url == CLUSTER:
            self._warm(watch, plan)
        watch.ledger.send(sent, self._hub.clock())
        watch.told(sent.contents)
        stats = self._hub.stats
        stats.pushes[watch.counted] += 1
        stats.resources[watch.counted] += len(plan.resources)
        return response

    def _issue(self, watch: Watch, plan: Plan, number: int) -> Issue:
        """Make the response for every client to which the plan is its response of that number."""
        serial = self._audience.snapshot.serial
        nonce = watch.nonce(serial, number)
        response: Response | DeltaResponse
        if self.variant is Variant.SOTW:
            response = Response(
                type_url=watch.type_url, version=plan.version, nonce=nonce, resources=plan.resources
            )
        else:
            response = DeltaResponse(
                type_url=watch.type_url,
                version=plan.version,
                nonce=nonce,
                resources=plan.resources,
                removed=plan.removed,
                ttl=self._hub.ttl,
                renewed=plan.renewed,
            )
        sent = Sent(nonce, serial, plan.version, plan.contents, dict.fromkeys(plan.contents, serial))
        issue = plan.issued[number] = self._hub.plans.shared(response), sent
        return issue

    def _warm(self, watch: Watch, plan: Plan) -> None:
        """A changed cluster warms until its assignment comes again (go-control-plane 583, envoy 13009).

        Also where the client has yet to say, on this new stream, that it holds that assignment.
        """
        held = watch.ledger.held
        changed = [name for name, version in plan.contents.items() if held.get(name) != version]
        clusters = {resource.name: resource for resource in plan.resources}
        names = order.assignment_names(clusters, [name for name in changed if name in clusters])
        assignments = self.watches.get(ENDPOINT)
        if assignments is None:
            self._warming |= names
        else:
            assignments.mark(names, resend=True)

    # Seen from outside

    def status(self, *, with_names: bool = True) -> ClientStatus:
        """How this client stands with each type; `with_names`: what it subscribes to, too."""
        return ClientStatus(
            id=self.id,
            node=self.node,
            peer=self.peer,
            variant=self.variant,
            aggregated=self.aggregated,
            connected_since=self.opened_at,
            types=tuple(
                type_status(watch, self.snapshot, with_names=with_names) for watch in self.watches.values()
            ),
        )

    def rejection(self, type_url: str) -> Rejection | None:
        """The latest NACK of a type on this stream."""
        watch = self.watches.get(type_url)
        return watch.ledger.last_rejection if watch else None

    def close(self) -> None:
        """Forget the stream. May be called again; `take` then has nothing to say."""
        if not self._closed:
            self._closed = True
            for watch in self.watches.values():
                watch.withdraw()
            self.watches.clear()
            self._audience.sessions.discard(self.number)
            self._hub.leave(self)
