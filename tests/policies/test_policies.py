"""Policies against slow loops written from the rules of their papers."""

from __future__ import annotations

import math
import random
from collections import Counter
from fractions import Fraction
from itertools import product

import ckwrap
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from alignprune import Selection, TrajectoryBank
from alignprune.policies.divbs import DivBS
from alignprune.policies import IES, DynamicRandom, Full, InfoBatch, Policy, SeTa
from alignprune.scores import Alignment, Loss, Score, SecondDifference

NAN = math.nan
EVERY_POLICY = [
    Full(),
    DynamicRandom(prune_ratio=0.4),
    InfoBatch(prune_prob=0.5),
    InfoBatch(prune_prob=1.0, rescale=False),
    SeTa(prune_prob=0.1),
    SeTa(prune_prob=0.2, groups=3, alpha=0.5, order="descending", rounding="ceil"),
    SeTa(prune_prob=0.0, grouping="sklearn"),
    IES(threshold=0.5),
    DivBS(),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chosen(policy: Policy, score: Tensor, epoch: int = 1, seed: int = 0) -> Selection:
    return policy.select(score, epoch, generator(seed))


def exact_floor(share_left_out: float, count: int) -> int:
    """floor((1 - share) * count) in exact arithmetic of the decimal number that was written."""
    return math.floor((1 - Fraction(str(share_left_out))) * count)


def weights_of(selection: Selection) -> list[float]:
    return [1.0] * len(selection) if selection.weights is None else selection.weights.tolist()


def random_scores(seed: int, samples: int, unknown: float = 0.0) -> Tensor:
    score = torch.randn(samples, generator=generator(seed))
    score[torch.rand(samples, generator=generator(seed + 1)) < unknown] = NAN
    return score


# Selection.


def test_a_selection_knows_what_it_leaves_out() -> None:
    selection = Selection(torch.tensor([1, 4]), torch.tensor([2.0, 1.0]), 5)
    assert len(selection) == 2
    assert selection.pruned.tolist() == [0, 2, 3]
    assert selection.pruned_share == pytest.approx(0.6)
    dense = selection.dense_weights()
    assert dense is not None
    assert dense.tolist() == [1, 2, 1, 1, 1]


def test_the_full_selection_leaves_nothing_out() -> None:
    selection = Selection.full(4)
    assert selection.indices.tolist() == [0, 1, 2, 3]
    assert (selection.pruned.tolist(), selection.pruned_share, selection.dense_weights()) == ([], 0.0, None)


def test_a_mask_selects_its_true_entries() -> None:
    selection = Selection.of_mask(np.array([True, False, True]))
    assert (selection.indices.tolist(), selection.indices.dtype, selection.num_samples) == ([0, 2], torch.int64, 3)


# What holds for every policy.


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=str)
@given(
    seed=st.integers(0, 10_000),
    samples=st.integers(20, 120),
    epoch=st.integers(0, 12),
    unknown=st.sampled_from([0.0, 0.3, 1.0]),
    ties=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_a_selection_is_ascending_unique_and_within_range(
    policy: Policy, seed: int, samples: int, epoch: int, unknown: float, ties: bool
) -> None:
    score = random_scores(seed, samples, unknown)
    score = score.round() if ties else score
    before = score.clone()
    for selection in (chosen(policy, score, epoch, seed), policy.anneal(samples, generator(seed))):
        indices = selection.indices
        assert indices.dtype == torch.int64
        assert 0 < len(indices) <= samples == selection.num_samples
        assert (indices.diff() > 0).all()
        assert indices[0] >= 0
        assert indices[-1] < samples
        if selection.weights is not None:
            assert selection.weights.shape == indices.shape
            assert selection.weights.dtype == torch.float32
            assert (selection.weights > 0).all()
            assert selection.weights.isfinite().all()
    assert torch.equal(score.nan_to_num(nan=9.0), before.nan_to_num(nan=9.0))


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=str)
def test_the_generator_alone_decides(policy: Policy) -> None:
    score = random_scores(0, 200, 0.1)
    first, again = chosen(policy, score, 3, seed=5), chosen(policy, score, 3, seed=5)
    assert torch.equal(first.indices, again.indices)
    assert weights_of(first) == weights_of(again)


