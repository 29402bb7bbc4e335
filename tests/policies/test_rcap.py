"""RCAP against its closed form in exact sums, and its draws against drawing one after the other."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import alignprune as ap
from alignprune import errors
from alignprune._ranks import Draws
from alignprune.policies import RCAP, Evidence
from alignprune.policies.rcap import divide
from alignprune.selection import Selection

NAN = math.nan


def chosen(policy: RCAP, score: Tensor, labels: list[int], seed: int = 0) -> Selection:
    codes = torch.tensor(labels, dtype=torch.int32)
    return policy.select(Evidence(score, "high", 1, 20, Draws(seed, 1), labels=codes))


def random_losses(seed: int, samples: int, unknown: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    losses = 2 * torch.rand(samples, generator=generator)
    losses[torch.rand(samples, generator=generator) < unknown] = NAN
    return losses


def closed_form(losses: list[float], labels: list[int], total: int, aggregate: str) -> dict[int, float]:
    """The part of every class, sqrt(p_c L_c) of what is left when the classes that are wanted as a whole are full."""
    guess = math.log(max(2, len({c for c in labels if c >= 0})))
    clipped = [guess if math.isnan(x) else min(max(x, 0.0), guess) for x in losses]
    members = {c: [x for x, label in zip(clipped, labels, strict=True) if label == c] for c in set(labels)}
    weight = {
        c: math.sqrt(len(of) / len(labels) * max(math.fsum(of) / (len(of) if aggregate == "mean" else 1), 1e-12))
        for c, of in members.items()
    }
    part: dict[int, float] = {}
    while len(part) < len(members):
        rest, left = total - math.fsum(part.values()), {c: weight[c] for c in members if c not in part}
        wanted = {c: rest * weight[c] / math.fsum(left.values()) for c in left}
        full = {c: float(len(members[c])) for c in left if wanted[c] >= len(members[c]) - 1e-9}
        part |= full or wanted
    return part


@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    unknown=st.sampled_from([0.0, 0.3, 1.0]),
    unlabelled=st.booleans(),
    prune_ratio=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8]),
    aggregate=st.sampled_from(["mean", "sum"]),
)
@settings(max_examples=150, deadline=None)
def test_every_class_gets_its_part_of_the_closed_form(
    seed: int, sizes: list[int], unknown: float, unlabelled: bool, prune_ratio: float, aggregate: str
) -> None:
    labels = [c - unlabelled for c, count in enumerate(sizes) for _ in range(count)]
    score = random_losses(seed, len(labels), unknown)
    policy = RCAP(prune_ratio, aggregate=aggregate)  # type: ignore[arg-type]
    total = math.floor(round((1 - prune_ratio) * len(labels), 9))
    kept = chosen(policy, score, labels, seed).indices.tolist()
    assert len(kept) == total
    counts = Counter(labels[i] for i in kept)
    for c, part in closed_form(score.tolist(), labels, total, aggregate).items():
        assert math.floor(part - 1e-6) <= counts[c] <= math.ceil(part + 1e-6)


@pytest.mark.parametrize("aggregate, parts", [("mean", [150, 50]), ("sum", [180, 20])])
def test_of_classes_of_one_loss_the_mean_keeps_more_of_the_small_one(aggregate: str, parts: list[int]) -> None:
    policy = RCAP(0.8, aggregate=aggregate)  # type: ignore[arg-type]
    kept = chosen(policy, torch.full((1_000,), 0.5), [0] * 900 + [1] * 100).indices
    assert [int((kept < 900).sum()), int((kept >= 900).sum())] == parts  # as sqrt(900) to sqrt(100), or 900 to 100


def test_of_classes_of_one_size_the_hard_one_gets_more() -> None:
    losses = torch.cat([torch.full((500,), 0.1), torch.full((500,), 0.4)])
    kept = chosen(RCAP(0.7), losses, [0] * 500 + [1] * 500).indices
    assert [int((kept < 500).sum()), int((kept >= 500).sum())] == [100, 200]  # as sqrt(0.1) to sqrt(0.4)


def test_what_a_class_does_not_have_goes_to_the_others() -> None:
    """The published code goes on with the number that it had before: 650 of 600 that were asked for."""
    labels = [0] * 20 + [1] * 490 + [2] * 490
    losses = torch.cat([torch.full((20,), 1.0), torch.full((980,), 0.001)])
    counts = Counter(labels[i] for i in chosen(RCAP(0.4), losses, labels).indices.tolist())
    assert counts == {0: 20, 1: 290, 2: 290}


def test_inside_of_a_class_samples_are_drawn_one_after_the_other_by_their_loss() -> None:
    """Every order of two draws, and its probability: what is left is drawn in proportion to exp(loss / temperature)."""
    losses, runs, temperature = [0.0, 0.2, 0.4, 0.69], 6_000, 0.25
    weight, expected = [math.exp(x / temperature) for x in losses], [0.0] * 4
    for first, second in permutations(range(4), 2):
        chance = weight[first] / sum(weight) * weight[second] / (sum(weight) - weight[first])
        expected[first] += chance
        expected[second] += chance
    policy, score = RCAP(0.5, temperature), torch.tensor(losses)
    found = Counter(i for seed in range(runs) for i in chosen(policy, score, [0] * 4, seed).indices.tolist())
    for i in range(4):
        assert abs(found[i] / runs - expected[i]) < 5 * math.sqrt(expected[i] * (1 - expected[i]) / runs)


@pytest.mark.parametrize("beyond", [1e30, NAN])
def test_losses_beyond_a_guess_and_unknown_ones_count_as_a_guess(beyond: float) -> None:
    labels, losses = [i % 3 for i in range(60)], random_losses(0, 60)
    other = losses.masked_fill(losses > math.log(3), beyond)
    assert torch.equal(chosen(RCAP(), losses, labels).indices, chosen(RCAP(), other, labels).indices)


@given(seed=st.integers(0, 10_000), order=st.permutations([0, 1, 2, 3]), ties=st.booleans())
@settings(max_examples=60, deadline=None)
def test_other_names_of_the_classes_change_nothing(seed: int, order: list[int], ties: bool) -> None:
    labels = torch.randint(4, (50,), generator=torch.Generator().manual_seed(seed)).tolist()
    losses = torch.ones(50) if ties else random_losses(seed, 50)
    renamed = [order[c] for c in labels]
    for policy in (RCAP(0.37), RCAP(0.37, aggregate="sum")):
        first, second = (chosen(policy, losses, names, seed).indices for names in (labels, renamed))
        assert torch.equal(first, second)


def test_what_is_divided_adds_up_and_no_class_gives_more_than_it_has() -> None:
    source = np.random.default_rng(0)
    for _ in range(300):
        counts = source.integers(1, 40, size=source.integers(1, 30))
        total = int(source.integers(0, counts.sum() + 1))
        weight = source.random(len(counts)) ** 8 + 1e-12
        parts = divide(total, weight, counts, np.arange(len(counts)))
        assert parts.sum() == total
        assert ((parts >= 0) & (parts <= counts)).all()


def test_a_pruner_without_labels_is_refused() -> None:
    with pytest.raises(errors.ValueMistake, match="labels=None is no label a sample, expected what RCAP chooses by"):
        ap.Pruner.from_preset("rcap", num_samples=20, epochs=3)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"prune_ratio": 1.0}, r"prune_ratio=1.0 is out of range, expected a number in \[0, 1\)"),
        ({"temperature": 0}, r"temperature=0 is out of range, expected a number in \[0.001, 1000\]: the authors try"),
        ({"aggregate": "max"}, "aggregate='max' is unknown, expected one of mean, sum"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RCAP(**wrong)  # type: ignore[arg-type]


def test_a_data_set_of_which_nothing_would_stay_is_refused() -> None:
    with pytest.raises(ValueError, match="prune_ratio=0.9 leaves none of num_samples=5, expected one at least: choose"):
        RCAP(0.9).check(5)
