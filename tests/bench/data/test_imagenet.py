"""ImageNet-1K: a thousand folders of classes, its noise, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alignprune.bench.data import check, imagenet, load


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand classes with one training and one test image each: two files under many names."""
    root = tmp_path_factory.mktemp("data")
    for split, brightness in (("train", 50), ("val", 200)):
        image = root / f"{split}.png"
        Image.fromarray(np.full((9, 12, 3), brightness, dtype=np.uint8)).save(image)
        for c in range(1000):
            folder = root / "imagenet" / split / f"n{c:08d}"
            folder.mkdir(parents=True)
            os.link(image, folder / f"{c}.png")
    return root


def test_clean_labels_are_the_order_of_the_folders_and_may_be_the_reference(root: Path) -> None:
    data = load("imagenet", root=root, image_size=8)
    assert data.labels.tolist() == list(range(1000))
    assert (data.num_classes, data.input_shape, data.noise, data.reference) == (1000, (3, 8, 8), None, None)
    assert data.clean_eval is not None
    (x, y), (plain, _) = data.clean_eval[7], data.train_eval[7]
    assert y == 7
    assert torch.equal(x, plain)
    assert len(data.test) == 1000  # type: ignore[arg-type]
    assert data.test[999][1] == 999
    assert data.test[999][0].mean() > x.mean()


def test_asymmetric_noise_moves_an_exact_share_of_all_samples_to_the_next_class(root: Path) -> None:
    data = imagenet(root, "asymmetric", 0.2, 3, 8)
    clean = torch.arange(1000)
    flipped = data.labels != clean
    assert int(flipped.sum()) == 200
    assert data.labels[flipped].tolist() == [(c + 1) % 1000 for c in clean[flipped].tolist()]
    assert [data.train[i][1] for i in range(20)] == data.labels[:20].tolist()
    assert data.clean_eval is not None
    assert [data.clean_eval[i][1] for i in range(20)] == list(range(20))
    assert torch.equal(data.labels, imagenet(root, "asymmetric", 0.2, 3, 8).labels)
    assert not torch.equal(data.labels, imagenet(root, "asymmetric", 0.2, 4, 8).labels)


def test_a_complete_tree_is_found_complete(root: Path) -> None:
    (found,) = (status for status in check(root) if status.name == "imagenet")
    assert (found.complete, found.missing) == (True, ())


def test_images_that_are_not_sorted_by_class_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet" / "train").symlink_to(root / "imagenet" / "train")
    with pytest.raises(FileNotFoundError, match="is without 'imagenet/val', .* image-net.org"):
        imagenet(tmp_path, image_size=8)
    (tmp_path / "imagenet" / "val").mkdir()
    (tmp_path / "imagenet" / "val" / "ILSVRC2012_val_00000001.JPEG").touch()
    with pytest.raises(ValueError, match="'imagenet/val/' with 0 folders of classes, expected 1000: sort"):
        imagenet(tmp_path, image_size=8)
