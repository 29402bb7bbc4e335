"""CIFAR-100 as patch features: a slow loop over the patches of small images, and the loader on a tiny tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune.bench.data import ClassificationData, cifar100n, features, load
from alignprune.bench.data.features import patch_features
from alignprune.bench.data.views import TensorData

Array = NDArray[np.float64]

SIDE, PATCH, STRIDE = 12, 6, 2  # 4 x 4 patches an image, of which each quadrant has 2 x 2
CONTRAST, WHITENING = 10.0, 0.1
CENTROIDS = 7


def images(count: int, seed: int) -> Tensor:
    """Smooth noise, so that neighbouring pixels go together as in photos."""
    rough = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(rough, SIDE, mode="bilinear", align_corners=True)
    return (255 * smooth).to(torch.uint8)


TRAIN, TEST = images(40, 0), images(6, 1)


# -------------------------------------------------------------------------- the features


def test_the_same_images_give_the_same_features() -> None:
    one, other = (patch_features(TRAIN, TEST, CENTROIDS, 10, 25) for _ in range(2))
    assert one.keys() == {"train", "test"}
    assert (one["train"].shape, one["test"].shape) == ((40, 10), (6, 10))
    for part in one:
        assert one[part].dtype == np.float32
        assert np.array_equal(one[part], other[part])


def test_features_of_the_training_set_have_mean_0_and_variance_1_and_do_not_go_together() -> None:
    train = patch_features(TRAIN, TEST, CENTROIDS, 10, 25)["train"].astype(np.float64)
    assert train.mean(0) == pytest.approx(np.zeros(10), abs=1e-4)
    assert train.T @ train / len(train) == pytest.approx(np.eye(10), abs=1e-2)


def test_features_of_an_image_do_not_depend_on_the_test_set() -> None:
    whole = patch_features(TRAIN, TEST, CENTROIDS, 10, 25)
    part = patch_features(TRAIN, TEST[:2], CENTROIDS, 10, 25)
    assert np.array_equal(part["train"], whole["train"])
    assert part["test"] == pytest.approx(whole["test"][:2], abs=1e-5)


def slow_patches(image: Tensor) -> Array:
    """The patches of an image, row by row, each with mean 0 and divided by its own contrast: [16, 108]."""
    pixels, rows = image.numpy().astype(np.float64), []
    for top in range(0, SIDE - PATCH + 1, STRIDE):
        for left in range(0, SIDE - PATCH + 1, STRIDE):
            patch = pixels[:, top : top + PATCH, left : left + PATCH].flatten()
            rows.append((patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + CONTRAST))
    return np.stack(rows)


def slow_pooled(white: Array, prototypes: Array) -> Array:
    """The four quadrants' mean activations of an image's whitened patches, [4 K] in any fixed order."""
    activations = []
    for patch in white:
        distances = [float(np.linalg.norm(patch - prototype)) for prototype in prototypes]
        mean = sum(distances) / len(distances)
        activations.append([max(0.0, mean - distance) for distance in distances])
    grid = np.array(activations).reshape(4, 4, len(prototypes))
    return np.concatenate([grid[y : y + 2, x : x + 2].mean((0, 1)) for y in (0, 2) for x in (0, 2)])


def slow_gram(train: list[Array], every: list[Array], components: int) -> Array:
    """Inner products of all images by the leading principal components, each with variance 1."""
    centre = np.mean(train, axis=0)
    _, deviations, axes = np.linalg.svd(np.stack(train) - centre, full_matrices=False)
    scores = (np.stack(every) - centre) @ axes[:components].T / deviations[:components] * np.sqrt(len(train))
    return scores @ scores.T


def test_features_are_those_of_a_slow_loop_over_the_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every patch is taken in the place of some, and the prototypes are given: no draw is left.
    clustered: list[Array] = []
    prototypes = np.random.default_rng(0).normal(size=(CENTROIDS, 3 * PATCH**2))

    class Given:
        def __init__(self, count: int, **settings: Any) -> None:
            assert count == CENTROIDS
            self.cluster_centers_ = prototypes

        def fit(self, patches: Array) -> Given:
            clustered.append(patches)
            return self

    monkeypatch.setattr("sklearn.cluster.MiniBatchKMeans", Given)
    monkeypatch.setattr(features, "_sample", lambda patches, generator: patches.flatten(0, 1))
    found = patch_features(TRAIN, TEST, CENTROIDS, 5, len(TRAIN))

    patches = [slow_patches(image) for image in (*TRAIN, *TEST)]
    learned = np.concatenate(patches[: len(TRAIN)])
    mean, covariance = learned.mean(0), np.cov(learned.T)
    values, vectors = np.linalg.eigh(covariance + WHITENING * np.eye(len(covariance)))
    whiten = vectors @ np.diag(values**-0.5) @ vectors.T
    white = [(part - mean) @ whiten for part in patches]
    expected = np.concatenate(white[: len(TRAIN)])
    assert np.sort(clustered[0], axis=0) == pytest.approx(np.sort(expected, axis=0), abs=2e-4)

    pooled = [slow_pooled(part, prototypes) for part in white]
    gram = slow_gram(pooled[: len(TRAIN)], pooled, 5)
    both = np.concatenate([found["train"], found["test"]]).astype(np.float64)
    assert both @ both.T == pytest.approx(gram, abs=2e-2 * np.abs(gram).max())


# -------------------------------------------------------------------------- the data set


@pytest.fixture
def small(cifar100_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny tree in the official layout, few and short features, and a cache of its own."""
    monkeypatch.setattr(features, "CENTROIDS", 8)
    monkeypatch.setattr(features, "COMPONENTS", 12)
    monkeypatch.setenv("ALIGNPRUNE_CACHE", str(tmp_path / "cache"))
    return cifar100_root


