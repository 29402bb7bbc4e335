"""What the tests of the data sets share: the promise of every loader, and small trees in the official layouts."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import datasets

from alignprune.bench.data import ClassificationData


def _items(dataset: Dataset[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, list[int]]:
    pairs = [dataset[i] for i in range(len(dataset))]  # type: ignore[arg-type]
    return torch.stack([x for x, _ in pairs]), [y for _, y in pairs]


@pytest.fixture
def items() -> Callable[[Dataset[tuple[torch.Tensor, int]]], tuple[torch.Tensor, list[int]]]:
    """All samples of a view, and their labels."""
    return _items


@pytest.fixture
def check_consistent() -> Callable[[ClassificationData], None]:
    """What every loader promises: all views list the same samples, labels and shapes."""
    return _check_consistent


def _check_consistent(data: ClassificationData) -> None:
    assert data.labels.dtype == torch.int64
    for view in (data.train, data.train_eval, data.strong, data.contrastive):
        if view is not None:
            x, y = _items(view)
            assert x.shape == (len(data.labels), *data.input_shape)
            assert x.dtype == torch.float32
            assert y == data.labels.tolist()
    if data.clean_eval is not None:
        assert data.clean_labels is not None
        assert _items(data.clean_eval)[1] == data.clean_labels.tolist()
        assert torch.equal(_items(data.clean_eval)[0], _items(data.train_eval)[0])
    if data.noise is not None:
        assert torch.equal(data.noise.labels, data.labels)
        assert data.clean_labels is not None
        assert torch.equal(data.noise.clean, data.clean_labels)
    x, y = data.test[0]
    assert x.shape == data.input_shape
    assert x.dtype == torch.float32
    assert type(x) is torch.Tensor
    assert type(y) is int


def _write_pickle(path: Path, content: object) -> str:
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def _cifar_part(n: int, classes: int, key: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), key: [i % classes for i in range(n)]}


@pytest.fixture
def cifar100_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny tree in the official layout, with its own MD5 sums in the place of the official ones."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    md5 = _write_pickle(folder / "train", _cifar_part(100, 100, "fine_labels", 0))
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", md5]])
    md5 = _write_pickle(folder / "test", _cifar_part(100, 100, "fine_labels", 1))
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", md5]])
    md5 = _write_pickle(folder / "meta", {"fine_label_names": [f"class {i}" for i in range(100)]})
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
        listed.append([name, _write_pickle(folder / name, _cifar_part(20, 10, "labels", i))])
    monkeypatch.setattr(datasets.CIFAR10, "train_list", listed)
    md5 = _write_pickle(folder / "test_batch", _cifar_part(20, 10, "labels", 9))
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", md5]])
    md5 = _write_pickle(folder / "batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": md5})
    clean = np.arange(100) % 10
    kinds = ("aggre_label", "worse_label", "random_label1", "random_label2", "random_label3")
    noisy = {key: np.where(np.arange(100) < 10 * (i + 1), 9 - clean, clean) for i, key in enumerate(kinds)}
    torch.save({"clean_label": clean, **noisy}, tmp_path / "CIFAR-10_human.pt")
    return tmp_path


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
