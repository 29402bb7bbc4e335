"""Own data from an .npz file: normalisation, what counts as clean, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from alignprune.bench.data import ClassificationData, arrays, limit, load
from alignprune.noise import instance_dependent

Items = Callable[[Dataset], tuple[torch.Tensor, list[int]]]
Check = Callable[[ClassificationData], None]


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
def test_images_are_normalised_by_the_training_images(
    tmp_path: Path, shape: tuple[int, ...], items: Items, check_consistent: Check
) -> None:
    content = image_arrays(shape)
    data = arrays(save(tmp_path, content))
    check_consistent(data)
    train, test = (content[key].reshape(*content[key].shape[:3], -1) / 255 for key in ("x_train", "x_test"))
    mean, std = train.mean((0, 1, 2)), train.std((0, 1, 2))
    for view, pixels in ((data.train_eval, train), (data.test, test)):
        expected = ((pixels - mean) / std).transpose(0, 3, 1, 2)
        torch.testing.assert_close(items(view)[0], torch.tensor(expected, dtype=torch.float32))
    assert data.input_shape == (train.shape[-1], *shape[:2])


def test_features_are_standardised_by_the_training_features_and_not_augmented(
    tmp_path: Path, items: Items, check_consistent: Check
) -> None:
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


def test_a_known_truth_is_for_diagnosis_and_never_a_reference(tmp_path: Path, check_consistent: Check) -> None:
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
    with pytest.raises(ValueError, match="noise='symmetric' is given, but y_train_clean shows"):
        arrays(path, "symmetric", 0.2)


@pytest.mark.parametrize("content", [image_arrays(), feature_arrays()], ids=["images", "features"])
def test_wrong_labels_can_depend_on_the_samples(tmp_path: Path, content: dict[str, np.ndarray]) -> None:
    data = arrays(save(tmp_path, content), "instance-dependent", 0.4, 7)
    clean, samples = torch.from_numpy(content["y_train"]).long(), torch.from_numpy(content["x_train"])
    if samples.ndim == 4:
        samples = samples.permute(0, 3, 1, 2)
    assert torch.equal(data.labels, instance_dependent(clean, 4, 0.4, 7, samples))


def test_added_noise_makes_the_given_labels_the_clean_ones(tmp_path: Path, check_consistent: Check) -> None:
    content = image_arrays()
    data = arrays(save(tmp_path, content), "pairflip", 0.5, 7)
    check_consistent(data)
    assert data.clean_eval is not None
    assert data.clean_labels is not None
    assert data.clean_labels.tolist() == content["y_train"].tolist()
    assert data.noise is not None
    assert data.noise.noise_rate == 0.5


def test_the_users_own_reference_keeps_its_labels_and_the_evaluation_transform(tmp_path: Path, items: Items) -> None:
    content = image_arrays()
    reference = {"x_reference": content["x_train"][:6], "y_reference": content["y_train"][:6]}
    data = arrays(save(tmp_path, content, **reference))
    assert data.reference is not None
    x, y = items(data.reference)
    assert torch.equal(x, items(data.train_eval)[0][:6])
    assert y == [0, 1, 2, 3, 0, 1]


def test_a_reference_that_overlaps_the_test_set_is_refused(tmp_path: Path) -> None:
    content = image_arrays()
    mixed = np.concatenate([content["x_train"][:3], content["x_test"][1:3]])
    with pytest.raises(ValueError, match=r"2 of its 5 samples in the test set, too \(3, 4, ...\)"):
        arrays(save(tmp_path, content, x_reference=mixed, y_reference=np.array([0, 1, 2, 3, 0])))


def test_arrays_that_nothing_reads_are_reported(tmp_path: Path) -> None:
    path = save(tmp_path, feature_arrays(), y_train_clen=np.arange(40) % 4)
    with pytest.warns(UserWarning, match="holds y_train_clen, which nothing reads, .*y_train_clean"):
        assert arrays(path).clean_labels is None


@pytest.mark.parametrize(
    "change, match",
    [
        ({"x_train": np.zeros((40, 5), dtype=np.int64)}, r"x_train is int64 of shape \(40, 5\), expected images"),
        ({"x_train": np.zeros((40, 5, 5, 3))}, "x_train is float64 of shape"),
        ({"x_train": np.zeros((40, 0))}, r"x_train has shape \(40, 0\), expected at least one"),
        ({"x_train": np.zeros((40, 3, 8, 8), np.uint8)}, r"x_train has .* at most 4 channels: .*transpose"),
        ({"x_test": np.zeros((12, 4))}, r"x_test has samples of shape \(4,\) .* expected \(5,\)"),
        ({"x_test": np.full((12, 5), np.nan)}, r"x_test\[0, 0\]=nan is not finite"),
        ({"x_train": np.full((40, 5), np.inf)}, r"x_train\[0, 0\]=inf is not finite"),
        (
            {"y_train": np.zeros(40)},
            r"y_train is float64, expected integer class ids or names: use y.astype\('int64'\)",
        ),
        ({"y_train": np.eye(40, 4, dtype=int)}, r"y_train has shape \(40, 4\), expected \(40,\).*argmax"),
        ({"y_train": np.arange(39) % 4}, r"y_train has shape \(39,\), expected \(40,\)"),
        ({"y_train": np.arange(40) % 4 + 1}, r"y_train has the class ids 1, 2, 3, 4, expected 0 to 3"),
        ({"y_train": np.arange(40) % 4 * 2}, r"y_train has the class ids 0, 2, 4, 6, .*without gaps"),
        ({"y_train": np.zeros(40, int)}, "y_train has the class id 0 alone"),
        ({"y_test": np.arange(12)}, r"y_test has class ids from 0 to 11, expected 0 to 3"),
        ({"y_train_clean": np.arange(40) % 4 - 1}, r"y_train_clean has class ids from -1 to 2"),
        ({"x_reference": np.zeros((2, 5))}, "one of x_reference and y_reference, expected both"),
        ({"x_reference": np.zeros((2, 5)), "y_reference": np.arange(3)}, r"y_reference has shape \(3,\)"),
        ({"y_train": np.array([None] * 40)}, "cannot be read .*write them with numpy.savez"),
    ],
)
def test_a_wrong_array_is_named(tmp_path: Path, change: dict[str, np.ndarray], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        arrays(save(tmp_path, feature_arrays(), **change))


def test_a_missing_array_or_file_is_named(tmp_path: Path) -> None:
    content = feature_arrays()
    del content["y_train"]
    with pytest.raises(ValueError, match=r"own\.npz' is without y_train \(it holds x_train, x_test, y_test\)"):
        arrays(save(tmp_path, content))
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz' is not there"):
        load(tmp_path / "nothing.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ValueError, match=r"text\.npz' cannot be read"):
        load(tmp_path / "text.npz")


def test_no_test_arrays_are_demanded(tmp_path: Path, items: Items) -> None:
    content = feature_arrays()
    data = arrays(save(tmp_path, {name: content[name] for name in ("x_train", "y_train")}))
    assert (data.test, data.class_names, data.ids) == (None, ("0", "1", "2", "3"), None)
    whole = arrays(save(tmp_path, content))
    assert torch.equal(items(data.train)[0], items(whole.train)[0])
    with pytest.raises(ValueError, match="one of x_test and y_test, expected both or neither"):
        arrays(save(tmp_path, {name: content[name] for name in ("x_train", "y_train", "x_test")}))


def test_classes_and_samples_may_have_names(tmp_path: Path) -> None:
    names = np.array(["ant", "bee", "café", "dog"])
    data = arrays(save(tmp_path, feature_arrays(), class_names=names, ids=np.arange(40) + 100))
    assert data.class_names == ("ant", "bee", "café", "dog")
    assert list(data.ids or ()) == [str(i + 100) for i in range(40)]
    kept = limit(data, 4, 0)
    assert list(kept.ids or ()) == [str(i + 100) for i in kept.train.indices]  # type: ignore[attr-defined]


def test_labels_may_be_names(tmp_path: Path, items: Items) -> None:
    content = feature_arrays()
    names = np.array([" 10", "9", "-2", "100"])  # which have the order of their values, and no blanks
    number = np.array([2, 1, 0, 3])
    named = {name: names[array] for name, array in content.items() if name.startswith("y_")}
    data = arrays(save(tmp_path, content | named, y_train_clean=names[content["y_train"][::-1]]))
    assert data.class_names == ("-2", "9", "10", "100")
    assert data.labels.tolist() == number[content["y_train"]].tolist()
    assert data.clean_labels is not None
    assert data.clean_labels.tolist() == number[content["y_train"][::-1]].tolist()
    assert data.test is not None
    assert items(data.test)[1] == number[content["y_test"]].tolist()


@pytest.mark.parametrize(
    "change, match",
    [
        ({}, "y_test is int64 where others are names, expected names in all of y_train, y_test"),
        ({"y_test": np.array(["a", "z"] * 6)}, "y_test has the classes z, which y_train does not have, .* but a, b"),
        ({"y_test": np.array(["a", " "] * 6)}, r"y_test\[1\] is no name"),
        (
            {"y_test": np.array(["a", "b"] * 6), "class_names": np.array(["b", "a"])},
            "class_names is given beside labels",
        ),
        ({"y_train": np.array(["a"] * 40), "y_test": np.array(["a"] * 12)}, "y_train has the class a alone"),
        ({"y_train": np.array([["a", "b"]] * 40), "y_test": np.array(["a"] * 12)}, r"y_train has shape \(40, 2\)"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, np.ndarray], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        arrays(save(tmp_path, feature_arrays() | {"y_train": np.array(["a", "b"] * 20)} | change))


@pytest.mark.parametrize(
    "change, match",
    [
        ({"class_names": np.array(["a", "b"])}, r"class_names is <U1 of shape \(2,\), expected strings .*\[4\]"),
        ({"class_names": np.array(["a", "b", "a", "c"])}, "class_names has 'a' at the positions 0, 2, .* once"),
        ({"ids": np.arange(40) // 2}, "ids has '0' at the positions 0, 1"),
        ({"ids": np.arange(40.0)}, "ids is float64"),
    ],
)
def test_names_that_do_not_name_are_refused(tmp_path: Path, change: dict[str, np.ndarray], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        arrays(save(tmp_path, feature_arrays(), **change))


def test_a_pointer_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "own.npz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"own\.npz' is a pointer of Git LFS .*git lfs pull"):
        load(tmp_path / "own.npz")
