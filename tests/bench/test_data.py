from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets

from alignprune.bench.data import (
    CIFAR_MEAN,
    CIFAR_STD,
    DATASETS,
    FORMATS,
    ClassificationData,
    arrays,
    cifar10n,
    cifar100n,
    image_folder,
    limit,
    load,
)

needs_cifar = pytest.mark.skipif(
    not os.environ.get("ALIGNPRUNE_DATA"), reason="ALIGNPRUNE_DATA does not point to a data root"
)


def items(dataset: Dataset[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, list[int]]:
    pairs = [dataset[i] for i in range(len(dataset))]  # type: ignore[arg-type]
    return torch.stack([x for x, _ in pairs]), [y for _, y in pairs]


def check_consistent(data: ClassificationData) -> None:
    """What every loader promises: all views list the same samples, labels and shapes."""
    assert data.labels.dtype == torch.int64
    n = len(data.labels)
    assert len(data.train) == len(data.train_eval) == n  # type: ignore[arg-type]
    assert items(data.train)[1] == items(data.train_eval)[1] == data.labels.tolist()
    assert items(data.train)[0].shape == items(data.train_eval)[0].shape == (n, *data.input_shape)
    if data.clean_eval is not None:
        assert data.clean_labels is not None
        assert items(data.clean_eval)[1] == data.clean_labels.tolist()
        assert torch.equal(items(data.clean_eval)[0], items(data.train_eval)[0])
    if data.noise is not None:
        assert torch.equal(data.noise.labels, data.labels)
        assert data.clean_labels is not None
        assert torch.equal(data.noise.clean, data.clean_labels)
    x, y = data.test[0]
    assert x.shape == data.input_shape
    assert x.dtype == torch.float32
    assert type(x) is torch.Tensor
    assert type(y) is int


# -- CIFAR -------------------------------------------------------------------------------------------------


def write_pickle(path: Path, content: object) -> str:
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar_part(n: int, classes: int, key: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), key: [i % classes for i in range(n)]}


@pytest.fixture
def cifar100_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny tree in the official layout, with its own MD5 sums in the place of the official ones."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    md5 = write_pickle(folder / "train", cifar_part(100, 100, "fine_labels", 0))
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", md5]])
    md5 = write_pickle(folder / "test", cifar_part(100, 100, "fine_labels", 1))
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", md5]])
    md5 = write_pickle(folder / "meta", {"fine_label_names": [f"class {i}" for i in range(100)]})
    monkeypatch.setattr(datasets.CIFAR100, "meta", {**datasets.CIFAR100.meta, "md5": md5})
    clean = np.arange(100) % 100
    noisy = np.where(np.arange(100) % 5 < 2, (clean + 7) % 100, clean)
    torch.save(
        {"clean_label": clean, "noisy_label": noisy, "clean_coarse_label": [0] * 100},
        tmp_path / "CIFAR-100_human.pt",
    )
    return tmp_path


@pytest.fixture
def cifar10_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    listed = []
    for i in range(1, 6):
        name = f"data_batch_{i}"
        listed.append([name, write_pickle(folder / name, cifar_part(20, 10, "labels", i))])
    monkeypatch.setattr(datasets.CIFAR10, "train_list", listed)
    md5 = write_pickle(folder / "test_batch", cifar_part(20, 10, "labels", 9))
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", md5]])
    md5 = write_pickle(folder / "batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": md5})
    clean = np.arange(100) % 10
    kinds = ("aggre_label", "worse_label", "random_label1", "random_label2", "random_label3")
    noisy = {key: np.where(np.arange(100) < 10 * (i + 1), 9 - clean, clean) for i, key in enumerate(kinds)}
    torch.save({"clean_label": clean, **noisy}, tmp_path / "CIFAR-10_human.pt")
    return tmp_path


def test_real_labels_come_from_the_label_file(cifar100_root: Path) -> None:
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
def test_each_kind_of_cifar10n_reads_its_own_labels(cifar10_root: Path, noise: str, rate: float) -> None:
    data = cifar10n(cifar10_root, noise)
    check_consistent(data)
    assert data.noise is not None
    assert data.noise.noise_rate == rate
    assert data.num_classes == 10


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


