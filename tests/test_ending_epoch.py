"""An epoch that ends while something else is done: the same selections, and what goes wrong is raised."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
import torch

import alignprune as ap

N, EPOCHS = 500, 8
TABLE = torch.rand(EPOCHS, N, generator=torch.Generator().manual_seed(0)) + 0.1


def read(pruner: ap.Pruner) -> None:
    index = torch.tensor(list(pruner.sampler))
    pruner.reduce(index, TABLE[pruner.epoch, index])


@pytest.mark.parametrize("name", ["infobatch", "seta", "robust", "dynamic-random"])
def test_the_next_epoch_is_as_if_the_evaluation_had_waited(name: str) -> None:
    beside, after = (ap.Pruner.from_preset(name, num_samples=N, epochs=EPOCHS) for _ in range(2))
    for epoch in range(EPOCHS):
        read(beside), read(after)
        with beside.ending_epoch():
            evaluated = TABLE.mean()
        assert evaluated > 0
        after.end_epoch()
        assert beside.epoch == after.epoch == epoch + 1
        assert torch.equal(beside.selection.indices, after.selection.indices)
        assert list(beside.sampler) == list(after.sampler)
    assert torch.equal(beside.scores.nan_to_num(-1), after.scores.nan_to_num(-1))


@dataclass(frozen=True)
class Waiting(ap.Policy):
    """Chooses when it is told to; the last epoch but one it cannot."""

    told = threading.Event()

    def select(self, evidence: ap.Evidence) -> ap.Selection:
        if evidence.epoch == 1:
            assert self.told.wait(60)
        if evidence.epoch == 2:
            raise RuntimeError("nothing can be chosen")
        return ap.Selection.full(evidence.size)


def test_the_policy_chooses_beside_the_block_and_its_errors_are_raised_behind_it() -> None:
    policy = Waiting()
    pruner = ap.Pruner(N, EPOCHS, ap.scores.Loss(), policy)
    read(pruner)
    with pruner.ending_epoch():
        policy.told.set()  # the policy would wait in vain if the block came after it
    assert pruner.epoch == 1
    read(pruner)
    done = False
    with pytest.raises(RuntimeError, match="nothing can be chosen"), pruner.ending_epoch():
        done = True
    assert done


def test_an_error_of_the_block_leaves_the_epoch_ended() -> None:
    pruner = ap.Pruner.from_preset("infobatch", num_samples=N, epochs=EPOCHS)
    read(pruner)
    with pytest.raises(ZeroDivisionError), pruner.ending_epoch():
        raise ZeroDivisionError
    assert pruner.epoch == 1
    read(pruner)
    pruner.end_epoch()


def test_what_end_epoch_refuses_is_refused_before_the_block() -> None:
    pruner = ap.Pruner.from_preset("infobatch+das", num_samples=N, epochs=EPOCHS)
    read(pruner)
    with pytest.raises(ap.UserError, match="reference_loss is missing"), pruner.ending_epoch():
        raise AssertionError("the block was entered")
    assert pruner.epoch == 0
