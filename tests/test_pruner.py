"""The training loop: what goes in, what comes out, and what is refused, through the public API alone."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap
from alignprune._state import STATE_VERSION
from alignprune.policies import Policy
from alignprune.scores import Score

N = 60


def toy_set(n: int = N, seed: int = 0) -> TensorDataset:
    """Two linearly separable classes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, 4, generator=generator) + 3.0 * (y[:, None] * 2 - 1)
    return TensorDataset(x, y)


def toy_model() -> nn.Linear:
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    return model


def loss_table(epochs: int, n: int = N, seed: int = 0) -> Tensor:
    """Synthetic losses [epochs, n]: random, positive, a function of (epoch, index) alone."""
    return torch.rand(epochs, n, generator=torch.Generator().manual_seed(seed)) + 0.1


def infobatch(n: int = N, epochs: int = 10, **settings: Any) -> ap.Pruner:
    return ap.Pruner(n, epochs, ap.scores.Loss(), ap.policies.InfoBatch(), **settings)


def batches(pruner: ap.Pruner, size: int = 8) -> Iterator[Tensor]:
    order = list(pruner.sampler)
    for start in range(0, len(order), size):
        yield torch.tensor(order[start : start + size])


def run_epoch(pruner: ap.Pruner, table: Tensor, reference: float | None = None, size: int = 8) -> int:
    """One epoch of synthetic losses; returns the samples that were read."""
    losses, count = table[pruner.epoch], 0
    for index in batches(pruner, size):
        pruner.reduce(index, losses[index])
        count += len(index)
    if pruner.score.needs_pruned and len(pruner.pruned_sampler):
        left_out = torch.tensor(list(pruner.pruned_sampler))
        pruner.record(left_out, losses[left_out])
    pruner.end_epoch(reference)
    return count


def pruning(epochs: int = 10, **settings: Any) -> ap.Pruner:
    """An InfoBatch pruner in its second epoch: some samples left out, some with weight 2."""
    pruner = infobatch(epochs=epochs, **settings)
    run_epoch(pruner, loss_table(1))
    assert 0 < len(pruner.selection) < N
    return pruner


# -------------------------------------------------------------------------- the loop of the documentation


def test_the_loop_with_the_constructor_trains() -> None:
    train_set, model = toy_set(), toy_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reference = ap.Reference.subset(toy_set(seed=1), size=20)
    pruner = ap.Pruner(
        num_samples=len(train_set),
        epochs=12,
        score=ap.scores.Alignment(window=4, correlation="pearson"),
        policy=ap.policies.InfoBatch(prune_prob=0.5),
        delta=0.875,
        seed=0,
    )
    loader = DataLoader(ap.Indexed(train_set), sampler=pruner.sampler, batch_size=16)
    before, read = reference.loss(model), []
    for _epoch in range(pruner.epochs):
        read.append(0)
        for index, (x, y) in loader:
            losses = F.cross_entropy(model(x), y, reduction="none")
            loss = pruner.reduce(index, losses)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            read[-1] += len(index)
        pruner.end_epoch(reference_loss=reference.loss(model))
    assert reference.loss(model) < 0.1 < before
    assert read[:3] == [N, N, N]  # a correlation needs three points
    assert min(read[3:10]) < N
    assert read[10:] == [N, N]  # floor(0.875 * 12) = 10
    assert pruner.forward_passes == sum(read)


def test_the_loop_from_a_preset_trains() -> None:
    train_set, model = toy_set(), toy_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reference = ap.Reference.subset(toy_set(seed=1), size=20)
    pruner = ap.Pruner.from_preset("infobatch+das", num_samples=len(train_set), epochs=10)
    loader = DataLoader(ap.Indexed(train_set), sampler=pruner.sampler, batch_size=16)
    for _epoch in range(pruner.epoch, pruner.epochs):
        for index, (x, y) in loader:
            losses = F.cross_entropy(model(x), y, reduction="none")
            optimizer.zero_grad()
            pruner.reduce(index, losses).backward()
            optimizer.step()
        pruner.end_epoch(reference_loss=reference.loss(model))
    assert pruner.epoch == 10
    assert reference.loss(model) < 0.1


