"""Moves: taking a model off a replica, or bringing it to one, so that no request is lost on the way.

Knows the order of the steps and what each waits for. Speaks no HTTP to people and prints nothing (that
is admin's), makes no resources and keeps no connection.
"""

from xds_server.moves.errors import MoveError
from xds_server.moves.mover import Mover

__all__ = ["MoveError", "Mover"]