def test_clean_labels_need_no_label_file_and_are_no_noise(cifar100_root: Path) -> None:
    (cifar100_root / "CIFAR-100_human.pt").unlink()
    data = cifar100n(cifar100_root, "clean")
    check_consistent(data)
    assert data.noise is None
    assert data.clean_labels is not None
    assert torch.equal(data.labels, data.clean_labels)


@pytest.mark.parametrize("noise", ["symmetric", "pairflip"])
def test_synthetic_noise_has_its_rate_and_seed(cifar10_root: Path, noise: str) -> None:
    data, again, other = (cifar10n(cifar10_root, noise, 0.4, seed) for seed in (3, 3, 4))
    check_consistent(data)
    assert data.noise is not None
    assert (data.noise.kind, data.noise.seed, data.noise.noise_rate) == (noise, 3, 0.4)
    assert torch.equal(data.labels, again.labels)
    assert not torch.equal(data.labels, other.labels)


def test_the_data_root_comes_from_the_environment(cifar100_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNPRUNE_DATA", str(cifar100_root))
    assert load("cifar100n").noise is not None
    monkeypatch.delenv("ALIGNPRUNE_DATA")
    with pytest.raises(ValueError, match="root: no data root given, .* --data-root or ALIGNPRUNE_DATA"):
        load("cifar100n")


def test_a_missing_file_is_named_with_its_source(cifar100_root: Path) -> None:
    (cifar100_root / "CIFAR-100_human.pt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"'CIFAR-100_human\.pt' is missing .* UCSC-REAL/cifar-10-100n .*--data-root"
    ):
        cifar100n(cifar100_root)
    (cifar100_root / "cifar-100-python" / "test").unlink()
    with pytest.raises(FileNotFoundError, match=r"test' is missing .* University of Toronto .*ALIGNPRUNE_DATA"):
        cifar100n(cifar100_root)


def test_a_damaged_file_is_named(cifar100_root: Path) -> None:
    with open(cifar100_root / "cifar-100-python" / "test", "ab") as file:
        file.write(b"!")
    with pytest.raises(ValueError, match=r"root: test in .* differ from the official files \(MD5\)"):
        cifar100n(cifar100_root)
    (cifar100_root / "cifar-100-python" / "meta").write_bytes(b"")
    with pytest.raises(ValueError, match="root: test, meta in"):
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
            "clean_label of .* differs from the labels of the images",
        ),
        (
            {"clean_label": np.arange(100) % 100, "noisy_label": np.full(100, 100)},
            r"noisy_label of .* expected 100 class ids in 0\.\.99",
        ),
        ([1, 2], "holds a list, expected the dict"),
        (Harmful(), r"cannot be read \(UnpicklingError\)"),
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
    with pytest.raises(ValueError, match=r"cifar100n: noise='symmetrc' is unknown.*mean 'symmetric'"):
        cifar100n("nowhere", "symmetrc")
    with pytest.raises(ValueError, match="noise_rate: None given, expected a share .* 'pairflip'"):
        cifar100n("nowhere", "pairflip")
    with pytest.raises(ValueError, match=r"noise_rate: 0.2 given, expected None because noise 'worse'"):
        cifar10n("nowhere", "worse", 0.2)


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


# -- arrays ------------------------------------------------------------------------------------------------


def image_arrays(shape: tuple[int, ...] = (16, 12, 3), n: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 200, (n, *shape), dtype=np.uint8),
        "y_train": np.arange(n) % 4,
        "x_test": rng.integers(0, 256, (12, *shape), dtype=np.uint8),
        "y_test": np.arange(12) % 4,
    }


def feature_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.normal(3, 2, (40, 5)),
        "y_train": (np.arange(40) % 4).astype(np.uint8),
        "x_test": rng.normal(3, 2, (12, 5)).astype(np.float32),
        "y_test": np.arange(12) % 4,
    }


def save(path: Path, content: dict[str, np.ndarray], **change: np.ndarray) -> Path:
    np.savez(path / "own.npz", **{**content, **change})
    return path / "own.npz"


@pytest.mark.parametrize("shape", [(16, 12, 3), (16, 12), (16, 3, 1), (4, 4, 3)])
def test_images_are_normalised_by_the_training_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    content = image_arrays(shape)
    data = arrays(save(tmp_path, content))
    check_consistent(data)
    train, test = (content[key].reshape(*content[key].shape[:3], -1) / 255 for key in ("x_train", "x_test"))
    mean, std = train.mean((0, 1, 2)), train.std((0, 1, 2))
    for view, pixels in ((data.train_eval, train), (data.test, test)):
        expected = ((pixels - mean) / std).transpose(0, 3, 1, 2)
        torch.testing.assert_close(items(view)[0], torch.tensor(expected, dtype=torch.float32))
    assert data.input_shape == (train.shape[-1], *shape[:2])


