"""RePB against its rule in a slow loop over whole trainings, and what its weights add up to."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import alignprune as ap
from alignprune._ranks import Draws
from alignprune.memory import Readings, ReadingsSpec, Room
from alignprune.policies import Evidence, RePB
from alignprune.selection import Selection

N, EPOCHS, BATCH = 50, 9, 8
NAN = math.nan


def losses_of(seed: int) -> Tensor:
    """Losses by (epoch, sample), some not finite and many equal."""
    generator = torch.Generator().manual_seed(seed)
    table = (8 * torch.rand(EPOCHS, N, generator=generator)).round() / 8
    table[torch.rand(EPOCHS, N, generator=generator) < 0.03] = NAN
    return table


def run(pruner: ap.Pruner, table: Tensor) -> tuple[list[Selection], list[list[list[int]]]]:
    """The selections of every epoch, and the batches that it was read in."""
    selections, read = [], []
    for epoch in range(EPOCHS):
        selections.append(pruner.selection)
        read.append([index.tolist() for index in torch.tensor(list(pruner.sampler)).split(BATCH)])
        for index in read[-1]:
            pruner.reduce(torch.tensor(index), table[epoch, index])
        pruner.end_epoch()
    return selections, read


@pytest.mark.filterwarnings("ignore:.*losses of epoch")
@given(seed=st.integers(0, 10_000), prune_prob=st.sampled_from([0.0, 0.3, 0.5, 0.9]), batches=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_repb_is_its_rule(seed: int, prune_prob: float, batches: int) -> None:
    table = losses_of(seed)
    pruner = ap.Pruner(N, EPOCHS, ap.scores.Loss(), RePB(prune_prob, batches), seed=seed)
    selections, read = run(pruner, table)
    last: dict[int, float] = {}  # the last finite loss
    expected, times = set(range(N)), [0] * N
    for epoch, selection in enumerate(selections):
        assert set(selection.indices.tolist()) == expected
        weights = [1.0] * N if selection.weights is None else selection.dense_weights().tolist()  # type: ignore[union-attr]
        for i in expected:
            times[i] += 1
            assert weights[i] == pytest.approx(float(Fraction(epoch + 1, times[i])))
        last |= {i: float(table[epoch, i]) for i in expected if math.isfinite(table[epoch, i])}
        lucky = Draws(seed, epoch + 1).uniform("stay", N) >= prune_prob
        stays = {i for i in range(N) if lucky[i] or i not in last}
        for first in range(0, len(read[epoch]), batches):
            window = [i for batch in read[epoch][first : first + batches] for i in batch if i in last]
            mean = math.fsum(last[i] for i in window) / len(window)
            stays |= {i for i in window if last[i] >= mean - 1e-12}
        expected = stays


def chosen(score: Tensor, steps: list[int], epoch: int = 1, seed: int = 0, **how: float) -> Selection:
    readings = ReadingsSpec().make(Room(len(score), 20))
    readings.steps.copy_(torch.tensor(steps))
    return RePB(**how).select(Evidence(score, "high", epoch, 20, Draws(seed, epoch), (readings,)))  # type: ignore[arg-type]


def test_a_loss_is_compared_with_those_of_its_own_batch_only() -> None:
    """The losses of the second batch are all higher than those of the first, since the network has moved on."""
    score, steps = torch.tensor([1.0, 2.0, 11.0, 12.0]), [0, 0, 1, 1]
    never = {i for i in range(4) if all(i in chosen(score, steps, seed=seed).indices for seed in range(60))}
    assert never == {1, 3}
    never = {i for i in range(4) if all(i in chosen(score, steps, seed=seed, batches=2).indices for seed in range(60))}
    assert never == {2, 3}


def test_those_below_stay_and_those_left_out_come_back_with_the_same_probability() -> None:
    score, steps, runs = torch.tensor([0.0] * 4 + [1.0] * 4 + [0.5] * 4), [0] * 8 + [-1] * 4, 3_000
    kept = np.zeros(12)
    for seed in range(runs):
        kept[chosen(score, steps, seed=seed, prune_prob=0.3).indices.numpy()] += 1
    error = 5 * math.sqrt(0.3 * 0.7 / runs)
    assert (kept[4:8] == runs).all()
    assert (abs(kept[[0, 1, 2, 3, 8, 9, 10, 11]] / runs - 0.7) < error).all()


def test_over_a_run_every_sample_counts_about_as_much_as_in_full_training() -> None:
    """Half of the samples are always below, and are trained on every other time; their weights make up for that."""
    epochs, size = 400, 200
    pruner = ap.Pruner(size, epochs, ap.scores.Loss(), RePB(0.5), seed=3)
    losses, counted = torch.arange(size).remainder(2).float(), torch.zeros(size, dtype=torch.float64)
    for epoch in range(epochs):
        if epoch >= epochs // 2:  # the law of large numbers has begun to hold
            weights = torch.ones(size) if pruner.selection.weights is None else pruner.selection.dense_weights()
            index = pruner.selection.indices
            assert weights is not None
            counted[index] += weights[index]
        for index in torch.tensor(list(pruner.sampler)).split(50):
            pruner.reduce(index, losses[index])
        pruner.end_epoch()
    counted /= epochs - epochs // 2
    assert counted[1::2].tolist() == [1.0] * (size // 2)
    assert float(counted[::2].mean()) == pytest.approx(1.0, abs=0.03)


def test_about_a_third_is_left_out_by_half() -> None:
    """Of losses that fall off as an exponential 63 % lie below the mean: half of them go, half of those out return."""
    pruner = ap.Pruner(4_000, 12, ap.scores.Loss(), RePB(0.5))
    shares = []
    for epoch in range(12):
        shares.append(pruner.selection.pruned_share)
        table = -torch.rand(4_000, generator=torch.Generator().manual_seed(epoch)).log()
        for index in torch.tensor(list(pruner.sampler)).split(200):
            pruner.reduce(index, table[index])
        pruner.end_epoch()
    below = (1 - 1 / math.e) / 2
    assert np.mean(shares[4:]) == pytest.approx(below / (below + 0.5), abs=0.02)


def test_readings_hold_the_step_of_the_last_epoch_and_count_the_epochs_that_trained_on_a_sample() -> None:
    pruner = ap.Pruner(10, 3, ap.scores.Loss(), RePB(0.9), seed=1)
    for _ in range(2):
        order = torch.tensor(list(pruner.sampler))
        for index in order.split(4):
            pruner.reduce(index, index.float())
        pruner.end_epoch()
        steps = torch.full((10,), -1, dtype=torch.int32)
        steps[order] = torch.arange(len(order), dtype=torch.int32) // 4
        readings = pruner.memory(Readings)
        assert torch.equal(readings.steps, steps)
    assert readings.times.tolist() == [2 if i in order else 1 for i in range(10)]


def test_the_first_epoch_takes_all_and_annealing_too_with_weight_one() -> None:
    first = chosen(torch.full((9,), NAN), [-1] * 9, epoch=0)
    assert (len(first), first.weights, first.uniform) == (9, None, True)
    pruner = ap.Pruner.from_preset("repb", num_samples=9, epochs=4, delta=0.5)
    for _ in range(4):
        pruner.reduce(pruner.selection.indices, torch.rand(len(pruner.selection)))
        pruner.end_epoch()
    assert (len(pruner.selection), pruner.selection.weights) == (9, None)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            {"prune_prob": 1},
            r"prune_prob=1 is out of range, expected a number in \[0, 1\): 0.5 leaves out a third",
        ),
        ({"batches": 0}, "batches=0 is out of range, expected an integer >= 1: 1 compares samples of the same batch"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RePB(**wrong)  # type: ignore[arg-type]
