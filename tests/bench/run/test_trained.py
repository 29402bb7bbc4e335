"""The model that a finished run leaves: it says of its test set what the run said, and reads what it was trained on."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from alignprune.bench import load_model
from alignprune.bench.files import read_record, write_record
from alignprune.bench.run.config import TrainConfig, configure
from alignprune.bench.run.trained import RECORD_KIND
from alignprune.bench.run.training import train
from alignprune.cli import main

DOCS = Path(__file__).parents[3] / "docs/runs.md"
SMALL = {"method": "robust", "recipe.epochs": 2, "recipe.batch_size": 16, "recipe.lr": 0.02, "device": "cpu"}


def run(dataset: Path, out: Path, **settings: Any) -> dict[str, Any]:
    return train(config(dataset, out, **settings))


def config(dataset: Path, out: Path, **settings: Any) -> TrainConfig:
    return configure({**SMALL, "dataset": str(dataset), "out": str(out), **settings})


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on features of three overlapping classes, and its data beside it."""
    place = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    x = (100 + 20 * rng.normal(size=(3, 4))[y] + 25 * rng.normal(size=(200, 4))).astype(np.float32)
    np.savez(place / "own.npz", x_train=x[:120], y_train=y[:120], x_test=x[120:], y_test=y[120:])
    run(place / "own.npz", place / "run")
    return place


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on small grey images, and its data beside it."""
    place = tmp_path_factory.mktemp("pixels")
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = rng.integers(0, 120, (90, 9, 12), dtype=np.uint8)  # narrower, and bf16 convolutions may be wrong in oneDNN
    for image, label in zip(x, y, strict=True):
        image[3 * label : 3 * label + 3] += 40
    np.savez(place / "own.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    run(place / "own.npz", place / "run", model="resnet-tiny", precision="bf16")
    return place


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a folder of photos of different sizes, and the folder beside it."""
    place = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 7)):
        for label, name in enumerate(("ant", "bee", "cat")):
            (place / "photos" / part / name).mkdir(parents=True)
            for i in range(count):
                picture = rng.integers(0, 180, (40 + i, 50, 3), dtype=np.uint8)
                picture[..., label] += 60
                Image.fromarray(picture).save(place / "photos" / part / name / f"{i}.png")
    run(place / "photos", place / "runs/photos", image_size=32, model="resnet10t")
    return place


def predicted(place: Path, data: str, out: Path, name: str = "run") -> list[dict[str, str]]:
    assert main(["predict", str(place / name), data, "--out", str(out), "--device", "cpu"]) == 0
    with open(out, newline="") as file:
        return list(csv.DictReader(file))


def share_right(rows: list[dict[str, str]]) -> float:
    return sum(row["predicted_label"] == row["given_label"] for row in rows) / len(rows)