@pytest.mark.parametrize("policy", [DynamicRandom(), InfoBatch(), SeTa()], ids=str)
def test_another_seed_draws_another_selection(policy: Policy) -> None:
    score = random_scores(0, 200)
    assert len({tuple(chosen(policy, score, 3, seed).indices.tolist()) for seed in range(5)}) == 5


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=str)
def test_the_global_random_states_are_never_touched(policy: Policy) -> None:
    def states() -> tuple[object, ...]:
        name, keys, *rest = np.random.get_state()
        return torch.get_rng_state().tolist(), name, keys.tolist(), rest, random.getstate()

    score = random_scores(0, 100, 0.1)
    before = states()
    chosen(policy, score)
    chosen(policy, torch.full((100,), 0.3))
    policy.anneal(100, generator())
    if isinstance(policy, DivBS):
        policy.choose(torch.randn(8, 3, generator=generator()), torch.ones(8, 2), torch.zeros(8).long(), generator())
    assert states() == before


def scores_after(score: Score, epochs: int) -> Tensor:
    window, gaps = score.memory
    bank = TrajectoryBank(60, window, gaps=gaps)
    for epoch in range(epochs):
        losses = torch.rand(60, generator=generator(epoch)) * (1 - epoch / 20)
        losses[torch.rand(60, generator=generator(100 + epoch)) < 0.2] = NAN
        bank.write(epoch, losses)
    return score(bank, 3 - torch.arange(epochs + 1).double().sqrt())


@pytest.mark.parametrize(
    "score, policy",
    list(
        product(
            [Loss(), Alignment(window=8), Alignment(gaps="last_obs", flat="exempt"), SecondDifference()], EVERY_POLICY
        )
    ),
    ids=str,
)
def test_every_policy_takes_every_score(score: Score, policy: Policy) -> None:
    for epochs in (1, 4, 12):
        values = scores_after(score, epochs)
        selection = chosen(policy, values, epochs)
        assert len(selection) <= 60
        assert len(selection) > 0 or isinstance(policy, IES)  # its fixed threshold may leave out all
        if not isinstance(policy, DynamicRandom | SeTa):  # these two also thin out at random
            assert set(values.isnan().nonzero().flatten().tolist()) <= set(selection.indices.tolist())


# DynamicRandom.


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.29, 0.58, 0.57, 1 / 4])
@pytest.mark.parametrize("samples", [20, 100, 101, 1_000, 50_000])
def test_dynamic_random_keeps_an_exact_count(ratio: float, samples: int) -> None:
    assert len(chosen(DynamicRandom(prune_ratio=ratio), torch.zeros(samples))) == exact_floor(ratio, samples)


def test_dynamic_random_gives_every_sample_the_same_chance() -> None:
    draws = Counter(
        i for seed in range(2_000) for i in chosen(DynamicRandom(0.3), torch.zeros(20), 1, seed).indices.tolist()
    )
    error = math.sqrt(0.3 * 0.7 / 2_000)
    assert all(abs(draws[i] / 2_000 - 0.7) < 5 * error for i in range(20))


# InfoBatch.


def check_infobatch(score: Tensor, prune_prob: float, rescale: bool, seed: int) -> None:
    values = score.tolist()
    known = [v for v in values if not math.isnan(v)]
    mean = math.fsum(known) / len(known) if known else NAN
    low = {i for i, v in enumerate(values) if v < mean}
    selection = chosen(InfoBatch(prune_prob=prune_prob, rescale=rescale), score, 1, seed)
    kept = selection.indices.tolist()
    assert set(kept) >= set(range(len(values))) - low
    assert len(low & set(kept)) == exact_floor(prune_prob, len(low))
    for i, weight in zip(kept, weights_of(selection), strict=True):
        assert weight == pytest.approx(1 / (1 - prune_prob) if i in low and rescale else 1.0, rel=1e-6)


