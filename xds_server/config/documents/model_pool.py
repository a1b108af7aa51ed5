"""ModelPool: which service holds models, how its endpoints tell which, and what happens on a miss."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field

from xds_server.config.documents.base import Host, NonEmpty, OneOf, Part
from xds_server.config.documents.pool_layout import LayoutPart
from xds_server.config.documents.pool_models import ModelsPart
from xds_server.config.documents.pool_request import RequestPart
from xds_server.mesh.pools import DEFAULT_SUBSET_KEY


class MissPolicy(StrEnum):
    """What becomes of a request that no endpoint matches."""

    ANY_ENDPOINT = "ANY_ENDPOINT"
    NO_FALLBACK = "NO_FALLBACK"


class OnMissPart(Part):
    """What becomes of a request that names no model, or one that is loaded nowhere."""

    no_model: Annotated[MissPolicy, BeforeValidator(OneOf(MissPolicy))] | None = None
    not_loaded: Annotated[MissPolicy, BeforeValidator(OneOf(MissPolicy))] | None = None


class ModelPoolSpec(Part):
    """The models of one service."""

    host: Host
    subset_key: NonEmpty = DEFAULT_SUBSET_KEY
    models: ModelsPart
    request: RequestPart = Field(default_factory=RequestPart)
    on_miss: OnMissPart = Field(default_factory=OnMissPart)
    layout: LayoutPart = Field(default_factory=LayoutPart)
