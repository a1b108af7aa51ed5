"""KServe's InferenceService, as far as a ModelMesh's models are known by it. The rest of it is KServe's."""

from __future__ import annotations

from pydantic import ConfigDict

from xds_server.config.documents.base import AnyText, Part

MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
MODEL_MESH = "ModelMesh"


class ForeignPart(Part):
    """A part of an object that others define: fields that are not read here are theirs."""

    model_config = ConfigDict(extra="ignore")


class ModelFormatPart(ForeignPart):
    """What kind of model it is."""

    name: AnyText | None = None


class PredictedModelPart(ForeignPart):
    """The model."""

    model_format: ModelFormatPart | None = None


class PredictorPart(ForeignPart):
    """What predicts."""

    model: PredictedModelPart | None = None


class InferenceServiceSpec(ForeignPart):
    """What is to be served."""

    predictor: PredictorPart
