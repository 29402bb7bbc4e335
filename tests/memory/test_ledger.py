"""The ledger against a slow loop over samples and epochs, and what it measures of memorisation."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignprune.errors import TypeMistake, ValueMistake
from alignprune.memory import Ledger, LedgerSpec, Observed, Room
from alignprune.selection import Onset, Selection

NAN = math.nan


@dataclass
class Epoch:
    """What is entered of one epoch: losses, NaN = not seen; which samples were trained on; how they were drawn."""

    losses: list[float]
    trained: list[bool]
    uniform: bool = True


@dataclass
class Slow:
    """The ledger of a few samples by the rules in its docstring, worked out anew from all epochs so far.

    ``since`` is the onset's epoch, of which the selections say from the epoch after it on.
    """

    num_samples: int
    exponent: float
    since: int | None = None

    def __post_init__(self) -> None:
        self.epochs: list[Epoch] = []

    def write(self, t: int, epoch: Epoch) -> None:
        assert t == len(self.epochs)
        self.epochs.append(epoch)

    def seen(self, i: int) -> list[int]:
        return [t for t, epoch in enumerate(self.epochs) if not math.isnan(epoch.losses[i])]

    def trained(self, i: int) -> list[int]:
        return [t for t in self.seen(i) if self.epochs[t].trained[i]]

    def exposed(self, i: int, before: int) -> int:
        """How often a sample was trained on from the onset to before an epoch."""
        if self.since is None:
            return 0
        return len([t for t in self.trained(i) if self.since <= t < before])

    def mean_of(self, t: int) -> float:
        learned = [self.epochs[t].losses[i] for i in range(self.num_samples) if t in self.trained(i)]
        return math.fsum(learned) / len(learned)

    def weights(self, i: int) -> list[float]:
        return [(1 + self.exposed(i, t)) ** -self.exponent for t in self.seen(i)]

    def table(self, name: str) -> list[Any]:
        everyone, now = range(self.num_samples), len(self.epochs)
        if name == "exposures":
            said = self.since is not None and now > self.since + 1  # by the selection of the epoch after it
            return [self.exposed(i, now) if said else 0 for i in everyone]
        if name == "last_seen":
            return [max(self.seen(i), default=-1) for i in everyone]
        if name == "last_trained":
            return [max(self.trained(i), default=-1) for i in everyone]
        if name == "weight":
            return [math.fsum(self.weights(i)) for i in everyone]
        if name == "total":
            return [
                math.fsum(
                    weight * (self.epochs[t].losses[i] - self.mean_of(t))
                    for weight, t in zip(self.weights(i), self.seen(i), strict=True)
                )
                for i in everyone
            ]
        held_out = [NAN] * self.num_samples
        for i in everyone:
            for t in self.seen(i):
                if self.since is not None and t > self.since and t not in self.trained(i):
                    loss = self.epochs[t].losses[i]
                    held_out[i] = loss if math.isnan(held_out[i]) else (held_out[i] + loss) / 2
        return held_out

    def mean_loss(self) -> list[float]:
        pairs = zip(self.table("total"), self.table("weight"), strict=True)
        return [total / weight if weight else NAN for total, weight in pairs]


def selected(
    trained: Tensor, looked: Tensor | None = None, *, uniform: bool = True, since: int | None = None
) -> Selection:
    """The selection of an epoch in which some samples are trained on, and some only looked at."""
    used = trained if looked is None else trained | looked
    indices = used.nonzero().squeeze(1)
    weights = trained[indices].float()
    onset = None if since is None else Onset(since, 5.0)
    return Selection(indices, None if weights.all() else weights, len(trained), uniform=uniform, onset=onset)


def enter(ledger: Ledger, t: int, epoch: Epoch, since: int | None = None) -> None:
    """Enter an epoch; its selection says of an onset after that one's epoch."""
    losses, trained = torch.tensor(epoch.losses), torch.tensor(epoch.trained)
    known = since if since is not None and t > since else None
    ledger.write(Observed(t, losses, selected(trained, ~losses.isnan(), uniform=epoch.uniform, since=known)))


