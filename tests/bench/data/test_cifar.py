"""CIFAR-100N and CIFAR-10N: official pixels, the labels of people, and what is refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from alignprune.bench.data import ClassificationData, check, cifar, cifar10n, cifar100n, load
from alignprune.bench.data.transforms import CIFAR_MEAN, CIFAR_STD
from alignprune.noise import instance_dependent

Items = Callable[[Dataset], tuple[torch.Tensor, list[int]]]
Check = Callable[[ClassificationData], None]

needs_cifar = pytest.mark.skipif(
    not os.environ.get("ALIGNPRUNE_DATA"), reason="ALIGNPRUNE_DATA does not point to a data root"
)


def test_real_labels_come_from_the_label_file(cifar100_root: Path, check_consistent: Check) -> None:
    data = cifar100n(cifar100_root)
    check_consistent(data)
    assert data.noise is not None
    assert (data.noise.kind, data.noise.seed) == ("real", None)
    assert data.noise.noise_rate == data.noise.rate == 0.4
    assert data.labels[:6].tolist() == [7, 8, 2, 3, 4, 12]
    assert (data.num_classes, data.input_shape, data.reference) == (100, (3, 32, 32), None)


@pytest.mark.parametrize(
    "noise, rate", [("aggre", 0.1), ("worse", 0.2), ("random1", 0.3), ("random2", 0.4), ("random3", 0.5)]
)
def test_each_kind_of_cifar10n_reads_its_own_labels(
    cifar10_root: Path, noise: str, rate: float, check_consistent: Check
) -> None:
    data = cifar10n(cifar10_root, noise)
    check_consistent(data)
    assert data.noise is not None
    assert data.noise.noise_rate == rate
    assert data.num_classes == 10


def test_wrong_labels_can_depend_on_the_pixels(cifar100_root: Path) -> None:
    data = cifar100n(cifar100_root, "instance-dependent", 0.4, 3)
    with open(cifar100_root / "cifar-100-python" / "train", "rb") as file:
        rows = torch.from_numpy(pickle.load(file)["data"])
    assert data.clean_labels is not None
    assert torch.equal(data.labels, instance_dependent(data.clean_labels, 100, 0.4, 3, rows))


def test_evaluation_images_are_the_official_pixels_normalised(cifar100_root: Path) -> None:
    data = cifar100n(cifar100_root, "clean")
    with open(cifar100_root / "cifar-100-python" / "train", "rb") as file:
        rows = pickle.load(file)["data"]
    for i in (0, 17, 99):
        x, y = data.train_eval[i]
        for channel in range(3):
            pixels = rows[i][1024 * channel : 1024 * (channel + 1)].reshape(32, 32) / 255
            expected = torch.tensor((pixels - CIFAR_MEAN[channel]) / CIFAR_STD[channel], dtype=torch.float32)
            torch.testing.assert_close(x[channel], expected)
        assert y == i % 100


def test_images_of_another_size_are_made_of_the_stored_ones_when_they_are_read(cifar100_root: Path) -> None:
    data, small = (cifar100n(cifar100_root, "clean", image_size=size) for size in (64, 32))
    assert data.input_shape == (3, 64, 64)
    views: Any = (data.test, small.test, data.train, data.strong)
    test, stored, train, strong = views
    x, own = test[17][0], stored[17][0].double().numpy()
    for row, column in [(0, 0), (1, 2), (30, 31), (63, 63)]:
        # Pixel i lies at (i + 0.5) / 2 - 0.5 of the stored image; beyond its outer pixels it is those.
        at = [min(max((i + 0.5) / 2 - 0.5, 0), 31) for i in (row, column)]
        (top, left), (down, right) = (int(p) for p in at), (p % 1 for p in at)
        corner = own[:, top : top + 2, left : left + 2]
        rows = corner[:, 0] * (1 - down) + corner[:, -1] * down
        expected = rows[:, 0] * (1 - right) + rows[:, -1] * right
        np.testing.assert_allclose(x[:, row, column], expected, rtol=1e-5, atol=1e-5)
    assert train.inputs.shape == (100, 3, 32, 32)
    assert train[3][0].shape == strong[3][0].shape == (3, 64, 64)
    with pytest.raises(ValueError, match="image_size=0 is out of range"):
        cifar100n(cifar100_root, "clean", image_size=0)


def test_training_images_are_shifted_or_flipped_reflections_of_the_originals(cifar100_root: Path) -> None:
    data = cifar100n(cifar100_root, "clean")
    torch.manual_seed(0)
    shifts = set()
    for i in range(60):
        plain, seen = data.train_eval[i][0].numpy(), data.train[i][0].numpy()
        padded = np.pad(plain, ((0, 0), (4, 4), (4, 4)), mode="reflect")
        matches = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if np.array_equal(padded[:, top : top + 32, left : left + 32][:, :, :: -1 if flip else 1], seen)
        ]
        assert len(matches) == 1
        shifts.update(matches)
    assert len(shifts) > 30
    assert {flip for _, _, flip in shifts} == {False, True}


def test_clean_labels_need_no_label_file_and_are_no_noise(cifar100_root: Path, check_consistent: Check) -> None:
    (cifar100_root / "CIFAR-100_human.pt").unlink()
    data = cifar100n(cifar100_root, "clean")
    check_consistent(data)
    assert data.noise is None
    assert data.clean_labels is not None
    assert torch.equal(data.labels, data.clean_labels)


@pytest.mark.parametrize("noise", ["symmetric", "pairflip"])
def test_synthetic_noise_has_its_rate_and_seed(cifar10_root: Path, noise: str, check_consistent: Check) -> None:
    data, again, other = (cifar10n(cifar10_root, noise, 0.4, seed) for seed in (3, 3, 4))
    check_consistent(data)
    assert data.noise is not None
    assert (data.noise.kind, data.noise.seed, data.noise.noise_rate) == (noise, 3, 0.4)
    assert torch.equal(data.labels, again.labels)
    assert not torch.equal(data.labels, other.labels)


def test_asymmetric_noise_stays_among_look_alikes(cifar10_root: Path, cifar100_root: Path) -> None:
    ten = cifar10n(cifar10_root, "asymmetric", 0.4).noise
    assert ten is not None
    pairs = {(3, 5), (5, 3), (2, 0), (4, 7), (9, 1)}  # cat and dog, bird > airplane, deer > horse, truck > automobile
    flips = list(zip(ten.clean[ten.is_noisy].tolist(), ten.labels[ten.is_noisy].tolist(), strict=True))
    assert set(flips) == pairs
    assert len(flips) == 5 * 4  # 40 % of the 10 samples of each of 5 classes
    hundred = cifar100n(cifar100_root, "asymmetric", 1.0).labels
    assert [hundred[c].item() for c in (4, 30, 55, 72, 95)] == [30, 55, 72, 95, 4]  # the aquatic mammals


def test_the_data_root_comes_from_the_environment(cifar100_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNPRUNE_DATA", str(cifar100_root))
    assert load("cifar100n").noise is not None
    monkeypatch.delenv("ALIGNPRUNE_DATA")
    with pytest.raises(ValueError, match="root=None is given .* --data-root or ALIGNPRUNE_DATA"):
        load("cifar100n")


def test_a_missing_file_is_named_with_its_source(cifar100_root: Path) -> None:
    (cifar100_root / "CIFAR-100_human.pt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"is without 'CIFAR-100_human\.pt', .* UCSC-REAL/cifar-10-100n .*--data-root"
    ):
        cifar100n(cifar100_root)
    (cifar100_root / "cifar-100-python" / "test").unlink()
    with pytest.raises(FileNotFoundError, match=r"test', .* University of Toronto .*ALIGNPRUNE_DATA"):
        cifar100n(cifar100_root)


def test_a_damaged_file_is_named(cifar100_root: Path) -> None:
    with open(cifar100_root / "cifar-100-python" / "test", "ab") as file:
        file.write(b"!")
    with pytest.raises(ValueError, match=r"holds test with other MD5 sums, expected the official files"):
        cifar100n(cifar100_root)
    (cifar100_root / "cifar-100-python" / "meta").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds test, meta \(is empty\) with"):
        cifar100n(cifar100_root)


class Harmful:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize(
    "content, match",
    [
        ({"clean_label": np.arange(100)}, "holds clean_label, expected clean_label and noisy_label"),
        (
            {"clean_label": np.arange(100)[::-1] % 100, "noisy_label": np.arange(100) % 100},
            "clean_label that differs from the labels of the images",
        ),
        (
            {"clean_label": np.arange(100) % 100, "noisy_label": np.full(100, 100)},
            r"noisy_label of .* expected 100 class ids from 0 to 99",
        ),
        ([1, 2], "holds a list, expected a dict"),
        (Harmful(), r"cannot be read \(UnpicklingError: it is damaged, or holds more than tensors and plain values\)"),
    ],
)
def test_a_wrong_label_file_is_refused(
    cifar100_root: Path, monkeypatch: pytest.MonkeyPatch, content: object, match: str
) -> None:
    monkeypatch.chdir(cifar100_root)
    torch.save(content, cifar100_root / "CIFAR-100_human.pt")
    with pytest.raises(ValueError, match=match):
        cifar100n(cifar100_root)
    assert not (cifar100_root / "harmed").exists()


def test_noise_that_does_not_fit_is_refused_before_files_are_read() -> None:
    with pytest.raises(ValueError, match=r"noise='symmetrc' is unknown.*mean 'symmetric'"):
        cifar100n("nowhere", "symmetrc")
    with pytest.raises(ValueError, match="noise_rate=None is given with the noise 'pairflip'"):
        cifar100n("nowhere", "pairflip")
    with pytest.raises(ValueError, match=r"noise_rate=0.2 is given with the noise 'worse', .* expected None"):
        cifar10n("nowhere", "worse", 0.2)


def as_arrays(root: Path) -> dict[str, np.ndarray]:
    """The images of the official files in the layout of numpy, and their labels."""
    folder = root / "cifar-10-batches-py"
    files = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    found = {}
    for split, names in files.items():
        parts = [pickle.loads((folder / name).read_bytes()) for name in names]
        rows = np.concatenate([part["data"] for part in parts])
        found[f"{split}_images"] = np.stack([row.reshape(3, 32, 32).transpose(1, 2, 0) for row in rows])
        found[f"{split}_labels"] = np.concatenate([part["labels"] for part in parts])
    return found


@pytest.fixture
def arrays_root(cifar10_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same images as arrays, in the place of the official files."""
    monkeypatch.setattr(cifar, "_REBUILT_SIZES", {"train": 100, "test": 20})
    np.savez(cifar10_root / "cifar-10.npz", **as_arrays(cifar10_root))  # type: ignore[arg-type]
    (cifar10_root / "cifar-10-batches-py").rename(cifar10_root / "official")
    return cifar10_root


