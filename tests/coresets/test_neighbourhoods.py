"""Prune4ReL against the literal greedy loop over an N x N matrix."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignprune import coresets
from alignprune.coresets import Proxy, prediction_confidence, prune4rel

Make = Callable[..., Proxy]


def to_one(x: float) -> float:
    """1 - tanh(x), which keeps its digits where tanh(x) is nearly 1."""
    return 2 / (math.exp(2 * x) + 1)


def literal(
    features: Tensor, confidence: list[float], labels: list[int], size: int, tau: float, eta: float, balance: bool
) -> list[int]:
    """The greedy loop, one sample after the other, in the order chosen."""
    count = len(labels)
    rows = features.double().tolist()
    norm = [math.sqrt(sum(x * x for x in row)) for row in rows]
    covered = [0.0] * count
    chosen: list[int] = []
    turn = sorted(set(labels))
    first_out: int | None = None
    for _ in range(size):
        while balance:
            left = [i for i in range(count) if labels[i] == turn[0] and i not in chosen]
            if left:
                break
            if first_out is None:
                first_out = labels.count(turn[0])
            turn = turn[1:]
        if balance:
            taken = sum(labels[i] == turn[0] for i in chosen)
            balance = first_out is None or taken <= 1.5 * first_out
        candidates = [i for i in range(count) if i not in chosen and (not balance or labels[i] == turn[0])]
        gain = {i: to_one(covered[i] / eta) - to_one((covered[i] + confidence[i]) / eta) for i in candidates}
        pick = max(candidates, key=lambda i: (gain[i], -i))
        chosen.append(pick)
        turn = turn[1:] + turn[:1]
        for i in range(count):
            dot = sum(a * b for a, b in zip(rows[i], rows[pick], strict=True))
            s = 0.5 + 0.5 * dot / (norm[i] * norm[pick])
            if s > tau:
                covered[i] += s * confidence[pick]
    return chosen


def example(seed: int, samples: int, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(samples, 3, generator=g)
    return features, torch.rand(samples, generator=g).double(), torch.randint(classes, (samples,), generator=g)


@given(
    seed=st.integers(0, 10_000),
    samples=st.integers(1, 24),
    tau=st.sampled_from([0.0, 0.5, 0.8, 0.95]),
    eta=st.sampled_from([0.5, 1.0, 10.0]),
    balance=st.booleans(),
    memory=st.sampled_from([0, 200, 2**20]),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_every_choice_is_that_of_the_literal_loop(
    seed: int, samples: int, tau: float, eta: float, balance: bool, memory: int, data: st.DataObject
) -> None:
    features, trust, labels = example(seed, samples)
    size = data.draw(st.integers(1, samples))
    chosen = prune4rel(features, trust, labels, size, tau=tau, eta=eta, balance=balance, memory=memory)
    assert chosen.tolist() == literal(features, trust.tolist(), labels.tolist(), size, tau, eta, balance)


@pytest.mark.parametrize("large, dropped", [(7, True), (6, False)])
def test_balance_is_dropped_past_one_and_a_half_times_the_first_class_that_ran_out(large: int, dropped: bool) -> None:
    # Class 0 has 4 samples; after 7 of class 1 the next of it would be the eighth, and 7 > 1.5 * 4.
    labels = torch.tensor([0] * 4 + [1] * 20 + [2] * 20)
    trust = torch.linspace(1, 0.1, 44).double()
    features = torch.eye(44)  # nobody's neighbour, so the gain falls with the index
    size = 4 + 2 * large + 3
    chosen = prune4rel(features, trust, labels, size, tau=0.9)
    assert chosen.tolist() == literal(features, trust.tolist(), labels.tolist(), size, 0.9, 1.0, True)
    counts = labels[chosen].bincount().tolist()
    assert counts == ([4, large + 3, large] if dropped else [4, large + 2, large + 1])


def test_classes_that_have_few_give_all_and_the_size_is_exact() -> None:
    labels = torch.tensor([0, 0, 2, 2, 2, 2, 2, 2, 2])  # class 1 has none
    features, trust, _ = example(0, 9)
    assert labels[prune4rel(features, trust, labels, 5)].bincount().tolist() == [2, 0, 3]
    assert sorted(prune4rel(features, trust, labels, 9).tolist()) == list(range(9))


def test_of_equal_candidates_the_first_is_chosen() -> None:
    features, trust = torch.eye(6), torch.full((6,), 0.5)
    labels = torch.tensor([1, 0, 1, 0, 1, 0])
    assert prune4rel(features, trust, labels, 4).tolist() == [1, 0, 3, 2]
    assert prune4rel(features, trust, labels, 4, balance=False).tolist() == [0, 1, 2, 3]


def test_a_saturated_neighbourhood_still_ranks() -> None:
    # Copies of one sample: all gains rise with the confidence, by ever less. After 30 choices both tanh are 1.0.
    trust = torch.cat([torch.linspace(0.1, 0.4, 30), torch.ones(30)])
    chosen = prune4rel(torch.ones(60, 2), trust, torch.zeros(60).long(), 60)
    assert chosen.tolist() == [*range(30, 60), *range(29, -1, -1)]


def test_candidates_without_confidence_are_chosen_once_and_last() -> None:
    features = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    trust = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0, 0.5, 0.0, 0.0])
    chosen = prune4rel(features, trust, torch.zeros(8).long(), 8, tau=0.0).tolist()
    assert sorted(chosen[:3]) == [1, 3, 5]
    assert sorted(chosen) == list(range(8))


@pytest.mark.parametrize("kind", ["max", "margin"])
def test_confidence_is_the_largest_probability_or_its_lead(kind: str) -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    for row, confidence in zip(logits.double().tolist(), prediction_confidence(logits, kind).tolist(), strict=True):
        p = sorted((math.exp(z) / sum(map(math.exp, row)) for z in row), reverse=True)
        assert confidence == pytest.approx(p[0] if kind == "max" else p[0] - p[1], rel=1e-12)


@pytest.mark.parametrize("kind", ["max", "margin"])
@pytest.mark.parametrize("balance", [True, False])
def test_the_method_reads_the_strongly_augmented_pass(make_proxy: Make, kind: str, balance: bool) -> None:
    proxy = make_proxy(samples=24)
    trust = prediction_confidence(proxy.strong_logits, kind).tolist()
    expected = literal(proxy.strong_features, trust, proxy.labels.tolist(), 10, 0.8, 2.0, balance)
    chosen = coresets.select("prune4rel", proxy, 10, seed=0, tau=0.8, eta=2.0, confidence=kind, balance=balance)
    assert chosen.tolist() == sorted(expected)
