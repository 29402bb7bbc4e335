"""The samples of a run on own data: without a test split, and what a run refuses before it begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from alignprune.cli import main


def numbers(folder: Path) -> str:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    np.savez(folder / "own.npz", x_train=rng.normal(size=(60, 4)), y_train=y)
    return str(folder / "own.npz")


def rows(folder: Path) -> str:
    rng = np.random.default_rng(0)
    columns = {"label": [f"c{i % 3}" for i in range(60)], "a": rng.normal(size=60), "b": rng.normal(size=60)}
    pd.DataFrame(columns).to_csv(folder / "own.csv", index=False)
    return str(folder / "own.csv")


def images(folder: Path) -> str:
    for i in range(60):
        (folder / "own" / f"c{i % 3}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (4 * i, 0, 0)).save(folder / "own" / f"c{i % 3}" / f"{i}.png")
    return str(folder / "own")


FORMS = pytest.mark.parametrize("make", [numbers, rows, images])


@FORMS
def test_own_data_without_a_test_split_is_judged_by_what_is_held_out(
    make: Callable[[Path], str], tmp_path: Path
) -> None:
    words = ["--method", "infobatch", "--epochs", "2", "--device", "cpu", "--holdout", "0.25"]
    photos = ["--image-size", "16", "--model", "resnet-tiny"] if make is images else []
    assert main(["train", make(tmp_path), *words, *photos, "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["evaluated_on"], result["train_size"]) == ("holdout", 45)
    assert 0 <= result["accuracy"] <= 1


@FORMS
def test_without_a_test_split_and_a_holdout_nothing_begins(
    make: Callable[[Path], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--method", "small-loss", "--prune-ratio", "0.5", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(["train", make(tmp_path), *words]) == 2
    said = capsys.readouterr().err
    assert "has no test samples, expected something to judge the run by" in said
    assert "--holdout 0.1" in said
    assert not list(tmp_path.glob("run*"))


def test_texts_are_refused_before_anything_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"text": ["a", "b"] * 30, "label": ["x", "y"] * 30}).to_csv(tmp_path / "own.csv", index=False)
    words = ["--method", "full", "--holdout", "0.1", "--out", str(tmp_path / "run")]
    assert main(["train", str(tmp_path / "own.csv"), *words]) == 2
    assert "holds texts, expected a way to turn them into vectors: --features tfidf" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("make", [numbers, rows])
def test_a_size_is_refused_for_what_is_no_photo(
    make: Callable[[Path], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--method", "full", "--holdout", "0.1", "--image-size", "16", "--out", str(tmp_path / "run")]
    assert main(["train", make(tmp_path), *words]) == 2
    assert "whose samples have a size of their own, expected photos, CIFAR, or" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
