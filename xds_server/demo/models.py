"""The demo's models by name, for those who do not train them: `train.py` imports scikit-learn."""

from __future__ import annotations

MODELS = (
    "sklearn-mnist",
    "tf-mnist",
    "knn-mnist",
    "forest-mnist",
    "logistic-mnist",
    "bayes-mnist",
    "discriminant-mnist",
)
"""In the order of `train.RECIPES`, which a test holds equal to this."""