def random_epochs(seed: int, samples: int, count: int, uniform: bool = True) -> list[Epoch]:
    """Epochs in which some samples are left out and some only looked at; the last sample is never seen."""
    rng = np.random.default_rng(seed)
    epochs = []
    for _ in range(count):
        losses = rng.uniform(0.1, 3, samples).astype(np.float32).astype(np.float64)
        losses[rng.random(samples) < 0.4] = NAN
        losses[0], losses[-1] = 1.0, NAN  # somebody is always trained on
        trained = rng.random(samples) < 0.7
        trained[0] = True
        epochs.append(Epoch(losses.tolist(), trained.tolist(), uniform))
    return epochs


def check_tables(ledger: Ledger, slow: Slow) -> None:
    for name in ("exposures", "last_seen", "last_trained"):
        assert getattr(ledger, name).tolist() == slow.table(name), name
    for name in ("total", "weight", "held_out"):
        expected = pytest.approx(slow.table(name), rel=1e-5, abs=1e-5, nan_ok=True)
        assert getattr(ledger, name).tolist() == expected, name
    assert ledger.mean_loss().tolist() == pytest.approx(slow.mean_loss(), rel=1e-4, abs=1e-5, nan_ok=True)


# -------------------------------------------------------------------------- what is kept of every sample


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), since=st.one_of(st.none(), st.integers(0, 6)))
@settings(max_examples=25, deadline=None)
def test_the_tables_are_those_of_a_slow_loop(exponent: float, seed: int, count: int, since: int | None) -> None:
    ledger, slow = Ledger(9, exponent=exponent), Slow(9, exponent, since)
    for t, epoch in enumerate(random_epochs(seed, 9, count)):
        enter(ledger, t, epoch, since)
        slow.write(t, epoch)
        check_tables(ledger, slow)
    assert ledger.mean_loss()[-1].isnan()  # the sample that was never seen


def test_a_loss_counts_less_with_every_exposure_and_looking_is_none() -> None:
    ledger = Ledger(3, exponent=1.0)
    for t in range(4):
        # Sample 0 is trained on, sample 1 only looked at; their losses stay where they are. The onset is epoch 0.
        enter(ledger, t, Epoch([1.0, 3.0, NAN], [True, False, False], uniform=False), since=0)
    assert ledger.exposures.tolist() == [4, 0, 0]
    assert ledger.weight.tolist() == pytest.approx([1 + 1 / 2 + 1 / 3 + 1 / 4, 4, 0])
    assert ledger.mean_loss()[:2].tolist() == pytest.approx([0, 2])


def test_without_an_onset_the_score_is_the_plain_mean_of_centred_losses() -> None:
    epochs = random_epochs(3, 9, 8, uniform=False)
    ledger = Ledger(9)
    for t, epoch in enumerate(epochs):
        enter(ledger, t, epoch)
    losses = np.array([epoch.losses for epoch in epochs])
    learned = np.array([epoch.trained for epoch in epochs]) & ~np.isnan(losses)
    centred = losses - np.nanmean(np.where(learned, losses, NAN), axis=1, keepdims=True)
    expected = np.nanmean(centred[:, :-1], axis=0)
    assert ledger.mean_loss()[:-1].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert ledger.exposures.tolist() == [0] * 9


def test_an_epoch_in_which_nothing_was_trained_on_leaves_no_trace() -> None:
    everyone = torch.ones(4, dtype=torch.bool)
    ledger = Ledger(4)
    enter(ledger, 0, Epoch([1.0, 2.0, 3.0, NAN], [True, True, False, False], uniform=False))
    before = {name: value.clone() for name, value in ledger.state_dict().items() if isinstance(value, Tensor)}
    ledger.write(Observed(1, torch.full((4,), NAN), selected(everyone)))
    ledger.write(Observed(2, torch.ones(4), selected(~everyone, everyone, uniform=False)))
    for name, value in before.items():
        torch.testing.assert_close(ledger.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)


# -------------------------------------------------------------------------- the onset, which others decide


