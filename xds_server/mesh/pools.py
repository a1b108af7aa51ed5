"""The values of a pool: which service holds models, under which key, and how its endpoints tell them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds_server.mesh.layout import AUTO, PoolLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.mesh.policies import Fallback

DEFAULT_SUBSET_KEY = "modelmesh.asm.alibabacloud.com"
"""The `envoy.lb` metadata key that holds an endpoint's models unless a pool names another."""

DEFAULT_MODEL_HEADER = "model"
"""The request header that names the model on a route that maps no header itself."""


@dataclass(frozen=True, slots=True)
class OpenInference:
    """Discovery through the repository index of the Open Inference Protocol (KServe V2).

    `port`: a name in the endpoint's ports, a number, or None for the traffic port.
    Times in seconds. `grace`: how long a replica that times out keeps its models.
    """

    port: str | int | None = None
    scheme: str = "http"
    interval: float = 1.0
    timeout: float = 2.0
    grace: float = 10.0


@dataclass(frozen=True, slots=True)
class StaticModels:
    """Fixed placements: endpoint (HOST:PORT) to the models it holds."""

    models: Mapping[str, tuple[str, ...]]


Discovery = OpenInference | StaticModels


@dataclass(frozen=True, slots=True)
class Pool:
    """A ModelPool: which service holds models, under which key, and how its endpoints tell them.

    `no_model` and `not_loaded` are None where the document leaves them to the DestinationRule
    (or, without one, to the safe default NO_FALLBACK).
    """

    name: str
    host: str
    discovery: Discovery
    subset_key: str = DEFAULT_SUBSET_KEY
    no_model: Fallback | None = None
    not_loaded: Fallback | None = None
    layout: PoolLayout = AUTO
