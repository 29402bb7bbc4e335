"""Side by side with the published InfoBatch and SeTa rules, re-stated as short loops, given the same scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from alignprune import Selection
from alignprune._ranks import Draws
from alignprune.policies import Evidence, InfoBatch, Policy, SeTa

KINDS = {
    "losses": lambda source, n: torch.rand(n, generator=source).log().neg() ** 2,
    "alignment": lambda source, n: (torch.randn(n, generator=source) * 0.5 + 0.4).clamp(-1, 1),
    "ties": lambda source, n: torch.randint(6, (n,), generator=source) / 10,
    "the start": lambda source, n: torch.full((n,), 3.0),
}


def scores(kind: str, samples: int, seed: int) -> Tensor:
    return KINDS[kind](torch.Generator().manual_seed(seed), samples)


def published_infobatch(score: Tensor, prune_prob: float, rng: np.random.Generator) -> dict[int, float]:
    """Sample -> weight: keep int(keep * |L|) of L = {score < float32 mean}, with weight 1 / keep, and all others."""
    keep = min(1.0, max(0.1, 1.0 - prune_prob))
    low = [i for i, is_low in enumerate((score < score.mean()).tolist()) if is_low]
    kept = rng.choice(low, int(keep * len(low)), replace=False) if low else []
    weights = dict.fromkeys(set(range(len(score))) - set(low), 1.0)
    return weights | {int(i): 1 / keep for i in kept}


def published_seta(score: Tensor, order: Tensor, calls: int, k: int = 5, alpha: float = 0.9) -> set[int]:
    """The samples in the window of scikit-learn's k-means groups; ``order`` is the order in which they are read.

    The published code hands scikit-learn a torch tensor, which it turns into float64.
    """
    if score.max() == score.min():
        groups = [part.tolist() for part in torch.chunk(order, k)]
    else:
        values = score[order].double().unsqueeze(1).numpy()
        labels = KMeans(n_clusters=k, random_state=0).fit(values).labels_
        groups = [order[torch.from_numpy(labels == label)].tolist() for label in range(k)]
        groups.sort(key=lambda members: float(score[members].double().mean()))
    if calls > 0:
        window = round(len(groups) * alpha)
        start = calls % (len(groups) - window + 1)
        groups = groups[start : start + window]
    return {sample for group in groups for sample in group}


def chosen(policy: Policy, score: Tensor, epoch: int = 1, seed: int = 0) -> Selection:
    return policy.select(Evidence(score, "high", epoch, 20, Draws(seed, epoch)))


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("prune_prob", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("samples", [37, 1_000, 20_000])
def test_infobatch_takes_as_many_samples_of_each_kind_and_weighs_the_same_ones_up(
    kind: str, prune_prob: float, samples: int
) -> None:
    for seed in range(3):
        score = scores(kind, samples, seed)
        theirs = published_infobatch(score, prune_prob, np.random.default_rng(seed))
        ours = chosen(InfoBatch(prune_prob=prune_prob), score, seed=seed)
        weights = torch.ones(len(ours)) if ours.weights is None else ours.weights
        assert len(ours) == len(theirs)
        heavy, theirs_heavy = weights[weights > 1], [weight for weight in theirs.values() if weight > 1]
        assert len(heavy) == len(theirs_heavy)
        if not theirs_heavy:
            continue
        # Theirs is 1 / keep, though floor(keep * |L|) are kept: the sum falls short of |L| by less than one weight.
        low = int((score < score.mean()).sum())
        assert float(heavy.double().sum()) == pytest.approx(low, rel=1e-6)
        assert heavy.unique().tolist() == [pytest.approx(low / len(heavy), rel=1e-6)]
        assert -1e-6 < low - math.fsum(theirs_heavy) < max(theirs_heavy)


@pytest.mark.parametrize("kind", list(KINDS))
def test_infobatch_prunes_from_the_same_samples(kind: str) -> None:
    score = scores(kind, 400, 0)
    ever_theirs, ever_ours = set(), set()
    for seed in range(40):
        ever_theirs |= set(range(400)) - set(published_infobatch(score, 0.5, np.random.default_rng(seed)))
        ever_ours |= set(chosen(InfoBatch(0.5), score, seed=seed).pruned.tolist())
    assert ever_ours == ever_theirs  # after 40 draws of one half, each of them was left out once


@pytest.mark.parametrize("kind", ["losses", "alignment", "ties"])
@pytest.mark.parametrize("samples", [200, 50_000])
@pytest.mark.parametrize("epoch", range(6))
def test_seta_takes_the_same_samples_by_the_same_k_means(kind: str, samples: int, epoch: int) -> None:
    score = scores(kind, samples, 1 + epoch)
    # k-means++ starts from points that depend on the order, so both read the samples in ascending order.
    ours = chosen(SeTa(prune_prob=0.0, groups=5, alpha=0.9, grouping="sklearn"), score, epoch)
    assert set(ours.indices.tolist()) == published_seta(score, torch.arange(samples), epoch)
    assert ours.weights is None


@pytest.mark.parametrize("epoch", range(6))
def test_seta_takes_as_many_samples_of_equal_scores(epoch: int) -> None:
    score = scores("the start", 1_000, 0)
    ours = chosen(SeTa(prune_prob=0.0, grouping="sklearn"), score, epoch)
    assert len(ours) == len(published_seta(score, torch.arange(1_000), epoch)) == (1_000 if epoch == 0 else 800)
