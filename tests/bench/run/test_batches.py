"""Samples that lie in one tensor are read a batch at a time: the same batches as a loader makes of single samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

import alignprune as ap
from alignprune.bench.data import TensorData
from alignprune.bench.run.batches import ResidentLoader, evaluation_loader, resident, training_loader

CPU = torch.device("cpu")


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x.float()


def samples(augment: nn.Module | None = None) -> TensorData:
    return TensorData(torch.arange(120).reshape(60, 2), torch.arange(60) % 3, augment, Doubled())


def pruner(read: int = 0) -> ap.Pruner:
    """A pruner in its second epoch, which leaves samples out and has read some batches of 7."""
    made = ap.Pruner.from_preset("infobatch", num_samples=60, epochs=4)
    for index in torch.tensor(list(made.sampler)).split(7):
        made.reduce(index, index.float())
    made.end_epoch()
    for index in torch.tensor(list(made.sampler)).split(7)[:read]:
        made.reduce(index, index.float())
    again = ap.Pruner.from_preset("infobatch", num_samples=60, epochs=4)
    again.load_state_dict(made.state_dict())
    return again


def expect_equal(found: Iterable[Any], expected: Iterable[Any]) -> None:
    for (index, (x, y)), (other_index, (other_x, other_y)) in zip(found, expected, strict=True):
        assert torch.equal(index, other_index)
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


@pytest.mark.parametrize("read", [0, 2])
@pytest.mark.parametrize("even_batches", [False, True])
def test_an_epoch_is_read_in_the_batches_of_a_loader(even_batches: bool, read: int) -> None:
    made = pruner(read)
    found = training_loader(made, samples(), 7, CPU, 0, even_batches=even_batches)
    expected = made.loader(samples(), batch_size=7, even_batches=even_batches)

    assert isinstance(found, ResidentLoader)
    assert len(found) == len(expected) > 1
    expect_equal(found, expected)


def test_what_an_epoch_leaves_out_is_read_too() -> None:
    made = pruner()
    expected = made.loader(samples(), batch_size=7, pruned=True)

    expect_equal(training_loader(made, samples(), 7, CPU, 0, pruned=True), expected)
    assert len(expected)


def test_a_part_of_a_part_is_read_by_its_own_numbers() -> None:
    part: Subset[Any] = Subset(Subset(samples(), list(range(59, 9, -1))), [3, 1, 40])
    found = resident(part, CPU)
    assert found is not None

    x, y = found[[2, 0]]

    assert torch.equal(x, torch.stack([part[2][0], part[0][0]]))
    assert y.tolist() == [part[2][1], part[0][1]]
    assert len(found) == 3


def test_nothing_is_read_after_the_last_epoch() -> None:
    made = ap.Pruner.from_preset("full", num_samples=60, epochs=1)
    for index in torch.tensor(list(made.sampler)).split(7):
        made.reduce(index, index.float())
    made.end_epoch()

    assert list(training_loader(made, samples(), 7, CPU, 0)) == []


def test_samples_that_are_augmented_are_read_one_by_one() -> None:
    assert resident(samples(augment=Doubled()), CPU) is None
    assert isinstance(training_loader(pruner(), samples(augment=Doubled()), 7, CPU, 0), DataLoader)


@pytest.mark.parametrize("generator", [None, 0])
def test_looking_at_samples_draws_as_a_loader_does(generator: int | None) -> None:
    """Networks with stochastic depth go on to draw the numbers that they drew."""
    own = None if generator is None else torch.Generator().manual_seed(generator)
    left = []
    for loader in (evaluation_loader(samples(), CPU, 0, own), DataLoader(samples(), batch_size=512, generator=own)):
        torch.manual_seed(0)
        batches = list(loader)
        left.append((torch.rand(3), batches[0]))

    assert torch.equal(left[0][0], left[1][0])
    assert all(torch.equal(one, other) for one, other in zip(left[0][1], left[1][1], strict=True))
