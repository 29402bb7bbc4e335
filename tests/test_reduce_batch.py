"""A criterion that gives one loss a batch: recorded for its samples, weighted by their mean weight."""

from __future__ import annotations

import math

import pytest
import torch

import alignprune as ap
from alignprune.memory import RunningAverage

N, EPOCHS, BATCH = 40, 6, 8


def difficulty() -> torch.Tensor:
    return torch.linspace(0.5, 4.0, N)


def epoch(pruner: ap.Pruner, expected: dict[int, list[float]]) -> None:
    for index in torch.tensor(list(pruner.sampler)).split(BATCH):
        mean = difficulty()[index].mean()
        for sample in index.tolist():
            expected.setdefault(sample, []).append(float(mean))
        pruner.reduce_batch(index, mean)
    pruner.end_epoch()


@pytest.mark.parametrize("name", ["infobatch+bls", "seta+bls"])
def test_a_samples_score_is_the_average_of_its_batches_means(name: str) -> None:
    pruner = ap.Pruner.from_preset(name, num_samples=N, epochs=EPOCHS, decay=0.7)
    means: dict[int, list[float]] = {}
    for _ in range(EPOCHS):
        epoch(pruner, means)
        for sample, seen in means.items():
            average = seen[0]
            for mean in seen[1:]:
                average = 0.7 * average + 0.3 * mean
            assert float(pruner.scores[sample]) == pytest.approx(average, rel=1e-5)
            assert float(pruner.memory(RunningAverage).losses[sample]) == float(pruner.scores[sample])
    assert pruner.forward_passes < N * EPOCHS


def test_the_average_over_batches_ranks_samples_by_their_own_losses_though_none_was_seen() -> None:
    pruner = ap.Pruner.from_preset("infobatch+bls", num_samples=N, epochs=60, delta=1.0, decay=0.9)
    for _ in range(60):
        epoch(pruner, {})
    assert torch.corrcoef(torch.stack([pruner.scores, difficulty()]))[0, 1] > 0.7


def test_the_loss_to_learn_from_is_the_mean_times_the_mean_weight() -> None:
    pruner = ap.Pruner.from_preset("infobatch+bls", num_samples=N, epochs=EPOCHS)
    epoch(pruner, {})
    weights = pruner.selection.dense_weights()
    assert weights is not None
    assert weights.max() == 2
    index = torch.tensor(list(pruner.sampler))[:BATCH]
    parameter = torch.tensor(3.0, requires_grad=True)
    loss = pruner.reduce_batch(index, parameter**2)
    loss.backward()
    mean_weight = sum(float(weights[i]) for i in index) / BATCH
    assert loss.item() == pytest.approx(9 * mean_weight)
    assert parameter.grad is not None
    assert parameter.grad.item() == pytest.approx(6 * mean_weight)


def test_another_mean_may_be_recorded_than_the_one_to_learn_from() -> None:
    pruner = ap.Pruner.from_preset("infobatch+bls", num_samples=N, epochs=EPOCHS)
    for index in torch.tensor(list(pruner.sampler)).split(BATCH):
        assert pruner.reduce_batch(index, torch.tensor(5.0), record=torch.tensor(2.0)).item() == 5.0
    pruner.end_epoch()
    assert (pruner.scores == 2.0).all()


def test_a_batch_whose_mean_is_not_finite_counts_for_all_its_samples() -> None:
    pruner = ap.Pruner.from_preset("infobatch+bls", num_samples=N, epochs=EPOCHS)
    for number, index in enumerate(torch.tensor(list(pruner.sampler)).split(BATCH)):
        pruner.reduce_batch(index, torch.tensor(math.nan if number == 1 else 1.0))
    with pytest.warns(UserWarning, match="8 losses of epoch 0 are not finite"):
        pruner.end_epoch()
    assert int(pruner.scores.isnan().sum()) == BATCH


@pytest.mark.parametrize("loss", [torch.ones(BATCH), torch.tensor(1), 1.0], ids=["a sample", "integer", "number"])
def test_what_is_no_mean_over_the_batch_is_refused(loss: torch.Tensor) -> None:
    pruner = ap.Pruner.from_preset("infobatch+bls", num_samples=N, epochs=EPOCHS)
    with pytest.raises(ValueError, match="loss is .*expected a float scalar.*for one loss a sample call pruner.reduce"):
        pruner.reduce_batch(torch.arange(BATCH), loss)
    with pytest.raises(ValueError, match="record is .*expected a float scalar"):
        pruner.reduce_batch(torch.arange(BATCH), torch.tensor(1.0), record=loss)