def test_a_ledger_keeps_the_onset_that_a_selection_carries_and_decides_none_itself() -> None:
    parts, ledger = halves(2, 9), Ledger(N)
    for t in range(9):
        since = None if t < 6 else 5
        ledger.write(Observed(t, losses_by(2, t, parts, 0.6), selected(parts[t], since=since)))  # it memorises strongly
        assert ledger.onset == (None if t < 6 else Onset(5, 5.0))
    ledger.write(Observed(9, losses_by(2, 8, parts, 0.6), selected(parts[8], since=8)))
    assert ledger.onset == Onset(5, 5.0)  # the first one stays


def test_exposures_begin_with_the_onsets_own_epoch() -> None:
    parts, ledger = halves(1, 8), Ledger(N)
    for t in range(8):
        ledger.write(Observed(t, losses_by(1, t, parts, 0.0), selected(parts[t], since=4 if t > 4 else None)))
        counted = parts[4 : t + 1] if t > 4 else []
        assert torch.equal(ledger.exposures, sum((part.int() for part in counted), torch.zeros(N, dtype=torch.int32)))


def test_before_the_onset_nothing_is_held_out() -> None:
    ledger = Ledger(9)
    for t, epoch in enumerate(random_epochs(5, 9, 6)):
        enter(ledger, t, epoch)
    assert ledger.onset is None
    assert bool(ledger.held_out.isnan().all())


def test_what_is_held_out_is_a_running_mean_of_the_losses_of_a_sample_looked_at() -> None:
    ledger, looked = Ledger(3), [NAN, 4.0, 2.0, NAN, 1.0]
    for t, loss in enumerate(looked):
        enter(ledger, t, Epoch([1.0, loss, 7.0], [True, False, True]), since=0)
    assert ledger.held_out.tolist() == pytest.approx([NAN, ((4 + 2) / 2 + 1) / 2, NAN], nan_ok=True)


def test_agreement_is_a_running_mean_of_the_looks_that_met_the_label() -> None:
    ledger = Ledger(5, given=torch.tensor([3, 3, 3, -1, 3], dtype=torch.int32))
    said = [[3, 3, 1, 3, -1], [1, 1, 3, 3, -1], [3, 3, 3, 3, -1], [3, -1, 1, 3, -1]]
    for t, predicted in enumerate(said):
        losses = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0])
        chosen = selected(torch.tensor([True, False, False, False, False]), since=0)
        ledger.write(Observed(t, losses, chosen, predicted=torch.tensor(predicted, dtype=torch.int32)))
    nothing = NAN  # trained on; unlabelled; never predicted
    met = [nothing, ((1 + 0) / 2 + 1) / 2, (((0 + 1) / 2 + 1) / 2 + 0) / 2, nothing, nothing]
    assert ledger.agreement.tolist() == pytest.approx(met, nan_ok=True)


def test_without_given_classes_or_predictions_there_is_no_agreement() -> None:
    chosen = selected(torch.tensor([True, False]), since=0)
    zeros = torch.zeros(2, dtype=torch.int32)
    for classes, predicted in ((None, zeros), (zeros, None)):
        ledger = Ledger(2, given=classes)
        for t in range(3):
            ledger.write(Observed(t, torch.ones(2), chosen, predicted=predicted))
        assert bool(ledger.agreement.isnan().all())
        assert not math.isnan(float(ledger.held_out[1]))


# -------------------------------------------------------------------------- memorisation


N = 400


