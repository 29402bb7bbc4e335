"""Runs on fixed vectors: what the options stand for, what is refused, and what the model of such a run predicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image

from alignprune.bench import commands, load_model
from alignprune.bench.data import image_folder
from alignprune.bench.data.embedding import TimmEmbedder, embedded
from alignprune.bench.parsing import parse_train
from alignprune.bench.run import data, prediction
from alignprune.bench.run.config import configure
from alignprune.bench.run.prediction import Predictions
from alignprune.errors import MissingFile, TypeMistake, ValueMistake

MODEL, WIDTH = "test_efficientnet", 256


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


# -------------------------------------------------------------------------- the model that such a run leaves


def trained(dataset: str | Path, out: Path, **settings: object) -> float:
    """Train a few epochs, so that the classes are not told apart without a fault; the accuracy on the test samples."""
    small = {"method": "full", "device": "cpu", "recipe.epochs": 2, "recipe.batch_size": 16}
    return float(commands.train(configure({**small, "dataset": str(dataset), "out": str(out), **settings}))["accuracy"])


def predicted(run: Path, data: str | Path) -> Predictions:
    return prediction.predict(run, str(data), torch.device("cpu"))


@pytest.fixture
def anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Turns to an empty cache, so that nothing comes from the run's own vectors."""

    def turn() -> None:
        monkeypatch.setenv("ALIGNPRUNE_CACHE", str(tmp_path / "anew"))

    return turn


def grey(photos: Path) -> None:
    """Takes the colour from most photos, so that some are predicted wrong."""
    for i, file in enumerate(sorted(photos.rglob("*.png"))):
        if i % 4:
            Image.open(file).convert("L").convert("RGB").save(file)


def test_a_run_on_features_of_photos_predicts_files_folders_tables_and_hugging_face(
    photos: Path, weights: Path, tmp_path: Path, anew: Callable[[], None]
) -> None:
    grey(photos)
    own = {"features": "pretrained", "feature_weights": str(weights), "feature_model": MODEL}
    accuracy = trained(photos, tmp_path / "run", **own)
    assert 0 < accuracy < 1
    again = predicted(tmp_path / "run", photos / "test")
    anew()
    whole = predicted(tmp_path / "run", photos / "test")
    assert whole.accuracy == again.accuracy == accuracy
    files = [f"photos/test/{name}" for name in whole.ids]
    pd.DataFrame({"path": files, "label": whole.given}).to_csv(tmp_path / "files.csv", index=False)
    pictures = {"photo": [str(tmp_path / file) for file in files], "kind": [str(name) for name in whole.given]}
    names = datasets.ClassLabel(names=["red", "green", "blue"])
    table = datasets.Dataset.from_dict(pictures, datasets.Features({"photo": datasets.Image(), "kind": names}))
    table.save_to_disk(str(tmp_path / "saved"))
    for source in (tmp_path / "files.csv", f"hf:{tmp_path / 'saved'}"):
        found = predicted(tmp_path / "run", source)
        assert (found.labels, found.given, found.accuracy) == (whole.labels, whole.given, accuracy)
    one = predicted(tmp_path / "run", photos / "test" / whole.ids[7])
    assert (one.labels, one.ids) == ([whole.labels[7]], [Path(whole.ids[7]).name])
    assert one.confidences == pytest.approx([whole.confidences[7]], rel=1e-4)

    model, class_names, preparation = load_model(tmp_path / "run")
    opened = [Image.open(photos / "test" / name).convert("RGB") for name in whole.ids]
    sample = preparation.build()(opened[7])
    assert (sample.dtype, sample.shape) == (torch.float32, (WIDTH,))
    torch.testing.assert_close(preparation.build()(opened)[7], sample, atol=1e-3, rtol=0)
    with torch.no_grad():
        confidence, label = model(sample[None]).softmax(1).max(1)
    assert class_names[label] == whole.labels[7]
    assert confidence.item() == pytest.approx(whole.confidences[7], rel=1e-3)


def test_a_run_on_features_of_image_arrays_predicts_arrays_and_images_of_that_size(
    weights: Path, tmp_path: Path, anew: Callable[[], None]
) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = rng.integers(0, 200, (120, 36, 40, 3), dtype=np.uint8)
    x[np.arange(120), :, :, y] += rng.integers(0, 55, (120, 1, 1), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x_train=x[:80], y_train=y[:80], x_test=x[80:], y_test=y[80:])
    own = {"features": "pretrained", "feature_weights": str(weights), "feature_model": MODEL, "image_size": 32}
    accuracy = trained(tmp_path / "own.npz", tmp_path / "run", **own)
    anew()
    whole = predicted(tmp_path / "run", tmp_path / "own.npz")
    assert 0 < accuracy < 1
    assert whole.accuracy == accuracy
    (tmp_path / "images").mkdir()
    for i, image in enumerate(x[80:]):
        Image.fromarray(image).save(tmp_path / "images" / f"{i:02}.png")
    assert predicted(tmp_path / "run", tmp_path / "images").labels == whole.labels
    build = load_model(tmp_path / "run")[2].build()
    pixels = torch.from_numpy(x[80:]).permute(0, 3, 1, 2)
    torch.testing.assert_close(build(pixels[3]), build(pixels)[3], atol=1e-3, rtol=0)
    Image.new("RGB", (60, 50)).save(tmp_path / "images" / "other.png")
    with pytest.raises(ValueMistake, match="is an image of 60 x 50 pixels in mode RGB, expected 40 x 36"):
        predicted(tmp_path / "run", tmp_path / "images")


