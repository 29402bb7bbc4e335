"""Clothing-1M: keys and labels of the lists, clean reference and test set, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from alignprune.bench.data import ClassificationData, check, clothing1m, load

Items = Callable[[Dataset], tuple[torch.Tensor, list[int]]]
Check = Callable[[ClassificationData], None]

TRAINING = [f"images/0/{i:02d}/a.jpg" for i in range(20)]
VALIDATION = [f"images/1/{i:02d}/b.jpg" for i in range(5)]
TEST = [f"images/2/{i:02d}/c.jpg" for i in range(4)]


def write_list(file: Path, lines: list[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree whose lists of labels have another order than the keys, and more entries."""
    folder = tmp_path / "clothing1m"
    for i, name in enumerate(TRAINING + VALIDATION + TEST):
        (folder / name).parent.mkdir(parents=True)
        Image.fromarray(np.full((10, 8, 3), 8 * i, dtype=np.uint8)).save(folder / name)
    lists = folder / "annotations"
    lists.mkdir()
    write_list(lists / "noisy_train_key_list.txt", TRAINING)
    write_list(lists / "clean_val_key_list.txt", VALIDATION)
    write_list(lists / "clean_test_key_list.txt", TEST)
    noisy = {name: i % 14 for i, name in enumerate(TRAINING)} | dict.fromkeys(VALIDATION, 13)
    clean = {name: 5 + i for i, name in enumerate(VALIDATION + TEST)} | {TRAINING[0]: 12}
    write_list(lists / "noisy_label_kv.txt", [f"{name} {label}" for name, label in reversed(noisy.items())])
    write_list(lists / "clean_label_kv.txt", [f"{name} {label}" for name, label in reversed(clean.items())])
    return tmp_path


def test_training_has_the_noisy_labels_and_the_others_the_clean(
    root: Path, items: Items, check_consistent: Check
) -> None:
    data = load("clothing1m", root=root, image_size=8)
    check_consistent(data)
    assert data.labels.tolist() == [i % 14 for i in range(20)]
    assert data.reference is not None
    assert items(data.reference)[1] == [5, 6, 7, 8, 9]
    assert items(data.test)[1] == [10, 11, 12, 13]
    assert (data.num_classes, data.noise, data.clean_labels, data.clean_eval) == (14, None, None, None)


def test_each_image_is_the_one_of_its_key(root: Path, items: Items) -> None:
    data = clothing1m(root, 8)
    assert data.reference is not None
    red = torch.cat([items(view)[0][:, 0, 0, 0] for view in (data.train_eval, data.reference, data.test)])
    pixels = 255 * (0.229 * red + 0.485)  # undo the normalisation of the first channel
    assert (pixels - 8 * torch.arange(29)).abs().max() < 3  # what JPEG changes


def test_lists_beside_the_images_are_found_too(root: Path) -> None:
    for file in (root / "clothing1m/annotations").iterdir():
        file.rename(root / "clothing1m" / file.name)
    assert len(clothing1m(root, 8).labels) == 20
    (found,) = (status for status in check(root) if status.name == "clothing1m")
    assert (found.complete, found.missing) == (True, ())


def test_a_key_without_a_label_is_named(root: Path) -> None:
    with open(root / "clothing1m/annotations/clean_test_key_list.txt", "a") as file:
        file.write("\nimages/unknown.jpg\n")
    with pytest.raises(ValueError, match="clean_test_key_list.txt' names 'images/unknown.jpg' in line 6"):
        clothing1m(root, 8)


def test_a_label_out_of_range_names_its_entry(root: Path) -> None:
    with open(root / "clothing1m/annotations/noisy_label_kv.txt", "a") as file:
        file.write("images/x.jpg 14\n")
    with pytest.raises(ValueError, match=r"noisy_label_kv.txt' gives 'images/x.jpg' the class id 14 in line 26"):
        clothing1m(root, 8)


def test_an_empty_list_is_refused(root: Path) -> None:
    (root / "clothing1m/annotations/clean_val_key_list.txt").write_text("\n")
    with pytest.raises(ValueError, match="'.*clean_val_key_list.txt' lists no image"):
        clothing1m(root, 8)


def test_a_missing_image_is_found_early_or_named_when_it_is_loaded(root: Path) -> None:
    folder = root / "clothing1m"
    (folder / TRAINING[10]).unlink()
    data = clothing1m(root, 8)
    with pytest.raises(ValueError, match=r"file='.*images/0/10/a.jpg' cannot be read \(FileNotFoundError"):
        data.train[10]
    (folder / TRAINING[19]).unlink()
    with pytest.raises(FileNotFoundError, match="is without 'clothing1m/images/0/19/a.jpg'"):
        clothing1m(root, 8)


def test_a_missing_list_is_named(root: Path) -> None:
    (root / "clothing1m/annotations/clean_label_kv.txt").unlink()
    with pytest.raises(FileNotFoundError, match="is without 'clothing1m/annotations/clean_label_kv.txt', .*Xiao"):
        clothing1m(root, 8)
