"""Mini-WebVision: which lines of the lists count, the two halves of the validation images, the transforms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from alignprune.bench.data import ClassificationData, check, load, webvision
from alignprune.bench.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from alignprune.bench.data.views import ImageFiles

Items = Callable[[Dataset], tuple[torch.Tensor, list[int]]]
Check = Callable[[ClassificationData], None]

CLASSES = (0, 1, 2, 49)


def write_image(path: Path, rng: np.random.Generator, width: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (24, width, 3), dtype=np.uint8)).save(path, format="PNG")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training and three validation images of four classes; the lists name images of later classes, too."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "webvision"
    training, validation = [], []
    for c in CLASSES:
        for i in range(2):
            training.append(f"google/q{c:04d}/image {i}.jpg {c}")
            write_image(folder / f"google/q{c:04d}/image {i}.jpg", rng)
        for i in range(3):
            validation.append(f"val{c:04d}{i}.jpg {c}")
            write_image(folder / f"val_images_256/val{c:04d}{i}.jpg", rng)
    training.insert(3, "google/q1000/absent.jpg 50")
    validation.insert(0, "absent.jpg 999")
    (folder / "info").mkdir()
    (folder / "info/train_filelist_google.txt").write_text("\n".join(training) + "\n")
    (folder / "info/val_filelist.txt").write_text("\n".join(validation) + "\n\n")
    return tmp_path


def names(view: Dataset) -> list[str]:
    assert isinstance(view, ImageFiles)
    return [Path(view.files[i]).name for i in range(len(view))]


def test_the_first_fifty_classes_are_read_and_the_others_left(root: Path, check_consistent: Check) -> None:
    data = load("webvision", root=root, image_size=14)
    check_consistent(data)
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2, 49, 49]
    assert (data.num_classes, data.input_shape, data.name) == (50, (3, 14, 14), "webvision")
    assert (data.noise, data.clean_labels, data.clean_eval) == (None, None, None)


def test_the_validation_images_are_split_between_reference_and_test(root: Path, items: Items) -> None:
    data = webvision(root, 14)
    assert data.reference is not None
    reference, test = names(data.reference), names(data.test)
    assert not set(reference) & set(test)
    assert sorted(reference + test) == sorted(f"val{c:04d}{i}.jpg" for c in CLASSES for i in range(3))
    for view in (data.reference, data.test):
        labels = items(view)[1]
        assert labels == [int(name[3:7]) for name in names(view)]
        assert len(labels) == 6
        assert all(labels.count(c) in (1, 2) for c in CLASSES)


def test_the_halves_are_the_same_in_every_run(root: Path) -> None:
    first = webvision(root, 14)
    torch.manual_seed(99)
    again = load("webvision", root=root, seed=5, image_size=14)
    assert names(first.test) == names(again.test)


def test_evaluation_cuts_the_centre_of_the_resized_image(root: Path) -> None:
    data = webvision(root, 14)
    with Image.open(root / "webvision/google/q0001/image 1.jpg") as image:
        pixels = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))[1:15, 1:15] / 255
    expected = ((pixels - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)
    torch.testing.assert_close(data.train_eval[3][0], torch.tensor(expected, dtype=torch.float32))


def test_training_shifts_and_flips_the_resized_image(root: Path) -> None:
    data = webvision(root, 14)
    with Image.open(root / "webvision/google/q0000/image 0.jpg") as image:
        pixels = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
    padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0)))
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    torch.manual_seed(0)
    found = set()
    for _ in range(40):
        seen = ((data.train[0][0] * std + mean) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        matches = [
            (top, left, flip)
            for top in range(11)
            for left in range(11)
            for flip in (1, -1)
            if np.array_equal(padded[top : top + 14, left : left + 14][:, ::flip], seen)
        ]
        assert len(matches) == 1
        found.update(matches)
    assert len(found) > 20
    assert {flip for _, _, flip in found} == {1, -1}


def test_a_complete_tree_is_found_complete(root: Path) -> None:
    (found,) = (status for status in check(root) if status.name == "webvision")
    assert (found.complete, found.missing) == (True, ())


@pytest.mark.parametrize(
    "line, match",
    [
        ("google/a.jpg", "train_filelist_google.txt' says 'google/a.jpg' in line 2, expected 'PATH CLASS'"),
        ("7", "says '7' in line 2, expected 'PATH CLASS'"),
        ("google/a.jpg -1", "says 'google/a.jpg -1' in line 2"),
        ("google/a.jpg 1000", r"gives 'google/a.jpg' the class id 1000 in line 2, expected 0 to 999"),
    ],
)
def test_a_broken_line_is_named(root: Path, line: str, match: str) -> None:
    (root / "webvision/info/train_filelist_google.txt").write_text(f"google/q0000/image 0.jpg 0\n{line}\n")
    with pytest.raises(ValueError, match=match):
        webvision(root, 14)


def test_what_is_missing_is_named_before_training(root: Path) -> None:
    folder = root / "webvision"
    (folder / "val_images_256").rename(folder / "val_images")
    with pytest.raises(FileNotFoundError, match=r"is without 'webvision/val_images_256/val\d+.jpg', .* ETH Zurich"):
        webvision(root, 14)
    (folder / "google/q0049/image 1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"is without 'webvision/google/q0049/image 1.jpg'"):
        webvision(root, 14)
    (folder / "info/train_filelist_google.txt").write_text("google/a.jpg 51\n")
    with pytest.raises(ValueError, match=r"lists 0 images of the classes 0 to 49"):
        webvision(root, 14)
    (folder / "info/train_filelist_google.txt").unlink()
    with pytest.raises(FileNotFoundError, match="is without 'webvision/info/train_filelist_google.txt'"):
        webvision(root, 14)
