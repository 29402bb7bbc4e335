"""Own data from folders of image files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from alignprune.bench.data import ClassificationData, image_folder, load

Items = Callable[[Dataset], tuple[torch.Tensor, list[int]]]
Check = Callable[[ClassificationData], None]


def test_a_folder_gives_its_classes_in_order(folder: Path, check_consistent: Check) -> None:
    data = load(folder, image_size=16)
    check_consistent(data)
    assert data.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert (data.num_classes, data.input_shape, data.name) == (3, (3, 16, 16), folder.name)
    assert (data.clean_eval, data.noise, data.reference) == (None, None, None)


def test_a_folder_with_added_noise_knows_the_truth(folder: Path, check_consistent: Check) -> None:
    data = image_folder(folder, "symmetric", 0.5, 0, 16)
    check_consistent(data)
    assert data.clean_eval is not None
    assert data.noise is not None
    assert data.noise.noise_rate == 0.5


def test_val_stands_in_for_test_and_may_lack_classes(folder: Path, items: Items) -> None:
    (folder / "test").rename(folder / "val")
    for file in (folder / "val" / "ant").iterdir():
        file.unlink()
    (folder / "val" / "ant").rmdir()
    assert items(load(folder, image_size=16).test)[1] == [1, 1, 2, 2]


def test_a_reference_folder_keeps_the_class_ids_of_train(folder: Path, items: Items) -> None:
    (folder / "reference").mkdir()
    (folder / "test" / "cat").rename(folder / "reference" / "cat")
    data = load(folder, image_size=16)
    assert data.reference is not None
    assert items(data.reference)[1] == [2, 2]


def test_a_reference_folder_with_a_copy_of_a_test_image_is_refused(folder: Path) -> None:
    (folder / "reference" / "cat").mkdir(parents=True)
    copied, own = sorted((folder / "test" / "cat").iterdir())[0], sorted((folder / "train" / "cat").iterdir())[0]
    (folder / "reference" / "cat" / "other_name.png").write_bytes(copied.read_bytes())
    (folder / "reference" / "cat" / "own.png").write_bytes(own.read_bytes())
    with pytest.raises(ValueError, match=r"1 of its 2 samples in the test set, too .*other_name\.png"):
        load(folder, image_size=16)


def test_a_corrupt_image_names_its_file(folder: Path) -> None:
    file = folder / "train" / "bee" / "3.png"
    file.write_bytes(file.read_bytes()[:200])
    data = load(folder, image_size=16)
    with pytest.raises(ValueError, match=r"file='.*bee.3\.png' cannot be read .*replace or remove"):
        data.train[9]


def test_a_wrong_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="image_size=0 is out of range"):
        image_folder(folder, image_size=0)
    (folder / "test" / "cat").rename(folder / "test" / "cow")
    with pytest.raises(ValueError, match=r"holds the classes cow, which train/ does not have, .*ant, bee, cat"):
        load(folder)
    (folder / "test").rename(folder / "other")
    with pytest.raises(FileNotFoundError, match=r"test' is not there, expected train/CLASS/"):
        load(folder)
