from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignprune.noise import KINDS, NoisyLabels, corrupt, pairflip, symmetric


def shuffled_labels(counts: list[int], seed: int = 0) -> torch.Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def confusion(clean: torch.Tensor, noisy: torch.Tensor, num_classes: int) -> list[list[int]]:
    """Counts by a slow loop: row = clean class, column = noisy class."""
    table = [[0] * num_classes for _ in range(num_classes)]
    for before, after in zip(clean.tolist(), noisy.tolist(), strict=True):
        table[before][after] += 1
    return table


def example() -> NoisyLabels:
    return corrupt(shuffled_labels([20, 30, 50]), "symmetric", 0.3, 3, seed=5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.45, 0.5, 0.8, 1.0])
def test_each_class_loses_exactly_its_share(kind: str, rate: float) -> None:
    counts = [7, 20, 1, 33]
    clean = shuffled_labels(counts)
    table = confusion(clean, KINDS[kind](clean, 4, rate, 3), 4)
    for c, count in enumerate(counts):
        assert count - table[c][c] == round(rate * count)


@given(
    counts=st.lists(st.integers(0, 12), min_size=2, max_size=6),
    rate=st.floats(0, 1),
    seed=st.integers(0, 2**63 - 1),
    kind=st.sampled_from(sorted(KINDS)),
)
@settings(max_examples=60, deadline=None)
def test_counts_hold_for_any_class_sizes(counts: list[int], rate: float, seed: int, kind: str) -> None:
    clean = shuffled_labels(counts)
    noisy = KINDS[kind](clean, len(counts), rate, seed)
    table = confusion(clean, noisy, len(counts))
    assert [sum(row) - row[c] for c, row in enumerate(table)] == [round(rate * n) for n in counts]


def test_symmetric_noise_goes_uniformly_to_the_other_classes() -> None:
    clean = shuffled_labels([6000] * 4)
    table = confusion(clean, symmetric(clean, 4, 0.6, 0), 4)
    for c in range(4):
        others = [table[c][d] for d in range(4) if d != c]
        assert sum(others) == 3600
        # Binomial with n = 3600, p = 1/3: standard deviation 28.3; five of them.
        assert all(abs(count - 1200) < 142 for count in others)


