"""InferenceServices in ModelMesh mode to declared models: names that are known, whether loaded or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.config.documents.inference_service import MODE_ANNOTATION, MODEL_MESH
from xds_server.mesh.known import DeclaredModel, Known, KnownModel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds_server.config.compile.context import Context
    from xds_server.config.documents import Document
    from xds_server.config.documents.inference_service import InferenceServiceSpec

_STATES = {state.value: state for state in Known}


def compile_inference_services(documents: Iterable[Document[InferenceServiceSpec]], context: Context) -> None:
    """Adds the model of each that ModelMesh is to serve. Those that KServe serves otherwise are not ours."""
    for document in documents:
        metadata = document.metadata
        if (metadata.annotations or {}).get(MODE_ANNOTATION) == MODEL_MESH:
            state, reason = _state(document.status)
            model = KnownModel(metadata.name, state, reason)
            context.declared.append(DeclaredModel(metadata.namespace, model))


def _state(status: object) -> tuple[Known, str]:
    """What the controller wrote about the active model, and the last failure's text if it failed."""
    model = _under(status, "modelStatus")
    state = _STATES.get(str(_under(_under(model, "states"), "activeModelState")), Known.PENDING)
    message = _under(_under(model, "lastFailureInfo"), "message")
    return state, message if state is Known.FAILED and isinstance(message, str) else ""


def _under(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None