@given(
    seed=st.integers(0, 10_000),
    samples=st.integers(1, 80),
    unknown=st.sampled_from([0.0, 0.2, 0.9]),
    prune_prob=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.75, 0.9, 1.0]),
    rescale=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_infobatch_is_its_rule(seed: int, samples: int, unknown: float, prune_prob: float, rescale: bool) -> None:
    check_infobatch(random_scores(seed, samples, unknown), prune_prob, rescale, seed)


def test_infobatch_prunes_strictly_below_the_mean() -> None:
    selection = chosen(InfoBatch(prune_prob=1.0), torch.tensor([1.0, 2.0, 3.0, NAN, 2.0]))
    assert selection.indices.tolist() == [1, 2, 3, 4]
    assert selection.weights is None


def test_scores_that_do_not_exist_enter_no_mean() -> None:
    # With 0 in place of the unknown ones the mean would be 1 and nothing below it.
    selection = chosen(InfoBatch(prune_prob=1.0), torch.tensor([1.0, 3.0, NAN, NAN]))
    assert selection.indices.tolist() == [1, 2, 3]


def test_infobatch_without_any_score_keeps_all() -> None:
    selection = chosen(InfoBatch(), torch.full((10,), NAN))
    assert len(selection) == 10
    assert weights_of(selection) == [1.0] * 10


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 2.3, 1e-30, 3e30, 0.0, -0.7])
@pytest.mark.parametrize("samples", [3, 10, 1_000, 100_003])
def test_equal_scores_prune_nothing(value: float, samples: int) -> None:
    selection = chosen(InfoBatch(prune_prob=1.0), torch.full((samples,), value))
    assert len(selection) == samples


def test_infobatch_with_probability_zero_is_the_full_data() -> None:
    selection = chosen(InfoBatch(prune_prob=0.0), random_scores(0, 50))
    assert selection.indices.tolist() == list(range(50))
    assert weights_of(selection) == [1.0] * 50


def test_infobatch_with_probability_one_drops_all_low_samples() -> None:
    score = random_scores(0, 50)
    selection = chosen(InfoBatch(prune_prob=1.0), score)
    mean = score.double().mean()
    assert selection.indices.tolist() == [i for i in range(50) if score[i].double() >= mean]
    assert weights_of(selection) == [1.0] * len(selection)


def test_infobatch_never_anneals_by_pruning() -> None:
    assert InfoBatch().anneal(9, generator()).indices.tolist() == list(range(9))


