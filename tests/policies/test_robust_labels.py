"""Robust with the given labels: hard is told from wrong by samples held out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignprune.memory import Ledger
from alignprune.policies import Robust
from alignprune.policies.posterior import posterior
from alignprune.policies.robust import log_odds_of_wrong
from robust_evidence import NAN, generator, ledger_of, left_out_of, scores_of, select, suspects_of


def labels_of(n: int, classes: int, seed: int) -> Tensor:
    return torch.randint(0, classes, (n,), generator=generator(seed))


def looked_at(n: int, seed: int) -> Ledger:
    """A ledger in which half of the samples were looked at while they were held out."""
    ledger = ledger_of(n)
    ledger.held_out = 6 * torch.rand(n, generator=generator(seed + 1))
    ledger.held_out[torch.rand(n, generator=generator(seed + 2)) < 0.5] = NAN
    return ledger


@given(classes=st.integers(2, 8), seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_a_suspect_is_readmitted_by_bayes_rule_under_the_most_likely_odds(classes: int, seed: int) -> None:
    n, policy = 400, Robust(ramp=1, prune_ratio=0.0)
    score, ledger, labels = scores_of(n, seed=seed), looked_at(n, seed), labels_of(n, classes, seed)
    before = select(policy, score, labels=labels)
    suspects = suspects_of(before)
    frequency = [labels.tolist().count(c) / n for c in range(classes)]
    right = {i: math.exp(-float(ledger.held_out[i])) for i in suspects if not math.isnan(ledger.held_out[i])}
    shares = {i: frequency[int(labels[i])] for i in right}
    wrong = {i: (1 - right[i]) * (0.75 * shares[i] / (1 - shares[i]) + 0.25 * right[i]) for i in right}
    share, most = 0.5, -math.inf
    for candidate in np.linspace(0.001, 0.999, 999):
        likelihood = math.fsum(math.log((1 - candidate) * right[i] + candidate * wrong[i]) for i in right)
        share, most = (float(candidate), likelihood) if likelihood > most else (share, most)
    odds = {i: share * wrong[i] / ((1 - share) * right[i]) for i in right}
    after = select(policy, score, ledger=ledger, labels=labels)
    close = {i for i in right if 0.9 < odds[i] < 1.1}  # the grid is not exact
    expected = {i for i in suspects if odds.get(i, 2.0) >= 1}
    assert set(left_out_of(after)) ^ expected <= close
    assert set(suspects_of(after)) <= set(left_out_of(after))


def met_while_held_out(loss: float, met: int, suspects: int = 240) -> Ledger:
    """A ledger of 600 samples: the first suspects were looked at, with this loss, and so many of them were met."""
    ledger = ledger_of(600)
    ledger.held_out[:suspects] = loss
    ledger.agreement[:suspects] = 0.0
    ledger.agreement[:met] = 1.0
    return ledger


@pytest.mark.parametrize("met", [0, 40, 79])
def test_where_the_network_meets_few_suspects_only_those_come_back_that_it_meets(met: int) -> None:
    n, policy = 600, Robust(ramp=1, prune_ratio=0.0)  # 240 suspects: a third of them is 80
    score, ledger, labels = scores_of(n), ledger_of(n), labels_of(n, 4, 0)
    ledger.held_out[:240] = 0.2  # so probable that Bayes' rule alone has all of them right
    assert not set(range(240)) & set(left_out_of(select(policy, score, ledger=ledger, labels=labels)))
    ledger.agreement[:met] = 0.75
    ledger.agreement[met : 2 * met] = 0.0
    ledger.agreement[2 * met : 240] = 0.25
    left_out = set(left_out_of(select(policy, score, ledger=ledger, labels=labels)))
    assert left_out & set(range(240)) == set(range(met, 240))


def test_where_the_network_meets_a_third_of_the_suspects_bayes_rule_stands_alone() -> None:
    score, ledger, labels = scores_of(600), met_while_held_out(0.2, 80), labels_of(600, 4, 0)
    policy = Robust(ramp=1, prune_ratio=0.0)
    assert not set(range(240)) & set(left_out_of(select(policy, score, ledger=ledger, labels=labels)))


@pytest.mark.parametrize("met", [0, 20, 40, 60, 79])
def test_of_those_looked_at_twice_as_many_are_right_as_are_met_though_losses_find_all_of_them_right(met: int) -> None:
    score, labels = scores_of(600), labels_of(600, 4, 0)
    chosen = select(Robust(ramp=1, prune_ratio=0.0), score, ledger=met_while_held_out(0.2, met), labels=labels)
    assert chosen.noise_rate == pytest.approx((240 - 2 * met) / 600, abs=0.01)
    if met <= 60:  # more than half of the others are wrong
        assert suspects_of(chosen) == list(range(met, 240))


def test_where_half_of_those_looked_at_are_met_losses_say_alone_who_is_wrong() -> None:
    score, labels = scores_of(600), labels_of(600, 4, 0)
    told, untold = met_while_held_out(0.2, 120), met_while_held_out(0.2, 120)
    untold.agreement.fill_(NAN)
    chosen, alone = (
        select(Robust(ramp=1, prune_ratio=0.0), score, ledger=ledger, labels=labels) for ledger in (told, untold)
    )
    assert chosen.noise_rate == alone.noise_rate
    assert suspects_of(chosen) == suspects_of(alone) == []


def test_where_losses_find_as_many_wrong_predictions_add_nothing() -> None:
    score, labels, policy = scores_of(600), labels_of(600, 4, 0), Robust(ramp=1, prune_ratio=0.0)
    told, untold = met_while_held_out(9.0, 20), met_while_held_out(9.0, 20)
    untold.agreement.fill_(NAN)
    chosen, alone = (select(policy, score, ledger=ledger, labels=labels) for ledger in (told, untold))
    assert suspects_of(chosen) == suspects_of(alone) != []
    assert chosen.noise_rate == alone.noise_rate


def test_how_many_have_to_be_met_is_a_setting() -> None:
    score, ledger, labels = scores_of(600), met_while_held_out(0.2, 30), labels_of(600, 4, 0)
    for least, kept in ((0.0, 240), (0.125, 240), (0.126, 30), (1.0, 30)):
        policy = Robust(ramp=1, prune_ratio=0.0, least_agreement=least)
        left_out = set(left_out_of(select(policy, score, ledger=ledger, labels=labels)))
        assert left_out & set(range(240)) == set(range(kept, 240))


def test_what_is_met_brings_nobody_back_whose_label_is_improbable() -> None:
    score, ledger, labels = scores_of(600), met_while_held_out(9.0, 30), labels_of(600, 4, 0)
    policy = Robust(ramp=1, prune_ratio=0.0)
    untold = met_while_held_out(9.0, 30)
    untold.agreement.fill_(NAN)
    before = left_out_of(select(policy, score, ledger=untold, labels=labels))
    assert left_out_of(select(policy, score, ledger=ledger, labels=labels)) == before
    assert set(range(240)) <= set(before)


@pytest.mark.parametrize("memorisation, hardly", [(NAN, False), (0.016, True), (0.039, True), (0.041, False)])
def test_a_network_that_hardly_memorises_misses_only_doubtful_labels_and_those_not_looked_at(
    memorisation: float, hardly: bool
) -> None:
    score, ledger, labels = scores_of(600), met_while_held_out(9.0, 0, suspects=220), labels_of(600, 4, 0)
    ledger.memorisation = memorisation
    score[:240] = score[:240].sort(descending=True).values  # the wrong ones first
    ledger.held_out[120:220] = 0.5  # probable labels, of which the network meets a few
    ledger.agreement[175:220] = 1.0
    chosen = select(Robust(ramp=1, prune_ratio=0.0), score, ledger=ledger, labels=labels)
    never_looked_at = set(range(220, 240))
    assert set(suspects_of(chosen)) - never_looked_at == set(range(120))
    left_out, doubtless = set(left_out_of(chosen)), set(range(140, 175))  # a slice away from the wrong ones
    assert set(range(120)) | never_looked_at <= left_out
    assert left_out & doubtless == (set() if hardly else doubtless)


def test_nobody_is_readmitted_where_the_rate_is_known_or_few_were_looked_at() -> None:
    n = 400
    score, ledger, labels = scores_of(n), looked_at(n, 0), labels_of(n, 4, 0)
    known = Robust(ramp=1, noise_rate=0.4)
    assert suspects_of(select(known, score, ledger=ledger, labels=labels)) == list(range(160))
    ledger.held_out[19:] = NAN
    ledger.held_out[:19] = 0.0
    assert set(range(19)) <= set(suspects_of(select(Robust(ramp=1), score, ledger=ledger, labels=labels)))
    ledger.held_out[19:40] = 0.0
    assert not set(range(40)) & set(suspects_of(select(Robust(ramp=1), score, ledger=ledger, labels=labels)))
    assert set(range(40)) <= set(suspects_of(select(Robust(ramp=1), score, ledger=ledger)))  # nor without labels


def test_labels_of_one_class_say_no_more_than_none() -> None:
    n, policy = 400, Robust(ramp=1)
    score, ledger = scores_of(n), looked_at(n, 0)
    assert np.isnan(log_odds_of_wrong(ledger.held_out.numpy(), np.zeros(n, dtype=np.int32))).all()
    with_one = select(policy, score, ledger=ledger, labels=torch.zeros(n, dtype=torch.int64))
    without = select(policy, score, ledger=ledger)
    assert suspects_of(with_one) == suspects_of(without) != []
    assert with_one.noise_rate == without.noise_rate


def test_a_suspect_without_a_label_is_not_readmitted() -> None:
    score, ledger, labels = scores_of(400), ledger_of(400), labels_of(400, 4, 0)
    labels[::2] = -1
    policy = Robust(ramp=1, prune_ratio=0.0)
    before = left_out_of(select(policy, score, labels=labels))
    assert set(range(80)) < set(before)
    ledger.held_out[:80] = 0.0
    after = left_out_of(select(policy, score, ledger=ledger, labels=labels))
    assert after == [i for i in before if i >= 80 or i % 2 == 0]


@given(seed=st.integers(0, 10_000), classes=st.integers(1, 6), rate=st.sampled_from([0.1, 0.2, 0.4, 0.7]))
@settings(max_examples=50, deadline=None)
def test_no_class_loses_more_than_twice_the_share_of_all(seed: int, classes: int, rate: float) -> None:
    n = 200
    labels = (torch.rand(n, generator=generator(seed)) ** 2 * classes).long()  # the last classes are rare
    score = torch.randn(n, generator=generator(seed + 1)) + 2 * labels  # and hard
    suspects = set(suspects_of(select(Robust(ramp=1, noise_rate=rate), score, labels=labels)))
    expected = set()
    for i in sorted(range(n), key=lambda i: -float(score[i]))[: math.floor(round(rate * n, 9))]:
        same = [j for j in range(n) if labels[j] == labels[i]]
        if len([j for j in expected if labels[j] == labels[i]]) < math.ceil(2 * rate * len(same) - 1e-9):
            expected.add(i)
    assert suspects == expected


def test_of_those_left_out_the_suspects_and_the_noise_rate_are_what_the_posterior_says() -> None:
    n = 400
    score, ledger, labels = scores_of(n), looked_at(n, 0), labels_of(n, 4, 0)
    ledger.held_out[100:] *= 0.2
    found = select(Robust(ramp=1, prune_ratio=0.0), score, ledger=ledger, labels=labels)
    odds = log_odds_of_wrong(ledger.held_out.numpy(), labels.to(torch.int32).numpy())
    judged = posterior(score.numpy(), odds)
    assert judged is not None
    assert found.noise_rate == pytest.approx(
        judged.noise_rate, rel=1e-12
    )  # the mean of the same numbers in another order
    assert suspects_of(found) == [i for i in left_out_of(found) if judged.p_wrong[i] > 0.5]
    assert 0 < len(suspects_of(found)) < len(left_out_of(found))


@given(seed=st.integers(0, 1000), classes=st.integers(1, 6), confused=st.sampled_from([0.0, 0.25, 1.0]))
@settings(max_examples=80, deadline=None)
def test_the_log_odds_of_a_label_are_how_likely_it_is_to_be_given_wrongly_over_rightly(
    seed: int, classes: int, confused: float
) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 40))
    labels = rng.integers(-1, classes, size).astype(np.int32)  # -1 has no label
    labels[0] = classes + 1  # a class of one sample, beside one that has none
    losses = (rng.exponential(size=size) ** 2).astype(np.float32)
    losses[rng.random(size) < 0.3] = NAN
    losses[rng.random(size) < 0.1] = 0.0
    labelled = [label for label in labels.tolist() if label >= 0]
    expected = []
    for loss, label in zip(losses.tolist(), labels.tolist(), strict=True):
        if math.isnan(loss) or label < 0 or len(set(labelled)) < 2:
            expected.append(NAN)
            continue
        p = math.exp(-max(loss, 1e-6))  # the network's probability of the label, never quite 1
        f = min(labelled.count(label) / len(labelled), float(np.float32(1 - 1e-6)))
        by_frequency, by_confusion = (1 - p) * f / (1 - f), (1 - p) * p
        expected.append(math.log(((1 - confused) * by_frequency + confused * by_confusion) / p))
    odds = log_odds_of_wrong(losses, labels, confused)
    assert odds.dtype == np.float32
    np.testing.assert_allclose(odds, expected, rtol=1e-3, atol=1e-3)


def test_the_log_odds_rise_with_the_loss_and_are_right_in_the_middle() -> None:
    labels, losses = np.zeros(7, dtype=np.int32), np.array([0, 0.1, 0.5, math.log(2), 2, 10, 100], dtype=np.float32)
    labels[3:] = 1
    labels[3] = 0  # 4 of 7 samples are of class 0
    odds = log_odds_of_wrong(losses[:4], np.repeat(np.array([0, 1], dtype=np.int32), 2), confused=0.0)
    assert odds[3] == pytest.approx(0, abs=1e-6)  # two classes of one size, and a coin for the network
    assert (np.diff(odds) > 0).all()
    assert np.isfinite(log_odds_of_wrong(losses, labels)).all()
