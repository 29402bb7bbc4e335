"""What the training loop refuses or warns of: losses that are not finite, wrong calls, states that do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import alignprune as ap
from alignprune._state import STATE_VERSION
from toy_pruners import N, batches, infobatch, loss_table, pruning, run_epoch, toy_model, toy_set

# -------------------------------------------------------------------------- losses that are not finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_of_a_batch_with_a_bad_loss_is_not_finite(bad: float, weighted: bool) -> None:
    pruner = pruning() if weighted else infobatch()
    index = next(batches(pruner))
    losses = torch.rand(8)
    losses[2] = bad
    assert not math.isfinite(pruner.reduce(index, losses).item())


def test_a_guard_of_the_users_own_sees_that_the_gradient_is_lost() -> None:
    model, (x, y) = toy_model(), toy_set().tensors
    pruner = infobatch()
    index = next(batches(pruner))
    inputs = x[index].clone()
    inputs[3] = math.nan
    loss = pruner.reduce(index, F.cross_entropy(model(inputs), y[index], reduction="none"))
    loss.backward()
    assert model.weight.grad is not None
    assert model.weight.grad.isnan().all()  # nothing behind the forward pass can mend it
    assert not loss.isfinite()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_finite_losses_of_a_batch_with_a_bad_one_are_recorded(weighted: bool) -> None:
    pruner, table = pruning() if weighted else infobatch(), loss_table(2)
    epoch = pruner.epoch
    table[epoch, 7] = math.nan
    with pytest.warns(UserWarning, match="1 losses of epoch"):
        run_epoch(pruner, table)
    seen = pruner.memory(ap.TrajectoryBank).recent(1)[0]
    others = [i for i in range(N) if i != 7]
    assert seen[others].isfinite().all()


def test_bad_losses_are_counted_warned_of_in_their_epoch_and_kept_out_of_scores() -> None:
    pruner, table = infobatch(epochs=4), loss_table(4)
    table[:, 7] = math.nan
    table[0, 8] = math.inf
    with pytest.warns(UserWarning, match="2 losses of epoch 0 are not finite"):
        run_epoch(pruner, table)
    assert pruner.nonfinite == 2
    assert pruner.scores[[7, 8]].isnan().all()
    assert pruner.scores[9:].isfinite().all()
    assert {7, 8} <= set(pruner.selection.indices.tolist())  # no score: never pruned by rank
    good = table[0][pruner.scores.isfinite()]
    assert (pruner.scores[pruner.selection.pruned] < good.double().mean()).all()
    for epoch in range(1, 4):
        with pytest.warns(UserWarning, match=f"1 losses of epoch {epoch} are not finite"):
            run_epoch(pruner, table)
    assert pruner.nonfinite == 5
    assert pruner.scores[7].isnan()
    assert pruner.scores[8].isfinite()


def test_the_warning_points_at_the_training_script() -> None:
    pruner, table = infobatch(), loss_table(1)
    table[0, 0] = math.nan
    for index in batches(pruner):
        pruner.reduce(index, table[0, index])
    with pytest.warns(UserWarning, match="not finite") as caught:
        pruner.end_epoch()
    assert caught[0].filename == __file__


def test_a_sample_keeps_its_last_score_when_its_new_loss_is_bad() -> None:
    pruner = ap.Pruner(N, 3, ap.scores.Loss(), ap.policies.Full())
    table = loss_table(2)
    table[1, 5] = math.nan
    run_epoch(pruner, table)
    with pytest.warns(UserWarning, match="1 losses of epoch 1"):
        run_epoch(pruner, table)
    assert pruner.scores[5] == table[0, 5]
    assert pruner.scores[6] == table[1, 6]


def test_a_bad_loss_is_a_gap_in_the_trajectory() -> None:
    pruner = ap.Pruner(N, 6, ap.scores.Alignment(window=5), ap.policies.Full())
    table, references = loss_table(5), [2.0, 1.5, 1.1, 0.9, 0.3]
    table[2, 4] = math.inf
    for epoch in range(2):
        run_epoch(pruner, table, references[epoch])
    with pytest.warns(UserWarning, match="not finite"):
        run_epoch(pruner, table, references[2])
    for epoch in range(3, 5):
        run_epoch(pruner, table, references[epoch])
    seen = [0, 1, 3, 4]
    expected = np.corrcoef(table[seen, 4].double(), np.array(references)[seen])[0, 1]
    assert pruner.scores[4].item() == pytest.approx(expected, abs=1e-5)
    expected = np.corrcoef(table[:, 3].double(), np.array(references))[0, 1]
    assert pruner.scores[3].item() == pytest.approx(expected, abs=1e-5)


def test_an_epoch_without_any_finite_loss_leaves_no_score() -> None:
    pruner = infobatch()
    for index in batches(pruner):
        assert pruner.reduce(index, torch.full((len(index),), math.nan)).isnan()
    with pytest.warns(UserWarning, match=f"{N} losses of epoch 0"):
        pruner.end_epoch()
    assert pruner.scores.isnan().all()
    assert len(pruner.selection) == N
    run_epoch(pruner, loss_table(2))
    assert len(pruner.selection) < N


def test_training_goes_on_where_bad_steps_are_skipped() -> None:
    model, (x, y) = toy_model(), toy_set().tensors
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = infobatch(epochs=8)
    broken = x.clone()
    broken[12] = math.nan

    def train() -> None:
        for _epoch in range(8):
            for index in batches(pruner):
                loss = pruner.reduce(index, F.cross_entropy(model(broken[index]), y[index], reduction="none"))
                if loss.isfinite():
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            pruner.end_epoch()

    with pytest.warns(UserWarning, match="not finite"):
        train()
    assert pruner.nonfinite == 8  # it has no score, so it is never pruned
    assert F.cross_entropy(model(x), y).item() < 0.1


def test_float64_losses_beyond_float32_count_as_not_finite() -> None:
    pruner, losses = infobatch(), torch.rand(N, dtype=torch.float64)
    losses[3] = 1e39
    assert pruner.reduce(torch.arange(N), losses).isfinite()
    with pytest.warns(UserWarning, match="1 losses of epoch 0"):
        pruner.end_epoch()
    assert pruner.scores[3].isnan()
    assert pruner.scores[4] == losses[4].float()


def test_huge_losses_are_finite_though_their_sum_is_not() -> None:
    pruner = infobatch()
    losses = torch.full((N,), 3e38)
    losses[0] = 1.0
    pruner.reduce(torch.arange(N), losses)
    pruner.end_epoch()
    assert pruner.nonfinite == 0
    assert torch.equal(pruner.scores, losses)


# -------------------------------------------------------------------------- what is refused


def arange(count: int) -> Tensor:
    return torch.arange(count)


BAD_BATCHES: list[tuple[Any, Any, type[Exception], str]] = [
    (arange(4), torch.tensor(0.5), ValueError, r"losses has shape \(\).*averaged.*reduction='none'"),
    (arange(4), torch.rand(3), ValueError, r"index has shape \(4,\) and losses \(3,\)"),
    (arange(4), torch.rand(4, 1), ValueError, r"losses has shape \(4, 1\), expected \[B\]"),
    (arange(4), arange(4), TypeError, r"losses is torch.int64, expected a float tensor"),
    (arange(4), 0.5, TypeError, r"losses is float, expected a float tensor"),
    (arange(4).float(), torch.rand(4), TypeError, r"index is torch.float32, expected an integer tensor"),
    (arange(4) > 1, torch.rand(4), TypeError, r"index is torch.bool, expected an integer tensor"),
    ([0, 1], torch.rand(2), TypeError, r"index is list, expected an integer tensor"),
    (torch.tensor([3, N]), torch.rand(2), ValueError, rf"index reaches from 3 to {N}, expected 0 to {N - 1}"),
    (torch.tensor([3, -1]), torch.rand(2), ValueError, rf"index reaches from -1 to 3, expected 0 to {N - 1}"),
    (torch.tensor([3, 5, 3]), torch.rand(3), ValueError, r"index repeats \[3\] in one batch"),
    (arange(0), torch.rand(0), ValueError, r"batch is empty"),
]


@pytest.mark.parametrize("index, losses, error, message", BAD_BATCHES)
def test_a_bad_batch_is_refused_and_leaves_no_trace(
    index: Any, losses: Any, error: type[Exception], message: str
) -> None:
    pruner, table = infobatch(), loss_table(2)
    for call in (pruner.reduce, pruner.record):
        with pytest.raises(error, match=message):
            call(index, losses)
    run_epoch(pruner, table)
    assert torch.equal(pruner.scores, table[0])
    assert pruner.forward_passes == N


def test_samples_that_are_not_selected_are_refused() -> None:
    pruner = pruning()
    left_out = pruner.selection.pruned[:2]
    with pytest.raises(ValueError, match=rf"index holds \[{left_out[0]}, {left_out[1]}\].*not selected in epoch 1"):
        pruner.reduce(torch.cat([left_out, pruner.selection.indices[:1]]), torch.rand(3))


def test_recorded_samples_have_to_be_left_out() -> None:
    pruner = pruning()
    with pytest.raises(ValueError, match=r"not left out in epoch 1"):
        pruner.record(pruner.selection.indices[:2], torch.rand(2))


def test_a_batch_that_is_reduced_twice_is_refused() -> None:
    pruner = infobatch()
    first, second, *_ = batches(pruner)
    pruner.reduce(first, torch.rand(8))
    mixed = torch.cat([second[:4], first[:4]])
    for index, twice in ((first, first), (mixed, first[:4])):
        with pytest.raises(RuntimeError, match=r"read in epoch 0 already.*end_epoch") as caught:
            pruner.reduce(index, torch.rand(8))
        assert str(twice.tolist()[:4])[:-1] in str(caught.value)
    pruner.reduce(second, torch.rand(8))  # what was refused left no trace


def test_the_next_epoch_without_end_epoch_is_refused() -> None:
    pruner = infobatch()
    for index in batches(pruner):
        pruner.reduce(index, torch.rand(len(index)))
    with pytest.raises(RuntimeError, match=r"read in epoch 0 already.*end_epoch"):
        pruner.reduce(next(batches(pruner)), torch.rand(8))


@pytest.mark.parametrize("read", [8, 32, 48])
def test_an_epoch_that_was_read_in_part_is_refused(read: int) -> None:
    pruner, table = infobatch(), loss_table(2)
    order = list(pruner.sampler)
    for start in range(0, read, 8):
        index = torch.tensor(order[start : start + 8])
        pruner.reduce(index, table[0, index])
    with pytest.raises(RuntimeError, match=rf"epoch 0 was read in part: {read} of {N} selected.*shards.*partial=True"):
        pruner.end_epoch()
    assert pruner.epoch == 0
    pruner.end_epoch(partial=True)
    assert pruner.epoch == 1
    assert pruner.scores.isfinite().sum() == read


def test_a_last_batch_may_be_dropped() -> None:
    pruner, table = infobatch(), loss_table(2)
    loader = pruner.loader(toy_set(), batch_size=8, drop_last=True)
    for index, _ in loader:
        pruner.reduce(index, table[0, index])
    pruner.end_epoch()
    assert pruner.scores.isnan().sum() == N % 8 == 4


def test_a_dropped_batch_is_known_after_a_resume() -> None:
    pruner, table = infobatch(), loss_table(2)
    parts = [index for index in batches(pruner) if len(index) == 8]
    for index in parts:
        pruner.reduce(index, table[0, index])
    other = infobatch()
    other.load_state_dict(pruner.state_dict())
    for one in (pruner, other):
        one.end_epoch()
    assert torch.equal(pruner.scores.nan_to_num(-1), other.scores.nan_to_num(-1))


def test_end_epoch_twice_is_refused() -> None:
    pruner = pruning()
    with pytest.raises(RuntimeError, match=r"no losses were recorded in epoch 1: end_epoch was called twice"):
        pruner.end_epoch()
    assert pruner.epoch == 1


def test_nothing_goes_on_after_the_last_epoch() -> None:
    pruner = infobatch(epochs=1)
    run_epoch(pruner, loss_table(1))
    for call in (pruner.end_epoch, lambda: pruner.reduce(torch.arange(4), torch.rand(4))):
        with pytest.raises(RuntimeError, match=r"all 1 epochs have ended.*more epochs"):
            call()


def test_after_the_last_epoch_the_sampler_is_empty_and_raises_nowhere() -> None:
    pruner = infobatch(epochs=1)
    loader, left_out = pruner.loader(toy_set(), batch_size=8), pruner.loader(toy_set(), pruned=True, batch_size=8)
    even = pruner.loader(toy_set(), batch_size=8, even_batches=True)
    run_epoch(pruner, loss_table(1))
    for one in (loader, left_out, even, pruner.sampler, pruner.pruned_sampler):
        assert len(one) == 0
        assert list(one) == []


def test_reading_ahead_or_again_has_no_side_effect() -> None:
    pruner = infobatch()
    order = list(pruner.sampler)
    pruner.reduce(torch.tensor(order[:8]), torch.rand(8))
    assert list(pruner.sampler) == order
    assert len(pruner.sampler) == N


BAD_REFERENCES: list[tuple[Any, str]] = [
    (None, r"reference_loss is missing: Alignment.*reference_loss="),
    (math.nan, r"reference_loss=nan is not finite"),
    (math.inf, r"reference_loss=inf is not finite"),
    (torch.tensor(math.nan), r"reference_loss=nan is not finite"),
    (torch.ones(3), r"reference_loss has shape \(3,\), expected one number"),
    (np.ones(3), r"reference_loss .*expected one number"),
    ([0.5, 0.6], r"reference_loss .*expected one number"),
    ("low", r"reference_loss .*expected one number"),
]


@pytest.mark.parametrize("reference, message", BAD_REFERENCES, ids=[repr(value) for value, _ in BAD_REFERENCES])
def test_a_bad_reference_is_refused_and_the_epoch_can_still_be_closed(reference: Any, message: str) -> None:
    pruner, table = ap.Pruner(N, 3, ap.scores.Alignment(window=2), ap.policies.InfoBatch()), loss_table(1)
    pruner.reduce(torch.arange(N), table[0])
    with pytest.raises((ValueError, TypeError), match=message):
        pruner.end_epoch(reference)
    assert pruner.epoch == 0
    pruner.end_epoch(0.5)
    assert pruner.epoch == 1


@pytest.mark.parametrize("reference", [0.5, np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5], dtype=torch.half)])
def test_a_reference_may_be_any_one_number(reference: Any) -> None:
    pruner = ap.Pruner(N, 3, ap.scores.Alignment(window=2), ap.policies.InfoBatch())
    pruner.reduce(torch.arange(N), torch.rand(N))
    pruner.end_epoch(reference)
    assert pruner.reference[1] == 0.5


BAD_SETTINGS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: ap.policies.InfoBatch(prune_prob=1.2), ValueError, r"prune_prob=1.2 is out of range.*\[0, 1\]"),
    (lambda: ap.policies.InfoBatch(prune_prob=math.nan), ValueError, r"prune_prob=nan is out of range"),
    (lambda: ap.scores.Alignment(window=1), ValueError, r"window=1 is out of range.*>= 2"),
    (lambda: ap.scores.Alignment(gaps="none"), ValueError, r"gaps='none' is unknown.*paired"),  # type: ignore[arg-type]
    (lambda: infobatch(epochs=-3), ValueError, r"epochs=-3 is out of range"),
    (lambda: infobatch(epochs=0), ValueError, r"epochs=0 is out of range"),
    (lambda: infobatch(delta=1.5), ValueError, r"delta=1.5 is out of range.*\[0, 1\]"),
    (lambda: infobatch(delta="late"), TypeError, r"delta='late' is str"),
    (lambda: infobatch(seed=-1), ValueError, r"seed=-1 is out of range"),
    (lambda: infobatch(n=50.0), TypeError, r"num_samples=50.0 is float, expected an integer"),  # type: ignore[arg-type]
    (lambda: infobatch(n=True), TypeError, r"num_samples=True is bool, expected an integer"),
    (lambda: infobatch(n=0), ValueError, r"num_samples=0 is out of range"),
    (
        lambda: ap.Pruner(4, 9, ap.scores.Loss(), ap.policies.SeTa(groups=5)),
        ValueError,
        r"groups=5 is more than the 3 samples .* num_samples=4",
    ),
    (lambda: ap.Pruner(9, 9, "loss", ap.policies.Full()), TypeError, r"score='loss' is str.*Alignment"),  # type: ignore[arg-type]
    (lambda: ap.Pruner(9, 9, ap.scores.Loss(), ap.policies.Full), TypeError, r"policy=<class.*InfoBatch"),  # type: ignore[arg-type]
    (
        lambda: ap.Pruner.from_preset("infobatch-das", num_samples=9, epochs=9),
        ValueError,
        r"method='infobatch-das' is unknown.*did you mean 'infobatch\+das'",
    ),
    (
        lambda: ap.Pruner.from_preset("infobatch", num_samples=9, epochs=9, prune_prop=0.3),
        TypeError,
        r"preset 'infobatch': setting='prune_prop' is unknown.*did you mean 'prune_prob'",
    ),
    (
        lambda: ap.Pruner.from_preset("infobatch", num_samples=9, epochs=9, window=5),
        TypeError,
        r"preset 'infobatch': setting='window' is unknown, expected one of .*prune_prob",
    ),
    (
        lambda: ap.Pruner.from_preset("infobatch+das", num_samples=9, epochs=9, window=1),
        ValueError,
        r"window=1 is out of range",
    ),
]


@pytest.mark.parametrize("make, error, message", BAD_SETTINGS)
def test_a_bad_setting_is_refused_by_name_and_value(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_knobs_reach_the_score_the_policy_and_delta() -> None:
    pruner = ap.Pruner.from_preset(
        "seta+das", num_samples=N, epochs=20, seed=3, window=7, groups=4, delta=0.5, device="cpu"
    )
    assert pruner.score == ap.scores.Alignment(window=7)
    assert pruner.policy == ap.policies.SeTa(prune_prob=0.1, groups=4, alpha=0.9)
    assert (pruner.seed, pruner.annealing_start) == (3, 10)


def state_of(pruner: ap.Pruner, **changes: Any) -> dict[str, Any]:
    return pruner.state_dict() | changes


OTHER_STATES: list[tuple[Callable[[], dict[str, Any]], str]] = [
    (lambda: state_of(infobatch(n=61)), rf"data set of 61 samples, expected {N}"),
    (lambda: state_of(infobatch(seed=5)), r"seed=5, expected seed=0"),
    (lambda: state_of(infobatch(epochs=11)), r"epochs=11, expected epochs=10"),
    (lambda: state_of(infobatch(delta=0.5)), r"delta=0.5, expected delta=0.875"),
    (lambda: state_of(infobatch(), version=0), rf"format version 0, expected {STATE_VERSION}"),
    (lambda: {"version": STATE_VERSION}, r"lacks num_samples, method"),
    (lambda: {"version": 2}, rf"format version 2, expected {STATE_VERSION}"),
    (lambda: {}, r"state=\{\} is no state of a Pruner"),
    (lambda: [], r"state=\[\] is no state of a Pruner"),  # type: ignore[return-value, arg-type]
    (lambda: None, r"state=None is no state of a Pruner"),  # type: ignore[return-value, arg-type]
    (lambda: state_of(infobatch(), epoch=11), r"epoch 11, expected one of 0 to 10"),
    (lambda: state_of(infobatch(), epoch=-1), r"epoch -1, expected one of 0 to 10"),
    (lambda: state_of(infobatch(), scores=torch.zeros(3)), r"state.scores=torch.float32 \(3,\) does not fit"),
    (lambda: state_of(infobatch(), memories=[]), r"has 0 memories, expected 1"),
    (lambda: state_of(infobatch(), memories=[{"written": 1}]), r"bank\.\w+=None does not fit"),
    (lambda: state_of(infobatch(labels=[0, 1] * (N // 2))), r"saved with labels, expected it with no labels"),
    (
        lambda: state_of(infobatch(), selection=infobatch().selection.state_dict() | {"indices": torch.tensor([3, 1])}),
        r"indices=.* is not ascending",
    ),
    (
        lambda: state_of(ap.Pruner(N, 10, ap.scores.Loss(), ap.policies.InfoBatch(0.75))),
        r"policy=InfoBatch\(prune_prob=0.75.*expected policy=InfoBatch\(prune_prob=0.5",
    ),
    (
        lambda: state_of(ap.Pruner(N, 10, ap.scores.Alignment(), ap.policies.InfoBatch())),
        r"score=Alignment\(.*expected score=Loss\(\)",
    ),
]


@pytest.mark.parametrize("make, message", OTHER_STATES)
def test_the_state_of_another_run_is_refused_and_changes_nothing(
    make: Callable[[], dict[str, Any]], message: str
) -> None:
    pruner = pruning()
    before = pruner.state_dict()
    with pytest.raises((ValueError, TypeError), match=message):
        pruner.load_state_dict(make())
    same(pruner.state_dict(), before)


def same(one: Any, other: Any) -> None:
    """Two states are equal, bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert torch.equal(one.nan_to_num(-9), other.nan_to_num(-9))
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            same(one[name], other[name])
    elif isinstance(one, list):
        for mine, theirs in zip(one, other, strict=True):
            same(mine, theirs)
    else:
        assert one == other or (one != one and other != other)


LABELS = [i % 3 for i in range(N)]


@pytest.mark.parametrize(
    "saved, loaded", [(None, LABELS), (LABELS, None), (LABELS, [1, *LABELS[1:]])], ids=["without", "with", "other"]
)
def test_a_state_of_other_labels_is_refused(saved: Any, loaded: Any) -> None:
    make = [ap.Pruner.from_preset("robust", num_samples=N, epochs=9, labels=labels) for labels in (saved, loaded)]
    with pytest.raises(ValueError, match=r"labels of the saved run"):
        make[1].load_state_dict(make[0].state_dict())
