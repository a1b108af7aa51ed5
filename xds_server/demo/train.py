"""Trains the demo's digit classifiers from scikit-learn's bundled digits.

Needs scikit-learn (with the numpy, scipy and joblib it brings) and nothing of this project, because it is
also run by the interpreter of MLServer's own environment: a pickled model belongs to the scikit-learn that
made it. What may not live here: anything that knows replicas, routing or the demo's steps.

The bundled digits are 8 x 8 counts of ink; the requests carry MNIST's form: 28 x 28 pixels, 0 to 1, the digit
in a 20 x 20 box, its centre of mass in the middle. So each digit is enlarged into that form several times, as
different hands would write it, so that the classifiers also read handwriting from elsewhere. Everything is
seeded: the same library versions give the same models.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import sklearn
from scipy import ndimage  # type: ignore[import-untyped, unused-ignore]
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 28
"""Pixels along each side of an image, as in MNIST."""

BOX = 20
"""MNIST writes its digits into a box of this many pixels, in the middle of the image."""

HELD_BACK = 297
"""Digits that no classifier learns: the accuracy that is printed is measured on them."""

FINE = 5
"""How many times finer than the bundled digits the strokes are drawn, before they are put in another hand."""

PIXELS = np.indices((SIDE, SIDE)).reshape(2, -1) - (SIDE - 1) / 2
"""Row and column of each pixel, from the middle of the image: (2, 784)."""

SMOOTH = ndimage.zoom(np.eye(4), (SIDE // 4, 1), order=3)
"""Spreads 4 values smoothly over the image's side: (28, 4)."""

STAMP = "trained.json"
SEED = 28


@dataclass(frozen=True)
class Recipe:
    """How one model is made: which estimator, and from how many copies of each digit."""

    estimator: Callable[[], Any]
    copies: int


def network() -> Any:
    """A small neural network. The projection first makes it less fussy about the thickness of strokes."""
    layers = MLPClassifier((100,), batch_size=128, max_iter=12, random_state=SEED)
    return make_pipeline(PCA(30, random_state=SEED), layers)


RECIPES: dict[str, Recipe] = {
    # The two names of the well-known ModelMesh walk-through. `sklearn-mnist` is a support vector machine
    # there too; `tf-mnist` is a TensorFlow network there, and a small network by scikit-learn here.
    "sklearn-mnist": Recipe(lambda: make_pipeline(PCA(30, random_state=SEED), SVC(C=5.0, gamma=0.02)), 2),
    "tf-mnist": Recipe(network, 12),
    "knn-mnist": Recipe(
        lambda: make_pipeline(PCA(30, random_state=SEED), KNeighborsClassifier(3, algorithm="brute")), 2
    ),
    "forest-mnist": Recipe(lambda: RandomForestClassifier(20, max_depth=14, random_state=SEED), 4),
    "logistic-mnist": Recipe(
        lambda: make_pipeline(PCA(60, random_state=SEED), LogisticRegression(C=0.5, max_iter=100)), 2
    ),
    "bayes-mnist": Recipe(lambda: make_pipeline(PCA(40, random_state=SEED), GaussianNB()), 4),
    "discriminant-mnist": Recipe(
        lambda: make_pipeline(PCA(60, random_state=SEED), LinearDiscriminantAnalysis()), 4
    ),
}


@dataclass(frozen=True)
class Hands:
    """How a digit is written by several hands, one row each.

    The bundled digits are narrow and upright; MNIST's are wider, lean to the right, fill
    their box and are drawn thinner.
    """

    to_ink: np.ndarray
    """Turned, slanted, sized and widened: from the image to the enlarged digit, (n, 2, 2)."""
    moved: np.ndarray
    """By how many pixels each pixel is moved: the elastic distortion usual for MNIST, (n, 2, 784)."""
    thinness: np.ndarray
    """How much ink counts as a stroke, (n, 1)."""

    @classmethod
    def drawn(cls, draw: np.random.Generator, count: int) -> Hands:
        """`count` random hands."""
        angle, zeros = draw.uniform(-0.2, 0.2, count), np.zeros(count)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        slant = np.array([[zeros + 1.0, zeros], [draw.uniform(-0.2, 0.5, count), zeros + 1.0]])
        size, width = draw.uniform(0.95, 1.2, count), draw.uniform(1.0, 1.6, count)
        scale = np.stack([1.0 / size, 1.0 / (size * width)], axis=-1) * (8 * FINE / BOX)
        coarse = draw.normal(0.0, 1.0, (count, 2, 4, 4))
        return cls(
            to_ink=scale[:, :, None] * np.einsum("ijn,jkn->nik", turn, slant),
            moved=(SMOOTH @ coarse @ SMOOTH.T).reshape(count, 2, -1) - draw.uniform(-1.0, 1.0, (count, 2, 1)),
            thinness=draw.uniform(0.5, 0.8, (count, 1)),
        )


