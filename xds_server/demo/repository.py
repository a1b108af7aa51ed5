"""The models of one embedded runtime: what lies in the repository, what is loaded, and computing with it.

What may not live here: HTTP, other replicas.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import sklearn

if TYPE_CHECKING:
    from pathlib import Path

PIXELS = 784


class State(StrEnum):
    """The states of the Open Inference Protocol's repository index."""

    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    READY = "READY"


class UnknownModelError(LookupError):
    """The repository has no model of this name."""


class NotReadyError(LookupError):
    """The model exists but is not loaded here."""


@dataclass(frozen=True)
class Prediction:
    """A digit, and how likely each of the ten is where the model can tell."""

    digit: int
    probabilities: list[float] | None


@dataclass
class _Model:
    folder: Path
    state: State = State.UNAVAILABLE
    reason: str = ""
    estimator: Any = None


class Repository:
    """The models in one folder, as `train.py` writes it.

    One thread loads and another computes, so that neither holds up the event loop, and requests are computed
    one after the other, as on a replica with one accelerator.
    """

    def __init__(self, folder: Path) -> None:
        self._models = {path.parent.name: _Model(path) for path in sorted(folder.glob("*/model.joblib"))}
        self._loader = ThreadPoolExecutor(1, "load", _set_up)
        self._computer = ThreadPoolExecutor(1, "compute", _set_up)

    def index(self) -> list[dict[str, str]]:
        """The repository index: every model of the folder with its state."""
        return [
            {"name": name, "version": "v1", "state": model.state.value, "reason": model.reason}
            for name, model in self._models.items()
        ]

    def state(self, name: str) -> State:
        """Raises UnknownModelError."""
        return self._model(name).state

    def is_ready(self, name: str) -> bool:
        """Whether the model can be asked here; False also for an unknown one."""
        return name in self._models and self._models[name].state is State.READY

    async def load(self, name: str) -> None:
        """Loads a model; a loaded one is loaded again and answers meanwhile.

        Raises:
            UnknownModelError: no such model.
        """
        model = self._model(name)
        if model.estimator is None:
            model.state = State.LOADING
        loop = asyncio.get_running_loop()
        try:
            model.estimator = await loop.run_in_executor(self._loader, _load, model.folder)
        except Exception as error:
            model.state, model.reason = State.UNAVAILABLE, repr(error)
            raise
        model.state, model.reason = State.READY, ""

    def unload(self, name: str) -> None:
        """Raises UnknownModelError, or NotReadyError where it is not loaded."""
        model = self._model(name)
        if model.state is not State.READY:
            raise NotReadyError(f"model {name} is not loaded")
        model.state, model.estimator = State.UNAVAILABLE, None

    async def predict(self, name: str, values: list[float]) -> Prediction:
        """Reads one image of 784 pixels between 0 and 1.

        Raises:
            UnknownModelError, NotReadyError: it cannot be asked here.
            ValueError: not 784 numbers.
        """
        model = self._model(name)
        if model.state is not State.READY:
            raise NotReadyError(f"model {name} is not loaded")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._computer, _predict, model.estimator, values)

    def close(self) -> None:
        """Ends the threads once what they do is done."""
        self._loader.shutdown()
        self._computer.shutdown()

    def _model(self, name: str) -> _Model:
        try:
            return self._models[name]
        except KeyError:
            raise UnknownModelError(f"model {name} not found") from None


def _set_up() -> None:
    """For each thread: values are checked once, in `_predict`, and not by every estimator again."""
    sklearn.set_config(assume_finite=True, skip_parameter_validation=True)


def _load(path: Path) -> Any:
    estimator = joblib.load(path)
    # The first prediction of a process imports and allocates: that belongs to loading, not to a request.
    _predict(estimator, [0.0] * PIXELS)
    return estimator


def _predict(estimator: Any, values: list[float]) -> Prediction:
    image = np.asarray(values, dtype=np.float32)
    if image.shape != (PIXELS,) or not np.isfinite(image).all():
        raise ValueError(f"expected {PIXELS} finite numbers, found {image.size} values")
    rows = image.reshape(1, PIXELS)
    if hasattr(estimator, "predict_proba"):
        probabilities = estimator.predict_proba(rows)[0]
        digit = int(estimator.classes_[int(np.argmax(probabilities))])
        return Prediction(digit, [round(float(value), 6) for value in probabilities])
    return Prediction(int(estimator.predict(rows)[0]), None)
