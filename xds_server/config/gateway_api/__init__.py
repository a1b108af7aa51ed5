"""Gateway API (v1) objects to gateways and routes, with a ModelPool as the backend, and their status.

Pure: objects are mappings as the API server gives them, and what is returned has no times in it. An object
that cannot be taken says so in its own status and takes nothing else down.
"""

from __future__ import annotations

from xds_server.config.gateway_api.compile import CONTROLLER, GatewayApi, Outcome, compile_gateway_api
from xds_server.config.gateway_api.shapes import Shapes

__all__ = ["CONTROLLER", "GatewayApi", "Outcome", "Shapes", "compile_gateway_api"]