def halves(seed: int, count: int) -> list[Tensor]:
    """Which samples are trained on in each epoch: a random half."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(N, generator=generator) < 0.5 for _ in range(count)]


def losses_by(seed: int, t: int, parts: list[Tensor], gain: float, apart: float = 0.0) -> Tensor:
    """Losses of epoch t, NaN where not trained on: exp(gain) times lower if the epoch before trained on a sample.

    A sample is hard or easy in every epoch, and every fourth one has a loss higher by ``apart``.
    """
    hardness = 0.2 * torch.randn(N, generator=torch.Generator().manual_seed(seed))
    losses = 2 + hardness + 0.1 * torch.randn(N, generator=torch.Generator().manual_seed(1_000 * seed + t + 1))
    losses += apart * (torch.arange(N) % 4 == 0)
    if t:
        losses = torch.where(parts[t - 1], losses * math.exp(-gain), losses)
    return losses.masked_fill(~parts[t], NAN)


def adjusted(losses: Tensor, parts: list[Tensor], t: int, prior: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Losses of the samples that the epoch before did not train on, and of those that it did, at equal prior losses.

    That is what a regression of the losses on these leaves.
    """
    rows = [
        (loss, known, bool(parts[t - 1][i]))
        for i, (loss, known) in enumerate(zip(losses.tolist(), prior, strict=True))
        if parts[t][i] and not math.isnan(known)
    ]
    slope = np.polyfit([known for _, known, _ in rows], [loss for loss, _, _ in rows], 1)[0]
    centre = math.fsum(known for _, known, _ in rows) / len(rows)
    rest, again = ([loss - slope * (known - centre) for loss, known, w in rows if w is was] for was in (False, True))
    return np.array(rest), np.array(again)


def compared(losses: Tensor, parts: list[Tensor], t: int, prior: list[float]) -> float:
    """Log ratio of the two mean losses."""
    rested, again = adjusted(losses, parts, t, prior)
    return math.log(rested.mean() / again.mean())


def standard_error(losses: Tensor, parts: list[Tensor], t: int, prior: list[float]) -> float:
    """Of `compared`: how much it would scatter with other samples of the same kind."""
    return math.sqrt(sum(part.var() / len(part) / part.mean() ** 2 for part in adjusted(losses, parts, t, prior)))


def test_memorisation_is_a_running_mean_of_the_log_ratio_of_the_two_parts() -> None:
    gains, parts, ledger, slow = [0.0, 0.0, 0.05, -0.05, 0.02, 0.03], halves(0, 6), Ledger(N), Slow(N, 0.5)
    values: list[float] = []
    for t, gain in enumerate(gains):
        losses, prior = losses_by(0, t, parts, gain), slow.mean_loss()
        ledger.write(Observed(t, losses, selected(parts[t])))
        slow.write(t, Epoch(losses.tolist(), parts[t].tolist()))
        if t < 2:
            assert math.isnan(ledger.memorisation)  # nobody has rested for an epoch
            continue
        values.append(compared(losses, parts, t, prior))
        # The newest counts for half, the one before for a quarter, and so on; the first for what is left.
        weights = [2.0 ** -min(len(values) - i, len(values) - 1) for i in range(len(values))]
        assert ledger.memorisation == pytest.approx(math.fsum(np.multiply(weights, values)), abs=1e-5)
    assert ledger.onset is None


@pytest.mark.parametrize("gain", [0.0, 0.05])
def test_what_chance_has_made_of_the_two_parts_is_taken_out(gain: float) -> None:
    found, plain = [], []
    for seed in range(60):
        ledger, parts = Ledger(N), halves(seed, 6)
        hardness = (2 + torch.randn(N, generator=torch.Generator().manual_seed(1_000 + seed))).clamp_min(0.1)
        for t, part in enumerate(parts):
            losses = hardness * math.exp(-gain) ** parts[t - 1].float() if t else hardness
            ledger.write(Observed(t, losses.masked_fill(~part, NAN), selected(part)))
        found.append(ledger.memorisation)
        plain.append(math.log(float(losses[part & ~parts[4]].mean() / losses[part & parts[4]].mean())))
    assert np.mean(found) == pytest.approx(gain, abs=0.005)
    assert np.std(found) < 0.25 * np.std(plain)


def after_three_epochs(gain: float = 0.6, uniform: bool = True, only: int = N) -> Ledger:
    """A ledger after three epochs of the first ``only`` samples."""
    parts, ledger, inside = halves(2, 3), Ledger(N), torch.arange(N) < only
    for t in range(3):
        ledger.write(
            Observed(
                t, losses_by(2, t, parts, gain).masked_fill(~inside, NAN), selected(parts[t] & inside, uniform=uniform)
            )
        )
    return ledger