def test_images_as_arrays_are_the_official_ones(arrays_root: Path, items: Items, check_consistent: Check) -> None:
    data = cifar10n(arrays_root)
    check_consistent(data)
    (arrays_root / "official").rename(arrays_root / "cifar-10-batches-py")
    official = cifar10n(arrays_root)
    for here, there in ((data.train_eval, official.train_eval), (data.test, official.test)):
        assert here is not None
        assert there is not None
        assert torch.equal(items(here)[0], items(there)[0])
        assert items(here)[1] == items(there)[1]


def test_arrays_are_reported_as_there(arrays_root: Path) -> None:
    (found,) = [status for status in check(arrays_root) if status.name == "cifar10n"]
    assert found.complete
    (arrays_root / "cifar-10.npz").write_bytes(b"")
    (found,) = [status for status in check(arrays_root) if status.name == "cifar10n"]
    assert not found.complete


@pytest.mark.parametrize("noise", ["worse", "clean"])
def test_arrays_in_another_order_than_the_labels_of_people_are_refused(arrays_root: Path, noise: str) -> None:
    with np.load(arrays_root / "cifar-10.npz") as stored:
        found = {name: stored[name][::-1] for name in stored.files}
    np.savez(arrays_root / "cifar-10.npz", **found)
    with pytest.raises(ValueError, match="clean_label that differs from the labels of the images"):
        cifar10n(arrays_root, noise)
    (arrays_root / "CIFAR-10_human.pt").unlink()
    assert cifar10n(arrays_root, "clean").noise is None  # nobody can tell