def texts(folder: Path) -> pd.DataFrame:
    """Rows of three classes, whose words overlap; every fourth is a test row."""
    rng = np.random.default_rng(0)
    own, shared = (["red", "apple"], ["green", "grass"], ["blue", "sky"]), ["the", "colour", "of", "a", "cat", "is"]
    rows = []
    for i in range(160):
        words = [*rng.choice(shared, 6), *rng.choice(own[i % 3], 1), *rng.choice(np.concatenate(own), 2)]
        text = f'"{" ".join(rng.permutation(words))}",\nsaid no. {i}'
        rows.append({"text": text, "label": f"c{i % 3}", "split": "test" if i % 4 == 0 else "train", "id": f"00{i}"})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("features", ["tfidf", "sentences"])
def test_a_run_on_features_of_texts_predicts_tables_and_hugging_face(
    features: str, tmp_path: Path, anew: Callable[[], None], request: pytest.FixtureRequest
) -> None:
    own = {"features": features}
    if features == "sentences":
        own["sentence_model"] = str(request.getfixturevalue("sentence_model"))
    frame = texts(tmp_path)
    frame.to_csv(tmp_path / "own.csv", index=False)
    accuracy = trained(tmp_path / "own.csv", tmp_path / "run", **own)
    assert 0 < accuracy < 1
    anew()
    whole = predicted(tmp_path / "run", tmp_path / "own.csv")
    tested = frame[frame.split == "test"]
    assert (whole.accuracy, whole.known, list(whole.ids)) == (accuracy, 40, tested.id.tolist())
    tested.rename(columns={"text": "said", "label": "kind"}).to_csv(tmp_path / "other.tsv", sep="\t", index=False)
    tested.drop(columns="split").to_parquet(tmp_path / "own.parquet")
    columns = {name: tested[name].tolist() for name in ("text", "label")}
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "saved"))
    for source in ("other.tsv?text=said&label=kind", "own.parquet", "saved"):
        found = predicted(tmp_path / "run", f"{'hf:' if source == 'saved' else ''}{tmp_path / source}")
        assert (found.labels, found.given, found.accuracy) == (whole.labels, whole.given, accuracy)

    model, class_names, preparation = load_model(tmp_path / "run")
    build = preparation.build()
    first = build(tested.text.iloc[0])
    assert first.ndim == 1
    torch.testing.assert_close(build(tested.text.tolist())[0], first, atol=1e-4, rtol=0)
    with torch.no_grad():
        assert [class_names[i] for i in model(build(tested.text.tolist())).argmax(1)] == whole.labels


def test_texts_for_a_run_on_other_samples_and_the_other_way_round_are_refused(photos: Path, tmp_path: Path) -> None:
    texts(tmp_path).to_csv(tmp_path / "own.csv", index=False)
    trained(tmp_path / "own.csv", tmp_path / "run", features="tfidf")
    expected = "expected texts in a column text of a table or a Hugging Face data set"
    for source, said in ((photos / "test", "data is a folder of images"), (tmp_path / "a.csv", "has the columns a")):
        (tmp_path / "a.csv").write_text("a\n1\n")
        with pytest.raises(ValueMistake, match=f"{said}.*{expected}"):
            predicted(tmp_path / "run", source)


def test_other_weights_than_those_of_the_run_are_refused(photos: Path, weights: Path, tmp_path: Path) -> None:
    own = {"features": "pretrained", "feature_weights": str(weights), "feature_model": MODEL}
    trained(photos, tmp_path / "run", **own)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save(timm.create_model(MODEL).state_dict(), weights)
    with pytest.raises(ValueMistake, match="have the SHA-256 .* give the file that was used"):
        predicted(tmp_path / "run", photos / "test")
    weights.unlink()
    with pytest.raises(MissingFile, match="is not there, expected the weights of"):
        predicted(tmp_path / "run", photos / "test")


def test_the_files_of_two_runs_do_not_go_together(photos: Path, weights: Path, tmp_path: Path) -> None:
    trained(photos, tmp_path / "run", features="pretrained", feature_weights=str(weights), feature_model=MODEL)
    texts(tmp_path).to_csv(tmp_path / "own.csv", index=False)
    trained(tmp_path / "own.csv", tmp_path / "other", features="tfidf")
    for name in ("embedder.json", "embedder.npz"):
        (tmp_path / "other" / name).replace(tmp_path / "run" / name)
    with pytest.raises(ValueMistake, match="of the kind 'tfidf', expected 'timm'"):
        predicted(tmp_path / "run", photos / "test")
