"""Why a move was refused or did not get to its end. Each text is one sentence for the person who asked."""

from __future__ import annotations


class MoveError(Exception):
    """A move was not done; the text says why and what to do."""


class UnknownEndpointError(MoveError):
    """No endpoint answers to this HOST:PORT."""


class AmbiguousEndpointError(MoveError):
    """Several endpoints answer to this HOST:PORT, in different services."""


class NotHeldError(MoveError):
    """The model is not routed to this endpoint, so there is nothing to withdraw."""


class LastHolderError(MoveError):
    """No other healthy endpoint of the service has the model."""


class HeldElsewhereError(MoveError):
    """The same runtime still gets requests for the model through another service."""


class WithdrawnError(MoveError):
    """A withdrawal stands against what was asked for."""


class CancelledMoveError(MoveError):
    """The withdrawal was cancelled by somebody else before the move was done."""


class UnknownWithdrawalError(MoveError):
    """No withdrawal has this id: it was cancelled, or ended when the runtime reported the model gone."""


class NoRuntimeError(MoveError):
    """The endpoint's models do not come from a runtime that can load or unload."""


class NotAcknowledgedError(MoveError):
    """An Envoy rejected the change, or did not acknowledge it in time."""


class RuntimeRefusedError(MoveError):
    """The runtime could not be reached, or refused to load or unload."""


class RuntimeSilentError(MoveError):
    """The runtime did not answer; nobody knows whether it does what it was asked."""


class RuntimeSlowError(MoveError):
    """The runtime accepted, but did not report the new state in time."""