@pytest.mark.parametrize("prune_prob", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("rescale", [True, False])
def test_rescaling_keeps_the_expected_sum_over_the_data(prune_prob: float, rescale: bool) -> None:
    score = torch.arange(40.0)  # 20 samples are below the mean, so that every share of them is a whole number
    gradient = torch.randn(40, generator=generator(7)).double() + 1
    sums = []
    for seed in range(1_500):
        selection = chosen(InfoBatch(prune_prob=prune_prob, rescale=rescale), score, 1, seed)
        sums.append(float((gradient[selection.indices] * torch.tensor(weights_of(selection)).double()).sum()))
    error = np.std(sums, ddof=1) / math.sqrt(len(sums))
    lost = 0.0 if rescale else prune_prob * float(gradient[:20].sum())
    assert abs(np.mean(sums) - (float(gradient.sum()) - lost)) < 4 * error


# SeTa.


def slow_groups(values: np.ndarray, k: int, order: str) -> list[list[int]]:
    """Positions by group of an optimal grouping, easiest first; ckwrap does the grouping."""
    labels = ckwrap.ckmeans(values.astype(np.float64), min(k, len(np.unique(values)))).labels
    groups = [np.flatnonzero(labels == g).tolist() for g in range(labels.max() + 1)]
    groups.sort(key=lambda members: float(values[members].mean()), reverse=order == "descending")
    return groups


def slow_seta(score: np.ndarray, drawn: list[int], epoch: int, k: int, window: int, order: str) -> set[int]:
    unknown = {i for i in drawn if math.isnan(score[i])}
    ranked = [i for i in drawn if not math.isnan(score[i])]
    if epoch == 0 or not ranked:
        return set(drawn)
    groups = slow_groups(score[ranked], k, order)
    start = epoch % (len(groups) - window + 1)
    return unknown | {ranked[position] for group in groups[start : start + window] for position in group}


@pytest.mark.parametrize("order", ["ascending", "descending"])
@pytest.mark.parametrize("k, alpha, window", [(5, 0.9, 4), (5, 0.6, 3), (4, 0.5, 2), (10, 0.5, 5), (1, 1.0, 1)])
@pytest.mark.parametrize("prune_prob, unknown", [(0.0, 0.0), (0.1, 0.0), (0.3, 0.2)])
def test_seta_is_its_rule(order: str, k: int, alpha: float, window: int, prune_prob: float, unknown: float) -> None:
    policy = SeTa(prune_prob=prune_prob, groups=k, alpha=alpha, order=order)
    score = random_scores(0, 300, unknown)
    drawn = chosen(policy, score, 0, seed=4).indices.tolist()  # epoch 0 takes all that the same generator draws
    assert len(drawn) == exact_floor(prune_prob, 300)
    for epoch in range(7):
        selection = chosen(policy, score, epoch, seed=4)
        assert set(selection.indices.tolist()) == slow_seta(score.numpy(), drawn, epoch, k, window, order)
        assert selection.weights is None


def test_the_published_window_alternates_between_the_two_ends() -> None:
    score = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]).repeat_interleave(3)
    kept = [chosen(SeTa(prune_prob=0.0), score, epoch).indices.tolist() for epoch in range(5)]
    without_easiest, without_hardest = list(range(3, 15)), list(range(12))
    assert kept == [list(range(15)), without_easiest, without_hardest, without_easiest, without_hardest]
    descending = [chosen(SeTa(prune_prob=0.0, order="descending"), score, e).indices.tolist() for e in range(3)]
    assert descending == [list(range(15)), without_hardest, without_easiest]


@pytest.mark.parametrize(
    "k, alpha, rounded, ceiled",
    [(5, 0.9, 4, 5), (5, 0.5, 2, 3), (5, 0.7, 4, 4), (3, 0.5, 2, 2), (10, 0.25, 2, 3), (10, 0.7, 7, 7), (5, 1.0, 5, 5)],
)
def test_the_window_is_rounded_half_to_even_or_up(k: int, alpha: float, rounded: int, ceiled: int) -> None:
    score = torch.arange(float(k)).repeat_interleave(2)  # k groups of two
    assert len(chosen(SeTa(0.0, k, alpha), score)) == 2 * rounded
    assert len(chosen(SeTa(0.0, k, alpha, rounding="ceil"), score)) == 2 * ceiled


def test_equal_scores_are_cut_into_equal_parts_at_random() -> None:
    score = torch.full((50,), 0.1)
    kept = [set(chosen(SeTa(prune_prob=0.0), score, 1, seed).indices.tolist()) for seed in range(5)]
    assert [len(part) for part in kept] == [40] * 5
    assert len(set(map(frozenset, kept))) == 5
    both_ends = [set(chosen(SeTa(prune_prob=0.0), score, epoch, 0).indices.tolist()) for epoch in (1, 2)]
    assert both_ends[0] | both_ends[1] == set(range(50))


def test_fewer_values_than_groups_make_fewer_groups() -> None:
    score = torch.tensor([0.0] * 4 + [1.0] * 4 + [2.0] * 4)  # three groups, a window of round(2.7) = 3
    assert len(chosen(SeTa(prune_prob=0.0), score, 1)) == 12


