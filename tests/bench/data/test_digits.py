"""Digits: every sample of scikit-learn's set, in one split, without a file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from alignprune.bench.data import ClassificationData, load
from alignprune.bench.data.digits import digits
from alignprune.noise import instance_dependent


def test_the_views_are_consistent(check_consistent: Callable[[ClassificationData], None]) -> None:
    data = digits("symmetric", 0.4)
    check_consistent(data)
    assert (data.name, data.num_classes, data.input_shape) == ("digits", 10, (64,))
    assert (data.strong, data.contrastive, data.reference) == (None, None, None)


def test_training_and_test_samples_are_together_all_that_there_are() -> None:
    data = digits()
    parts = [[view[i] for i in range(len(view))] for view in (data.train, data.test)]  # type: ignore[arg-type]
    assert [len(part) for part in parts] == [1437, 360]
    found = sorted((tuple((16 * x).tolist()), y) for part in parts for x, y in part)
    pictures, labels = load_digits(return_X_y=True)
    assert found == sorted((tuple(row), int(y)) for row, y in zip(pictures.tolist(), labels, strict=True))


def test_the_split_is_the_same_for_every_seed_and_noise_and_the_truth_is_the_reference() -> None:
    clean, noisy = digits(), digits("symmetric", 0.4, seed=3)
    assert torch.equal(clean.labels, noisy.clean_labels)  # type: ignore[arg-type]
    assert float((noisy.labels != clean.labels).double().mean()) == pytest.approx(0.4, abs=0.005)
    assert noisy.clean_eval is not None
    assert [noisy.clean_eval[i][1] for i in range(50)] == clean.labels[:50].tolist()
    torch.manual_seed(7)
    assert torch.equal(clean.test[0][0], digits(seed=5).test[0][0])


def test_wrong_labels_can_depend_on_the_pictures() -> None:
    data = digits("instance-dependent", 0.4, seed=3)
    pictures = torch.stack([data.train_eval[i][0] for i in range(1437)])
    assert data.clean_labels is not None
    assert torch.equal(data.labels, instance_dependent(data.clean_labels, 10, 0.4, 3, pictures))


def test_no_class_is_missing_on_either_side() -> None:
    data = digits()
    counts = np.bincount([data.test[i][1] for i in range(360)], minlength=10)
    assert counts.min() >= 20
    assert torch.bincount(data.labels).min() >= 120


def test_they_are_loaded_without_a_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALIGNPRUNE_DATA", raising=False)
    assert len(load("digits", noise="pairflip", noise_rate=0.2).labels) == 1437
    with pytest.raises(ValueError, match="noise='asymmetric' is unknown"):
        load("digits", noise="asymmetric", noise_rate=0.2)
