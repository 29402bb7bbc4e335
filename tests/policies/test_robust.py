"""Robust: what it leaves out, looks at and weighs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import alignprune as ap
from alignprune._ranks import Draws
from alignprune.errors import CallMistake
from alignprune.policies import Evidence, Robust
from alignprune.selection import Onset
from robust_evidence import EPOCHS, NAN, evidence, generator, highest, ledger_of, parts, scores_of, select, suspects_of

# -------------------------------------------------------------------------- how many, and with what weight


@given(
    n=st.integers(20, 300),
    percent=st.integers(50, 95),
    refresh=st.sampled_from([0.0, 0.1, 0.3]),
    ramp=st.integers(1, 8),
    epoch=st.integers(0, EPOCHS - 1),
    since=st.sampled_from([None, 0, 2, 7]),
    thinning=st.sampled_from(["random", "easy"]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=200, deadline=None)
def test_an_epoch_has_exactly_its_share_of_the_data(
    n: int, percent: int, refresh: float, ramp: int, epoch: int, since: int | None, thinning: Any, seed: int
) -> None:
    # At most 40 % are suspects here, so that the others fill the epoch.
    policy = Robust(percent / 100, noise_rate=0.4, refresh=refresh, ramp=ramp, thinning=thinning)
    last_seen = torch.randint(-1, epoch, (n,), generator=generator(seed)) if epoch else torch.full((n,), -1)
    ledger = ledger_of(n, since if since is not None and since < epoch else None, last_seen)
    selection = select(policy, scores_of(n, seed=seed), epoch, seed, ledger)
    budget = (100 - percent) * n // 100
    assert len(selection) == budget
    assert selection.indices.dtype == torch.int64
    assert (selection.indices.diff() > 0).all()
    assert selection.indices[0] >= 0
    assert selection.indices[-1] < n == selection.num_samples
    if selection.suspects is None:
        assert selection.weights is None
        return
    trained, looked = parts(selection)
    suspects = suspects_of(selection)
    assert suspects == sorted(set(suspects))
    assert set(looked) <= set(suspects)
    assert not set(trained) & set(suspects)
    assert len(looked) == min(len(suspects), math.floor(round(refresh * budget, 9)))


def test_more_suspects_than_the_epoch_can_do_without_leave_it_short() -> None:
    selection = select(Robust(0.1, noise_rate=0.6, refresh=0.1), scores_of(100, 0.6))
    trained, looked = parts(selection)
    assert sorted(trained) == list(range(60, 100))  # all that are no suspects
    assert len(looked) == 9


@pytest.mark.parametrize("prune_ratio, noise_rate", [(0.5, 0.3), (0.3, 0.4), (0.2, 0.7)])
def test_weights_are_0_for_suspects_and_on_average_1(prune_ratio: float, noise_rate: float) -> None:
    selection = select(Robust(prune_ratio, noise_rate=noise_rate), scores_of(300, noise_rate))
    trained, looked = parts(selection)
    assert looked
    assert len(set(trained.values())) == 1
    assert math.fsum(trained.values()) / len(selection) == pytest.approx(1, rel=1e-6)


# -------------------------------------------------------------------------- who is a suspect


@pytest.mark.parametrize("ramp", [1, 3, 5])
@pytest.mark.parametrize("noise_rate", [0.0, 0.25, 0.4])
def test_suspects_are_the_highest_scores_and_grow_along_the_ramp(ramp: int, noise_rate: float) -> None:
    score = scores_of(200, seed=3)
    policy = Robust(0.5, noise_rate=noise_rate, ramp=ramp)
    # The epoch after the onset is drawn uniformly still, so the ramp begins with the one after it.
    for done in range(1, 9):
        selection = select(policy, score, 3 + done, ledger=ledger_of(200, since=2))
        expected = math.floor(round(min(1, done / ramp) * noise_rate * 200, 9))
        assert set(suspects_of(selection)) == highest(score.tolist(), expected)
        assert selection.noise_rate == noise_rate


def test_at_the_low_end_all_is_mirrored() -> None:
    score = scores_of(200, seed=4)
    score[50:60] = NAN
    high = select(Robust(), score)
    low = select(Robust(), -score, suspect="low")
    assert suspects_of(high) == suspects_of(low)
    assert len(suspects_of(high)) > 0
    assert torch.equal(high.indices, low.indices)
    assert high.noise_rate == low.noise_rate


@pytest.mark.parametrize("wrong", [0.2, 0.4, 0.6])
def test_without_a_given_rate_the_suspects_are_the_upper_group(wrong: float) -> None:
    selection = select(Robust(0.7), scores_of(1_000, wrong))
    assert suspects_of(selection) == list(range(round(1_000 * wrong)))
    assert selection.noise_rate == pytest.approx(wrong, abs=0.01)


def test_equal_scores_have_no_suspects() -> None:
    selection = select(Robust(), torch.ones(1_000))
    assert (suspects_of(selection), selection.noise_rate, len(selection)) == ([], 0.0, 500)


@given(seed=st.integers(0, 10_000), unknown=st.sampled_from([0.3, 0.9, 1.0]), rate=st.sampled_from([None, 0.4, 0.9]))
@settings(max_examples=60, deadline=None)
def test_a_sample_without_a_score_is_no_suspect(seed: int, unknown: float, rate: float | None) -> None:
    score = scores_of(100, seed=seed)
    missing = torch.rand(100, generator=generator(seed)) < unknown
    score[missing] = NAN
    for thinning in ("random", "easy"):
        selection = select(Robust(0.6, noise_rate=rate, thinning=thinning), score)  # type: ignore[arg-type]
        assert not set(suspects_of(selection)) & set(missing.nonzero().flatten().tolist())


def test_before_the_onset_nobody_is_suspect_and_all_are_as_likely_to_be_drawn() -> None:
    score, draws = scores_of(400, seed=5), torch.zeros(400)
    for epoch in range(EPOCHS):
        for policy in (Robust(), Robust(noise_rate=0.4, thinning="easy")):
            selection = select(policy, score, epoch, ledger=ledger_of(400, since=None))
            assert (selection.suspects, selection.weights, selection.noise_rate) == (None, None, None)
            assert (len(selection), selection.uniform) == (200, True)  # so that memorisation can still be told
    for seed in range(500):
        draws[select(Robust(), score, 4, seed, ledger_of(400, since=None)).indices] += 1
    assert abs(draws[:160].mean() - 250) < 5 * math.sqrt(500 * 0.25 / 160)  # wrong ones as often as others
    assert (draws - 250).abs().max() < 5.5 * math.sqrt(500 * 0.25)


def test_before_the_onset_samples_take_turns_and_some_come_twice_in_a_row() -> None:
    ledger, score, times, again = ledger_of(400, since=None), scores_of(400), torch.zeros(400), 0
    for epoch in range(12):
        chosen = select(Robust(), score, epoch, epoch, ledger).indices
        again += int((ledger.last_seen[chosen] == epoch - 1).sum()) if epoch else 0
        ledger.last_seen[chosen] = epoch
        times[chosen] += 1
        assert epoch < 4 or epoch - int(ledger.last_seen.min()) <= 4  # nobody rests for longer
    assert 0.1 < again / (11 * 200) < 0.3  # those that tell whether the network memorises
    assert times.var() < 0.5 * 12 * 0.25  # by chance alone it would be twice that at least


def test_until_there_are_suspects_the_scores_do_not_matter() -> None:
    policy, last_seen = Robust(), torch.randint(-1, 3, (200,), generator=generator(8))
    for epoch in range(3, 10):
        ledger = ledger_of(200, None, last_seen)
        one, other = (select(policy, scores_of(200, seed=seed), epoch, 0, ledger) for seed in (1, 2))
        assert one.suspects is other.suspects is None
        assert one.weights is None
        assert torch.equal(one.indices, other.indices)


# -------------------------------------------------------------------------- the onset


def test_a_selection_carries_the_onset_that_was_sensed_and_is_uniform_still() -> None:
    apart, alike = scores_of(400), torch.randn(400, generator=generator(6))
    for epoch in range(1, EPOCHS):
        early, late = (select(Robust(), score, epoch, ledger=ledger_of(400, since=None)) for score in (alike, apart))
        assert early.onset is None
        settled = epoch >= EPOCHS / 4  # groups that are apart from the start are believed after a quarter of all epochs
        assert (late.onset is not None) == settled
        if late.onset is not None:
            assert late.onset.epoch == epoch - 1
            assert late.onset.separation == pytest.approx(8, abs=0.5)  # two deviations of 1, 8 apart
        for selection in (early, late):
            assert (selection.suspects, selection.noise_rate, selection.uniform) == (None, None, True)


@pytest.mark.parametrize("memorisation, expected", [(NAN, None), (0.0, False), (0.039, False), (0.041, True)])
def test_before_the_onset_and_after_it_a_selection_says_whether_the_network_memorises(
    memorisation: float, expected: bool | None
) -> None:
    score = scores_of(400)
    ledger = ledger_of(400, since=None)
    ledger.memorisation = memorisation
    assert select(Robust(), score, 2, ledger=ledger).memorises is expected
    after = ledger_of(400)
    after.memorisation = memorisation
    assert select(Robust(), score, ledger=after).memorises is expected
    assert Robust().anneal(evidence(score, ledger=after)).memorises is expected


def test_a_network_that_memorises_brings_the_onset_early() -> None:
    score = scores_of(400)
    for memorisation, begins in ((NAN, False), (-0.5, False), (0.03, False), (0.05, True), (0.2, True)):
        ledger = ledger_of(400, since=None)
        ledger.memorisation, ledger.confirmed = memorisation, True
        onset = select(Robust(), score, 3, ledger=ledger).onset
        assert (onset is not None) == begins
        assert onset is None or onset.epoch == 2


def test_an_onset_stays_the_same_once_the_ledger_has_it() -> None:
    for epoch in range(4, EPOCHS):
        for score in (scores_of(400), torch.ones(400)):
            given = evidence(score, epoch, ledger=ledger_of(400, since=2))
            for selection in (Robust().select(given), Robust().anneal(given)):
                assert selection.onset == Onset(2, 5.0)


def test_annealing_takes_all_samples_and_goes_on_to_flag_the_suspects() -> None:
    given = evidence(scores_of(200))
    selection = Robust().anneal(given)
    assert selection.indices.tolist() == list(range(200))
    assert selection.weights is None
    assert suspects_of(selection) == suspects_of(Robust().select(given)) == list(range(80))
    assert selection.noise_rate == pytest.approx(0.4, abs=0.01)
    assert Robust().annealing == 1.0  # but it never does by itself


# -------------------------------------------------------------------------- who is looked at, who is thinned out


def test_the_suspects_looked_at_are_those_longest_unseen() -> None:
    last_seen = torch.zeros(200, dtype=torch.int32)
    last_seen[torch.arange(200) % 3 == 0] = 8
    last_seen[torch.arange(200) % 3 == 1] = 13
    # suspects are 0 to 79: 27 were last seen in epoch 8, 27 in epoch 13, 26 in epoch 0
    for seed in range(10):
        policy = Robust(0.5, noise_rate=0.4, refresh=0.4)
        _, looked = parts(select(policy, scores_of(200), 15, seed, ledger_of(200, last_seen=last_seen)))
        assert len(looked) == 40
        assert {i for i in range(80) if i % 3 == 2} <= set(looked)
        assert not [i for i in looked if i % 3 == 1]


def test_every_suspect_and_every_other_sample_comes_up_in_turn() -> None:
    ledger, score = ledger_of(200), scores_of(200)
    policy = Robust(0.5, noise_rate=0.4, refresh=0.2, ramp=1)
    seen: list[set[int]] = []
    for epoch in range(3, 15):
        selection = select(policy, score, epoch, epoch, ledger)
        ledger.last_seen[selection.indices] = epoch
        seen.append(set(selection.indices.tolist()))
    # 20 of the 80 suspects and 80 of the 120 others an epoch: in turn all come up within 4 and 2 epochs, and chance may
    # overtake the order by less than 2
    assert set.union(*seen[:6]) == set(range(200))
    assert set(range(80, 200)) <= set.union(*seen[:4])


@pytest.mark.parametrize("seed", range(3))
def test_easy_samples_are_thinned_out_first_and_the_rest_of_them_weighs_more(seed: int) -> None:
    score = scores_of(400, 0.3, seed)
    # 120 suspects of 400, 20 of them looked at: of the 280 others 180 are trained on
    selection = select(Robust(0.5, noise_rate=0.3, thinning="easy"), score, seed=seed)
    trained, looked = parts(selection)
    assert (len(trained), len(looked)) == (180, 20)
    others = list(range(120, 400))
    mean = math.fsum(score[others].tolist()) / len(others)
    hard = {i for i in others if score[i] >= mean}
    easy = set(others) - hard
    kept = easy & set(trained)
    assert hard <= set(trained)
    assert len(kept) == 180 - len(hard)
    factor = 200 / 180  # what the suspects looked at lack, spread over the others
    for i, weight in trained.items():
        assert weight == pytest.approx(factor * (len(easy) / len(kept) if i in easy else 1), rel=1e-5)
    assert math.fsum(trained.values()) == pytest.approx(factor * len(others), rel=1e-5)


def test_every_easy_sample_has_the_same_expected_weight() -> None:
    score, totals = scores_of(200, 0.3), np.zeros(200)
    for seed in range(800):
        trained, _ = parts(select(Robust(0.5, noise_rate=0.3, refresh=0.0, thinning="easy"), score, seed=seed))
        for i, weight in trained.items():
            totals[i] += weight / 800
    assert totals[:60].tolist() == [0] * 60
    assert totals[60:] == pytest.approx(np.ones(140), abs=0.25)
    assert totals[60:].mean() == pytest.approx(1, abs=1e-5)


def test_hard_samples_that_do_not_fit_are_thinned_out_too_and_keep_their_weight() -> None:
    score, heavy = scores_of(400, 0.3), 0
    mean = float(score[120:].double().mean())
    for seed in range(5):
        selection = select(Robust(0.9, noise_rate=0.3, thinning="easy"), score, seed=seed)
        trained, looked = parts(selection)
        assert (len(trained), len(looked)) == (36, 4)
        for i, weight in trained.items():
            if score[i] >= mean:
                assert weight == pytest.approx(40 / 36, rel=1e-5)
            else:
                assert weight > 1.5 * 40 / 36
                heavy += 1
    assert heavy > 0


def test_nothing_is_thinned_out_where_the_others_fit() -> None:
    selections = [select(Robust(0.3, noise_rate=0.4, thinning=how), scores_of(200)) for how in ("random", "easy")]  # type: ignore[arg-type]
    for selection in selections:
        trained, _ = parts(selection)
        assert sorted(trained) == list(range(80, 200))
        assert len(set(trained.values())) == 1


# -------------------------------------------------------------------------- draws and settings


@pytest.mark.parametrize("thinning", ["random", "easy"])
def test_the_draws_alone_decide(thinning: Any) -> None:
    def states() -> tuple[object, ...]:
        name, keys, *rest = np.random.get_state()
        return torch.get_rng_state().tolist(), name, keys.tolist(), rest, random.getstate()

    score, policy, before = scores_of(300), Robust(0.5, thinning=thinning), states()
    unchanged = score.clone()
    first, again, other = (select(policy, score, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.indices, again.indices)
    assert parts(first) == parts(again)
    assert not torch.equal(first.indices, other.indices)
    assert states() == before
    assert torch.equal(score, unchanged)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: Robust(1.0), ValueError, r"prune_ratio=1.0 is out of range.*\[0, 1\).*0.5 leaves out half"),
        (lambda: Robust(noise_rate=1.0), ValueError, r"noise_rate=1.0 is out of range.*None estimates it"),
        (lambda: Robust(noise_rate="half"), TypeError, r"noise_rate='half' is str.*None estimates it"),  # type: ignore[arg-type]
        (lambda: Robust(refresh=-0.1), ValueError, r"refresh=-0.1 is out of range.*looks again"),
        (lambda: Robust(ramp=0), ValueError, r"ramp=0 is out of range.*>= 1.*all suspects at once"),
        (lambda: Robust(ramp=2.5), TypeError, r"ramp=2.5 is float"),  # type: ignore[arg-type]
        (lambda: Robust(confused=1.5), ValueError, r"confused=1.5 is out of range.*\[0, 1\].*a quarter"),
        (lambda: Robust(thinning="hard"), ValueError, r"thinning='hard' is unknown, expected one of random, easy"),  # type: ignore[arg-type]
        (lambda: Robust(0.95).check(10), ValueError, r"prune_ratio=0.95 leaves none of num_samples=10"),
        (
            lambda: Robust().select(Evidence(torch.ones(9), "high", 1, 5, Draws(0, 1))),
            CallMistake,
            "the policy reads a Ledger that it did not declare",
        ),
    ],
)
def test_a_bad_setting_is_refused_with_its_remedy(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "labels, error, message",
    [
        (torch.zeros(9, dtype=torch.int64), ValueError, r"labels=int64 \(9,\) is not one a sample, expected \[10\]"),
        (torch.zeros(10), TypeError, r"labels=float32 \(10,\) are no class names, expected integers or strings"),
    ],
)
def test_labels_that_cannot_be_the_given_ones_are_refused(labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ap.Pruner.from_preset("robust", num_samples=10, epochs=5, labels=labels)
