from __future__ import annotations

import json

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_digits

from xds_server.demo import train
from xds_server.demo.models import MODELS
from xds_server.demo.payload import read_tensor, seed_request


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The seed's two models, trained once."""
    folder = tmp_path_factory.mktemp("models")
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "RECIPES", {name: train.RECIPES[name] for name in ("sklearn-mnist", "tf-mnist")})
        train.train(folder, said.append)
    assert len(said) == 2
    return folder


def test_the_seeds_digit_is_read_as_a_five(repository):
    estimator = joblib.load(repository / "tf-mnist" / "model.joblib")
    pixels = np.array([read_tensor(seed_request())[1]], dtype=np.float32)
    assert int(estimator.predict(pixels)[0]) == 5


def test_the_models_read_digits_that_they_have_not_seen(repository):
    accuracy = json.loads((repository / train.STAMP).read_text())["accuracy"]
    assert accuracy["tf-mnist"] > 0.75
    assert accuracy["sklearn-mnist"] > 0.75


def test_mlserver_finds_its_settings(repository):
    settings = json.loads((repository / "tf-mnist" / "model-settings.json").read_text())
    assert settings["implementation"] == "mlserver_sklearn.SKLearnModel"
    assert (repository / "tf-mnist" / settings["parameters"]["uri"]).exists()


def test_what_is_trained_is_not_trained_again_until_the_training_changes(repository, monkeypatch, tmp_path):
    assert train.is_trained(repository)
    assert not train.is_trained(tmp_path)
    monkeypatch.setattr(train.sklearn, "__version__", "0.0")
    assert not train.is_trained(repository)


def test_images_are_mnist_like_and_the_same_every_time():
    digits = load_digits().images[:5]
    images = train.images(digits, 3, seed=1)
    assert images.shape == (15, 784)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert np.array_equal(images, train.images(digits, 3, seed=1))
    assert not np.array_equal(images[:5], images[5:10])


def test_the_names_are_those_that_are_trained():
    assert tuple(train.RECIPES) == MODELS