def test_features_are_standardised_by_the_training_features_and_not_augmented(tmp_path: Path) -> None:
    content = feature_arrays()
    content["x_train"][:, 2] = 0.1
    data = arrays(save(tmp_path, content))
    check_consistent(data)
    x, _ = items(data.train)
    torch.testing.assert_close(x.mean(0), torch.zeros(5))
    torch.testing.assert_close(x.std(0, correction=0), torch.tensor([1.0, 1, 0, 1, 1]))
    torch.testing.assert_close(x, items(data.train_eval)[0])
    expected = (content["x_test"][:, 0] - content["x_train"][:, 0].mean()) / content["x_train"][:, 0].std()
    torch.testing.assert_close(items(data.test)[0][:, 0], torch.tensor(expected, dtype=torch.float32))
    assert (data.input_shape, data.num_classes, data.name) == ((5,), 4, "own")


def test_without_a_truth_nothing_is_called_clean(tmp_path: Path) -> None:
    data = arrays(save(tmp_path, feature_arrays()))
    assert (data.clean_eval, data.clean_labels, data.noise, data.reference) == (None, None, None, None)


def test_a_known_truth_is_for_diagnosis_and_never_a_reference(tmp_path: Path) -> None:
    content = feature_arrays()
    clean = content["y_train"].copy()
    clean[:10] = (clean[:10] + 1) % 4
    path = save(tmp_path, content, y_train_clean=clean)
    data = arrays(path)
    check_consistent(data)
    assert (data.clean_eval, data.reference) == (None, None)
    assert data.clean_labels is not None
    assert data.clean_labels.tolist() == clean.tolist()
    assert data.noise is not None
    assert (data.noise.kind, data.noise.noise_rate) == ("given", 0.25)
    with pytest.raises(ValueError, match="noise: 'symmetric' given, but y_train_clean shows"):
        arrays(path, "symmetric", 0.2)


def test_added_noise_makes_the_given_labels_the_clean_ones(tmp_path: Path) -> None:
    content = image_arrays()
    data = arrays(save(tmp_path, content), "pairflip", 0.5, 7)
    check_consistent(data)
    assert data.clean_eval is not None
    assert data.clean_labels is not None
    assert data.clean_labels.tolist() == content["y_train"].tolist()
    assert data.noise is not None
    assert data.noise.noise_rate == 0.5


def test_the_users_own_reference_keeps_its_labels_and_the_evaluation_transform(tmp_path: Path) -> None:
    content = image_arrays()
    reference = {"x_reference": content["x_train"][:6], "y_reference": content["y_train"][:6]}
    data = arrays(save(tmp_path, content, **reference))
    assert data.reference is not None
    x, y = items(data.reference)
    assert torch.equal(x, items(data.train_eval)[0][:6])
    assert y == [0, 1, 2, 3, 0, 1]


def test_arrays_that_nothing_reads_are_reported(tmp_path: Path) -> None:
    path = save(tmp_path, feature_arrays(), y_train_clen=np.arange(40) % 4)
    with pytest.warns(UserWarning, match="also holds y_train_clen, which nothing reads; .*y_train_clean"):
        assert arrays(path).clean_labels is None


