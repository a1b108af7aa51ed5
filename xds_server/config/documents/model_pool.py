"""ModelPool: which service holds models, how its endpoints tell which, and what happens on a miss."""

from __future__ import annotations

from pydantic import Field

from xds_server.config.documents.base import Host, NonEmpty, Part
from xds_server.config.documents.pool_layout import LayoutPart
from xds_server.config.documents.pool_misses import OnMissPart
from xds_server.config.documents.pool_models import ModelsPart
from xds_server.config.documents.pool_request import RequestPart
from xds_server.mesh.pools import DEFAULT_SUBSET_KEY


class ModelPoolSpec(Part):
    """The models of one service."""

    host: Host
    subset_key: NonEmpty = DEFAULT_SUBSET_KEY
    models: ModelsPart
    request: RequestPart = Field(default_factory=RequestPart)
    on_miss: OnMissPart = Field(default_factory=OnMissPart)
    layout: LayoutPart = Field(default_factory=LayoutPart)
