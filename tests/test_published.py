"""Side by side with the published InfoBatch and SeTa rules, re-stated as short loops, given the same scores."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from alignprune import Selection
from alignprune.policies import InfoBatch, SeTa

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
    """The samples in the window of scikit-learn's k-means groups; ``order`` is the order in which they were drawn.

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


def multiset(selection: Selection) -> Counter[float]:
    weights = torch.ones(len(selection)) if selection.weights is None else selection.weights
    return Counter(round(weight, 5) for weight in weights.tolist())


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("prune_prob", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("samples", [37, 1_000, 20_000])
def test_infobatch_takes_as_many_samples_with_the_same_weights(kind: str, prune_prob: float, samples: int) -> None:
    for seed in range(3):
        score = scores(kind, samples, seed)
        theirs = published_infobatch(score, prune_prob, np.random.default_rng(seed))
        ours = InfoBatch(prune_prob=prune_prob).select(score, 1, torch.Generator().manual_seed(seed))
        assert len(ours) == len(theirs)
        assert multiset(ours) == Counter(round(weight, 5) for weight in theirs.values())


@pytest.mark.parametrize("kind", list(KINDS))
def test_infobatch_prunes_from_the_same_samples(kind: str) -> None:
    score = scores(kind, 400, 0)
    ever_theirs, ever_ours = set(), set()
    for seed in range(40):
        ever_theirs |= set(range(400)) - set(published_infobatch(score, 0.5, np.random.default_rng(seed)))
        ever_ours |= set(InfoBatch(0.5).select(score, 1, torch.Generator().manual_seed(seed)).pruned.tolist())
    assert ever_ours == ever_theirs  # after 40 draws of one half, each of them was left out once


@pytest.mark.parametrize("kind", ["losses", "alignment", "ties"])
@pytest.mark.parametrize("samples", [200, 50_000])
@pytest.mark.parametrize("epoch", range(6))
def test_seta_takes_the_same_samples_by_the_same_k_means(kind: str, samples: int, epoch: int) -> None:
    score = scores(kind, samples, 1)
    # k-means++ starts from points that depend on the order, so both read the samples in one drawn order.
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(epoch))
    policy = SeTa(prune_prob=0.0, groups=5, alpha=0.9, grouping="sklearn")
    ours = policy.select(score, epoch, torch.Generator().manual_seed(epoch))
    assert set(ours.indices.tolist()) == published_seta(score, order, epoch)
    assert ours.weights is None


@pytest.mark.parametrize("epoch", range(6))
def test_seta_takes_as_many_samples_of_equal_scores(epoch: int) -> None:
    score = scores("the start", 1_000, 0)
    ours = SeTa(prune_prob=0.0, grouping="sklearn").select(score, epoch, torch.Generator().manual_seed(0))
    assert len(ours) == len(published_seta(score, torch.arange(1_000), epoch)) == (1_000 if epoch == 0 else 800)
