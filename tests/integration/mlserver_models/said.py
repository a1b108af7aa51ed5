"""Models for MLServer that need no library and load at once: they answer with their name and their replica.

Runs in MLServer's own environment, not in this project's.
"""

import asyncio
import os
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Said(MLModel):
    """Answers with what it is and where it runs."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = [
            StringCodec.encode_output("model", [self.name]),
            StringCodec.encode_output("replica", [os.environ["REPLICA"]]),
        ]
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=outputs)


class Gated(Said):
    """Loads when the file `gate` of its parameters' `extra` exists: UNKNOWN in the index until then."""

    async def load(self) -> bool:
        gate = Path(self.settings.parameters.extra["gate"])
        while not gate.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
        return True


class Broken(Said):
    """Never loads."""

    async def load(self) -> bool:
        raise RuntimeError("this model is broken")