def test_it_takes_uniform_epochs_and_enough_samples_to_measure_memorisation() -> None:
    assert after_three_epochs().memorisation == pytest.approx(0.6, abs=0.05)
    assert after_three_epochs(gain=-0.6).memorisation == pytest.approx(-0.6, abs=0.05)
    for blind in (after_three_epochs(uniform=False), after_three_epochs(only=30)):
        assert math.isnan(blind.memorisation)
        assert not blind.confirmed
        assert int(blind.exposures.sum()) == 0


def test_a_first_measurement_is_confirmed_by_four_standard_errors_and_any_by_a_second() -> None:
    parts, confirmed, slow = halves(7, 4), [], Slow(N, 0.5)
    before = [losses_by(7, t, parts, 0.0) for t in range(2)]
    for t, losses in enumerate(before):
        slow.write(t, Epoch(losses.tolist(), parts[t].tolist()))
    prior = slow.mean_loss()
    for gain in np.linspace(-0.1, 0.1, 41):
        ledger = Ledger(N)
        for t, losses in enumerate(before):
            ledger.write(Observed(t, losses, selected(parts[t])))
        assert not ledger.confirmed
        losses = losses_by(7, 2, parts, gain)
        ledger.write(Observed(2, losses, selected(parts[2])))
        confirmed.append(ledger.confirmed)
        assert ledger.confirmed == (compared(losses, parts, 2, prior) > 4 * standard_error(losses, parts, 2, prior))
        ledger.write(Observed(3, losses_by(7, 3, parts, gain), selected(parts[3])))
        assert ledger.confirmed
    assert confirmed == sorted(confirmed)  # from some gain on
    assert 21 < confirmed.index(True) < 40  # which is above none


def test_memorisation_is_measured_until_the_onset() -> None:
    parts, ledger = halves(4, 9), Ledger(N)
    values = []
    for t in range(9):
        ledger.write(Observed(t, losses_by(4, t, parts, 0.1 * t), selected(parts[t], since=5 if t > 5 else None)))
        values.append(ledger.memorisation)
    assert len(set(values[2:6])) == 4
    assert set(values[6:]) == {values[5]}


def test_training_on_all_samples_tells_nothing() -> None:
    ledger = Ledger(N)
    for t in range(5):
        losses = torch.rand(N, generator=torch.Generator().manual_seed(t)) * 0.2**t
        ledger.write(Observed(t, losses, Selection.full(N)))
    assert math.isnan(ledger.memorisation)


def test_samples_that_are_only_looked_at_are_not_compared() -> None:
    parts, one, other = halves(3, 3), Ledger(N), Ledger(N)
    for t in range(3):
        losses = losses_by(3, t, parts, 0.05)
        one.write(Observed(t, losses, selected(parts[t])))
        other.write(
            Observed(t, losses if t < 2 else torch.where(parts[t], losses, 50.0), selected(parts[t], ~parts[t]))
        )
    assert other.memorisation == pytest.approx(one.memorisation, abs=1e-6)


def test_an_epoch_after_one_that_was_not_uniform_tells_nothing_of_memorisation() -> None:
    parts = halves(9, 3)
    for before in (True, False):
        ledger = Ledger(N)
        for t in range(3):
            ledger.write(
                Observed(t, losses_by(9, t, parts, 0.05), selected(parts[t], uniform=before if t == 1 else True))
            )
        assert math.isnan(ledger.memorisation) is not before


# -------------------------------------------------------------------------- state


def test_a_saved_ledger_goes_on_bit_for_bit() -> None:
    def stored(ledger: Ledger) -> dict[str, object]:
        buffer = io.BytesIO()
        torch.save(ledger.state_dict(), buffer)
        return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)

    def same(a: Ledger, b: Ledger) -> bool:
        one, other = a.state_dict(), b.state_dict()
        return one.keys() == other.keys() and all(
            torch.equal(value.view(torch.int32), other[name].view(torch.int32))
            if isinstance(value, Tensor)
            else repr(value) == repr(other[name])
            for name, value in one.items()
        )

    parts, whole = halves(5, 8), Ledger(N)
    for t in range(8):
        resumed = Ledger(N)
        resumed.load_state_dict(stored(whole))
        assert same(resumed, whole)
        for ledger in (whole, resumed):
            ledger.write(Observed(t, losses_by(5, t, parts, 0.05 * t), selected(parts[t], since=4 if t > 4 else None)))
        assert same(resumed, whole)
    assert whole.onset is not None
    assert int(whole.exposures.sum()) > 0