def test_the_accuracy_on_the_test_arrays_is_that_of_the_run(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads((features / "run/result.json").read_text())
    rows = predicted(features, str(features / "own.npz"), tmp_path / "out.csv")
    assert [row["id"] for row in rows] == [str(i) for i in range(80)]
    assert share_right(rows) == result["accuracy"] < 1
    said = capsys.readouterr().out
    assert "80 samples (the array x_test)" in said
    assert f"accuracy {result['accuracy']:.2%} by the given labels of 80 samples" in said


@pytest.mark.parametrize("kind", ["pixels", "photos"])
def test_the_accuracy_on_the_test_images_is_that_of_the_run(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = request.getfixturevalue(kind)
    name, data = {"pixels": ("run", "own.npz"), "photos": ("runs/photos", "photos/test")}[kind]
    rows = predicted(place, str(place / data), tmp_path / "out.csv", name)
    assert share_right(rows) == json.loads((place / name / "result.json").read_text())["accuracy"]


def test_the_confidence_is_the_probability_of_the_predicted_class(features: Path, tmp_path: Path) -> None:
    model, class_names, preparation = load_model(features / "run")
    x = np.load(features / "own.npz")["x_test"]
    weights = {name: value.double().numpy() for name, value in load_file(features / "run/model.safetensors").items()}
    train_x = np.load(features / "own.npz")["x_train"].astype(np.float64)
    hidden = (x - train_x.mean(0)) / train_x.std(0)
    for layer in ("body.0", "body.2"):
        hidden = np.maximum(hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"], 0)
    logits = hidden @ weights["fc.weight"].T + weights["fc.bias"]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = predicted(features, str(features / "own.npz"), tmp_path / "out.csv")
    np.testing.assert_allclose([float(row["confidence"]) for row in rows], probabilities.max(1), rtol=1e-4)
    assert [row["predicted_label"] for row in rows] == [class_names[i] for i in probabilities.argmax(1)]
    with torch.no_grad():
        np.testing.assert_allclose(model(preparation.build()(torch.from_numpy(x))).numpy(), logits, atol=1e-4)


def test_labels_are_not_needed(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "new.npz", x=np.load(features / "own.npz")["x_test"])
    rows = predicted(features, str(tmp_path / "new.npz"), tmp_path / "out.csv")
    assert set(rows[0]) == {"id", "predicted_label", "confidence"}
    assert "accuracy" not in capsys.readouterr().out
    with_labels = predicted(features, str(features / "own.npz"), tmp_path / "labelled.csv")
    assert [row["confidence"] for row in rows] == [row["confidence"] for row in with_labels]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_of_features_with_names_and_some_labels(
    suffix: str, features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = (np.load(features / "own.npz")[name] for name in ("x_test", "y_test"))
    labels = [None if i < 10 else "walrus" if i < 12 else str(label) for i, label in enumerate(y)]
    columns = {"id": [f"s{i}" for i in range(80)], **{f"f{i}": x[:, i] for i in range(4)}, "label": labels}
    write = pa.csv.write_csv if suffix == "csv" else pa.parquet.write_table
    write(pa.table(columns), tmp_path / f"new.{suffix}")
    rows = predicted(features, str(tmp_path / f"new.{suffix}"), tmp_path / "out.csv")
    plain = predicted(features, str(features / "own.npz"), tmp_path / "plain.csv")
    assert [row["id"] for row in rows] == columns["id"]
    assert [row["predicted_label"] for row in rows] == [row["predicted_label"] for row in plain]
    assert [row["given_label"] for row in rows] == [label or "" for label in labels]
    said = capsys.readouterr().out
    assert f"accuracy {share_right(rows[12:]):.2%} by the given labels of 68 samples" in said
    assert "2 samples have a given label that is no class of the model" in said


def test_the_table_can_be_parquet(features: Path, tmp_path: Path) -> None:
    words = ["predict", str(features / "run"), str(features / "own.npz"), "--device", "cpu", "--out"]
    assert main([*words, str(tmp_path / "out.parquet")]) == 0
    found = pa.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    rows = predicted(features, str(features / "own.npz"), tmp_path / "out.csv")
    assert found["predicted_label"] == [row["predicted_label"] for row in rows]
    np.testing.assert_allclose(found["confidence"], [float(row["confidence"]) for row in rows], rtol=1e-12)


def test_images_of_the_right_size_and_mode_are_read_by_a_run_on_arrays(pixels: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    images = np.load(pixels / "own.npz")["x_test"]
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "new" / f"{i:02}.png")
    rows = predicted(pixels, str(tmp_path / "new"), tmp_path / "out.csv")
    from_arrays = predicted(pixels, str(pixels / "own.npz"), tmp_path / "arrays.csv")
    # The batches lie otherwise in memory, which some processors answer with another order of sums in bf16.
    confidences = [[float(row["confidence"]) for row in found] for found in (rows, from_arrays)]
    np.testing.assert_allclose(*confidences, rtol=1e-2)
    assert [row["id"] for row in rows] == [f"{i:02}.png" for i in range(len(images))]


def test_photos_are_read_one_by_one_from_a_folder_a_table_and_hugging_face(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    whole = predicted(photos, str(photos / "photos/test"), tmp_path / "whole.csv", "runs/photos")
    by_id = {row["id"]: row for row in whole}
    one = predicted(photos, str(photos / "photos/test/bee/3.png"), tmp_path / "one.csv", "runs/photos")
    assert [(row["id"], row["predicted_label"]) for row in one] == [("3.png", by_id["bee/3.png"]["predicted_label"])]
    files = [f"../photos/test/{name}" for name in by_id]
    (photos / "tables").mkdir()
    pa.csv.write_csv(pa.table({"path": files}), photos / "tables/new.csv")
    table = predicted(photos, str(photos / "tables/new.csv"), tmp_path / "table.csv", "runs/photos")
    assert [row["id"] for row in table] == files
    columns = {
        "picture": [str(photos / "photos/test" / name) for name in by_id],
        "kind": [["cat", "bee", "ant"].index(name.split("/")[0]) for name in by_id],
    }
    kinds = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "bee", "ant"])})
    datasets.Dataset.from_dict(columns, kinds).save_to_disk(str(tmp_path / "saved"))
    capsys.readouterr()
    hub = predicted(photos, f"hf:{tmp_path / 'saved'}", tmp_path / "hub.csv", "runs/photos")
    for rows in (table, hub):
        assert [row["predicted_label"] for row in rows] == [row["predicted_label"] for row in whole]
    assert [row["given_label"] for row in hub] == [row["given_label"] for row in whole]


def test_what_is_no_image_is_counted_and_said(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "new/unsorted").mkdir(parents=True)
    Image.new("L", (60, 40)).save(tmp_path / "new/unsorted/grey.png")
    (tmp_path / "new/notes.txt").write_text("")
    with pytest.warns(UserWarning, match="holds 1 files that are no images and are not read, such as 'notes.txt'"):
        rows = predicted(photos, str(tmp_path / "new"), tmp_path / "out.csv", "runs/photos")
    assert [row["id"] for row in rows] == ["unsorted/grey.png"]
    assert "given_label" not in rows[0]


def make(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize(
    "kind, data, said",
    [
        (
            "features",
            lambda place: make(place / "a.npz", x=np.zeros((3, 5))),
            "x is float64 of shape (3, 5), expected 4",
        ),
        ("features", lambda place: make(place / "a.npz", x=np.zeros((3, 4, 4), "u1")), "expected 4 features a sample"),
        ("features", lambda place: make(place / "a.npz", x=np.full((3, 4), np.nan)), "x[0, 0]=nan is not finite"),
        ("features", lambda place: make(place / "a.npz", x=np.zeros((0, 4))), "expected one sample at least"),
        ("features", lambda place: make(place / "a.npz", x=np.zeros((3, 4)), y=[1]), "y has shape (1,), expected (3,)"),
        ("features", lambda place: make(place / "a.npz", z=np.zeros((3, 4))), "holds z, expected the array x"),
        ("features", lambda place: write(place / "a.csv", "a,b\n1,2\n"), "2 other columns beside id and label (a, b)"),
        ("features", lambda place: write(place / "a.csv", "a,b,c,d\n1,2,3,\n"), "column='d'"),
        ("features", lambda place: write(place / "a.csv", "path\ncat.png\n"), "data is a table of images, expected 4"),
        ("features", lambda place: write(place / "a.txt", ""), "ends in '.txt', expected an image"),
        ("features", lambda place: picture(place / "a.png", "RGB", (9, 9)), "data is an image, expected 4 features"),
        ("pixels", lambda place: make(place / "a.npz", x=np.zeros((3, 9, 12, 3), "u1")), "12 x 9 pixels and 1 channel"),
        ("pixels", lambda place: make(place / "a.npz", x=np.zeros((3, 4))), "expected images of 12 x 9 pixels"),
        ("pixels", lambda place: picture(place / "a.png", "RGB", (12, 9)), "in mode RGB, expected 12 x 9 in mode L"),
        ("pixels", lambda place: picture(place / "a.png", "L", (9, 12)), "of 9 x 12 pixels in mode L"),
        ("pixels", lambda place: write(place / "a.png", "nothing"), "a.png' cannot be read"),
        ("photos", lambda place: make(place / "a.npz", x=np.zeros((3, 4))), "expected photos as image files"),
        ("photos", lambda place: str(place), "holds no image"),
    ],
)
def test_other_data_than_the_run_was_trained_on_are_refused(
    kind: str, data: Any, said: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    place = request.getfixturevalue(kind)
    out = tmp_path / "out.csv"
    name = "runs/photos" if kind == "photos" else "run"
    (tmp_path / "data").mkdir()
    assert main(["predict", str(place / name), data(tmp_path / "data"), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert not out.exists()


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def picture(path: Path, mode: str, size: tuple[int, int]) -> str:
    Image.new(mode, size).save(path)
    return str(path)


def test_a_run_that_is_unfinished_or_has_no_model_is_refused(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    data, out = str(features / "own.npz"), str(tmp_path / "out.csv")
    for missing, said in (
        ("config.json", "is no run"),
        ("result.json", "is not finished, expected one that is: finish it with --resume"),
        ("model.json", "is without model.json"),
        ("model.safetensors", "is without model.safetensors"),
    ):
        copy = tmp_path / missing
        shutil.copytree(features / "run", copy)
        (copy / missing).unlink()
        assert main(["predict", str(copy), data, "--out", out]) == 2
        assert said in capsys.readouterr().err
    (copy / "model.safetensors").write_bytes(b"half of it")
    assert main(["predict", str(copy), data, "--out", out]) == 2
    assert "model.safetensors' is damaged" in capsys.readouterr().err
    write_record(copy / "model.json", replace(RECORD_KIND, version=9), read_record(copy / "model.json", RECORD_KIND))
    assert main(["predict", str(copy), data, "--out", out]) == 2
    assert "holds 'model' in version 9, expected 'model' in version 1" in capsys.readouterr().err


def test_predictions_overwrite_nothing(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.csv"
    out.write_text("mine")
    assert main(["predict", str(features / "run"), str(features / "own.npz"), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["predict", str(features / "run"), str(features / "own.npz"), "--out", str(tmp_path / "a.xlsx")]) == 2
    assert "suffix='.xlsx' is unknown, expected one of .csv, .parquet" in capsys.readouterr().err


def test_loading_a_model_moves_no_random_number(features: Path) -> None:
    before = torch.get_rng_state()
    load_model(features / "run")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_documented_ways_to_load_a_model_give_the_predicted_classes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "photos/test/bee/3.png"
    (row,) = predicted(photos, str(photos / name), tmp_path / "one.csv", "runs/photos")
    blocks = [code for code in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "bee.jpg" in code]
    ours, theirs = blocks[1:]  # the first one trains the run that they load
    assert "alignprune" not in theirs
    monkeypatch.chdir(photos)
    for code in (ours, theirs):
        scope: dict[str, Any] = {"Image": Image}
        exec(code.replace("bee.jpg", name), scope)
        label, confidence = scope["said"]
        assert label == row["predicted_label"]
        assert confidence == pytest.approx(float(row["confidence"]), rel=1e-5)