def test_pairflip_goes_to_the_next_class_and_from_the_last_to_the_first() -> None:
    clean = shuffled_labels([10, 10, 10])
    table = confusion(clean, pairflip(clean, 3, 0.4, 0), 3)
    assert table == [[6, 4, 0], [0, 6, 4], [4, 0, 6]]


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_gives_the_same_labels_and_another_seed_others(kind: str) -> None:
    clean = shuffled_labels([50] * 4)
    first, again, other = (KINDS[kind](clean, 4, 0.5, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_the_callers_labels_and_the_global_generators_are_untouched(kind: str) -> None:
    clean = shuffled_labels([50] * 4)
    before = clean.clone()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    noisy = KINDS[kind](clean, 4, 0.0, 1)
    noisy[0] = 99
    assert torch.equal(clean, before)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_any_integer_dtype_is_taken_and_int64_comes_back() -> None:
    clean = shuffled_labels([9, 9])
    expected = symmetric(clean, 2, 0.5, 0)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        noisy = symmetric(clean.to(dtype), 2, 0.5, 0)
        assert noisy.dtype == torch.int64
        assert torch.equal(noisy, expected)


def test_no_labels_give_no_labels() -> None:
    noisy = corrupt(torch.empty(0, dtype=torch.int64), "symmetric", 0.5, 3, 0)
    assert noisy.labels.shape == (0,)
    assert noisy.noise_rate == 0


def test_noisy_labels_measure_their_rate() -> None:
    noisy = example()
    wrong = [a != b for a, b in zip(noisy.labels.tolist(), noisy.clean.tolist(), strict=True)]
    assert noisy.is_noisy.tolist() == wrong
    assert noisy.noise_rate == sum(wrong) / len(wrong) == 0.3


def test_the_clean_labels_are_a_copy() -> None:
    clean = shuffled_labels([5, 5])
    noisy = corrupt(clean, "pairflip", 0.2, 2, 0)
    clean.zero_()
    assert noisy.clean.sum() == 5


@pytest.mark.parametrize("seed", [5, None])
def test_saved_labels_come_back_under_exactly_the_given_name(tmp_path: Path, seed: int | None) -> None:
    noisy = example()
    noisy = NoisyLabels(noisy.labels, noisy.clean, "real", 0.3, seed)
    noisy.save(tmp_path / "labels")
    loaded = NoisyLabels.load(tmp_path / "labels")
    assert [file.name for file in tmp_path.iterdir()] == ["labels"]
    assert torch.equal(loaded.labels, noisy.labels)
    assert torch.equal(loaded.clean, noisy.clean)
    assert (loaded.kind, loaded.rate, loaded.seed) == ("real", 0.3, seed)


def test_a_failed_save_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.npz"
    example().save(path)
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        corrupt(shuffled_labels([4, 4]), "pairflip", 0.5, 2, 0).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["labels.npz"]


def test_a_foreign_file_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    path.write_text("not an archive")
    with pytest.raises(ValueError, match=r"path: .*labels\.npz.* does not hold saved labels"):
        NoisyLabels.load(path)
    np.savez(path, labels=np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match="does not hold saved labels"):
        NoisyLabels.load(path)
    with pytest.raises(FileNotFoundError):
        NoisyLabels.load(tmp_path / "nowhere.npz")


def test_an_unknown_kind_names_the_known_and_the_nearest() -> None:
    message = "kind='symetric' is unknown, expected one of symmetric, pairflip; did you mean 'symmetric'?"
    with pytest.raises(ValueError, match=re.escape(message)):
        corrupt(torch.tensor([0, 1]), "symetric", 0.2, 2, 0)


@pytest.mark.parametrize(
    "change, error, match",
    [
        ({"rate": 20}, ValueError, r"rate=20 .* \[0, 1\]: write 20 % as 0.2"),
        ({"rate": -0.1}, ValueError, "rate=-0.1 is out of range"),
        ({"rate": float("nan")}, ValueError, "rate=nan is out of range"),
        ({"rate": "0.2"}, TypeError, "rate='0.2' is str"),
        ({"num_classes": 1}, ValueError, "num_classes=1 .* expected an integer >= 2"),
        ({"num_classes": 2.0}, TypeError, "num_classes=2.0 is float"),
        ({"num_classes": 2}, ValueError, r"labels: class ids 0\.\.2 given, expected 0\.\.1"),
        ({"labels": torch.tensor([-1, 0])}, ValueError, r"labels: class ids -1\.\.0 given"),
        ({"labels": torch.tensor([0.0, 1.0])}, TypeError, r"labels: dtype torch.float32 .* \.long\(\)"),
        ({"labels": torch.tensor([True, False])}, TypeError, "labels: dtype torch.bool"),
        ({"labels": torch.eye(3).long()}, ValueError, r"labels: shape \(3, 3\) .*argmax"),
        ({"labels": [0, 1, 2]}, TypeError, "labels: a list given"),
        ({"seed": -1}, ValueError, "seed=-1 is out of range"),
        ({"seed": 0.5}, TypeError, "seed=0.5 is float"),
        ({"seed": True}, TypeError, "seed=True is bool"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_arguments_are_named(kind: str, change: dict[str, object], error: type[Exception], match: str) -> None:
    arguments = {"labels": torch.tensor([0, 1, 2]), "num_classes": 3, "rate": 0.5, "seed": 0, **change}
    with pytest.raises(error, match=match):
        KINDS[kind](**arguments)  # type: ignore[arg-type]


def test_noisy_labels_of_other_shapes_are_refused() -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="labels has 2 entries and clean 1"):
        NoisyLabels(labels, labels[:1], "real", 0.0, None)
    with pytest.raises(ValueError, match=r"clean is torch\.int32"):
        NoisyLabels(labels, labels.int(), "real", 0.0, None)