@pytest.mark.parametrize("name", list(ap.PRESETS))
def test_every_preset_trains(name: str) -> None:
    train_set, model, epochs = toy_set(), toy_model(), 12
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reference = ap.Reference.subset(toy_set(seed=1), size=20)
    before = reference.loss(model)
    pruner = ap.Pruner.from_preset(name, num_samples=N, epochs=epochs, labels=train_set.tensors[1])
    loader = pruner.loader(train_set, batch_size=16)
    read, trained = 0, 0
    for _epoch in range(epochs):
        for index, (x, y) in loader:
            read += len(index)
            if isinstance(pruner.policy, ap.BatchPolicy):
                with torch.no_grad():
                    chosen = pruner.choose(index, logits=model(x), features=x, labels=y)
                index, x, y = index[chosen], x[chosen], y[chosen]
            trained += len(index)
            optimizer.zero_grad()
            pruner.reduce(index, F.cross_entropy(model(x), y, reduction="none")).backward()
            optimizer.step()
        if pruner.score.needs_pruned:
            with torch.no_grad():
                for index, (x, y) in pruner.loader(train_set, pruned=True, batch_size=16):
                    pruner.record(index, F.cross_entropy(model(x), y, reduction="none"))
        pruner.end_epoch(reference.loss(model) if pruner.needs_reference else None)
    assert pruner.epoch == epochs
    assert reference.loss(model) < 0.1 < before
    if name == "full":
        assert trained == epochs * N
    else:
        assert trained < epochs * N
    if name == "divbs":
        assert read == epochs * N
        assert trained == epochs * (3 * 11 + 8)  # floor(0.7 * 16) of three batches, floor(0.7 * 12) of the last


POLICIES = [
    ap.policies.Full(),
    ap.policies.DynamicRandom(0.25),
    ap.policies.InfoBatch(),
    ap.policies.SeTa(groups=4, alpha=0.75),
    ap.policies.IES(threshold=0.3),
    ap.policies.DivBS(trust=True),
]
SCORES = [ap.scores.Loss(), ap.scores.Alignment(window=4), ap.scores.SecondDifference(smoothing=1)]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@pytest.mark.parametrize("score", SCORES, ids=lambda score: type(score).__name__)
def test_every_policy_works_with_every_score(policy: Policy, score: Score) -> None:
    epochs, table, counts = 8, loss_table(8), []
    pruner = ap.Pruner(N, epochs, score, policy)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        indices = pruner.selection.indices
        assert sorted(pruner.sampler) == indices.tolist() == sorted(set(indices.tolist()))
        assert indices.min() >= 0
        assert indices.max() < N
        counts.append(len(indices))
        for index in batches(pruner):
            if isinstance(policy, ap.BatchPolicy):
                logits, features = torch.randn(2, len(index), 3, generator=generator)
                chosen = pruner.choose(index, logits=logits, features=features, labels=index % 3)
                assert len(chosen) == len(set(chosen.tolist())) == math.floor(0.7 * len(index) + 1e-9)
                index = index[chosen]
            pruner.reduce(index, table[epoch, index])
        if score.needs_pruned:
            # what policies inside the batch leave out is in the selection, so that no sample is missing by its rule
            left_out = pruner.selection.pruned
            if len(left_out):
                pruner.record(left_out, table[epoch, left_out])
        pruner.end_epoch(float(table[epoch].mean()) if score.needs_reference else None)
    assert pruner.forward_passes >= sum(counts)
    assert pruner.scores.isfinite().any()
    if isinstance(policy, ap.policies.Full | ap.policies.DivBS):
        assert counts == [N] * epochs
    else:
        assert min(counts) < N


def test_low_scores_are_what_infobatch_prunes_whatever_the_score() -> None:
    for score in SCORES:
        table, pruner = loss_table(8), ap.Pruner(N, 9, score, ap.policies.InfoBatch(), delta=1)
        for epoch in range(8):
            run_epoch(pruner, table, reference=float(table[epoch].mean()) if score.needs_reference else None)
            known = pruner.scores[~pruner.scores.isnan()]
            if len(known):
                low = (pruner.scores < known.double().mean()).sum().item()
                assert (pruner.scores[pruner.selection.pruned] < known.double().mean()).all()
                assert len(pruner.selection.pruned) == low - low // 2


