"""Opening every sample of a data set: which are damaged, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Features
from datasets import Image as ImageType
from PIL import Image

from alignprune.bench.data import Damage, load, open_all
from alignprune.cli import main

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def damage(folder: Path) -> dict[str, str]:
    """Damage four images of a folder, each in its own way; the reasons that are to be given."""
    (folder / "train/ant/2.png").write_text(POINTER)
    whole = (folder / "train/cat/0.png").read_bytes()
    (folder / "train/cat/0.png").write_bytes(whole[: len(whole) // 2])
    (folder / "test/bee/1.png").write_text("<!DOCTYPE html>")
    (folder / "test/cat/0.png").write_bytes(b"")
    return {
        "train/ant/2.png": "is a pointer of Git LFS and not the file itself",
        "train/cat/0.png": "cannot be read (OSError: Truncated File Read",
        "test/bee/1.png": "is a web page (HTML) that was saved in its place",
        "test/cat/0.png": "is empty",
    }


@pytest.mark.parametrize("workers", [1, 3, None])
def test_damaged_images_of_a_folder_are_listed_with_their_reasons(folder: Path, workers: int | None) -> None:
    expected = damage(folder)
    seen: list[tuple[int, int]] = []
    report = open_all(load(folder), workers, lambda done, total: seen.append((done, total)))
    assert report.counts == {"train": 18, "test": 6}
    assert [found.sample for found in report.damaged] == list(expected)
    for found in report.damaged:
        assert found.reason.startswith(expected[found.sample])
    assert seen[-1] == (24, 24)


def test_more_samples_than_a_worker_opens_at_a_time_keep_their_order(tmp_path: Path) -> None:
    for i in range(150):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[i % 2] / f"{i:03d}.png").write_text(POINTER)
    Image.new("RGB", (3, 3)).save(tmp_path / "a" / "074.png")
    data = load(tmp_path)
    report = open_all(data, 4)
    assert [found.sample for found in report.damaged] == [name for name in data.ids or () if name != "a/074.png"]


def test_damaged_images_of_a_table_are_named_as_in_it(folder: Path) -> None:
    damage(folder)
    files = ["train/ant/0.png", "train/ant/2.png", "train/cat/0.png", "train/cat/1.png"]
    pd.DataFrame({"path": files, "label": ["a", "a", "b", "b"]}).to_csv(folder / "own.csv", index=False)
    report = open_all(load(folder / "own.csv"))
    assert [found.sample for found in report.damaged] == ["train/ant/2.png", "train/cat/0.png"]


def test_damaged_rows_of_hugging_face_are_counted_from_0(folder: Path) -> None:
    damage(folder)
    files = [folder / "test/ant/0.png", folder / "test/cat/0.png", folder / "test/bee/1.png"]
    photos = [{"bytes": file.read_bytes(), "path": None} for file in files]
    types = Features(photo=ImageType(), kind=ClassLabel(names=["a", "b"]))
    rows = datasets.Dataset.from_dict({"photo": photos, "kind": [0, 1, 0]}, features=types)
    datasets.DatasetDict(train=rows).save_to_disk(folder / "own")
    report = open_all(load(f"hf:{folder / 'own'}"))
    assert report.counts == {"train": 3}
    assert [found.sample for found in report.damaged] == ["row=1 of split train", "row=2 of split train"]
    assert report.damaged[1] == Damage("row=2 of split train", "is a web page (HTML) that was saved in its place")


def test_what_is_in_memory_has_been_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x_train=np.zeros((9, 4)), y_train=np.arange(9) % 3)
    report = open_all(load(tmp_path / "own.npz"))
    assert (report.counts, report.damaged) == ({"train": 9}, ())


def test_threads_are_counted_from_one(folder: Path) -> None:
    with pytest.raises(ValueError, match="workers=-1 is out of range"):
        open_all(load(folder), -1)


# -- the command -------------------------------------------------------------------------------------------


def test_the_command_lists_what_is_damaged_and_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(folder), "--workers", "2"]) == 0
    assert capsys.readouterr().out.strip() == f"{folder}: 0 of 24 samples damaged (18 train, 6 test)"
    expected = damage(folder)
    assert main(["data", "check", str(folder)]) == 1
    *lines, last = capsys.readouterr().out.strip().splitlines()
    for line, (file, reason) in zip(lines, expected.items(), strict=True):
        assert line.startswith(f"{file}: {reason}")
    assert last == f"{folder}: 4 of 24 samples damaged (18 train, 6 test)"


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda folder: folder / "nowhere.csv", "nowhere.csv' is not there"),
        (lambda folder: folder / "nowhere", "is unknown, expected one of cifar100n"),
    ],
)
def test_the_command_refuses_what_is_no_data_set(
    folder: Path, make: Callable[[Path], Path], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(make(folder))]) == 2
    assert told in capsys.readouterr().err
