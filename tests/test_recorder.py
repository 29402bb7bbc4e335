"""The recorder where the index lies on an accelerator: nothing is looked at in a step, all is reported at its end."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import alignprune as ap

N = 40


class Elsewhere(Tensor):
    """A tensor that says that it lies on an accelerator, so that the way of those is gone without one."""

    is_cpu = False

    def item(self) -> None:  # type: ignore[override]
        raise AssertionError("a step waited for the device")

    __bool__ = __index__ = tolist = item  # type: ignore[assignment]


def there(values: list[int]) -> Tensor:
    return torch.tensor(values).as_subclass(Elsewhere)


def full(epochs: int = 3) -> ap.Pruner:
    return ap.Pruner(N, epochs, ap.scores.Loss(), ap.policies.Full())


def test_losses_enter_under_their_indices() -> None:
    pruner, losses = full(), torch.rand(N)
    order = list(pruner.sampler)
    for start in range(0, N, 8):
        index = order[start : start + 8]
        pruner.reduce(there(index), losses[index])
    pruner.end_epoch()
    assert torch.equal(pruner.scores, losses)


@pytest.mark.parametrize(
    "batches, outside, unexpected",
    [
        ([[0, 1, N + 3], [-1, 2]], 2, 0),
        ([[0, 1, 2], [2, 3]], 0, 1),
        ([[0, 1, 1]], 0, 1),
    ],
    ids=["outside", "read twice", "repeated in a batch"],
)
def test_faults_are_reported_when_the_epoch_ends(batches: list[list[int]], outside: int, unexpected: int) -> None:
    pruner = full()
    for index in batches:
        pruner.reduce(there(index), torch.rand(len(index)))
    rest = list(range(10, N))
    pruner.reduce(there(rest), torch.rand(len(rest)))
    expected = rf"in epoch 0, {outside} indices were outside 0 to {N - 1} and {unexpected} were repeated"
    with pytest.raises(ValueError, match=expected):
        pruner.end_epoch(partial=True)
    assert pruner.epoch == 0


def test_samples_that_are_not_selected_are_reported_when_the_epoch_ends() -> None:
    pruner = ap.Pruner(N, 3, ap.scores.Loss(), ap.policies.DynamicRandom(0.5))
    pruner.reduce(there(pruner.selection.pruned[:3].tolist()), torch.rand(3))
    with pytest.raises(ValueError, match=r"3 were repeated or not selected"):
        pruner.end_epoch(partial=True)


def test_a_missing_end_epoch_is_refused_at_once_since_it_can_be_counted_on_the_host() -> None:
    pruner = full()
    pruner.reduce(there(list(range(N))), torch.rand(N))
    with pytest.raises(RuntimeError, match=rf"epoch 0 has {N} samples on this rank.*end_epoch"):
        pruner.reduce(there([1, 2]), torch.rand(2))


def test_bad_losses_are_counted_once_a_sample() -> None:
    pruner, losses = full(), torch.rand(N)
    losses[[3, 7]] = torch.tensor([float("nan"), float("inf")])
    pruner.reduce(there(list(range(N))), losses)
    with pytest.warns(UserWarning, match="2 losses of epoch 0 are not finite"):
        pruner.end_epoch()
    assert pruner.nonfinite == 2
    assert pruner.scores.isnan().nonzero().squeeze(1).tolist() == [3, 7]