# -------------------------------------------------------------------------- reduce


def test_reduce_is_the_weighted_sum_over_the_batch_size_and_so_is_its_gradient() -> None:
    pruner = pruning()
    index = next(batches(pruner, 16))
    losses = torch.rand(16, generator=torch.Generator().manual_seed(3), requires_grad=True)
    selected = pruner.selection
    assert selected.weights is not None
    weight_of = dict(zip(selected.indices.tolist(), selected.weights.tolist(), strict=True))
    weights = [weight_of[i] for i in index.tolist()]
    assert len(set(weights)) == 2
    assert min(weights) == 1.0
    loss = pruner.reduce(index, losses)
    loss.backward()
    expected = math.fsum(w * v for w, v in zip(weights, losses.tolist(), strict=True)) / 16
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert losses.grad is not None
    torch.testing.assert_close(losses.grad, torch.tensor(weights) / 16, rtol=1e-7, atol=0)


def test_reduce_of_unit_weights_is_the_plain_mean() -> None:
    losses = torch.rand(8)
    assert infobatch().reduce(torch.arange(8), losses).item() == pytest.approx(np.mean(losses.numpy()), rel=1e-6)


def test_losses_to_rank_by_may_differ_from_those_to_learn_from() -> None:
    pruner, plain = pruning(), pruning()
    generator = torch.Generator().manual_seed(4)
    for index in batches(pruner, 16):
        losses = torch.rand(len(index), generator=generator, requires_grad=True)
        ranked = torch.rand(len(index), generator=generator)
        weights = pruner.selection.dense_weights()[index]  # type: ignore[index]
        loss = pruner.reduce(index, losses, record=ranked)
        loss.backward()
        assert loss.item() == pytest.approx(float((weights * losses.detach()).sum()) / len(index), rel=1e-6)
        torch.testing.assert_close(losses.grad, weights / len(index))
        plain.reduce(index, ranked)
    pruner.end_epoch()
    plain.end_epoch()
    assert torch.equal(pruner.scores, plain.scores)


@pytest.mark.parametrize("where", ["losses", "record"])
def test_a_sample_that_is_bad_in_either_loss_is_left_out_of_the_scores_and_counted_once(where: str) -> None:
    pruner = infobatch(epochs=4)
    losses, ranked = torch.rand(N), torch.rand(N)
    {"losses": losses, "record": ranked}[where][5] = math.nan
    loss = pruner.reduce(torch.arange(N), losses, record=ranked)
    assert loss.isnan() == (where == "losses")
    with pytest.warns(UserWarning, match="not finite"):
        pruner.end_epoch()
    assert pruner.nonfinite == 1
    assert pruner.scores[5].isnan()


@pytest.mark.parametrize("record", [torch.rand(7), torch.rand(8, 1), torch.arange(8)])
def test_losses_to_rank_by_of_another_batch_are_refused_and_leave_no_trace(record: Tensor) -> None:
    pruner = infobatch()
    with pytest.raises(ValueError, match="record is"):
        pruner.reduce(torch.arange(8), torch.rand(8), record=record)
    assert pruner.state_dict()["read"] == 0


def test_the_callers_tensors_are_left_alone() -> None:
    for faulty in (False, True):
        pruner = pruning()
        index = next(batches(pruner))
        losses = torch.rand(len(index))
        if faulty:
            losses[3] = math.nan
        losses.requires_grad_()
        index_before, losses_before, version = index.clone(), losses.detach().clone(), losses._version
        pruner.reduce(index, losses).backward()
        assert torch.equal(index, index_before)
        assert torch.equal(losses.detach().view(torch.int32), losses_before.view(torch.int32))
        assert losses._version == version
        assert index._version == 0


