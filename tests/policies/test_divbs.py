"""DivBS against gradients written out, and Gram-Schmidt among them."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from alignprune.policies import BatchEvidence, DivBS

NAN = math.nan

Inputs = tuple[Tensor, Tensor, Tensor]
"""Logits, features and labels of a batch."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chosen(policy: DivBS, inputs: Inputs, seed: int = 0, trust: Tensor | None = None) -> Tensor:
    def told() -> Tensor:
        assert trust is not None
        return trust

    return policy.choose(BatchEvidence(*inputs, generator(seed), told))


def exact_floor(share_left_out: float, count: int) -> int:
    """floor((1 - share) * count) in exact arithmetic of the decimal number that was written."""
    return math.floor((1 - Fraction(str(share_left_out))) * count)


def batch(seed: int, size: int, classes: int = 4, width: int = 5) -> Inputs:
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
    picks = chosen(policy, inputs).tolist()
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
    draws = [tuple(chosen(policy, inputs, seed).tolist()) for seed in range(3_000)]
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
def test_no_sample_is_picked_twice(pick: Any, kind: str, ratio: float) -> None:
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
        picks = chosen(DivBS(prune_ratio=ratio, pick=pick), (logits, features, labels), seed)
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
            picks = chosen(DivBS(prune_ratio=0.3), (logits, features, labels), seed).tolist()
            assert len(set(picks)) == 7, seed
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95])
@pytest.mark.parametrize("size", [1, 2, 7, 10, 30, 100, 427])
def test_a_batch_keeps_its_share_but_never_nothing(ratio: float, size: int) -> None:
    assert DivBS(prune_ratio=ratio).size(size) == max(1, exact_floor(ratio, size))


@pytest.mark.parametrize("pick", ["multinomial", "argmax"])
def test_samples_without_trust_are_taken_last(pick: Any) -> None:
    inputs = batch(1, 12)
    trust = torch.ones(12)
    trust[::2] = 0
    for seed in range(20):
        picks = chosen(DivBS(prune_ratio=0.0, pick=pick, trust=True), inputs, seed, trust).tolist()
        assert sorted(picks) == list(range(12))
        assert all(i % 2 for i in picks[:6])


def test_trust_multiplies_the_projections() -> None:
    inputs = batch(3, 6)
    size = projections(gradients(*inputs), [])
    for favoured in range(6):
        trust = torch.full((6,), 1.0)
        trust[favoured] = float(2 * size.max() / size[favoured])
        assert chosen(DivBS(prune_ratio=0.7, pick="argmax", trust=True), inputs, trust=trust)[0] == favoured


def test_divbs_reads_half_precision_and_leaves_its_inputs() -> None:
    logits, features, labels = batch(0, 10)
    halves = logits.half(), features.half()
    before = [x.clone() for x in halves]
    picks = chosen(DivBS(pick="argmax"), (*halves, labels))
    expected = chosen(DivBS(pick="argmax"), (halves[0].float(), halves[1].float(), labels))
    assert torch.equal(picks, expected)
    assert all(torch.equal(x, y) for x, y in zip(halves, before, strict=True))


# Mistakes.


@pytest.mark.parametrize("value", [1.2, -0.1, NAN, math.inf, 50, 1.0])
def test_a_share_outside_its_interval_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=rf"prune_ratio={value!r} is out of range, expected a number in \[0, 1\)"):
        DivBS(prune_ratio=value)


def test_an_unknown_pick_is_refused() -> None:
    with pytest.raises(ValueError, match="pick='argmin' is unknown.*did you mean 'argmax'"):
        DivBS(pick="argmin")  # type: ignore[arg-type]
