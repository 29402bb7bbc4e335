"""Each kind of file that users give, damaged: the command line says so in one line that names it, and ends with 2."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from alignprune.bench.files import write_record
from alignprune.bench.run.folder import RESULT_KIND
from alignprune.cli import main
from alignprune.coresets import Proxy
from mutation import FOREIGN, check_line, hostile

N = 40


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set of each kind, and a run on each that `alignprune predict` takes."""
    folder = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 3)), np.arange(N) % 2
    np.savez(
        folder / "own.npz", x_train=x, y_train=y, x_test=x[:8] + 1, y_test=y[:8], x_reference=x[:12], y_reference=y[:12]
    )
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "label": y, "split": ["train"] * 30 + ["test"] * 10})
    frame.to_csv(folder / "own.csv", index=False)
    frame.to_csv(folder / "own.tsv", index=False, sep="\t")
    frame.to_parquet(folder / "own.parquet", index=False)
    pd.DataFrame({"text": [f"a cat {i}" for i in range(N)], "label": y}).to_csv(folder / "texts.csv", index=False)
    for part, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            (folder / "photos" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / part / name / f"{i}.png")
    words = ["--method", "full", "--recipe.epochs", "1", "--device", "cpu"]
    assert main(["train", str(folder / "own.csv"), *words, "--out", str(folder / "run")]) == 0
    photos = ["--image-size", "8", "--model", "resnet-tiny"]
    assert main(["train", str(folder / "photos"), *words, *photos, "--out", str(folder / "photo-run")]) == 0
    from_labels = Proxy(
        labels=torch.from_numpy(y),
        num_classes=2,
        logits=torch.zeros(N, 2),
        features=torch.zeros(N, 4),
        label_probabilities=torch.zeros(3, N),
        correct=torch.zeros(3, N, dtype=torch.bool),
        error_norms=torch.zeros(2, N),
        feature_norms=torch.zeros(2, N),
    )
    (folder / "proxy").mkdir()
    from_labels.save(folder / "proxy/proxy.npz")
    passes = {"forward_passes": 1, "collect_forward_passes": 1}
    write_record(folder / "proxy/result.json", RESULT_KIND, passes)
    columns = {"label": y.tolist(), "text": [f"a cat {i}" for i in range(N)]}
    features = datasets.Features({"label": datasets.ClassLabel(names=["cat", "dog"]), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(folder / "saved"))
    return folder


@pytest.fixture
def given(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `sound` to damage, as the current folder; the cache is empty."""
    monkeypatch.setenv("ALIGNPRUNE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(sound, tmp_path / "given")
    monkeypatch.chdir(tmp_path / "given")
    return tmp_path / "given"


def refused(words: list[str], file: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says of a mistake: one line that names the file, and nothing else."""
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    check_line(said[:-1], file)
    return said


# Each is (name of the file, words of the command that reads it).
TRAIN = ["--device", "cpu", "--recipe.epochs", "1", "--out", "out"]
PHOTOS = ["train", "photos", "--method", "full", "--image-size", "8", "--model", "resnet-tiny", *TRAIN]
CORESET = ["train", "own.npz", "--prune-ratio", "0.5", "--proxy", "proxy", *TRAIN, "--method"]
PRETRAINED = ["train", "photos", "--method", "full", "--features", "pretrained", "--image-size", "160", *TRAIN]
FILES = {
    "npz": ("own.npz", ["train", "own.npz", *TRAIN]),
    "csv": ("own.csv", ["train", "own.csv", *TRAIN]),
    "tsv": ("own.tsv", ["train", "own.tsv", *TRAIN]),
    "parquet": ("own.parquet", ["train", "own.parquet", *TRAIN]),
    "check": ("own.parquet", ["data", "check", "own.parquet"]),
    "audit": ("own.csv", ["audit", "own.csv", "--out", "out"]),
    "predict npz": ("new.npz", ["predict", "run", "new.npz", "--out", "out.csv"]),
    "predict csv": ("new.csv", ["predict", "run", "new.csv", "--out", "out.csv"]),
    "predict parquet": ("new.parquet", ["predict", "run", "new.parquet", "--out", "out.csv"]),
    "predict image": ("new.png", ["predict", "photo-run", "new.png", "--out", "out.csv"]),
    "image": ("photos/train/cat/3.png", PHOTOS),
    "reference npy": ("trusted.npy", ["train", "own.npz", "--reference", "trusted.npy", *TRAIN]),
    "reference pt": ("trusted.pt", ["train", "own.npz", "--reference", "trusted.pt", *TRAIN]),
    "reference txt": ("trusted.txt", ["train", "own.npz", "--reference", "trusted.txt", *TRAIN]),
    "weights pt": ("start.pt", ["train", "own.npz", "--weights", "start.pt", *TRAIN]),
    "weights safetensors": ("start.safetensors", ["train", "own.npz", "--weights", "start.safetensors", *TRAIN]),
    "labels": ("decisions.csv", ["train", "own.npz", "--labels", "decisions.csv", *TRAIN]),
    "config": ("config.json", ["train", "--config", "config.json", *TRAIN]),
    "base run": (
        "base/result.json",
        ["train", "own.npz", "--method", "infobatch", "--prune-ratio", "0.5", "--base-run", "base", *TRAIN],
    ),
    "proxy": ("proxy/proxy.npz", [*CORESET, "moderate"]),
    "proxy's result": ("proxy/result.json", [*CORESET, "moderate"]),
    "self-supervised": (
        "features.pt",
        [*CORESET, "ssp", "--coreset.features", "self-supervised", "--self-supervised", "features.pt"],
    ),
    "feature weights": ("net.pth", [*PRETRAINED, "--feature-weights", "net.pth", "--feature-model", "test_vit"]),
    "documents": ("20news-bydate_py3.pkz", ["train", "news20", "--data-root", ".", *TRAIN]),
    "list of images": ("clothing1m/noisy_label_kv.txt", ["train", "clothing1m", "--data-root", ".", *TRAIN]),
}


def prepare(kind: str, given: Path) -> Path:
    """What the command needs beside the file, and the file's place."""
    file = given / FILES[kind][0]
    file.parent.mkdir(exist_ok=True)
    if kind == "list of images":
        for name in ("noisy_train_key_list", "clean_val_key_list", "clean_test_key_list", "clean_label_kv"):
            (file.parent / f"{name}.txt").write_text("a.jpg 3\n")
    return file


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_refused_in_one_line(kind: str, given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, marker = prepare(kind, given), given / "marker"
    harm = hostile(marker)
    for content in (FOREIGN["zeros"], harm["torch.save"], harm["arrays of objects"]):
        file.write_bytes(content)
        said = refused(FILES[kind][1], file, capsys)
        assert "weights_only" not in said  # what torch advises to run it by
        assert not marker.exists()
        assert not (given / "out.csv").exists()
        if kind == "image":  # is opened when its batch is
            shutil.rmtree(given / "out")
        assert not (given / "out").exists()


def test_an_image_that_a_process_of_the_loader_finds_damaged_is_refused_in_one_line(
    given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = given / "photos/train/dog/4.png"
    file.write_bytes(file.read_bytes()[:-30])
    said = refused([*PHOTOS, "--workers", "1"], file, capsys)
    assert said.startswith("error: file='photos/train/dog/4.png' cannot be read")


@pytest.mark.parametrize("words", [["train", "hf:saved", "--features", "tfidf", *TRAIN], ["data", "check", "hf:saved"]])
def test_a_damaged_hugging_face_data_set_is_refused_in_one_line(
    words: list[str], given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in sorted((given / "saved").iterdir()):
        whole = file.read_bytes()
        for content in (FOREIGN["zeros"], hostile(given / "marker")["a pickle"], whole[: len(whole) // 2]):
            file.write_bytes(content)
            refused(words, given / "saved", capsys)
        file.write_bytes(whole)
    assert not (given / "marker").exists()
    assert main(["data", "check", "hf:saved"]) == 0


def test_a_sentence_model_whose_classes_are_its_own_is_refused_in_one_line(
    given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sentence_transformers", reason="the extra sentences is not installed")
    (given / "model").mkdir()
    (given / "model/harm.py").write_text(f"open({str(given / 'marker')!r}, 'w')\nclass Harm:\n    pass\n")
    words = ["train", "texts.csv", "--holdout", "0.2", "--method", "full", "--features", "sentences", *TRAIN]
    for content in ("\0", "[]", "[3]", '[{"idx": 0, "name": "0", "path": "", "type": "harm.Harm"}]'):
        (given / "model/modules.json").write_text(content)
        refused([*words, "--sentence-model", "model"], given / "model", capsys)
    assert not (given / "marker").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"network": 3},
        {"network": None},
        {"input_shape": "ab"},
        {"input_shape": [-1]},
        {"class_names": None},
        {"class_names": ["cat"]},
        {"preparation": []},
        {"preparation": {"raw": "features"}},
        {"preparation": {"raw": "features", "shape": [2], "names": None, "steps": [{"kind": "features", "mean": "a"}]}},
        {"preparation": {"raw": "features", "shape": [2], "names": None, "steps": 3}},
    ],
)
def test_a_record_of_a_model_that_makes_no_sense_is_refused_in_one_line(
    change: dict[str, object], given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = given / "run/model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    refused(["predict", "run", "own.csv", "--out", "out.csv"], given / "run", capsys)


# -- names that are no text, and text that is no line --------------------------------------------------------


def test_names_of_files_that_are_no_text_break_neither_a_check_nor_a_prediction(
    given: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(given / "photos/test/cat/0.png", given / "photos/test/cat" / name)
    (given / "photos/test/dog" / name).write_bytes(b"")
    with open(given / "printed", "w", encoding="utf-8", errors="strict") as strict:  # as a terminal in UTF-8 is
        monkeypatch.setattr(sys, "stdout", strict)
        assert main(["data", "check", "photos"]) == 1
        (given / "photos/test/dog" / name).unlink()
        assert main(["predict", "photo-run", "photos/test", "--out", "out.csv"]) == 0
    assert "test/dog/caf\\udce9.png: is empty" in (given / "printed").read_text()
    assert "cat/caf\ufffd.png" in pd.read_csv(given / "out.csv")["id"].tolist()


def test_a_cell_that_would_move_the_cursor_is_printed_as_what_it_is(
    given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (given / "own.csv").write_text('label,a,split\ncat,1,train\ndog,2,"\x1b[2J\ntest"\n')
    said = refused(["train", "own.csv", *TRAIN], given / "own.csv", capsys)
    assert r"says '\x1b[2J\ntest' in row=1" in said