def rows(data: ClassificationData) -> Tensor:
    return torch.stack([data.train_eval[i][0] for i in range(len(data.labels))])


def test_order_labels_and_noise_are_those_of_the_images(
    small: Path, check_consistent: Callable[[ClassificationData], None]
) -> None:
    for noise, rate in [("real", None), ("clean", None), ("symmetric", 0.4)]:
        data = load("cifar100n-features", root=small, noise=noise, noise_rate=rate, seed=3)
        plain = cifar100n(small, noise, rate, 3)
        check_consistent(data)
        assert torch.equal(data.labels, plain.labels)
        assert data.clean_labels is not None
        assert plain.clean_labels is not None
        assert torch.equal(data.clean_labels, plain.clean_labels)
        assert [data.test[i][1] for i in range(100)] == [plain.test[i][1] for i in range(100)]
        assert (data.noise is None) == (plain.noise is None)
        if data.noise is not None and plain.noise is not None:
            assert (data.noise.kind, data.noise.seed, data.noise.rate) == (
                plain.noise.kind,
                plain.noise.seed,
                plain.noise.rate,
            )
    assert (data.name, data.num_classes, data.input_shape) == ("cifar100n-features", 100, (12,))
    assert (data.strong, data.contrastive, data.reference) == (None, None, None)


def test_a_row_holds_the_features_of_its_own_image(small: Path) -> None:
    data, plain = load("cifar100n-features", root=small, noise="clean"), cifar100n(small, "clean")

    assert isinstance(plain.train_eval, TensorData)
    assert isinstance(plain.test, TensorData)
    expected = patch_features(plain.train_eval.inputs, plain.test.inputs, 8, 12, 100)
    assert np.array_equal(rows(data).numpy(), expected["train"])
    assert np.array_equal(torch.stack([data.test[i][0] for i in range(100)]).numpy(), expected["test"])


def test_features_are_computed_once_for_all_labels(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rows(load("cifar100n-features", root=small))

    def refuse(*args: Any) -> Any:
        raise AssertionError("the features were computed again")

    with monkeypatch.context() as patch:
        patch.setattr(features, "patch_features", refuse)
        again = load("cifar100n-features", root=small, noise="symmetric", noise_rate=0.2)
        assert torch.equal(rows(again), first)
        patch.setattr(features, "COMPONENTS", 9)
        with pytest.raises(AssertionError, match="computed again"):
            load("cifar100n-features", root=small)