@pytest.mark.parametrize(
    "change, match",
    [
        ({"x_train": np.zeros((40, 5), dtype=np.int64)}, r"x_train: dtype int64 and shape \(40, 5\) given"),
        ({"x_train": np.zeros((40, 5, 5, 3))}, "x_train: dtype float64 and shape"),
        ({"x_train": np.zeros((40, 0))}, r"x_train: shape \(40, 0\) given, expected at least one"),
        ({"x_train": np.zeros((40, 3, 8, 8), np.uint8)}, r"x_train: .* at most 4 channels; .*transpose"),
        ({"x_test": np.zeros((12, 4))}, r"x_test: samples of shape \(4,\) .* expected \(5,\)"),
        ({"x_test": np.full((12, 5), np.nan)}, r"x_test: nan at \[0, 0\] given, expected finite"),
        ({"x_train": np.full((40, 5), np.inf)}, r"x_train: inf at \[0, 0\]"),
        ({"y_train": np.zeros(40)}, "y_train: dtype float64 given, expected integer class ids"),
        ({"y_train": np.eye(40, 4, dtype=int)}, r"y_train: shape \(40, 4\) given, expected \(40,\).*argmax"),
        ({"y_train": np.arange(39) % 4}, r"y_train: shape \(39,\) given, expected \(40,\)"),
        ({"y_train": np.arange(40) % 4 + 1}, r"y_train: class ids 1, 2, 3, 4 given, expected 0\.\.3"),
        ({"y_train": np.arange(40) % 4 * 2}, r"y_train: class ids 0, 2, 4, 6 given.*without gaps"),
        ({"y_train": np.zeros(40, int)}, "y_train: the one class id 0 given"),
        ({"y_test": np.arange(12)}, r"y_test: class ids 0\.\.11 given, expected 0\.\.3"),
        ({"y_train_clean": np.arange(40) % 4 - 1}, r"y_train_clean: class ids -1\.\.2 given"),
        ({"x_reference": np.zeros((2, 5))}, "one of x_reference and y_reference, expected both"),
        ({"x_reference": np.zeros((2, 5)), "y_reference": np.arange(3)}, r"y_reference: shape \(3,\)"),
        ({"y_train": np.array([None] * 40)}, "cannot be read .*written by numpy.savez"),
    ],
)
def test_a_wrong_array_is_named(tmp_path: Path, change: dict[str, np.ndarray], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        arrays(save(tmp_path, feature_arrays(), **change))


def test_a_missing_array_or_file_is_named(tmp_path: Path) -> None:
    content = feature_arrays()
    del content["y_test"]
    with pytest.raises(ValueError, match=r"own\.npz' lacks y_test \(it holds x_train, y_train, x_test\)"):
        arrays(save(tmp_path, content))
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*nothing\.npz'"):
        load(tmp_path / "nothing.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ValueError, match=r"text\.npz' cannot be read"):
        load(tmp_path / "text.npz")


# -- image files -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for name in ("ant", "bee", "cat"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def test_a_folder_gives_its_classes_in_order(folder: Path) -> None:
    data = load(folder, image_size=16)
    check_consistent(data)
    assert data.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert (data.num_classes, data.input_shape, data.name) == (3, (3, 16, 16), folder.name)
    assert (data.clean_eval, data.noise, data.reference) == (None, None, None)


def test_a_folder_with_added_noise_knows_the_truth(folder: Path) -> None:
    data = image_folder(folder, "symmetric", 0.5, 0, 16)
    check_consistent(data)
    assert data.clean_eval is not None
    assert data.noise is not None
    assert data.noise.noise_rate == 0.5


def test_val_stands_in_for_test_and_may_lack_classes(folder: Path) -> None:
    (folder / "test").rename(folder / "val")
    for file in (folder / "val" / "ant").iterdir():
        file.unlink()
    (folder / "val" / "ant").rmdir()
    assert items(load(folder, image_size=16).test)[1] == [1, 1, 2, 2]


def test_a_reference_folder_keeps_the_class_ids_of_train(folder: Path) -> None:
    (folder / "reference").mkdir()
    (folder / "test" / "cat").rename(folder / "reference" / "cat")
    data = load(folder, image_size=16)
    assert data.reference is not None
    assert items(data.reference)[1] == [2, 2]


def test_a_corrupt_image_names_its_file(folder: Path) -> None:
    file = folder / "train" / "bee" / "3.png"
    file.write_bytes(file.read_bytes()[:200])
    data = load(folder, image_size=16)
    with pytest.raises(ValueError, match=r"image '.*bee.3\.png' cannot be read .*replace or remove"):
        data.train[9]


def test_a_wrong_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="image_size: 0 given"):
        image_folder(folder, image_size=0)
    (folder / "test" / "cat").rename(folder / "test" / "cow")
    with pytest.raises(ValueError, match=r"holds the classes cow, which train/ does not have; .*ant, bee, cat"):
        load(folder)
    (folder / "test").rename(folder / "other")
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*test', expected train/CLASS/"):
        load(folder)


# -- for every data set ------------------------------------------------------------------------------------


def test_an_unknown_data_set_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"dataset='cifar100' is unknown, .*\.npz .*mean 'cifar100n'"):
        load("cifar100")


