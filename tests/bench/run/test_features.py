"""Runs on fixed vectors: what the options stand for, what is refused, and a run whose classes colours tell apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from alignprune.bench import commands
from alignprune.bench.data import image_folder
from alignprune.bench.data.embedding import TimmEmbedder, embedded
from alignprune.bench.run import data
from alignprune.bench.run.config import configure
from alignprune.cli import parse_train
from alignprune.errors import TypeMistake, ValueMistake

MODEL = "test_efficientnet"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNPRUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(timm.create_model(MODEL).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos of three classes, each mostly red, green or blue."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 5)):
        for colour, name in enumerate(("red", "green", "blue")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (50, 60, 3), dtype=np.uint8)
                pixels[..., colour] += 120
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_features_bring_the_recipe_of_features_unless_another_is_named() -> None:
    for features in ("pretrained", "sentences", "tfidf"):
        config = parse_train(["cifar100n", "--features", features])
        assert (config.data.features, config.recipe.name, config.model_for((4,))) == (features, "features", "mlp")
        settings = {"dataset": "cifar100n", "method": "infobatch+das", "features": features}
        assert configure(settings) == config
    assert parse_train(["--features=tfidf", "cifar100n", "--recipe", "sgd"]).recipe.name == "sgd"
    assert parse_train(["cifar100n", "--features", "none"]) == parse_train(["cifar100n"])
    for name in ("cifar100n-pretrained", "news20-sentences"):
        assert parse_train([name]).recipe.name == "features"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--features", "pretrain"], "features='pretrain' is unknown, .* did you mean 'pretrained'"),
        (
            ["--feature-weights", "a.pth"],
            "feature_weights='a.pth' is given with features='none', expected 'pretrained'",
        ),
        (["--features", "tfidf", "--sentence-model", "a"], "sentence_model='a' is given .*: add --features sentences"),
        (["--features", "sentences", "--feature-model", "resnet18"], "feature_model='resnet18' is given with"),
    ],
)
def test_options_that_do_not_go_with_the_features_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ValueMistake, match=said):
        parse_train(["cifar100n", *words])


def test_a_run_on_features_of_photos_learns_and_keeps_its_settings(photos: Path, weights: Path, tmp_path: Path) -> None:
    settings = {
        "dataset": str(photos),
        "method": "infobatch",
        "features": "pretrained",
        "feature_weights": str(weights),
        "feature_model": MODEL,
        "device": "cpu",
        "recipe.epochs": 8,
        "out": str(tmp_path / "run"),
    }
    result = commands.train(configure(settings))
    assert result["model"] == "mlp"
    assert result["accuracy"] == 1.0
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (stored["features"], stored["feature_weights"], stored["feature_model"]) == (
        "pretrained",
        str(weights),
        MODEL,
    )


def test_samples_are_thinned_out_and_held_out_before_they_are_embedded(photos: Path, weights: Path) -> None:
    settings = {"dataset": str(photos), "method": "full", "features": "pretrained", "image_size": 32}
    options = {"feature_weights": str(weights), "feature_model": MODEL, "limit": 30, "holdout": 0.2}
    loaded = data.load(configure(settings | options))
    assert (len(loaded.train), len(loaded.test), loaded.input_shape) == (24, 6, (256,))  # type: ignore[arg-type]
    values = torch.stack([loaded.train[i][0] for i in range(24)])
    assert values.mean(0).abs().max() < 1e-4  # by the samples that are left, the held out ones apart
    whole = embedded(image_folder(photos), TimmEmbedder(MODEL, weights, 32))
    assert len(whole.train) == 60  # type: ignore[arg-type]


def test_features_for_other_samples_are_refused(photos: Path) -> None:
    with pytest.raises(TypeMistake, match="samples=images are given, expected texts"):
        data.load(configure({"dataset": str(photos), "method": "full", "features": "tfidf"}))
