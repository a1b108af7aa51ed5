"""ModelPool's `modelMesh` and `push`: what a ModelMesh's registry says, and what reporters do."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, model_validator

from xds_server.config.documents.base import Duration, Name, Namespace, Part, Text, expected
from xds_server.config.documents.pool_runtimes import OpenInferencePart, OpenVinoPart

AbsolutePath = Annotated[str, BeforeValidator(Text("an absolute path, where the server runs", r"/.+", 4096))]

_CONFIRMS = frozenset({"openInference", "openVino", "push"})
"""The fields of ModelMeshPart that mean something with nothing under them."""


class PushPart(Part):
    """Reporters beside the runtimes tell (`xds-server report`)."""

    grace: Duration = 10.0


class EtcdPart(Part):
    """Where the registry is: the file that holds ModelMesh's own `etcd_connection`."""

    connection_file: AbsolutePath


class ModelMeshPart(Part):
    """One ModelMesh service's registry, and what makes it exact."""

    etcd: EtcdPart
    service: Name = "modelmesh-serving"
    namespace: Namespace | None = None
    load_timeout: Duration = 90.0
    open_inference: OpenInferencePart | None = None
    open_vino: OpenVinoPart | None = None
    push: PushPart | None = None

    @model_validator(mode="before")
    @classmethod
    def _empty_means_defaults(cls, value: object) -> object:
        if isinstance(value, dict):
            return {key: {} if each is None and key in _CONFIRMS else each for key, each in value.items()}
        return value

    @model_validator(mode="after")
    def _one_runtime(self) -> ModelMeshPart:
        if self.open_inference is not None and self.open_vino is not None:
            raise expected("one runtime to ask", "openInference and openVino")
        return self