@pytest.mark.parametrize(
    "name, change, match",
    [
        (
            "train_images",
            lambda a: a[:-1],
            r"train_images of uint8 and shape \(99, 32, 32, 3\), expected uint8 \[100, ",
        ),
        ("test_images", lambda a: a / 255, r"test_images of float64"),
        ("train_images", lambda a: a.transpose(0, 3, 1, 2), r"train_images of uint8 and shape \(100, 3, 32, 32\)"),
        ("test_labels", lambda a: a + 1, "test_labels of .* expected 20 class ids from 0 to 9"),
        ("train_labels", lambda a: a * 1.0, r"train_labels is float64 and no integers"),
        (
            "test_labels",
            None,
            "holds train_images, train_labels, test_images, expected train_images, .* test_labels: make",
        ),
    ],
)
def test_arrays_that_are_not_cifar10_are_refused(arrays_root: Path, name: str, change: Any, match: str) -> None:
    with np.load(arrays_root / "cifar-10.npz") as stored:
        found = {key: stored[key] for key in stored.files}
    changed = None if change is None else change(found.pop(name))
    found.pop(name, None)
    np.savez(arrays_root / "cifar-10.npz", **found, **({} if changed is None else {name: changed}))
    with pytest.raises(ValueError, match=match):
        cifar10n(arrays_root)


@needs_cifar
def test_the_official_cifar100_has_the_published_noise_rate() -> None:
    data = load("cifar100n")
    assert data.noise is not None
    assert (len(data.labels), len(data.test)) == (50_000, 10_000)  # type: ignore[arg-type]
    assert data.noise.noise_rate == pytest.approx(0.4020, abs=5e-5)
    mean = torch.stack([data.train_eval[i][0] for i in range(0, 50_000, 25)]).mean((0, 2, 3))
    assert mean.abs().max() < 0.05


@needs_cifar
def test_official_cifar100_with_symmetric_noise_flips_the_same_count_in_each_class() -> None:
    data = load("cifar100n", noise="symmetric", noise_rate=0.5, seed=1)
    assert data.noise is not None
    assert torch.bincount(data.noise.clean[data.noise.is_noisy]).tolist() == [250] * 100
