"""InfoBatch against its rule in a slow loop, and the sum of its weights in exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignprune._ranks import Draws
from alignprune.policies import Evidence, InfoBatch
from alignprune.selection import Selection

NAN = math.nan


def evidence(score: Tensor, seed: int = 0) -> Evidence:
    return Evidence(score, "high", 1, 20, Draws(seed, 1))


def chosen(policy: InfoBatch, score: Tensor, seed: int = 0) -> Selection:
    return policy.select(evidence(score, seed))


def exact_floor(share_left_out: float, count: int) -> int:
    """floor((1 - share) * count) in exact arithmetic of the decimal number that was written."""
    return math.floor((1 - Fraction(str(share_left_out))) * count)


def weights_of(selection: Selection) -> list[float]:
    return [1.0] * len(selection) if selection.weights is None else selection.weights.tolist()


def random_scores(seed: int, samples: int, unknown: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    score = torch.randn(samples, generator=generator)
    score[torch.rand(samples, generator=generator) < unknown] = NAN
    return score


def below_the_mean(score: Tensor) -> set[int]:
    values = score.tolist()
    known = [v for v in values if not math.isnan(v)]
    mean = math.fsum(known) / len(known) if known else NAN
    return {i for i, v in enumerate(values) if v < mean}


@given(
    seed=st.integers(0, 10_000),
    samples=st.integers(1, 80),
    unknown=st.sampled_from([0.0, 0.2, 0.9]),
    prune_prob=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.75, 0.9, 1.0]),
    rescale=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_infobatch_is_its_rule(seed: int, samples: int, unknown: float, prune_prob: float, rescale: bool) -> None:
    score = random_scores(seed, samples, unknown)
    low = below_the_mean(score)
    selection = chosen(InfoBatch(prune_prob=prune_prob, rescale=rescale), score, seed)
    kept, count = selection.indices.tolist(), exact_floor(prune_prob, len(low))
    assert set(kept) >= set(range(samples)) - low
    assert len(low & set(kept)) == count
    for i, weight in zip(kept, weights_of(selection), strict=True):
        assert weight == pytest.approx(len(low) / count if i in low and rescale else 1.0, rel=1e-6)


def with_so_many_below_the_mean(low: int) -> Tensor:
    """Scores of which exactly so many lie below their mean."""
    return torch.cat([torch.linspace(0, 1, low), torch.full((low + 3,), 9.0)])


@given(low=st.integers(1, 400), percent=st.integers(0, 100), seed=st.integers(0, 100))
@settings(max_examples=300, deadline=None)
def test_the_weights_of_the_low_samples_add_up_to_their_number(low: int, percent: int, seed: int) -> None:
    score, prune_prob = with_so_many_below_the_mean(low), percent / 100
    assert below_the_mean(score) == set(range(low))
    selection = chosen(InfoBatch(prune_prob=prune_prob), score, seed)
    is_low = selection.indices < low
    count = exact_floor(prune_prob, low)
    assert int(is_low.sum()) == count
    if count == 0:  # nobody there to stand for the others
        assert selection.weights is None
        return
    weights = torch.tensor(weights_of(selection), dtype=torch.float64)
    assert weights[~is_low].tolist() == [1.0] * (low + 3)
    assert float(weights[is_low].sum()) == pytest.approx(low, rel=1e-6)  # so long as one is kept, however few


@pytest.mark.parametrize("prune_prob, kept", [(0.5, 3), (0.7, 2), (0.85, 1), (0.1, 6)])
def test_the_weight_is_that_of_what_was_kept_and_not_of_what_was_asked_for(prune_prob: float, kept: int) -> None:
    selection = chosen(InfoBatch(prune_prob=prune_prob), with_so_many_below_the_mean(7))
    weights = [w for i, w in zip(selection.indices.tolist(), weights_of(selection), strict=True) if i < 7]
    assert weights == pytest.approx([7 / kept] * kept)


@pytest.mark.parametrize("low, prune_prob", [(20, 0.25), (20, 0.5), (7, 0.5), (7, 0.85), (13, 0.9)])
@pytest.mark.parametrize("rescale", [True, False])
def test_rescaling_keeps_the_expected_gradient_of_the_data_exactly(low: int, prune_prob: float, rescale: bool) -> None:
    score = with_so_many_below_the_mean(low)
    gradient = torch.randn(len(score), generator=torch.Generator().manual_seed(7)).double() + 1
    sums = []
    for seed in range(1_500):
        selection = chosen(InfoBatch(prune_prob=prune_prob, rescale=rescale), score, seed)
        sums.append(float((gradient[selection.indices] * torch.tensor(weights_of(selection)).double()).sum()))
    error = np.std(sums, ddof=1) / math.sqrt(len(sums))
    share = exact_floor(prune_prob, low) / low
    lost = 0.0 if rescale else (1 - share) * float(gradient[:low].sum())
    assert abs(np.mean(sums) - (float(gradient.sum()) - lost)) < 4.5 * error


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
    assert len(chosen(InfoBatch(prune_prob=1.0), torch.full((samples,), value))) == samples


def test_infobatch_with_probability_zero_is_the_full_data() -> None:
    selection = chosen(InfoBatch(prune_prob=0.0), random_scores(0, 50))
    assert selection.indices.tolist() == list(range(50))
    assert weights_of(selection) == [1.0] * 50


def test_infobatch_with_probability_one_drops_all_low_samples() -> None:
    score = random_scores(0, 50)
    selection = chosen(InfoBatch(prune_prob=1.0), score)
    assert set(selection.indices.tolist()) == set(range(50)) - below_the_mean(score)
    assert weights_of(selection) == [1.0] * len(selection)


def test_infobatch_does_not_call_what_it_selects_uniform() -> None:
    assert not chosen(InfoBatch(), random_scores(0, 50)).uniform


def test_infobatch_never_anneals_by_pruning() -> None:
    assert InfoBatch().anneal(evidence(random_scores(0, 9))).indices.tolist() == list(range(9))


@pytest.mark.parametrize("value", [1.2, -0.1, NAN, math.inf, 50])
def test_a_share_outside_its_interval_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=rf"prune_prob={value!r} is out of range, expected a number in \[0, 1\]"):
        InfoBatch(prune_prob=value)


@pytest.mark.parametrize("value", ["0.5", None, True, [0.5]])
def test_a_share_that_is_no_number_is_named(value: object) -> None:
    with pytest.raises(TypeError, match="prune_prob=.* is .*, expected a number"):
        InfoBatch(prune_prob=value)  # type: ignore[arg-type]
