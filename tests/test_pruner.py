"""The training loop: what goes in, what comes out, through the public API alone."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

import alignprune as ap
from alignprune.policies import Policy
from alignprune.scores import Score
from toy_pruners import SCORES, N, batches, infobatch, loss_table, pruning, run_epoch, toy_model, toy_set

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