def test_later_edits_of_the_callers_tensors_do_not_reach_the_scores() -> None:
    pruner, losses = infobatch(), torch.rand(N)
    kept = losses.clone()
    pruner.reduce(torch.arange(N), losses)
    losses.zero_()
    pruner.end_epoch()
    assert torch.equal(pruner.scores, kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_losses_of_any_float_dtype_are_averaged_without_overflow(dtype: torch.dtype) -> None:
    pruner = pruning()
    index = next(batches(pruner, 32))
    losses = (torch.full((32,), 40_000.0) + torch.arange(32)).to(dtype).requires_grad_()  # the sum passes float16
    weights = pruner.selection.dense_weights()[index]  # type: ignore[index]
    loss = pruner.reduce(index, losses)
    loss.backward()
    expected = (losses.detach().double() * weights.double()).mean().item()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert losses.grad is not None
    assert losses.grad.dtype == dtype
    torch.testing.assert_close(losses.grad, (weights / 32).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_of_any_float_dtype_enter_the_score(dtype: torch.dtype) -> None:
    pruner, losses = infobatch(), torch.rand(N).to(dtype)
    pruner.reduce(torch.arange(N), losses)
    pruner.end_epoch()
    assert torch.equal(pruner.scores, losses.float())


@pytest.mark.parametrize("preset", ["infobatch", "seta", "robust"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_default_dtype_that_a_trainer_sets_for_its_steps_changes_nothing(preset: str, dtype: torch.dtype) -> None:
    def trained(default: torch.dtype) -> ap.Pruner:
        pruner = ap.Pruner.from_preset(preset, num_samples=N, epochs=8)
        for epoch in range(6):
            for index in batches(pruner):
                torch.set_default_dtype(default)
                pruner.reduce(index, table[epoch, index])
                torch.set_default_dtype(torch.float32)
            pruner.end_epoch()
        return pruner

    table = loss_table(8)
    try:
        found = trained(dtype)
    finally:
        torch.set_default_dtype(torch.float32)
    expected = trained(torch.float32)
    assert len(expected.selection) < N
    assert torch.equal(found.selection.indices, expected.selection.indices)
    assert torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_indices_of_any_integer_dtype_mean_the_same(dtype: torch.dtype) -> None:
    pruner, other = pruning(), pruning()
    losses = torch.rand(8)
    index = next(batches(pruner))
    assert pruner.reduce(index.to(dtype), losses).item() == other.reduce(index, losses).item()
    pruner.end_epoch(partial=True)
    other.end_epoch(partial=True)
    assert torch.equal(pruner.scores, other.scores)


def test_indices_past_the_integers_of_float32_stay_exact() -> None:
    n = 2**24 + 4
    pruner = ap.Pruner(n, 2, ap.scores.Loss(), ap.policies.Full())
    index = torch.tensor([2**24 - 1, 2**24 + 1, 2**24 + 3])
    pruner.reduce(index, torch.tensor([1.0, 2.0, 3.0]))
    pruner.end_epoch(partial=True)
    assert (~pruner.scores.isnan()).nonzero().squeeze(1).tolist() == index.tolist()
    assert pruner.scores[index].tolist() == [1.0, 2.0, 3.0]


def test_micro_batches_add_up_to_the_batch() -> None:
    pruner, other = pruning(), pruning()
    index, losses = next(batches(pruner, 16)), torch.rand(16)
    parts = [pruner.reduce(i, v).item() for i, v in zip(index.split(4), losses.split(4), strict=True)]
    assert np.mean(parts) == pytest.approx(other.reduce(index, losses).item(), rel=1e-6)


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


# -------------------------------------------------------------------------- the answer


def flagged(epochs: int = 12, **settings: Any) -> ap.Pruner:
    """A `robust` run whose first samples have far higher losses, at its end."""
    pruner = ap.Pruner.from_preset("robust", num_samples=400, epochs=epochs, **settings)
    generator = torch.Generator().manual_seed(0)
    while pruner.epoch < epochs:
        losses = torch.rand(400, generator=generator)
        losses[:120] += 5
        run_epoch(pruner, losses.expand(epochs, 400), size=64)
    return pruner


def test_the_suspects_stay_when_training_ends() -> None:
    pruner = flagged()
    assert pruner.suspects is not None
    assert pruner.suspects.tolist() == list(range(120))
    assert pruner.noise_rate == pytest.approx(0.3, abs=0.02)
    assert pruner.selection.suspects is pruner.suspects


def test_the_suspects_stay_in_the_state_of_a_finished_run() -> None:
    pruner, other = flagged(), ap.Pruner.from_preset("robust", num_samples=400, epochs=12)
    file = io.BytesIO()
    torch.save(pruner.state_dict(), file)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert other.epoch == other.epochs
    assert other.suspects is not None
    assert other.suspects.tolist() == list(range(120))
    assert other.noise_rate == pruner.noise_rate
    assert len(other.sampler) == 0


def test_the_suspects_stay_through_an_annealing() -> None:
    pruner = flagged(delta=0.7)
    assert len(pruner.selection) == 400
    assert pruner.suspects is not None
    assert pruner.suspects.tolist() == list(range(120))


def test_methods_that_flag_nobody_say_none() -> None:
    pruner = infobatch(epochs=1)
    run_epoch(pruner, loss_table(1))
    assert pruner.suspects is None
    assert pruner.noise_rate is None


@pytest.mark.parametrize("score", SCORES, ids=lambda score: type(score).__name__)
def test_suspicion_is_the_score_turned_by_its_own_word(score: Score) -> None:
    table, pruner = loss_table(8), ap.Pruner(N, 9, score, ap.policies.Full())
    for epoch in range(8):
        run_epoch(pruner, table, reference=float(table[epoch].mean()) if score.needs_reference else None)
    turned = pruner.scores if score.suspect == "high" else -pruner.scores
    assert torch.equal(pruner.suspicion, turned)


# -------------------------------------------------------------------------- labels are names


def labelled_run(labels: Any) -> tuple[list[list[int]], list[int]]:
    """The selections and final suspects of a run in which held-out losses decide who is re-admitted."""
    pruner = ap.Pruner.from_preset("robust", num_samples=400, epochs=14, labels=labels)
    generator, selections = torch.Generator().manual_seed(0), []
    for epoch in range(14):
        losses = torch.rand(400, generator=generator)
        losses[:120] += 5.0
        losses[:120:2] -= 5.0 * (epoch > 6)  # hard ones, found right as soon as they are looked at held out
        selections.append(pruner.selection.indices.tolist())
        run_epoch(pruner, losses.expand(14, 400), size=64)
    assert pruner.suspects is not None
    return selections, pruner.suspects.tolist()


CLASSES = np.arange(400) % 4
NAMES: dict[str, Any] = {
    "wide": CLASSES.astype(np.int64) * 2**40 - 2**41,
    "unsigned": CLASSES.astype(np.uint16),
    "uint64": CLASSES.astype(np.uint64) + np.uint64(2**63),
    "negative": CLASSES - 7,
    "list": CLASSES.tolist(),
    "tensor": torch.from_numpy(CLASSES.astype(np.int8)),
    "strings": np.array(["ant", "bee", "cat", "dog"])[CLASSES],
    "objects": [["ant", "bee", "cat", "dog"][c] for c in CLASSES],
}


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_names(name: str) -> None:
    assert labelled_run(NAMES[name]) == labelled_run(CLASSES)


def test_labels_matter() -> None:  # or the test above could not fail
    assert labelled_run(CLASSES) != labelled_run(None)


def test_a_column_of_a_split_frame_is_taken_in_its_order() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed, so no Series can be made")
    frame = pandas.DataFrame({"y": np.concatenate([[9] * 100, CLASSES])}).sample(frac=1, random_state=0)
    part = frame.iloc[:400]
    assert labelled_run(part["y"]) == labelled_run(part["y"].to_numpy())


BAD_LABELS: list[tuple[Any, str]] = [
    (np.zeros(N - 1, dtype=int), rf"labels=int64 \({N - 1},\) is not one a sample, expected \[{N}\]"),
    (np.zeros((N, 2), dtype=int), rf"is not one a sample, expected \[{N}\]"),
    (np.zeros(N), r"labels=float64 .* no class names, expected integers or strings"),
    ([0.5] * N, r"labels=float64 .* no class names"),
    (["a", 1] * (N // 2), r"labels=<U|labels=int and str|no class names|one kind"),
    ([object()] * N, r"labels=object are no class names"),
]


@pytest.mark.parametrize("labels, message", BAD_LABELS[:4] + BAD_LABELS[5:])
def test_labels_that_are_no_names_are_refused(labels: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        infobatch(labels=labels)


# -------------------------------------------------------------------------- samples without a label


def test_unlabelled_samples_count_neither_in_the_mean_nor_in_its_gradient() -> None:
    pruner, (x, y), model = infobatch(), toy_set().tensors, nn.Linear(4, 2)
    y = y.clone()
    y[::3] = -100
    index = next(batches(pruner))
    expected = torch.autograd.grad(F.cross_entropy(model(x[index]), y[index]), list(model.parameters()))
    losses = F.cross_entropy(model(x[index]), y[index], reduction="none")
    found = torch.autograd.grad(pruner.reduce(index, losses, labelled=y[index] != -100), list(model.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("known", [False, True], ids=["by the mask", "by the labels"])
def test_unlabelled_samples_have_no_score(known: bool) -> None:
    y = torch.arange(N) % 2
    y[::3] = -100
    pruner = infobatch(labels=y) if known else infobatch()
    table = loss_table(1)[0].masked_fill(y < 0, 0.0)  # what torch's criterion returns for them
    for index in batches(pruner):
        labelled = None if known else y[index] >= 0
        loss = pruner.reduce(index, table[index], labelled=labelled)
        assert loss.item() == pytest.approx(table[index][y[index] >= 0].mean().item(), rel=1e-6)
    pruner.end_epoch()
    assert pruner.nonfinite == 0
    assert pruner.scores.isnan().nonzero().squeeze(1).tolist() == list(range(0, N, 3))


def test_a_batch_without_any_label_teaches_nothing() -> None:
    pruner, losses = infobatch(), torch.zeros(8, requires_grad=True)
    loss = pruner.reduce(next(batches(pruner)), losses * 2, labelled=torch.zeros(8, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert losses.grad is not None
    assert losses.grad.tolist() == [0.0] * 8


def test_none_is_a_sample_without_a_label() -> None:
    names: list[str | None] = ["ant", "bee"] * (N // 2)
    names[5] = None
    pruner, table = infobatch(labels=names), loss_table(1)
    run_epoch(pruner, table)
    assert pruner.scores.isnan().nonzero().squeeze(1).tolist() == [5]


@pytest.mark.parametrize("labelled", [torch.ones(8), torch.ones(7, dtype=torch.bool)])
def test_a_mask_of_another_batch_is_refused(labelled: Tensor) -> None:
    pruner = infobatch()
    with pytest.raises(ValueError, match=r"labelled is .*expected bool \[8\]: such as y != -100"):
        pruner.reduce(next(batches(pruner)), torch.rand(8), labelled=labelled)


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
    with pytest.warns(UserWarning, match=rf"IES selected none of {N} samples for epoch 1") as caught:
        run_epoch(pruner, loss_table(1))
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


# -------------------------------------------------------------------------- epochs and annealing


@pytest.mark.parametrize(
    "epochs, delta, start",
    [(200, 0.875, 175), (140, 0.875, 122), (10, 0.875, 8), (10, 0.7, 7), (10, 0.3, 3), (100, 0.29, 29), (9, 0, 0)],
)
def test_annealing_starts_at_the_floor_of_delta_times_epochs(epochs: int, delta: float, start: int) -> None:
    pruner = infobatch(epochs=epochs, delta=delta)
    assert pruner.annealing_start == start
    assert isinstance(pruner.annealing_start, int)
    assert pruner.annealing == (start == 0)


@pytest.mark.parametrize("epochs, delta", [(10, 0.875), (10, 0.7), (9, 0.875), (7, 0.5)])
def test_infobatch_anneals_on_the_full_data_with_unit_weights(epochs: int, delta: float) -> None:
    pruner, table = infobatch(epochs=epochs, delta=delta), loss_table(epochs)
    lengths, heaviest = [], []
    for epoch in range(epochs):
        assert pruner.annealing == (epoch >= pruner.annealing_start)
        ones = torch.ones(N, requires_grad=True)
        indices = pruner.selection.indices
        probe = infobatch(epochs=epochs, delta=delta)
        probe.load_state_dict(pruner.state_dict())
        probe.reduce(indices, ones[indices]).backward()
        assert ones.grad is not None
        heaviest.append(round(float(ones.grad.max()) * len(indices), 5))
        lengths.append(run_epoch(pruner, table))
    start = math.floor(delta * epochs)
    assert all(length < N for length in lengths[1:start])
    assert all(1.9 < weight < 2.2 for weight in heaviest[1:start])  # |L| / floor(|L| / 2)
    assert lengths[start:] == [N] * (epochs - start)
    assert heaviest[start:] == [1.0] * (epochs - start)


def test_seta_anneals_on_its_random_part() -> None:
    pruner, table, lengths = ap.Pruner.from_preset("seta", num_samples=N, epochs=10), loss_table(10), []
    for _ in range(10):
        assert pruner.selection.weights is None
        lengths.append(run_epoch(pruner, table))
    assert lengths[0] == 54  # floor(0.9 * 60)
    assert all(length < 54 for length in lengths[1:8])
    assert lengths[8:] == [54, 54]  # floor(0.875 * 10) = 8


def test_forward_passes_and_pruned_share_count_what_was_read() -> None:
    pruner, table = ap.Pruner.from_preset("dynamic-random", num_samples=N, epochs=4), loss_table(4)
    for epoch in range(4):
        assert pruner.forward_passes == epoch * 42  # floor(0.7 * 60)
        assert pruner.selection.pruned_share == pytest.approx(0.3)
        assert len(pruner.sampler) == len(pruner.selection) == 42
        assert len(pruner.pruned_sampler) == 18
        run_epoch(pruner, table)
    assert pruner.forward_passes == 168


def test_forward_passes_of_losses_that_are_refreshed_count_too() -> None:
    pruner = ap.Pruner(N, 8, ap.scores.SecondDifference(smoothing=1), ap.policies.IES(threshold=0.3))
    trained = sum(run_epoch(pruner, loss_table(8)) for _ in range(8))
    assert trained < 8 * N
    assert pruner.forward_passes == 8 * N  # "saves backward passes only"


def test_the_length_is_that_of_the_coming_epoch_before_it_starts() -> None:
    pruner = infobatch()
    loader = pruner.loader(toy_set(), batch_size=8)
    table = loss_table(9)
    for epoch in range(9):
        announced, read = len(loader), 0
        for index, _ in loader:
            pruner.reduce(index, table[epoch, index])
            read += 1
        assert read == announced
        pruner.end_epoch()


@pytest.mark.filterwarnings("ignore:IES selected none")
def test_an_epoch_that_leaves_every_sample_out_can_be_closed() -> None:
    pruner = ap.Pruner(N, 8, ap.scores.SecondDifference(smoothing=1), ap.policies.IES(threshold=100.0))
    for _ in range(8):
        run_epoch(pruner, loss_table(8))
    assert pruner.epoch == 8


def test_pruned_samples_come_back() -> None:
    pruner, table, seen = infobatch(epochs=12, delta=1), loss_table(12), set()
    run_epoch(pruner, table)
    left_out = set(pruner.selection.pruned.tolist())
    for _ in range(11):
        seen |= set(pruner.selection.indices.tolist())
        run_epoch(pruner, table)
    assert left_out
    assert left_out <= seen


def test_pruned_samples_keep_their_last_losses() -> None:
    pruner, table = pruning(), loss_table(2, seed=9)
    first, left_out = pruner.scores.clone(), pruner.selection.pruned
    run_epoch(pruner, table)
    assert torch.equal(pruner.scores[left_out], first[left_out])
    kept = torch.ones(N, dtype=torch.bool).index_fill_(0, left_out, False)
    assert torch.equal(pruner.scores[kept], table[1][kept])


# -------------------------------------------------------------------------- randomness


def selections(seed: int, table: Tensor, name: str = "infobatch") -> list[tuple[list[int], list[int]]]:
    """What is kept and in which order, epoch by epoch."""
    pruner, out = ap.Pruner.from_preset(name, num_samples=N, epochs=len(table), seed=seed, delta=1.0), []
    for _ in range(len(table)):
        out.append((pruner.selection.indices.tolist(), list(pruner.sampler)))
        run_epoch(pruner, table)
    return out


@pytest.mark.parametrize("name", ["infobatch", "seta", "dynamic-random"])
def test_selections_are_a_function_of_seed_epoch_and_losses(name: str) -> None:
    table = loss_table(5)
    first = selections(0, table, name)
    torch.manual_seed(99)
    np.random.seed(99)
    assert selections(0, table, name) == first
    kept = [tuple(indices) for indices, _ in first[1:]]
    assert len(set(kept)) == len(kept)  # another draw every epoch
    assert all(a != b for a, b in zip(selections(1, table, name)[1:], first[1:], strict=True))
    assert selections(0, loss_table(5, seed=1), "infobatch")[1][0] != selections(0, table, "infobatch")[1][0]


def test_the_order_of_an_epoch_depends_on_seed_and_epoch() -> None:
    orders = {tuple(order) for seed in (0, 1) for _, order in selections(seed, torch.ones(4, N))}
    assert len(orders) == 8


def test_the_batch_size_has_no_say_in_the_selection() -> None:
    table, kept = loss_table(6), []
    for size in (1, 7, N):
        pruner = infobatch(delta=1)
        for _ in range(6):
            run_epoch(pruner, table, size=size)
        kept.append((pruner.selection.indices.tolist(), list(pruner.sampler)))
    assert kept[0] == kept[1] == kept[2]


def test_choices_inside_a_batch_are_keyed_too() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, features = torch.randn(2, 16, 5, generator=generator)

    def chosen(seed: int) -> list[list[int]]:
        pruner, out = ap.Pruner.from_preset("divbs", num_samples=N, epochs=2, seed=seed), []
        for start in (0, 16):
            index = torch.arange(start, start + 16)
            out.append(
                pruner.choose(index, logits=logits, features=features, labels=torch.arange(16) % 5).sort()[0].tolist()
            )
            pruner.reduce(index[out[-1]], torch.rand(len(out[-1])))
        return out

    assert chosen(0) == chosen(0) != chosen(1)
    assert chosen(0)[0] != chosen(0)[1]


def global_generators() -> tuple[bytes, Any, bytes]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state()[1].tobytes()


@pytest.mark.parametrize("name", list(ap.PRESETS))
def test_global_generators_are_never_touched(name: str) -> None:
    before, table = global_generators(), loss_table(8)
    pruner = ap.Pruner.from_preset(name, num_samples=N, epochs=8, labels=torch.arange(N) % 3)
    pruner.loader(toy_set(), batch_size=8)
    fixed = torch.linspace(0, 1, 8 * 3).view(8, 3)
    for _ in range(8):
        for index in batches(pruner):
            if isinstance(pruner.policy, ap.BatchPolicy):
                part = fixed[: len(index)]
                index = index[pruner.choose(index, logits=part, features=part.cos(), labels=index % 3)]
            pruner.reduce(index, table[pruner.epoch, index])
        if pruner.score.needs_pruned:
            for index in pruner.selection.pruned.split(8) if len(pruner.selection.pruned) else ():
                pruner.record(index, table[pruner.epoch, index])
        pruner.load_state_dict(pruner.state_dict())
        pruner.end_epoch(0.5 / (pruner.epoch + 1) if pruner.needs_reference else None)
    assert global_generators() == before


def test_global_generators_are_not_touched_by_the_grouping_of_scikit_learn() -> None:
    pytest.importorskip("sklearn.cluster", reason="grouping='sklearn' is an option that needs scikit-learn")
    before = global_generators()
    pruner = ap.Pruner(N, 3, ap.scores.Loss(), ap.policies.SeTa(grouping="sklearn"))
    for _ in range(3):
        run_epoch(pruner, loss_table(3))
    assert global_generators() == before


# -------------------------------------------------------------------------- where the trajectories live


def test_a_memory_mapped_bank_scores_alike(tmp_path: Path) -> None:
    table, scores = loss_table(6), []
    for path in (None, str(tmp_path / "bank")):
        pruner = ap.Pruner.from_preset("infobatch+das", num_samples=N, epochs=8, window=3, bank_path=path)
        for epoch in range(6):
            run_epoch(pruner, table, reference=1.0 / (epoch + 1))
        scores.append((pruner.scores, pruner.selection.indices))
    assert torch.equal(scores[0][0].view(torch.int32), scores[1][0].view(torch.int32))  # NaN equals NaN
    assert torch.equal(scores[0][1], scores[1][1])
    assert (tmp_path / "bank").stat().st_size == 3 * N * 4
