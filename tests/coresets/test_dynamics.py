"""Forgetting, Dyn-Unc and DUAL against slow loops from their formulas."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from scipy import stats

from alignprune import coresets
from alignprune.coresets import Proxy, draw, dual_density, dual_score, dynamic_uncertainty, forgetting_events

Make = Callable[..., Proxy]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows(column: list[float], window: int) -> list[list[float]]:
    return [column[k : k + window] for k in range(len(column) - window + 1)]


def uncertainty(column: list[float], window: int) -> float:
    return statistics.fmean(statistics.stdev(w) for w in windows(column, window))


def dual(column: list[float], window: int) -> float:
    return statistics.fmean(statistics.stdev(w) * (1 - statistics.fmean(w)) for w in windows(column, window))


# Forgetting.


def test_forgetting_counts_from_right_to_wrong() -> None:
    correct = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 1, 0, 0], [0, 1, 1, 0, 1], [1, 0, 1, 0, 0]]).bool()
    assert forgetting_events(correct).tolist() == [1, 2, 0, 0, 2]


def by_class(proxy: Proxy, events: list[int], size: int) -> list[int]:
    quota = coresets.shares(torch.bincount(proxy.labels, minlength=proxy.num_classes), size).tolist()
    counts = []
    for c in range(proxy.num_classes):
        counts.append(sorted((events[i] for i in range(len(proxy)) if proxy.labels[i] == c), reverse=True)[: quota[c]])
    return [count for of_class in counts for count in of_class]


@pytest.mark.parametrize("never", ["least", "most"])
@pytest.mark.parametrize("epochs", [None, 7])
@pytest.mark.parametrize("size", [1, 23, 60])
def test_every_class_keeps_what_it_forgot_most(make_proxy: Make, never: str, epochs: int | None, size: int) -> None:
    correct = torch.rand(12, 60, generator=generator()) < 0.4
    correct[:, ::5] = False
    proxy = make_proxy(label_probabilities=torch.rand(12, 60), correct=correct)
    events = []
    for i in range(60):
        column = correct[:epochs, i].tolist()
        events.append(sum(before and not after for before, after in pairwise(column)))
        if never == "most" and not any(column):
            events[-1] = 1000
    chosen = coresets.select("forgetting", proxy, size, seed=0, never_learned=never, epochs=epochs).tolist()
    # Ties are many, so not the samples but their counts are compared, class by class.
    chosen.sort(key=lambda i: (int(proxy.labels[i]), -events[i]))
    assert [events[i] for i in chosen] == by_class(proxy, events, size)
    counts = proxy.labels[chosen].bincount(minlength=4)
    assert torch.equal(counts, coresets.shares(proxy.labels.bincount(minlength=4), size))


# Dyn-Unc.


@pytest.mark.parametrize("epochs, window", [(10, 10), (13, 10), (9, 2)])
def test_dynamic_uncertainty_is_the_mean_deviation_of_all_windows(epochs: int, window: int) -> None:
    rows = torch.rand(epochs, 8, generator=generator())
    scores = dynamic_uncertainty(rows, window).tolist()
    assert scores == pytest.approx([uncertainty(rows[:, i].tolist(), window) for i in range(8)], rel=1e-9)


@pytest.mark.parametrize("epochs", [None, 15])
def test_dyn_unc_keeps_what_moves_most(make_proxy: Make, epochs: int | None) -> None:
    proxy = make_proxy()
    score = [uncertainty(proxy.label_probabilities[:epochs, i].tolist(), 10) for i in range(60)]
    expected = sorted(range(60), key=lambda i: -score[i])[:20]
    assert coresets.select("dyn-unc", proxy, 20, seed=0, epochs=epochs).tolist() == sorted(expected)


# DUAL.


@pytest.mark.parametrize("epochs, window", [(10, 10), (30, 10), (9, 2)])
def test_dual_weighs_every_window_by_its_difficulty(epochs: int, window: int) -> None:
    rows = torch.rand(epochs, 8, generator=generator())
    scores = dual_score(rows, window).tolist()
    assert scores == pytest.approx([dual(rows[:, i].tolist(), window) for i in range(8)], rel=1e-9)


def test_dual_without_sampling_keeps_the_largest_scores_of_the_first_epochs(make_proxy: Make) -> None:
    proxy = make_proxy(epochs=40)
    score = [dual(proxy.label_probabilities[:30, i].tolist(), 10) for i in range(60)]
    expected = sorted(range(60), key=lambda i: -score[i])[:20]
    assert coresets.select("dual", proxy, 20, seed=0, sampling="largest").tolist() == sorted(expected)


@pytest.mark.parametrize("size, c_d", [(50, 4.0), (20, 4.0), (1, 4.0), (100, 4.0), (10, 5.5), (10, 11.0)])
def test_the_density_is_scipys_with_the_published_parameters(size: int, c_d: float) -> None:
    mean = torch.rand(100, generator=generator(1)).double()
    score = torch.rand(100, generator=generator(2)).double()
    top = sorted(range(100), key=lambda i: -float(score[i]))[:10]
    mu = statistics.fmean(float(mean[i]) for i in top)
    b = 15 * (1 - mu) * (1 - (1 - size / 100) ** c_d)
    expected = stats.beta.logpdf(mean.numpy(), 16 - b, b)
    assert dual_density(mean, score, size, c_d).log_prob(mean).tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_the_fewer_are_kept_the_easier_they_are() -> None:
    mean, score = torch.rand(1000, generator=generator(1)), torch.rand(1000, generator=generator(2))
    centres = [float(dual_density(mean, score, size).mean) for size in (900, 500, 300, 100)]
    assert centres == sorted(centres)
    assert centres[0] < 0.6 < 0.8 < centres[-1]


def test_the_first_draw_is_in_proportion_to_the_weights_and_the_second_to_what_is_left() -> None:
    weight = torch.tensor([0.5, 1.0, 2.0, 4.0])
    draws = [tuple(draw(weight.log(), 2, generator(seed)).tolist()) for seed in range(6000)]
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    w = weight.tolist()
    expected = [6000 * w[a] / sum(w) * w[b] / (sum(w) - w[a]) for a, b in pairs]
    counts = Counter(draws)
    assert stats.chisquare([counts[pair] for pair in pairs], expected).pvalue > 1e-3


def test_samples_without_weight_come_last() -> None:
    log_weight = torch.tensor([-torch.inf, -2000.0, -torch.inf, -1e6])
    for seed in range(50):
        assert sorted(draw(log_weight, 2, generator(seed)).tolist()) == [1, 3]
        assert sorted(draw(log_weight, 4, generator(seed)).tolist()) == [0, 1, 2, 3]


def test_of_equally_difficult_samples_dual_draws_in_proportion_to_the_score(make_proxy: Make) -> None:
    swing = torch.tensor([0.05, 0.1, 0.2, 0.4])  # around 0.5 in every window: the same density, scores in proportion
    rows = 0.5 + swing * torch.tensor([1.0, -1.0]).repeat(15)[:, None]
    proxy = make_proxy(samples=4, label_probabilities=rows, correct=rows > 0.5)
    counts = Counter(int(coresets.select("dual", proxy, 1, seed=seed)) for seed in range(600))
    expected = (600 * swing / swing.sum()).tolist()
    assert stats.chisquare([counts[i] for i in range(4)], expected).pvalue > 1e-3


def test_of_equal_scores_dual_draws_in_proportion_to_the_density(make_proxy: Make) -> None:
    mean = torch.tensor([0.3, 0.5, 0.6, 0.7])
    swing = 0.08 / (1 - mean)  # std * (1 - mean) is the same for all
    rows = mean + swing * torch.tensor([1.0, -1.0]).repeat(15)[:, None]
    proxy = make_proxy(samples=4, label_probabilities=rows, correct=rows > 0.5)
    counts = Counter(int(coresets.select("dual", proxy, 1, seed=seed)) for seed in range(600))
    b = 15 * (1 - 2.1 / 4) * (1 - 0.75**4)  # all four are among the ten of highest score
    density = stats.beta.pdf(mean.numpy(), 16 - b, b)
    expected = 600 * density / density.sum()
    assert stats.chisquare([counts[i] for i in range(4)], expected).pvalue > 1e-3


def test_label_probabilities_that_stand_still_are_drawn_last(make_proxy: Make) -> None:
    rows = torch.rand(30, 60, generator=generator(4))
    rows[:, :20] = 1.0
    rows[:, 20:30] = 0.0
    proxy = make_proxy(label_probabilities=rows, correct=rows > 0.5)
    for seed in range(5):
        assert coresets.select("dual", proxy, 30, seed=seed).tolist() == list(range(30, 60))
        assert len(coresets.select("dual", proxy, 45, seed=seed).unique()) == 45


def test_dual_refuses_a_run_in_which_nothing_moved(make_proxy: Make) -> None:
    rows = torch.full((30, 60), 0.25)
    with pytest.raises(ValueError, match="label_probabilities never change"):
        coresets.select("dual", make_proxy(label_probabilities=rows, correct=rows > 1), 10, seed=0)


def test_too_short_a_proxy_run_is_refused(make_proxy: Make) -> None:
    proxy = make_proxy(epochs=8)
    with pytest.raises(ValueError, match="epochs=30 is out of range, expected at most 8.*train it longer"):
        coresets.select("dual", proxy, 10, seed=0)
    with pytest.raises(ValueError, match="window=10 is out of range, expected at most 8.*train it longer"):
        coresets.select("dyn-unc", proxy, 10, seed=0)
    for score in (dynamic_uncertainty, dual_score):
        with pytest.raises(ValueError, match="label_probabilities has 8 epochs, expected at least window=10"):
            score(proxy.label_probabilities, 10)
    with pytest.raises(ValueError, match="epochs=9 is out of range, expected at most 8"):
        coresets.select("forgetting", proxy, 10, seed=0, epochs=9)
    with pytest.raises(ValueError, match="epochs=5 is out of range, expected an integer >= 10"):
        coresets.select("dual", proxy, 10, seed=0, epochs=5)
    with pytest.raises(ValueError, match="the proxy run has 1 epoch, expected at least 2"):
        coresets.select("forgetting", make_proxy(epochs=1), 10, seed=0)
