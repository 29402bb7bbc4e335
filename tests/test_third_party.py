"""Scores and policies that a third party writes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import alignprune as ap
from toy_pruners import N, batches, infobatch, loss_table, run_epoch, toy_set

# -------------------------------------------------------------------------- methods of a third party


class Half(ap.BatchPolicy):
    """The first half of every batch."""

    def choose(self, batch: ap.BatchEvidence) -> Tensor:
        return torch.arange((len(batch.labels) + 1) // 2)


def test_a_batch_policy_of_ones_own_is_asked() -> None:
    pruner = ap.Pruner(N, 2, ap.scores.Loss(), Half())
    for index in batches(pruner):
        size = len(index)
        chosen = pruner.choose(
            index, logits=torch.randn(size, 3), features=torch.randn(size, 5), labels=torch.zeros(size).long()
        )
        assert chosen.tolist() == list(range((size + 1) // 2))
        pruner.reduce(index[chosen], torch.rand(len(chosen)))
    pruner.end_epoch()
    assert pruner.scores.isfinite().sum() == 7 * 4 + 2


def test_only_the_chosen_part_of_the_probed_batch_can_be_reduced() -> None:
    pruner = ap.Pruner(N, 2, ap.scores.Loss(), Half())
    first, second, *_ = batches(pruner)
    probe = {"logits": torch.randn(8, 3), "features": torch.randn(8, 5), "labels": torch.zeros(8).long()}
    pruner.choose(first, **probe)
    with pytest.raises(ValueError, match=r"expected a part of the batch that choose was asked about"):
        pruner.reduce(second[:4], torch.rand(4))


class Foreign(ap.Policy):
    """Returns what it is made with."""

    answer: Any = None

    def select(self, evidence: ap.Evidence) -> ap.Selection:
        return self.answer(evidence)  # type: ignore[no-any-return, misc]


@pytest.mark.parametrize(
    "answer", [lambda e: torch.arange(3), lambda e: ap.Selection.full(3)], ids=["no selection", "of another set"]
)
def test_a_policy_that_returns_no_selection_is_refused_by_name(answer: Any) -> None:
    kind = type("Mine", (Foreign,), {"answer": staticmethod(answer)})
    with pytest.raises(TypeError, match=r"Mine returned a selection of .*expected a Selection of 60"):
        ap.Pruner(N, 3, ap.scores.Loss(), kind())


def test_a_score_of_the_wrong_shape_is_refused_by_name() -> None:
    class Short(ap.Score):
        suspect = "high"
        memories = ()

        def __call__(self, history: ap.History) -> Tensor:
            return torch.zeros(3)

    pruner = ap.Pruner(N, 3, Short(), ap.policies.Full())
    pruner.reduce(torch.arange(N), torch.rand(N))
    with pytest.raises(TypeError, match=r"Short returned torch.float32 \(3,\), expected float32 \[60\]"):
        pruner.end_epoch()


def test_an_epoch_that_selects_nothing_is_announced() -> None:
    pruner = ap.Pruner(N, 3, ap.scores.Loss(), ap.policies.IES(threshold=100.0))
    pruner.reduce(torch.arange(N), loss_table(1)[0])
    with pytest.warns(UserWarning, match=rf"IES selected none of {N} samples for epoch 1") as caught:
        pruner.end_epoch()
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="for epoch 2"):
        pruner.end_epoch()  # it can be closed


def test_robust_keeps_no_bank_that_nobody_reads() -> None:
    pruner = ap.Pruner.from_preset("robust", num_samples=N, epochs=9)
    assert [type(memory) for memory in pruner.memories] == [ap.Ledger]
    with pytest.raises(RuntimeError, match=r"the method reads a TrajectoryBank that it did not declare"):
        pruner.memory(ap.TrajectoryBank)


def test_a_loader_of_another_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match=rf"dataset has 70 samples, expected num_samples={N}"):
        infobatch().loader(toy_set(70))


# The journal.


def test_what_is_predicted_of_a_sample_is_journalled_in_the_ids_of_its_labels() -> None:
    for labels, ids in ((["b", "a", "c", None], [1, 0, 2, -1]), ([30, 10, 77, -100], [30, 10, 77, -1])):
        pruner = ap.Pruner.from_preset("full", num_samples=4, epochs=3, labels=labels)
        given = torch.tensor(ids)
        for said in (given, given, torch.full((4,), 5)):
            pruner.reduce(torch.arange(4), torch.ones(4), predictions=said)
            pruner.end_epoch()
        journal = pruner.memory(ap.memory.Journal)
        assert journal.predictions.tolist() == [3, 3, 3, 1]  # -1 is no class, so of the last sample nothing was said
        assert journal.agreeing.tolist() == [2, 2, 2, 0]
        assert journal.alternative.tolist() == [5] * 4


def test_the_journal_is_kept_where_labels_are_given_or_where_it_is_asked_for() -> None:
    def has(**how: Any) -> bool:
        memories = ap.Pruner.from_preset("full", num_samples=4, epochs=2, **how).memories
        return any(isinstance(memory, ap.memory.Journal) for memory in memories)

    assert has(labels=[0, 1, 0, 1])
    assert has(journal=True)
    assert not has()
    assert not has(labels=[0, 1, 0, 1], journal=False)


@pytest.mark.parametrize("predictions", [torch.ones(4), torch.ones(3).long(), torch.ones(4, 2).long()])
def test_predictions_that_are_no_classes_of_the_batch_are_refused(predictions: torch.Tensor) -> None:
    pruner = ap.Pruner.from_preset("full", num_samples=4, epochs=2, labels=[0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"predictions is .*expected integers \[4\], one class a sample"):
        pruner.reduce(torch.arange(4), torch.ones(4), predictions=predictions)
    pruner.reduce(torch.arange(4), torch.ones(4))  # nothing was taken


def test_reading_past_a_small_data_set_names_the_remedy() -> None:
    loader = DataLoader(ap.Indexed(toy_set(50)), sampler=infobatch().sampler, batch_size=8)
    with pytest.raises(
        IndexError, match=r"expected an index below 50: make the Pruner with num_samples=len\(dataset\)"
    ):
        list(loader)


def test_ies_without_the_losses_of_pruned_samples_is_refused() -> None:
    pruner = ap.Pruner(N, 12, ap.scores.SecondDifference(smoothing=1), ap.policies.IES(threshold=0.3))
    table = loss_table(12)
    while not len(pruner.selection.pruned):
        run_epoch(pruner, table)
    pruned = len(pruner.selection.pruned)
    for index in batches(pruner):
        pruner.reduce(index, table[pruner.epoch, index])
    with pytest.raises(
        ValueError, match=rf"SecondDifference needs the losses of the {pruned} pruned .*0 were recorded"
    ):
        pruner.end_epoch()
    left_out = pruner.selection.pruned
    pruner.record(left_out, table[pruner.epoch, left_out])
    epoch = pruner.epoch
    pruner.end_epoch()
    assert pruner.epoch == epoch + 1


def test_a_policy_inside_the_batch_without_choose_is_refused() -> None:
    pruner = ap.Pruner.from_preset("divbs", num_samples=N, epochs=3)
    with pytest.raises(RuntimeError, match=r"DivBS chooses inside each batch.*call pruner.choose first"):
        pruner.reduce(torch.arange(4), torch.rand(4))
    assert pruner.choose(
        torch.arange(8), logits=torch.randn(8, 3), features=torch.randn(8, 5), labels=torch.arange(8) % 3
    ).shape == (5,)


def test_other_policies_choose_the_whole_batch() -> None:
    pruner = infobatch()
    chosen = pruner.choose(torch.arange(8), logits=torch.randn(8, 3), features=torch.randn(8, 5), labels=torch.ones(8))
    assert chosen.tolist() == list(range(8))
