"""Robust: what it leaves out, looks at and weighs, and whole runs in which wrong labels are learned by heart."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import alignprune as ap
from alignprune._ranks import Draws
from alignprune.errors import CallMistake
from alignprune.memory import Ledger
from alignprune.policies import Evidence, Robust
from alignprune.policies.posterior import posterior
from alignprune.policies.robust import log_odds_of_wrong
from alignprune.selection import Onset

NAN = math.nan
EPOCHS = 20


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scores_of(n: int, wrong: float = 0.4, seed: int = 0) -> Tensor:
    """Two kinds of samples, the first ``wrong`` of them with high losses, well apart."""
    values = torch.randn(n, generator=generator(seed))
    values[: round(wrong * n)] += 8
    return values


def ledger_of(n: int, since: int | None = 2, last_seen: Tensor | None = None) -> Ledger:
    """A ledger of a run whose onset was an epoch, and in which two groups were apart then."""
    ledger = Ledger(n)
    ledger.onset = None if since is None else Onset(since, 5.0)
    if last_seen is not None:
        ledger.last_seen.copy_(last_seen)
    return ledger


def evidence(
    score: Tensor,
    epoch: int = 15,
    seed: int = 0,
    ledger: Ledger | None = None,
    labels: Tensor | None = None,
    **more: Any,
) -> Evidence:
    memories = (ledger or ledger_of(len(score)),)
    how: dict[str, Any] = {"suspect": "high", "epochs": EPOCHS, "draws": Draws(seed, epoch)}
    codes = None if labels is None else labels.int()
    return Evidence(score=score, epoch=epoch, memories=memories, labels=codes, **(how | more))


def select(policy: Robust, score: Tensor, *args: Any, **more: Any) -> ap.Selection:
    return policy.select(evidence(score, *args, **more))


def suspects_of(selection: ap.Selection) -> list[int]:
    assert selection.suspects is not None
    return selection.suspects.tolist()


def left_out_of(selection: ap.Selection) -> list[int]:
    """Who is not trained on, which with a prune ratio of 0 are those that are flagged, suspects or not."""
    return sorted(set(range(selection.num_samples)) - set(selection.trained.tolist()))


def parts(selection: ap.Selection) -> tuple[dict[int, float], list[int]]:
    """The samples trained on with their weights, and those that are only looked at."""
    weights = [1.0] * len(selection) if selection.weights is None else selection.weights.tolist()
    pairs = list(zip(selection.indices.tolist(), weights, strict=True))
    return {i: weight for i, weight in pairs if weight > 0}, [i for i, weight in pairs if weight == 0]


def highest(values: list[float], count: int) -> set[int]:
    known = [i for i, value in enumerate(values) if not math.isnan(value)]
    return set(sorted(known, key=lambda i: -values[i])[:count])


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


@pytest.mark.parametrize("memorisation, expected", [(NAN, None), (0.0, False), (0.02, True)])
def test_before_the_onset_a_selection_says_whether_the_network_memorises_and_after_it_does(
    memorisation: float, expected: bool | None
) -> None:
    score = scores_of(400)
    ledger = ledger_of(400, since=None)
    ledger.memorisation = memorisation
    assert select(Robust(), score, 2, ledger=ledger).memorises is expected
    after = ledger_of(400)
    after.memorisation = memorisation
    assert select(Robust(), score, ledger=after).memorises is True
    assert Robust().anneal(evidence(score, ledger=after)).memorises is True


def test_a_network_that_memorises_brings_the_onset_early() -> None:
    score = scores_of(400)
    for memorisation, begins in ((NAN, False), (-0.5, False), (0.03, False), (0.05, True), (0.2, True)):
        ledger = ledger_of(400, since=None)
        ledger.memorisation = memorisation
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


# -------------------------------------------------------------------------- whole runs


N, BATCH = 1_501, 100
WRONG = torch.rand(N, generator=generator(11)) < 0.35
HARD = torch.zeros(N, dtype=torch.bool)
START = torch.where(WRONG, 3.0, 1.2) + 0.3 * torch.randn(N, generator=generator(12))


class Training:
    """A training without a network: a loss falls by ``fit`` whenever its own sample is trained on, and all fall slowly.

    A label that is wrong starts with a high loss, which falls by being learned by heart alone.
    """

    def __init__(self, epochs: int, fit: float, **knobs: Any) -> None:
        self.pruner = ap.Pruner.from_preset("robust", num_samples=N, epochs=epochs, seed=3, **knobs)
        self.fit = fit
        self.times = torch.zeros(N)
        self.selections: list[ap.Selection] = []
        self.trained: list[Tensor] = []  # 1 for the samples whose loss an epoch learned from

    def losses(self, index: Tensor) -> Tensor:
        common = torch.where(WRONG, 1.0, torch.where(HARD, 0.9, 0.97) ** self.pruner.epoch)
        noise = 0.05 * torch.rand(N, generator=generator(100 + self.pruner.epoch))
        return ((START * common * torch.exp(-self.fit * self.times)).clamp_min(0.02) + noise)[index]

    def batches(self) -> Iterator[Tensor]:
        yield from torch.tensor(list(self.pruner.sampler)).split(BATCH)

    def step(self, index: Tensor) -> None:
        losses = self.losses(index).requires_grad_()
        self.pruner.reduce(index, losses).backward()
        assert losses.grad is not None
        self.learned[index] = (losses.grad > 0).float()

    def epoch(self, after: Callable[[], None] = lambda: None) -> None:
        self.selections.append(self.pruner.selection)
        self.learned = torch.zeros(N)
        for index in self.batches():
            self.step(index)
            after()
        self.pruner.end_epoch()
        self.times += self.learned
        self.trained.append(self.learned)

    def run(self) -> Training:
        while self.pruner.epoch < self.pruner.epochs:
            self.epoch()
        return self


def test_where_the_network_memorises_the_suspects_are_the_wrong_labels() -> None:
    training = Training(24, fit=0.25).run()
    last = training.selections[-1]
    suspects = torch.zeros(N, dtype=torch.bool)
    suspects[suspects_of(last)] = True
    rate = float(WRONG.float().mean())
    assert last.noise_rate == pytest.approx(rate, abs=0.05)
    assert float((suspects & WRONG).sum() / suspects.sum()) > 0.95
    assert float((suspects & WRONG).sum() / WRONG.sum()) > 0.95
    assert training.pruner.forward_passes == 24 * (N // 2)
    learned = sum(float(training.times[group].mean()) for group in (WRONG, ~WRONG))
    assert float(training.times[WRONG].mean()) < 0.25 * learned  # it spends its steps on the right ones


@pytest.mark.parametrize("prune_ratio, left", [(0.3, 0.7), (0.7, 0.3), (0.58, 0.42)])
def test_the_forward_passes_of_a_run_are_known_beforehand(prune_ratio: float, left: float) -> None:
    training = Training(12, fit=0.25, prune_ratio=prune_ratio, noise_rate=0.2).run()
    assert training.selections[-1].suspects is not None
    assert training.pruner.forward_passes == 12 * math.floor(round(left * N, 9))


def onset_of(training: Training) -> Onset | None:
    return training.pruner.memory(Ledger).onset


def test_only_what_is_learned_from_counts_as_an_exposure() -> None:
    training = Training(14, fit=0.25).run()
    ledger = training.pruner.memory(Ledger)
    assert ledger.onset is not None
    assert torch.equal(ledger.exposures, torch.stack(training.trained[ledger.onset.epoch :]).sum(0).int())
    assert parts(training.selections[-1])[1]
    assert all(ledger.last_seen[i] > ledger.last_trained[i] for i in parts(training.selections[-1])[1])


def test_where_little_is_memorised_groups_that_are_clearly_apart_are_told_after_a_quarter_of_the_epochs() -> None:
    training = Training(16, fit=0.03, labels=torch.arange(N) % 10).run()
    onset = onset_of(training)
    assert onset is not None
    assert 3 <= onset.epoch <= 5
    for epoch, selection in enumerate(training.selections):
        assert (selection.suspects is None) == (epoch <= onset.epoch + 1)
    last = training.selections[-1]
    assert last.noise_rate is not None
    assert 0.2 < last.noise_rate < float(WRONG.float().mean())  # what was learned by heart before looks right
    assert WRONG[last.suspects].float().mean() > 0.95


def test_where_nothing_is_memorised_nobody_is_left_out_however_far_two_groups_are_apart() -> None:
    training = Training(16, fit=0.0, labels=torch.arange(N) % 10).run()
    assert abs(training.pruner.memory(Ledger).memorisation) < 0.015
    assert onset_of(training) is None
    assert all(selection.suspects is None for selection in training.selections)


def test_where_hard_and_wrong_look_alike_nobody_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "START", (2 + torch.randn(N, generator=generator(13))).clamp_min(0.5))  # not apart
    training = Training(24, fit=0.0).run()
    assert all(selection.suspects is None and selection.weights is None for selection in training.selections)
    assert training.pruner.forward_passes == 24 * (N // 2)


def test_memorisation_that_comes_late_is_sensed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "START", (2 + torch.randn(N, generator=generator(13))).clamp_min(0.5))  # not apart
    training = Training(24, fit=0.0)
    while training.pruner.epoch < 24:
        training.fit = 0.25 if training.pruner.epoch >= 14 else 0.0
        training.epoch()
    onset = onset_of(training)
    assert onset is not None
    assert 14 <= onset.epoch < 20
    for epoch, selection in enumerate(training.selections):
        assert (selection.suspects is None) == (epoch <= onset.epoch + 1)
        assert selection.onset == (onset if epoch > onset.epoch else None)


def test_without_pruning_memorisation_cannot_be_told() -> None:
    training = Training(6, fit=0.25, prune_ratio=0.0).run()
    assert math.isnan(training.pruner.memory(Ledger).memorisation)


def test_a_run_resumed_in_the_middle_of_an_epoch_with_suspects_is_the_same_run() -> None:
    def saved(training: Training) -> tuple[bytes, Tensor, Tensor]:
        buffer = io.BytesIO()
        torch.save(training.pruner.state_dict(), buffer)
        return buffer.getvalue(), training.times.clone(), training.learned.clone()

    states: list[tuple[bytes, Tensor, Tensor]] = []
    whole = Training(14, fit=0.25)
    while whole.pruner.epoch < 14:
        whole.epoch(after=(lambda: states.append(saved(whole))) if whole.pruner.epoch == 8 else lambda: None)
    assert whole.selections[8].suspects is not None
    for state, times, learned in states[::3]:
        resumed = Training(14, fit=0.25)
        resumed.pruner.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        resumed.times, resumed.learned = times, learned
        assert suspects_of(resumed.pruner.selection) == suspects_of(whole.selections[8])
        assert resumed.pruner.selection.noise_rate == whole.selections[8].noise_rate
        for index in resumed.batches():
            resumed.step(index)
        resumed.pruner.end_epoch()
        resumed.times += resumed.learned
        resumed.run()
        for one, other in zip(resumed.selections, whole.selections[9:], strict=True):
            assert torch.equal(one.indices, other.indices)
            assert one.noise_rate == other.noise_rate
            assert suspects_of(one) == suspects_of(other)
        assert torch.equal(resumed.pruner.scores.view(torch.int32), whole.pruner.scores.view(torch.int32))
        assert resumed.pruner.forward_passes == whole.pruner.forward_passes


# -------------------------------------------------------------------------- hard and wrong


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


def test_where_the_network_meets_few_suspects_all_that_are_left_out_are_suspects() -> None:
    score, labels = scores_of(600), labels_of(600, 4, 0)
    policy = Robust(ramp=1, prune_ratio=0.0)
    chosen = select(policy, score, ledger=met_while_held_out(0.2, 40), labels=labels)
    assert suspects_of(chosen) == left_out_of(chosen)
    assert chosen.noise_rate == pytest.approx(len(left_out_of(chosen)) / 600)
    believing = select(policy, score, ledger=met_while_held_out(0.2, 80), labels=labels)
    assert not suspects_of(believing)  # the losses say that all are right, and nothing speaks against them


def test_where_losses_say_as_well_that_most_are_wrong_they_say_who_is() -> None:
    score, labels = scores_of(600), labels_of(600, 4, 0)
    asked, unasked = (
        select(
            Robust(ramp=1, prune_ratio=0.0, least_agreement=least),
            score,
            ledger=met_while_held_out(9.0, 0),
            labels=labels,
        )
        for least in (1 / 3, 0.0)
    )
    assert suspects_of(asked) == suspects_of(unasked) != []
    assert asked.noise_rate == unasked.noise_rate


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
    assert found.noise_rate == judged.noise_rate
    assert suspects_of(found) == [i for i in left_out_of(found) if judged.p_wrong[i] > 0.5]
    assert 0 < len(suspects_of(found)) < len(left_out_of(found))


def test_with_labels_hard_samples_come_back_and_wrong_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    hard = (torch.arange(N) % 10 == 0) & ~WRONG  # as high as the wrong ones at first, and learned from the others later
    monkeypatch.setitem(globals(), "START", START + torch.where(hard, 1.8, 0.0))
    monkeypatch.setitem(globals(), "HARD", hard)
    suspected, trained = {}, {}
    for name, labels in (("without", None), ("with", torch.arange(N) % 3)):
        training = Training(40, fit=0.25, labels=labels).run()
        last, mask = training.selections[-1], torch.zeros(N, dtype=torch.bool)
        mask[suspects_of(last)] = True
        suspected[name] = float(mask[hard].float().mean())
        trained[name] = torch.stack(training.trained[-12:]).any(0)
        assert float(trained[name][WRONG].float().mean()) < 0.01
    assert suspected["without"] > 0.9
    assert suspected["with"] < 0.1
    assert float(trained["without"][hard].float().mean()) < 0.1
    assert float(trained["with"][hard].float().mean()) > 0.9
    # A third of the probability is what chance gives one of three classes: such labels are suspects with reserve.
    assert WRONG[last.suspects].float().mean() > 0.95
    assert last.noise_rate == pytest.approx(float(WRONG.float().mean()), abs=0.1)


def test_what_the_classes_are_called_changes_nothing() -> None:
    codes = torch.arange(N) % 3
    names = np.array(["dog", "ant", "cow"])[codes.numpy()]
    one, other = (Training(14, fit=0.25, labels=labels).run() for labels in (codes, names))
    for a, b in zip(one.selections, other.selections, strict=True):
        assert torch.equal(a.indices, b.indices)
        assert (a.suspects is None) == (b.suspects is None)
        assert a.suspects is None or torch.equal(a.suspects, b.suspects)
    assert one.selections[-1].suspects is not None


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