def test_records_describe_every_data_set() -> None:
    for record in (*DATASETS.values(), *FORMATS.values()):
        assert record.description
        assert record.files
        assert record.source
        assert record.default_noise in record.noises


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_the_same_samples(tmp_path: Path, context: str) -> None:
    data = arrays(save(tmp_path, image_arrays()))
    loader = DataLoader(data.train_eval, batch_size=16, num_workers=1, multiprocessing_context=context)
    batches = list(loader)
    x, y = items(data.train_eval)
    assert torch.equal(torch.cat([batch[0] for batch in batches]), x)
    assert torch.cat([batch[1] for batch in batches]).tolist() == y


def test_every_view_can_be_pickled(folder: Path) -> None:
    data = load(folder, noise="symmetric", noise_rate=0.5, image_size=16)
    for view in (data.train, data.train_eval, data.clean_eval, data.test):
        copy = pickle.loads(pickle.dumps(view))
        assert copy[1][1] == view[1][1]  # type: ignore[index]


def test_a_batch_at_once_is_the_same_as_single_samples(tmp_path: Path) -> None:
    data = arrays(save(tmp_path, image_arrays()))
    chosen = [7, 0, 39, 7]
    for view in (data.train_eval, data.train):
        torch.manual_seed(0)
        batch = view.__getitems__(chosen)  # type: ignore[attr-defined]
        torch.manual_seed(0)
        for (x, y), i in zip(batch, chosen, strict=True):
            single = view[i]
            torch.testing.assert_close(x, single[0])
            assert y == single[1]
    with pytest.raises(IndexError):
        data.train[40]


# -- limit -------------------------------------------------------------------------------------------------


def unbalanced(tmp_path: Path, noise: str = "none", rate: float | None = None) -> ClassificationData:
    labels = np.repeat([0, 1, 2], [4, 30, 46])
    content = {
        "x_train": np.arange(80.0)[:, None],
        "y_train": np.random.default_rng(0).permutation(labels),
        "x_test": np.zeros((3, 1)),
        "y_test": np.arange(3),
    }
    return arrays(save(tmp_path, content), noise, rate)


@pytest.mark.parametrize(
    "size, counts",
    [(3, [1, 1, 1]), (12, [4, 4, 4]), (20, [4, 8, 8]), (70, [4, 30, 36]), (80, [4, 30, 46])],
)
def test_classes_are_balanced_as_far_as_they_go(tmp_path: Path, size: int, counts: list[int]) -> None:
    data = limit(unbalanced(tmp_path), size, 0)
    check_consistent(data)
    assert [data.labels.tolist().count(c) for c in range(3)] == counts


def test_what_does_not_divide_goes_to_some_class(tmp_path: Path) -> None:
    data = unbalanced(tmp_path)
    counts = [torch.bincount(limit(data, 10, seed).labels).tolist() for seed in range(20)]
    assert all(sorted(count) == [3, 3, 4] for count in counts)
    assert len({tuple(count) for count in counts}) == 3


def test_a_limited_set_keeps_samples_truth_and_noise_together(tmp_path: Path) -> None:
    full = unbalanced(tmp_path, "pairflip", 0.5)
    state = torch.get_rng_state()
    data = limit(full, 20, 3)
    assert torch.equal(torch.get_rng_state(), state)
    check_consistent(data)
    x, y = items(full.train_eval)
    where = [x.flatten().tolist().index(value) for value in items(data.train_eval)[0].flatten().tolist()]
    assert where == sorted(set(where))
    assert items(data.train_eval)[1] == [y[i] for i in where]
    assert full.clean_labels is not None
    assert data.clean_labels is not None
    assert data.clean_labels.tolist() == full.clean_labels[where].tolist()
    assert data.noise is not None
    assert (data.noise.kind, data.noise.rate, data.noise.seed) == ("pairflip", 0.5, 0)
    assert data.test is full.test


def test_the_same_seed_limits_to_the_same_samples(tmp_path: Path) -> None:
    full = unbalanced(tmp_path)
    first, again, other = (items(limit(full, 20, seed).train_eval)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("size", [0, 2, 81])
def test_a_limit_out_of_range_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match=rf"size: {size} given, expected 3 .* to 80"):
        limit(unbalanced(tmp_path), size, 0)
