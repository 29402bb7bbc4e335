"""The ledger against a slow loop over samples and epochs, and what it can sense of memorisation."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignprune import TrajectoryBank, mixture
from alignprune.memory.ledger import MEMORISING, Ledger
from alignprune.scores import ExposureLoss

NAN = math.nan


@dataclass
class Epoch:
    """What is entered of one epoch: losses, NaN = not seen; which samples were trained on; how they were drawn."""

    losses: list[float]
    trained: list[bool]
    uniform: bool = True


@dataclass
class Slow:
    """The ledger of a few samples by the rules in its docstring, in plain Python numbers."""

    num_samples: int
    exponent: float
    since: int | None = None  # given: what it takes to sense memorisation is tested apart
    total: list[float] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    exposures: list[int] = field(default_factory=list)
    last_seen: list[int] = field(default_factory=list)
    last_trained: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.total, self.weight = [0.0] * self.num_samples, [0.0] * self.num_samples
        self.exposures = [0] * self.num_samples
        self.last_seen, self.last_trained = [-1] * self.num_samples, [-1] * self.num_samples

    def write(self, t: int, epoch: Epoch) -> None:
        learned = [i for i, used in enumerate(epoch.trained) if used and not math.isnan(epoch.losses[i])]
        mean = math.fsum(epoch.losses[i] for i in learned) / len(learned)
        for i, loss in enumerate(epoch.losses):
            if math.isnan(loss):
                continue
            counts = 1 / (1 + self.exposures[i]) ** self.exponent
            self.total[i] += counts * (loss - mean)
            self.weight[i] += counts
            self.last_seen[i] = t
            if i in learned:
                self.last_trained[i] = t
                if self.since is not None and t >= self.since:
                    self.exposures[i] += 1

    def mean_loss(self) -> list[float]:
        return [total / weight if weight else NAN for total, weight in zip(self.total, self.weight, strict=True)]


def enter(ledger: Ledger, t: int, epoch: Epoch) -> None:
    ledger.write(t, torch.tensor(epoch.losses), torch.tensor(epoch.trained), uniform=epoch.uniform)


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
        assert getattr(ledger, name).tolist() == getattr(slow, name), name
    for name in ("total", "weight"):
        assert getattr(ledger, name).tolist() == pytest.approx(getattr(slow, name), rel=1e-5, abs=1e-5), name
    assert ledger.mean_loss().tolist() == pytest.approx(slow.mean_loss(), rel=1e-4, abs=1e-5, nan_ok=True)


# -------------------------------------------------------------------------- what is kept of every sample


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), since=st.integers(0, 6))
@settings(max_examples=25, deadline=None)
def test_the_tables_are_those_of_a_slow_loop(exponent: float, seed: int, count: int, since: int) -> None:
    ledger, slow = Ledger(9, 12, exponent=exponent), Slow(9, exponent)
    for t, epoch in enumerate(random_epochs(seed, 9, count)):
        if t == since:
            ledger.onset = slow.since = since
        enter(ledger, t, epoch)
        slow.write(t, epoch)
        check_tables(ledger, slow)
    assert ledger.mean_loss()[-1].isnan()  # the sample that was never seen


def test_a_loss_counts_less_with_every_exposure_and_looking_is_none() -> None:
    ledger = Ledger(3, 9, exponent=1.0)
    ledger.onset = 0
    for t in range(3):
        # Sample 0 is trained on, sample 1 only looked at; their losses stay where they are.
        ledger.write(t, torch.tensor([1.0, 3.0, NAN]), torch.tensor([True, False, False]), uniform=False)
    assert ledger.exposures.tolist() == [3, 0, 0]
    assert ledger.weight.tolist() == pytest.approx([1 + 1 / 2 + 1 / 3, 3, 0])
    assert ledger.mean_loss()[:2].tolist() == pytest.approx([0, 2])


def test_without_memorisation_the_score_is_the_plain_mean_of_centred_losses() -> None:
    epochs = random_epochs(3, 9, 8, uniform=False)
    ledger = Ledger(9, 8)
    for t, epoch in enumerate(epochs):
        enter(ledger, t, epoch)
    losses = np.array([epoch.losses for epoch in epochs])
    learned = np.array([epoch.trained for epoch in epochs]) & ~np.isnan(losses)
    centred = losses - np.nanmean(np.where(learned, losses, NAN), axis=1, keepdims=True)
    expected = np.nanmean(centred[:, :-1], axis=0)
    assert ledger.mean_loss()[:-1].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert ledger.exposures.tolist() == [0] * 9


def test_an_epoch_in_which_nothing_was_trained_on_leaves_no_trace() -> None:
    ledger = Ledger(4, 5)
    ledger.write(0, torch.tensor([1.0, 2.0, 3.0, NAN]), torch.tensor([True, True, False, False]), uniform=False)
    before = {name: value.clone() for name, value in ledger.state_dict().items() if isinstance(value, Tensor)}
    ledger.write(1, torch.full((4,), NAN), torch.ones(4, dtype=torch.bool), uniform=False)
    for name, value in before.items():
        torch.testing.assert_close(ledger.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)


# -------------------------------------------------------------------------- memorisation and onset


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


def compared(losses: Tensor, parts: list[Tensor], t: int, prior: list[float]) -> float:
    """Log ratio of the mean losses of samples that the epoch before did not train on, and of those that it did.

    Both means are those at equal prior losses: what a regression of the losses on these leaves.
    """
    rows = [
        (loss, known, bool(parts[t - 1][i]))
        for i, (loss, known) in enumerate(zip(losses.tolist(), prior, strict=True))
        if parts[t][i] and not math.isnan(known)
    ]
    slope = np.polyfit([known for _, known, _ in rows], [loss for loss, _, _ in rows], 1)[0]
    centre = math.fsum(known for _, known, _ in rows) / len(rows)
    means = {}
    for again in (False, True):
        adjusted = [loss - slope * (known - centre) for loss, known, was in rows if was is again]
        means[again] = math.fsum(adjusted) / len(adjusted)
    return math.log(means[False] / means[True])


def test_memorisation_is_a_running_mean_of_the_log_ratio_of_the_two_parts() -> None:
    gains, parts, ledger, slow = [0.0, 0.0, 0.05, -0.05, 0.02, 0.03], halves(0, 6), Ledger(N, 40), Slow(N, 0.5)
    shares, before = [], NAN
    for t, gain in enumerate(gains):
        losses, prior = losses_by(0, t, parts, gain), slow.mean_loss()
        ledger.write(t, losses, parts[t], uniform=True)
        slow.write(t, Epoch(losses.tolist(), parts[t].tolist()))
        if t < 2:
            assert math.isnan(ledger.memorisation)  # nobody has rested for an epoch
            continue
        newest = compared(losses, parts, t, prior)
        if t == 2:
            assert ledger.memorisation == pytest.approx(newest, abs=1e-5)
        else:
            shares.append((ledger.memorisation - before) / (newest - before))
        before = ledger.memorisation
    assert 0 < shares[0] < 1
    assert shares == pytest.approx([shares[0]] * 3, abs=2e-3)
    assert ledger.onset is None


@pytest.mark.parametrize("gain", [0.0, 0.05])
def test_what_chance_has_made_of_the_two_parts_is_taken_out(gain: float) -> None:
    found, plain = [], []
    for seed in range(60):
        ledger, parts = Ledger(N, 10_000), halves(seed, 6)
        hardness = (2 + torch.randn(N, generator=torch.Generator().manual_seed(1_000 + seed))).clamp_min(0.1)
        for t, part in enumerate(parts):
            losses = hardness * math.exp(-gain) ** parts[t - 1].float() if t else hardness
            ledger.write(t, losses.masked_fill(~part, NAN), part, uniform=True)
        found.append(ledger.memorisation)
        plain.append(math.log(float(losses[part & ~parts[4]].mean() / losses[part & parts[4]].mean())))
    assert np.mean(found) == pytest.approx(gain, abs=0.005)
    assert np.std(found) < 0.25 * np.std(plain)


@given(gain=st.sampled_from([0.0, 0.02, 0.06, 0.08, 0.3]), apart=st.floats(0, 1), seed=st.integers(0, 500))
@settings(max_examples=60, deadline=None)
def test_the_onset_comes_with_strong_memorisation_or_two_of_three_signs(gain: float, apart: float, seed: int) -> None:
    epochs = 16
    parts, ledger, slow, memorisation = halves(seed, epochs), Ledger(N, epochs), Slow(N, 0.5), NAN
    for t in range(8):
        losses, prior = losses_by(seed, t, parts, gain, apart), slow.mean_loss()
        ledger.write(t, losses, parts[t], uniform=True)
        slow.write(t, Epoch(losses.tolist(), parts[t].tolist()))
        if t >= 2:
            newest = compared(losses, parts, t, prior)
            memorisation = newest if t == 2 else (memorisation + newest) / 2
        mean = np.array(slow.mean_loss())
        groups = mixture.fit(mean[~np.isnan(mean)])
        assert groups is not None
        separation, settled = groups.separation, t >= 3  # the fourth epoch ends a quarter of all
        near = [abs(memorisation - 0.1) < 1e-4, abs(memorisation - 0.04) < 1e-4]
        if any(near) or abs(separation - 1) < 0.01 or abs(separation - 2) < 0.01:
            return
        memorises, clear = memorisation > MEMORISING, separation > 2
        begins = memorisation > 0.1 or (memorises and clear) or (settled and (clear or (memorises and separation > 1)))
        assert ledger.onset == (t if begins else None)
        assert ledger.onset_separation == (pytest.approx(separation, rel=0.01) if begins else None)
        if begins:
            return


def test_exposures_begin_with_the_onset() -> None:
    parts, ledger = halves(1, 8), Ledger(N, 40)
    for t in range(8):
        ledger.write(t, losses_by(1, t, parts, 0.0 if t < 4 else 0.6), parts[t], uniform=True)
        assert ledger.onset == (None if t < 4 else 4)
        trained = sum((part.int() for part in parts[4 : t + 1]), torch.zeros(N, dtype=torch.int32))
        assert torch.equal(ledger.exposures, trained)


def sensed(gain: float = 0.6, uniform: bool = True, only: int = N) -> Ledger:
    """A ledger after three epochs of the first ``only`` samples."""
    parts, ledger = halves(2, 3), Ledger(N, 20)
    for t in range(3):
        outside = torch.arange(N) >= only
        losses = losses_by(2, t, parts, gain).masked_fill(outside, NAN)
        ledger.write(t, losses, parts[t] & ~outside, uniform=uniform)
    return ledger


def test_it_takes_uniform_epochs_and_enough_samples_to_sense_memorisation() -> None:
    assert sensed().onset == 2
    assert sensed(gain=-0.6).onset is None
    for blind in (sensed(uniform=False), sensed(only=30)):
        assert blind.onset is None
        assert math.isnan(blind.memorisation)
        assert int(blind.exposures.sum()) == 0


def test_a_few_samples_are_no_two_groups() -> None:
    for size, onset in ((39, None), (40, 0)):
        ledger = Ledger(size, 4)
        ledger.write(0, torch.where(torch.arange(size) % 2 == 0, 1.0, 5.0), torch.ones(size) > 0, uniform=True)
        assert ledger.onset == onset


def test_training_on_all_samples_tells_nothing() -> None:
    ledger = Ledger(N, 20)
    for t in range(5):
        losses = torch.rand(N, generator=torch.Generator().manual_seed(t)) * 0.2**t
        ledger.write(t, losses, torch.ones(N, dtype=torch.bool), uniform=True)
    assert math.isnan(ledger.memorisation)


def test_samples_that_are_only_looked_at_are_not_compared() -> None:
    parts, one, other = halves(3, 3), Ledger(N, 20), Ledger(N, 20)
    for t in range(3):
        losses = losses_by(3, t, parts, 0.05)
        one.write(t, losses, parts[t], uniform=True)
        other.write(t, losses if t < 2 else torch.where(parts[t], losses, 50.0), parts[t], uniform=True)
    assert other.memorisation == pytest.approx(one.memorisation, abs=1e-6)


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

    parts, whole = halves(5, 8), Ledger(N, 8)
    for t in range(8):
        resumed = Ledger(N, 8)
        resumed.load_state_dict(stored(whole))
        assert same(resumed, whole)
        for ledger in (whole, resumed):
            ledger.write(t, losses_by(5, t, parts, 0.05 * t), parts[t], uniform=True)
        assert same(resumed, whole)
    assert whole.onset is not None


def test_a_state_is_not_changed_by_more_epochs() -> None:
    parts, ledger = halves(6, 2), Ledger(N, 8)
    ledger.write(0, losses_by(6, 0, parts, 0.0), parts[0], uniform=True)
    state = ledger.state_dict()
    loaded = Ledger(N, 8)
    loaded.load_state_dict(state)
    seen = state["last_seen"].clone()
    for each in (ledger, loaded):
        each.write(1, losses_by(6, 1, parts, 0.0), parts[1], uniform=True)
    assert torch.equal(state["last_seen"], seen)


# -------------------------------------------------------------------------- the score


def test_exposure_loss_scores_by_the_ledger_with_its_own_exponent() -> None:
    bank, reference = TrajectoryBank(9, 1), torch.full((9,), NAN, dtype=torch.float64)
    for exponent in (0.0, 2.0):
        score = ExposureLoss(exponent=exponent)
        ledger, slow = score.ledger(9, 8), Slow(9, exponent)
        ledger.onset = slow.since = 0
        for t, epoch in enumerate(random_epochs(7, 9, 8)):
            enter(ledger, t, epoch)
            slow.write(t, epoch)
        scores = score(bank, reference, ledger)
        assert scores.dtype == torch.float32
        assert scores.tolist() == pytest.approx(slow.mean_loss(), rel=1e-4, abs=1e-5, nan_ok=True)


def test_exposure_loss_refuses_a_missing_ledger_and_a_wrong_exponent() -> None:
    with pytest.raises(ValueError, match="ledger is missing, expected a Ledger"):
        ExposureLoss()(TrajectoryBank(9, 1), torch.full((9,), NAN))
    with pytest.raises(ValueError, match=r"exponent=-1 is out of range.*0 counts all"):
        ExposureLoss(exponent=-1)


# -- samples held out --------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 1000),
    classes=st.integers(1, 6),
    confused=st.sampled_from([0.0, 0.25, 1.0]),
)
@settings(max_examples=50, deadline=None)
def test_what_speaks_against_a_label_is_how_likely_it_is_to_be_given_wrongly(
    seed: int, classes: int, confused: float
) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 40))
    labels = rng.integers(0, classes, size)
    labels[0] = classes + 1  # a class of one sample, beside one that has none
    ledger = Ledger(size, 10, labels=torch.from_numpy(labels))
    ledger.onset = 0
    held_out = [NAN] * size
    for t, epoch in enumerate(random_epochs(seed, size, 6)):
        enter(ledger, t, epoch)
        for i, (loss, trained) in enumerate(zip(epoch.losses, epoch.trained, strict=True)):
            if not math.isnan(loss) and not trained:
                held_out[i] = loss if math.isnan(held_out[i]) else (held_out[i] + loss) / 2
    shares = [labels.tolist().count(label) / size for label in labels.tolist()]
    expected = []
    for loss, share in zip(held_out, shares, strict=True):
        p, f = math.exp(-max(loss, 1e-6)), min(share, 1 - 1e-6)
        wrongly = (1 - p) * ((1 - confused) * f / (1 - f) + confused * p)
        expected.append(math.log(wrongly / p))
    against = ledger.against(confused)
    assert against is not None
    np.testing.assert_allclose(against.numpy(), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ledger.held_out.numpy(), held_out, rtol=1e-5, atol=1e-5)


def test_before_the_onset_nothing_is_held_out() -> None:
    ledger = Ledger(9, 100, labels=torch.arange(9) % 3)
    for t, epoch in enumerate(random_epochs(5, 9, 6)):
        enter(ledger, t, epoch)
    assert ledger.onset is None
    assert bool(ledger.held_out.isnan().all())


def test_labels_do_not_change_the_mean_loss() -> None:
    with_labels, without = Ledger(30, 10, labels=torch.arange(30) % 3), Ledger(30, 10)
    for t, epoch in enumerate(random_epochs(5, 30, 4)):
        enter(with_labels, t, epoch)
        enter(without, t, epoch)
    assert torch.equal(with_labels.mean_loss().nan_to_num(9.0), without.mean_loss().nan_to_num(9.0))
    assert without.against() is None


def test_an_epoch_after_one_that_was_not_uniform_tells_nothing_of_memorisation() -> None:
    parts = halves(9, 3)
    for before in (True, False):
        ledger = Ledger(N, 20)
        for t in range(3):
            ledger.write(t, losses_by(9, t, parts, 0.05), parts[t], uniform=before if t == 1 else True)
        assert math.isnan(ledger.memorisation) is not before