def test_unscored_samples_are_only_thinned_out() -> None:
    score = torch.cat([torch.full((20,), NAN), torch.arange(30.0)])
    for epoch in range(4):
        assert set(range(20)) <= set(chosen(SeTa(prune_prob=0.0), score, epoch).indices.tolist())
    assert len(chosen(SeTa(prune_prob=0.2), torch.full((50,), NAN), 3)) == 40


@pytest.mark.parametrize("prune_prob", [0.0, 0.1, 0.3, 0.7, 0.9])
def test_seta_anneals_on_a_random_share(prune_prob: float) -> None:
    policy = SeTa(prune_prob=prune_prob)
    draws = [policy.anneal(110, generator(seed)) for seed in range(3)]
    assert [len(draw) for draw in draws] == [exact_floor(prune_prob, 110)] * 3
    assert all(draw.weights is None for draw in draws)
    assert len({tuple(draw.indices.tolist()) for draw in draws}) == (1 if prune_prob == 0 else 3)


@pytest.mark.parametrize("separated", [True, False])
def test_scikit_learn_groups_about_as_the_optimum(separated: bool) -> None:
    if separated:  # then Lloyd's steps find the optimum
        score = torch.arange(5.0).repeat(40) + 0.01 * torch.randn(200, generator=generator())
        for epoch in range(4):
            exact, theirs = (chosen(SeTa(0.0, grouping=how), score, epoch) for how in ("exact", "sklearn"))
            assert torch.equal(exact.indices, theirs.indices)
    else:
        score = random_scores(0, 400)
        for epoch in range(1, 5):
            selection = chosen(SeTa(0.0, grouping="sklearn"), score, epoch)
            left_out = score[selection.pruned]
            kept = score[selection.indices]
            assert 0 < len(left_out) < 200
            assert left_out.max() < kept.min() or left_out.min() > kept.max()  # one end is left out, as a whole


def test_scikit_learn_takes_scores_with_few_distinct_values() -> None:
    score = torch.tensor([0.0, 1.0]).repeat(20)
    assert len(chosen(SeTa(0.0, grouping="sklearn"), score, 1)) == 40


# IES and the baselines.


def test_ies_leaves_out_what_is_strictly_below_its_threshold() -> None:
    score = torch.tensor([0.5, 0.25, 0.75, NAN, 0.5, -1.0])
    selection = chosen(IES(threshold=0.5), score)
    assert selection.indices.tolist() == [0, 2, 3, 4]
    assert selection.weights is None
    assert len(chosen(IES(threshold=-2), score)) == 6


def test_full_takes_all() -> None:
    assert chosen(Full(), random_scores(0, 7)).indices.tolist() == list(range(7))


# DivBS.


