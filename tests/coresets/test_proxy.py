"""The record of a proxy run: it travels through a file unchanged and refuses what no method could use."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignprune.coresets import Proxy

Make = Callable[..., Proxy]


def same(first: Proxy, second: Proxy) -> bool:
    for field in fields(Proxy):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, torch.Tensor):
            if a.dtype != b.dtype or not torch.equal(a, b):
                return False
        elif a != b:
            return False
    return True


@pytest.mark.parametrize("absent", [(), ("self_supervised",), ("strong_features", "strong_logits", "self_supervised")])
def test_a_saved_proxy_is_read_back_bit_by_bit(make_proxy: Make, tmp_path: Path, absent: tuple[str, ...]) -> None:
    proxy = make_proxy(**dict.fromkeys(absent))
    proxy.save(tmp_path / "proxy.pt")
    assert same(Proxy.load(tmp_path / "proxy.pt"), proxy)
    assert [path.name for path in tmp_path.iterdir()] == ["proxy.pt"]


def test_a_save_that_fails_leaves_the_old_file(
    make_proxy: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_proxy(seed=1)
    old.save(tmp_path / "proxy.npz")

    def full_disk(file: Any, **arrays: Any) -> None:
        file.write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space left"):
        make_proxy(seed=2).save(tmp_path / "proxy.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["proxy.npz"]
    assert same(Proxy.load(tmp_path / "proxy.npz"), old)


@pytest.mark.skipif(os.name == "nt", reason="there an open file cannot be replaced")
def test_who_reads_the_old_file_while_it_is_replaced_reads_it_whole(make_proxy: Make, tmp_path: Path) -> None:
    make_proxy(seed=1).save(tmp_path / "proxy.npz")
    old = (tmp_path / "proxy.npz").read_bytes()
    with open(tmp_path / "proxy.npz", "rb") as reader:
        make_proxy(seed=2).save(tmp_path / "proxy.npz")
        assert reader.read() == old


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Proxy.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not a proxy")
    np.savez(tmp_path / "other.npz", labels=np.arange(3))
    for name in ("text.npz", "other.npz"):
        with pytest.raises(ValueError, match=f"{name}' is damaged .*expected a proxy file"):
            Proxy.load(tmp_path / name)


def test_a_file_of_a_damaged_proxy_is_refused(make_proxy: Make, tmp_path: Path) -> None:
    proxy = make_proxy()
    proxy.logits[3, 1] = math.nan  # after the checks of its making
    proxy.save(tmp_path / "proxy.npz")
    with pytest.raises(ValueError, match="logits holds 1 values that are not finite, expected none"):
        Proxy.load(tmp_path / "proxy.npz")


def test_the_length_of_a_proxy_is_its_number_of_samples(make_proxy: Make) -> None:
    assert len(make_proxy(samples=17)) == 17


@pytest.mark.parametrize(
    "replaced, error, message",
    [
        ({"logits": torch.zeros(60, 5)}, ValueError, r"logits has shape \(60, 5\), expected \[N=60, C=4\]"),
        ({"features": torch.zeros(59, 5)}, ValueError, r"features has shape \(59, 5\), expected \[N=60, d >= 1\]"),
        ({"features": torch.zeros(60, 0)}, ValueError, r"features has shape \(60, 0\)"),
        ({"features": torch.zeros(60)}, ValueError, r"features has shape \(60,\)"),
        ({"labels": torch.zeros(0, dtype=torch.int64)}, ValueError, r"labels has shape \(0,\), expected \[N >= 1\]"),
        ({"correct": torch.ones(31, 60).bool()}, ValueError, r"correct has shape \(31, 60\), expected \[T=32, N=60\]"),
        ({"feature_norms": torch.ones(2, 60)}, ValueError, r"feature_norms .* expected \[R=3, N=60\]"),
        ({"strong_logits": None}, ValueError, "strong_features is given alone, expected .* and strong_logits"),
        ({"strong_features": None}, ValueError, "strong_logits is given alone, expected strong_features and"),
        ({"labels": torch.full((60,), 4)}, ValueError, r"labels holds class ids 4 to 4, expected 0 to 3"),
        ({"labels": torch.full((60,), -1)}, ValueError, "labels holds class ids -1 to -1"),
        ({"labels": torch.zeros(60)}, TypeError, "labels is torch.float32, expected torch.int64: convert with .to"),
        ({"logits": torch.zeros(60, 4).half()}, TypeError, "logits is torch.float16, expected torch.float32"),
        ({"correct": torch.ones(32, 60)}, TypeError, "correct is torch.float32, expected torch.bool"),
        ({"features": np.zeros((60, 5))}, TypeError, "features is ndarray, expected a tensor"),
        ({"logits": torch.zeros(60, 4, device="meta")}, ValueError, r"logits is on meta, .* pass logits.cpu\(\)"),
        ({"features": torch.full((60, 5), math.inf).half()}, ValueError, "features holds 300 values .* not finite"),
        ({"error_norms": torch.full((3, 60), 1.5)}, ValueError, r"error_norms holds .*1.5, expected \[0, 1.41421\]"),
        ({"feature_norms": torch.full((3, 60), -1.0)}, ValueError, r"feature_norms holds .*-1, expected \[0, inf\]"),
        ({"label_probabilities": torch.full((32, 60), 2.3)}, ValueError, r"expected \[0, 1\]: record the softmax"),
        ({"margins": torch.full((32, 60), -1.5)}, ValueError, r"margins holds .*-1.5, expected \[-1, 1\]: record the"),
        ({"margins": torch.zeros(31, 60)}, ValueError, r"margins has shape \(31, 60\), expected \[T=32, N=60\]"),
        ({"num_classes": 1}, ValueError, "num_classes=1 is out of range"),
        ({"num_classes": 4.0}, TypeError, "num_classes=4.0 is float"),
    ],
)
def test_a_wrong_field_is_named(
    make_proxy: Make, replaced: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_proxy(**replaced)


def test_a_probability_that_rounding_put_above_one_is_accepted(make_proxy: Make) -> None:
    make_proxy(label_probabilities=torch.full((32, 60), 1.0000002))
