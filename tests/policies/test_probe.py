"""The probe: the most suspicious are held out a slice at a time, as long as most of a slice are wrong."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import alignprune as ap
from alignprune.policies.probe import probe

N, SLICE = 2_000, 50  # a slice is a fortieth of the data
SURE = 6.0  # log odds of a label that was looked at: wrong where positive


def suspicions(seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Suspicions in random order, and the samples by rank, the most suspicious first."""
    values = np.random.default_rng(seed).permutation(N).astype(np.float32)
    return values, np.argsort(-values)


def looked_at(wrong: np.ndarray[Any, Any], samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    odds = np.full(N, np.nan, dtype=np.float32)
    odds[samples] = np.where(wrong[samples], SURE, -SURE)
    return odds


class Found(NamedTuple):
    """What the probe says of every sample."""

    suspects: np.ndarray[Any, Any]
    unknown: np.ndarray[Any, Any]
    noise_rate: float | None


def probed(values: np.ndarray[Any, Any], odds: np.ndarray[Any, Any]) -> Found:
    """What the probe says, sample by sample instead of rank by rank."""
    order = [i for i in np.argsort(-values) if not math.isnan(values[i])]
    found = probe(odds[order], len(values))
    suspects, unknown = found.judge(odds[order], np.arange(len(order)) + 0.5)
    masks = np.zeros((2, len(values)), dtype=bool)
    masks[:, order] = suspects, unknown
    return Found(masks[0], masks[1], found.noise_rate)


def test_first_the_most_suspicious_fortieth_is_held_out_and_nothing_is_said() -> None:
    values, order = suspicions(0)
    found = probed(values, np.full(N, np.nan, dtype=np.float32))
    assert sorted(np.flatnonzero(found.unknown)) == sorted(order[:SLICE])
    assert not found.suspects.any()
    assert found.noise_rate is None


@pytest.mark.parametrize("count", [0, 20, 50, 120, 333, 999])
@pytest.mark.parametrize("hard", [0.0, 0.3])
def test_epoch_by_epoch_the_probe_finds_the_wrong_labels_and_stops_behind_them(count: int, hard: float) -> None:
    values, order = suspicions(count)
    draw = np.random.default_rng(1)
    wrong = np.zeros(N, dtype=bool)
    wrong[order[:count]] = True
    wrong[order[:count][draw.random(count) < hard * 0.9]] = False  # as suspicious, and right
    seen = np.zeros(0, dtype=np.int64)
    for _ in range(60):  # each epoch looks at what is held out and not known
        found = probed(values, looked_at(wrong, seen))
        seen = np.union1d(seen, np.flatnonzero(found.unknown | found.suspects))
    assert np.array_equal(found.suspects, wrong)
    assert not found.unknown.any()
    assert found.noise_rate == pytest.approx(wrong.mean(), abs=0.005)
    assert len(seen) <= count + 2 * SLICE  # right labels are not held out without need


def test_of_a_slice_that_was_looked_at_in_part_the_rest_goes_with_most_of_it() -> None:
    values, order = suspicions(2)
    for wrong, suspects, held_out in ((order[:24], order[:SLICE], []), (order[:5], order[:5], order[24:SLICE])):
        found = probed(values, looked_at(np.isin(np.arange(N), wrong), order[:24]))
        assert np.array_equal(np.flatnonzero(found.suspects), np.sort(suspects))
        assert np.array_equal(np.flatnonzero(found.unknown), np.sort(held_out))


def test_the_prior_of_a_slice_decides_where_the_network_does_not() -> None:
    values, order = suspicions(3)
    odds = looked_at(np.isin(np.arange(N), order[:47]), order[:SLICE])
    odds[order[48]] = -1.0  # against odds of 47 to 3 for the slice
    assert probed(values, odds).suspects[order[48]]
    odds = looked_at(np.isin(np.arange(N), order[:3]), order[:SLICE])
    odds[order[48]] = 1.0
    assert not probed(values, odds).suspects[order[48]]


def test_samples_without_a_score_are_left_alone() -> None:
    values, order = suspicions(4)
    values[order[:10]] = math.nan
    found = probed(values, np.full(N, np.nan, dtype=np.float32))
    assert sorted(np.flatnonzero(found.unknown)) == sorted(order[10 : 10 + SLICE])
    empty = probed(np.full(N, np.nan, dtype=np.float32), np.full(N, np.nan, dtype=np.float32))
    assert (empty.unknown.sum(), empty.suspects.sum(), empty.noise_rate) == (0, 0, None)


# In training.


def trained(rate: float, seed: int, **settings: Any) -> tuple[ap.Pruner, torch.Tensor, list[ap.Selection]]:
    """`robust` on digits, with which labels are wrong, and every epoch's selection."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()
    part = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[:1400]
    noisy = ap.noise.corrupt(y[part], "symmetric", rate, 10, seed=seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner = ap.Pruner.from_preset(
        "robust", num_samples=1400, epochs=40, seed=seed, **{"labels": noisy.labels, **settings}
    )
    selections = []
    for _ in range(40):
        selections.append(pruner.selection)
        for index in torch.tensor(list(pruner.sampler)).split(32):
            losses = F.cross_entropy(model(x[part[index]]), noisy.labels[index], reduction="none")
            optimizer.zero_grad()
            pruner.reduce(index, losses).backward()
            optimizer.step()
        pruner.end_epoch()
    return pruner, noisy.is_noisy, selections


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_few_wrong_labels_are_found(seed: int) -> None:
    pruner, wrong, _ = trained(0.05, seed)
    assert pruner.suspects is not None
    assert wrong[pruner.suspects].float().mean() > 0.85
    assert wrong[pruner.suspects].sum() > 0.8 * wrong.sum()
    assert pruner.noise_rate == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("seed", [5, 6])
def test_right_labels_are_looked_at_and_come_back(seed: int) -> None:
    pruner, _, selections = trained(0.0, seed)
    assert pruner.suspects is not None
    assert len(pruner.suspects) <= 14
    assert pruner.noise_rate == pytest.approx(0.0, abs=0.01)
    looked = {
        i for chosen in selections if chosen.weights is not None for i in chosen.indices[chosen.weights == 0].tolist()
    }
    assert len(looked) >= 35  # a slice
    for chosen in selections:
        assert len(chosen) == 700
        if chosen.suspects is not None and chosen.weights is not None:
            held_out = chosen.indices[chosen.weights == 0]
            assert len(held_out) <= 70  # a tenth of the epoch
            assert chosen.weights.double().mean() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("settings", [{"refresh": 0.0}, {"labels": None}], ids=["no second look", "no labels"])
def test_without_a_second_look_or_without_labels_there_is_no_probe(settings: dict[str, Any]) -> None:
    pruner, _, selections = trained(0.05, 5, **settings)
    assert pruner.suspects is not None
    assert len(pruner.suspects) == 0
    assert all(chosen.weights is None for chosen in selections)