def test_a_state_is_not_changed_by_more_epochs() -> None:
    parts, ledger = halves(6, 2), Ledger(N)
    ledger.write(Observed(0, losses_by(6, 0, parts, 0.0), selected(parts[0])))
    state = ledger.state_dict()
    loaded = Ledger(N)
    loaded.load_state_dict(state)
    seen = state["last_seen"].clone()
    for each in (ledger, loaded):
        each.write(Observed(1, losses_by(6, 1, parts, 0.0), selected(parts[1])))
    assert torch.equal(state["last_seen"], seen)


@pytest.mark.parametrize("size", [8, 10])
def test_the_state_of_a_ledger_of_another_size_is_refused_and_changes_nothing(size: int) -> None:
    ledger, theirs = Ledger(9), Ledger(size)
    for t, (epoch, other) in enumerate(zip(random_epochs(1, 9, 4), random_epochs(2, size, 4), strict=True)):
        enter(ledger, t, epoch)
        enter(theirs, t, other)
    before = ledger.state_dict()
    with pytest.raises(ValueMistake, match=rf"ledger.total=torch.float32 \({size},\) does not fit.*\(9,\)"):
        ledger.check_state_dict(theirs.state_dict())
    for name in ("total", "weight", "exposures", "last_seen", "last_trained", "held_out", "agreement"):
        with pytest.raises(ValueMistake, match=rf"ledger.{name}=.* does not fit, expected torch"):
            ledger.check_state_dict(before | {name: before[name].double()})
        with pytest.raises(ValueMistake, match=rf"ledger.{name}=None does not fit, expected torch"):
            ledger.check_state_dict({key: value for key, value in before.items() if key != name})
    after = ledger.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(after[name], value, rtol=0, atol=0, equal_nan=True)
    ledger.check_state_dict(before)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("memorisation", "0.1", "ledger.memorisation='0.1' .* expected a number"),
        ("memorisation", math.inf, "ledger.memorisation=inf .* expected a number"),
        ("was_uniform", 1, "ledger.was_uniform=1 .* True or False"),
        ("confirmed", None, "ledger.confirmed=None .* True or False"),
    ],
)
def test_a_state_with_a_value_that_is_none_of_a_ledger_is_refused(name: str, value: object, message: str) -> None:
    ledger, state = Ledger(9), Ledger(9).state_dict()
    with pytest.raises(TypeMistake, match=message):
        ledger.check_state_dict(state | {name: value})
    with pytest.raises(ValueMistake, match=f"lacks {name}"):
        ledger.check_state_dict({key: other for key, other in state.items() if key != name})
    ledger.check_state_dict(state)


# -------------------------------------------------------------------------- asking for one


def test_a_spec_makes_a_ledger_with_its_exponent() -> None:
    ledger = LedgerSpec(2.0).make(Room(7, 20))
    assert (ledger.exponent, len(ledger.total), ledger.onset) == (2.0, 7, None)
    assert LedgerSpec().make(Room(7, 20)).exponent == Ledger(7).exponent
    given = torch.arange(7, dtype=torch.int32)
    for spec in (LedgerSpec(), LedgerSpec(2.0)):
        made = spec.make(Room(7, 20, given=given))
        assert made.given is not None
        assert made.given.tolist() == given.tolist()


def test_who_asks_for_no_exponent_is_served_by_any_ledger() -> None:
    assert LedgerSpec().met_by(LedgerSpec(2.0))
    assert LedgerSpec(2.0).met_by(LedgerSpec(2.0))
    assert not LedgerSpec(2.0).met_by(LedgerSpec(1.0))
    assert not LedgerSpec(2.0).met_by(LedgerSpec())


def test_a_ledger_takes_28_bytes_a_sample() -> None:
    tensors = [value for value in vars(Ledger(1_000)).values() if isinstance(value, Tensor)]
    assert sum(value.numel() * value.element_size() for value in tensors) == 28_000