def batch(seed: int, size: int, classes: int = 4, width: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    source = generator(seed)
    return (
        torch.randn(size, classes, generator=source) * 2,
        torch.randn(size, width, generator=source).abs(),
        torch.randint(classes, (size,), generator=source),
    )


def gradients(logits: Tensor, features: Tensor, labels: Tensor) -> np.ndarray:
    """The last layer's gradient of every sample, written out, [B, C * d], float64."""
    rows = []
    for z, h, y in zip(logits.double().numpy(), features.double().flatten(1).numpy(), labels.tolist(), strict=True):
        p = np.exp(z - z.max())
        p /= p.sum()
        p[y] -= 1
        rows.append(np.outer(p, h).ravel())
    return np.array(rows)


def projections(g: np.ndarray, picks: list[int]) -> np.ndarray:
    """|<g_i, R>| after the given picks, by Gram-Schmidt in gradient space."""
    residual, basis = g.mean(0), []
    for pick in picks:
        q = g[pick].copy()
        for _ in range(2):  # twice, for its rounding
            for direction in basis:
                q -= (direction @ q) * direction
        norm = np.linalg.norm(q)
        if norm > 1e-9 * np.linalg.norm(g[pick]):
            basis.append(q / norm)
            residual = residual - (basis[-1] @ residual) * basis[-1]
    return np.abs(g @ residual)


@pytest.mark.parametrize("ratio", [0.3, 0.7])
@pytest.mark.parametrize("seed", range(6))
def test_argmax_takes_the_largest_projection_on_what_is_unexplained(ratio: float, seed: int) -> None:
    inputs = batch(seed, 12)
    policy = DivBS(prune_ratio=ratio, pick="argmax")
    picks = policy.choose(*inputs, generator()).tolist()
    g = gradients(*inputs)
    whole = projections(g, []).max()
    for step, pick in enumerate(picks):
        size = projections(g, picks[:step])
        size[picks[:step]] = -1
        assert size[pick] >= size.max() * (1 - 1e-3) - 1e-5 * whole  # rounding of float32 may swap near ties
    assert len(picks) == exact_floor(ratio, 12)
    by_loop: list[int] = []
    for _ in range(4):  # the first picks are far from any rounding
        size = projections(g, by_loop)
        size[by_loop] = -1
        by_loop.append(int(size.argmax()))
    assert picks[: len(by_loop)] == by_loop[: len(picks)]


def test_multinomial_draws_in_proportion_to_the_projections() -> None:
    inputs = batch(3, 6)
    policy = DivBS(prune_ratio=0.6)  # two of six
    draws = [tuple(policy.choose(*inputs, generator(seed)).tolist()) for seed in range(3_000)]
    g = gradients(*inputs)
    first = projections(g, [])
    counts = Counter(a for a, _ in draws)
    assert stats.chisquare([counts[i] for i in range(6)], 3_000 * first / first.sum()).pvalue > 1e-3
    favourite = counts.most_common(1)[0][0]
    second = projections(g, [favourite])
    second[favourite] = 0
    others = [i for i in range(6) if i != favourite]
    follow = Counter(b for a, b in draws if a == favourite)
    expected = counts[favourite] * second / second.sum()
    assert follow[favourite] == 0
    assert stats.chisquare([follow[i] for i in others], expected[others]).pvalue > 1e-3


@pytest.mark.parametrize("pick", ["multinomial", "argmax"])
@pytest.mark.parametrize("kind", ["random", "identical", "no error", "zero features", "rank one"])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9])
def test_no_sample_is_picked_twice(pick: str, kind: str, ratio: float) -> None:
    logits, features, labels = batch(0, 20)
    if kind == "identical":
        logits, features, labels = (x[:1].expand(20, *x.shape[1:]).contiguous() for x in (logits, features, labels))
    elif kind == "no error":
        logits = torch.nn.functional.one_hot(labels, 4) * 1e4
    elif kind == "zero features":
        features = torch.zeros(20, 5)
    elif kind == "rank one":
        logits, features, labels = torch.zeros(20, 4), torch.rand(20, 1, generator=generator()), torch.zeros(20).long()
    for seed in range(5):
        picks = DivBS(prune_ratio=ratio, pick=pick).choose(logits, features, labels, generator(seed))
        assert picks.dtype == torch.int64
        assert len(set(picks.tolist())) == len(picks) == max(1, exact_floor(ratio, 20))
        assert picks.min() >= 0
        assert picks.max() < 20


def test_no_sample_is_picked_twice_where_denormals_are_flushed() -> None:
    # Some training scripts call torch.set_flush_denormal(True) for speed.
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    logits, features, labels = torch.zeros(10, 3), torch.ones(10, 4), torch.zeros(10).long()
    try:
        for seed in range(300):
            picks = DivBS(prune_ratio=0.3).choose(logits, features, labels, generator(seed)).tolist()
            assert len(set(picks)) == 7, seed
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95])
@pytest.mark.parametrize("size", [1, 2, 7, 10, 30, 100, 427])
def test_a_batch_keeps_its_share_but_never_nothing(ratio: float, size: int) -> None:
    assert DivBS(prune_ratio=ratio).size(size) == max(1, exact_floor(ratio, size))


@pytest.mark.parametrize("pick", ["multinomial", "argmax"])
def test_samples_without_trust_are_taken_last(pick: str) -> None:
    inputs = batch(1, 12)
    trust = torch.ones(12)
    trust[::2] = 0
    for seed in range(20):
        picks = DivBS(prune_ratio=0.0, pick=pick).choose(*inputs, generator(seed), trust).tolist()
        assert sorted(picks) == list(range(12))
        assert all(i % 2 for i in picks[:6])