def written(digit: np.ndarray, hands: Hands) -> np.ndarray:
    """One 8 x 8 digit in MNIST's form, once for each hand: (n, 784) float32 values between 0 and 1."""
    ink = ndimage.zoom(np.pad(digit / 16.0, 1), FINE, order=3, mode="grid-constant", grid_mode=True)
    mass = np.array(ndimage.center_of_mass(ink))
    places = hands.to_ink @ (PIXELS + hands.moved) + mass[:, None]
    image = ndimage.map_coordinates(ink, places.swapaxes(0, 1), order=1)
    pixels: np.ndarray = np.clip((image - hands.thinness) * 4.0 + 0.5, 0.0, 1.0).astype(np.float32)
    return pixels


def images(digits: np.ndarray, copies: int, seed: int) -> np.ndarray:
    """Every digit in MNIST's form, `copies` times, each time in another hand: (copies x digits, 784)."""
    draw = np.random.default_rng(seed)
    rows = [written(digit, Hands.drawn(draw, copies)) for digit in digits]
    return np.stack(rows, axis=1).reshape(copies * len(digits), -1)


def fingerprint() -> str:
    """What the trained files depend on: this file and the version of scikit-learn."""
    return hashlib.sha256(Path(__file__).read_bytes() + sklearn.__version__.encode()).hexdigest()


def is_trained(repository: Path) -> bool:
    """Whether `repository` already holds what this file would make."""
    try:
        stamp = json.loads((repository / STAMP).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return bool(stamp["fingerprint"] == fingerprint())


def write_model(repository: Path, name: str, estimator: Any) -> None:
    """Writes a model as MLServer expects it: a folder with its settings and the pickled estimator."""
    folder = repository / name
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(estimator, folder / "model.joblib")
    settings = {
        "name": name,
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib", "version": "v1"},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def train(repository: Path, say: Callable[[str], None]) -> None:
    """Trains every model into `repository`; tells each one's accuracy and the seconds it took."""
    digits, labels = load_digits(return_X_y=True)
    digits = digits.reshape(-1, 8, 8)
    seen, held_back = digits[:-HELD_BACK], digits[-HELD_BACK:]
    blocks = images(seen, max(recipe.copies for recipe in RECIPES.values()), SEED)
    test, accuracies = images(held_back, 1, SEED + 1), {}
    for name, recipe in RECIPES.items():
        began = time.perf_counter()
        rows = blocks[: recipe.copies * len(seen)]
        estimator = recipe.estimator()
        with warnings.catch_warnings():
            # The training stops early on purpose, and a pixel that is never inked has no variance.
            warnings.simplefilter("ignore")
            estimator.fit(rows, np.tile(labels[:-HELD_BACK], recipe.copies))
        accuracies[name] = round(float(np.mean(estimator.predict(test) == labels[-HELD_BACK:])), 4)
        write_model(repository, name, estimator)
        took = time.perf_counter() - began
        say(f"{name}: {accuracies[name]:.1%} of {HELD_BACK} unseen digits, {took:.1f} s")
    stamp = {"fingerprint": fingerprint(), "scikit-learn": sklearn.__version__, "accuracy": accuracies}
    (repository / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Command line: `python train.py REPOSITORY`."""
    parser = argparse.ArgumentParser(description="Train the demo's digit classifiers.")
    parser.add_argument("repository", type=Path, help="folder to write the models into")
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    if is_trained(options.repository):
        say(f"{options.repository} is up to date")
    else:
        train(options.repository, say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
