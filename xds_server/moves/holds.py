"""The withdrawals that moves work with: who began one, who may end it, and when it is too late to."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from xds_server.mesh.events import WithdrawalCancelled, WithdrawalStarted
from xds_server.moves import places
from xds_server.moves.acknowledged import Watch
from xds_server.moves.errors import UnknownWithdrawalError, WithdrawnError

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds_server.mesh.mesh import Mesh, Withdrawal
    from xds_server.mesh.model import Endpoint
    from xds_server.moves.ports import Publishes


@dataclass(slots=True, eq=False)
class Hold:
    """A withdrawal while a move is at work with it. `begun`: the loop's time when the move began."""

    id: str
    endpoint: Endpoint
    model: str
    begun: float
    watch: Watch = field(default_factory=Watch)
    adopted: bool = False
    """It stood before this move began, so this move's failure does not end it."""
    forced: bool = False
    """It may take the model off its last holder."""
    committed: bool = False
    """The runtime has been asked to unload: the model may be gone at any moment."""


class Holds:
    """Begins and ends withdrawals in the mesh, and publishes their end.

    Args:
        mesh: where they are noted.
        publisher: makes their end known to Envoy at once.
        clock: seconds since the epoch.
    """

    def __init__(self, mesh: Mesh, publisher: Publishes, clock: Callable[[], float]) -> None:
        self._mesh = mesh
        self._publisher = publisher
        self._clock = clock
        self._active: dict[str, Hold] = {}
        self._log = structlog.get_logger("moves")

    def begin(self, endpoint: Endpoint, model: str, begun: float, *, forced: bool) -> Hold:
        """Note a new withdrawal; what it hides from Envoy is published by the caller."""
        hold = Hold(uuid.uuid4().hex[:12], endpoint, model, begun, forced=forced)
        self._mesh.apply(WithdrawalStarted(id=hold.id, endpoint=endpoint.id, model=model, at=self._clock()))
        self._active[hold.id] = hold
        return hold

    def adopt(self, endpoint: Endpoint, model: str, begun: float) -> Hold | None:
        """Go on from a withdrawal that stands; None where there is none.

        Raises:
            WithdrawnError: another move is at work with it.
        """
        standing = places.withdrawal_of(self._mesh, endpoint, model)
        if standing is None:
            return None
        if standing.id in self._active:
            raise WithdrawnError(
                f"another request is withdrawing {model} from {endpoint.id} at this moment (withdrawal "
                f"{standing.id}): wait for it, or cancel it"
            )
        # Whether it may be the last holder was decided when it began: Envoys have not used it since.
        hold = Hold(standing.id, endpoint, model, begun, adopted=True, forced=True)
        self._active[hold.id] = hold
        return hold

    def leave(self, hold: Hold) -> None:
        """The move no longer works with it; the withdrawal itself goes on."""
        self._active.pop(hold.id, None)

    def give_up(self, hold: Hold, *, keep: bool = False) -> str:
        """The move failed: end its withdrawal, unless it is to stay. Says in words what holds now."""
        if all(each.id != hold.id for each in self._mesh.withdrawals()):
            return f"the withdrawal {hold.id} had ended before"
        if hold.adopted or keep:
            return f"the withdrawal {hold.id} stays"
        self._release(hold.id, "the move was not completed")
        return f"the withdrawal is cancelled and {hold.model} is routed to {hold.endpoint.id} again"

    def cancel(self, withdrawal: str) -> Withdrawal:
        """End a withdrawal by its id; a move that is at work with it ends with CancelledMoveError.

        Raises:
            UnknownWithdrawalError: there is none with this id.
            WithdrawnError: its runtime has already been asked to unload the model.
        """
        found = next((each for each in self._mesh.withdrawals() if each.id == withdrawal), None)
        if found is None:
            raise UnknownWithdrawalError(
                f"no withdrawal {withdrawal!r}: it was cancelled, or ended when the runtime reported the "
                "model gone"
            )
        hold = self._active.get(withdrawal)
        if hold is not None and hold.committed:
            raise WithdrawnError(
                f"the runtime at {found.endpoint} has already been asked to unload {found.model}: load it "
                "again instead"
            )
        if hold is not None:
            hold.watch.cancel()
        self._release(withdrawal, "cancelled")
        return found

    def _release(self, withdrawal: str, why: str) -> None:
        self._mesh.apply(WithdrawalCancelled(id=withdrawal))
        self._publisher.flush()
        self._log.info("withdrawal ended", withdrawal=withdrawal, why=why)