def test_trust_multiplies_the_projections() -> None:
    inputs = batch(3, 6)
    size = projections(gradients(*inputs), [])
    for favoured in range(6):
        trust = torch.full((6,), 1.0)
        trust[favoured] = float(2 * size.max() / size[favoured])
        assert DivBS(prune_ratio=0.7, pick="argmax").choose(*inputs, generator(), trust)[0] == favoured


def test_divbs_reads_half_precision_and_leaves_its_inputs() -> None:
    logits, features, labels = batch(0, 10)
    halves = logits.half(), features.half()
    before = [x.clone() for x in halves]
    picks = DivBS(pick="argmax").choose(*halves, labels, generator())
    expected = DivBS(pick="argmax").choose(halves[0].float(), halves[1].float(), labels, generator())
    assert torch.equal(picks, expected)
    assert all(torch.equal(x, y) for x, y in zip(halves, before, strict=True))


def test_divbs_keeps_every_sample_between_epochs() -> None:
    assert chosen(DivBS(), random_scores(0, 9)).indices.tolist() == list(range(9))
    assert DivBS.in_batch
    assert not InfoBatch.in_batch


# Mistakes.


@pytest.mark.parametrize(
    "kind, name",
    [(InfoBatch, "prune_prob"), (SeTa, "prune_prob"), (DynamicRandom, "prune_ratio"), (DivBS, "prune_ratio")],
)
@pytest.mark.parametrize("value", [1.2, -0.1, NAN, math.inf, 50])
def test_a_share_outside_its_interval_is_named(kind: type[Policy], name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value!r} is out of range, expected a number in \[0, 1[\])]"):
        kind(**{name: value})


@pytest.mark.parametrize("kind", [DynamicRandom, DivBS, SeTa])
def test_a_policy_that_would_keep_nothing_is_refused(kind: type[Policy]) -> None:
    with pytest.raises(ValueError, match=r"=1.0 is out of range, expected a number in \[0, 1\)"):
        kind(1.0)


@pytest.mark.parametrize("value", ["0.5", None, True, [0.5]])
def test_a_share_that_is_no_number_is_named(value: object) -> None:
    with pytest.raises(TypeError, match="prune_prob=.* is .*, expected a number"):
        InfoBatch(prune_prob=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"groups": 0}, ValueError, "groups=0 is out of range"),
        ({"groups": 2.0}, TypeError, "groups=2.0 is float"),
        ({"alpha": 1.5}, ValueError, "alpha=1.5 is out of range"),
        ({"alpha": 0.05}, ValueError, "alpha=0.05 of groups=5 rounds to a window of no group: raise alpha"),
        ({"order": "descend"}, ValueError, "order='descend' is unknown.*did you mean 'descending'"),
        ({"rounding": "cell"}, ValueError, "rounding='cell' is unknown.*did you mean 'ceil'"),
        ({"grouping": "sklern"}, ValueError, "grouping='sklern' is unknown.*did you mean 'sklearn'"),
    ],
)
def test_a_wrong_setting_of_seta_is_named(settings: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SeTa(**settings)


def test_a_data_set_too_small_for_the_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="prune_ratio=0.9 keeps none of num_samples=5"):
        DynamicRandom(0.9).check(5)
    with pytest.raises(ValueError, match="groups=5 is more than the 4 samples"):
        SeTa(prune_prob=0.2).check(5)
    DynamicRandom(0.9).check(10)
    SeTa(prune_prob=0.1).check(10)


def test_an_unknown_pick_is_refused() -> None:
    with pytest.raises(ValueError, match="pick='argmin' is unknown.*did you mean 'argmax'"):
        DivBS(pick="argmin")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="threshold='low' is str"):
        IES(threshold="low")  # type: ignore[arg-type]
