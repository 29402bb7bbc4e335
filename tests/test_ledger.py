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
from alignprune.ledger import MEMORISING, Ledger
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
            ledger.memorising_since = slow.since = since
        enter(ledger, t, epoch)
        slow.write(t, epoch)
        check_tables(ledger, slow)
    assert ledger.mean_loss()[-1].isnan()  # the sample that was never seen


def test_a_loss_counts_less_with_every_exposure_and_looking_is_none() -> None:
    ledger = Ledger(3, 9, exponent=1.0)
    ledger.memorising_since = 0
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


# -------------------------------------------------------------------------- memorisation


N = 400


def halves(seed: int, count: int) -> list[Tensor]:
    """Which samples are trained on in each epoch: a random half."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(N, generator=generator) < 0.5 for _ in range(count)]


def losses_by(seed: int, t: int, parts: list[Tensor], gain: float) -> Tensor:
    """Losses of epoch t, NaN where not trained on: exp(gain) times lower if the epoch before trained on a sample."""
    losses = 1 + torch.rand(N, generator=torch.Generator().manual_seed(1_000 * seed + t))
    if t:
        losses = torch.where(parts[t - 1], losses * math.exp(-gain), losses)
    return losses.masked_fill(~parts[t], NAN)


def compared(losses: Tensor, before: Tensor) -> float:
    """Log ratio of the mean losses of samples that the epoch before did not train on, and of those that it did."""
    again, rested = [], []
    for loss, was in zip(losses.tolist(), before.tolist(), strict=True):
        if not math.isnan(loss):
            (again if was else rested).append(loss)
    return math.log((math.fsum(rested) / len(rested)) / (math.fsum(again) / len(again)))


def test_memorisation_is_a_running_mean_of_the_log_ratio_of_the_two_parts() -> None:
    gains, parts, ledger = [0.0, 0.05, -0.05, 0.02, 0.08], halves(0, 6), Ledger(N, 20)
    ledger.write(0, losses_by(0, 0, parts, 0.0), parts[0], uniform=True)
    assert math.isnan(ledger.memorisation)  # nothing to compare with yet
    shares, before = [], NAN
    for t, gain in enumerate(gains, 1):
        losses = losses_by(0, t, parts, gain)
        ledger.write(t, losses, parts[t], uniform=True)
        newest = compared(losses, parts[t - 1])
        if t == 1:
            assert ledger.memorisation == pytest.approx(newest, abs=1e-6)
        else:
            shares.append((ledger.memorisation - before) / (newest - before))
        before = ledger.memorisation
    assert 0 < shares[0] < 1
    assert shares == pytest.approx([shares[0]] * 4, abs=1e-3)
    assert ledger.memorising_since is None
    assert MEMORISING > 0.08


def test_memorisation_is_sensed_once_and_exposures_begin() -> None:
    parts, ledger = halves(1, 8), Ledger(N, 20)
    for t in range(8):
        ledger.write(t, losses_by(1, t, parts, 0.0 if t < 4 else 0.6), parts[t], uniform=True)
        assert ledger.memorising_since == (None if t < 4 else 4)
        trained = sum((part.int() for part in parts[4 : t + 1]), torch.zeros(N, dtype=torch.int32))
        assert torch.equal(ledger.exposures, trained)
    assert ledger.memorisation > MEMORISING


def sensed(gain: float = 0.6, uniform: bool = True, only: int = N) -> Ledger:
    """A ledger after two epochs of the first ``only`` samples."""
    parts, ledger = halves(2, 2), Ledger(N, 20)
    for t in range(2):
        outside = torch.arange(N) >= only
        losses = losses_by(2, t, parts, gain).masked_fill(outside, NAN)
        ledger.write(t, losses, parts[t] & ~outside, uniform=uniform)
    return ledger


def test_it_takes_uniform_epochs_and_enough_samples_to_sense_memorisation() -> None:
    assert sensed().memorising_since == 1
    assert sensed(gain=-0.6).memorising_since is None
    for blind in (sensed(uniform=False), sensed(only=12)):
        assert blind.memorising_since is None
        assert math.isnan(blind.memorisation)
        assert int(blind.exposures.sum()) == 0


def test_training_on_all_samples_tells_nothing() -> None:
    ledger = Ledger(N, 20)
    for t in range(5):
        losses = torch.rand(N, generator=torch.Generator().manual_seed(t)) * 0.2**t
        ledger.write(t, losses, torch.ones(N, dtype=torch.bool), uniform=True)
    assert math.isnan(ledger.memorisation)


def test_samples_that_are_only_looked_at_are_not_compared() -> None:
    parts, ledger = halves(3, 2), Ledger(N, 20)
    ledger.write(0, losses_by(3, 0, parts, 0.0), parts[0], uniform=True)
    losses = losses_by(3, 1, parts, 0.05)
    expected = compared(losses, parts[0])
    ledger.write(1, torch.where(parts[1], losses, 50.0), parts[1], uniform=True)
    assert ledger.memorisation == pytest.approx(expected, abs=1e-6)


def test_the_separation_at_the_onset_is_that_of_the_mean_losses() -> None:
    parts, ledger, slow = halves(4, 4), Ledger(N, 20, exponent=1.0), Slow(N, 1.0)
    group = (torch.arange(N) % 4 == 0).float()
    for t in range(4):
        losses = losses_by(4, t, parts, 0.0 if t < 2 else 0.9) + 2 * group
        ledger.write(t, losses, parts[t], uniform=True)
        if t < 2:
            assert ledger.onset_separation is None
        if t <= 2:
            slow.write(t, Epoch(losses.tolist(), parts[t].tolist()))
    assert ledger.memorising_since == 2
    mean = np.array(slow.mean_loss())
    expected = mixture.fit(mean[~np.isnan(mean)])
    assert expected is not None
    assert ledger.onset_separation == pytest.approx(expected.separation, rel=1e-3)
    assert expected.separation > 3


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
    assert whole.memorising_since is not None


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
        ledger.memorising_since = slow.since = 0
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
    memorises=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_what_speaks_against_a_label_is_how_likely_it_is_to_be_given_wrongly(
    seed: int, classes: int, confused: float, memorises: bool
) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 40))
    labels = rng.integers(0, classes, size)
    labels[0] = classes + 1  # a class of one sample, beside one that has none
    ledger = Ledger(size, 10, labels=torch.from_numpy(labels))
    ledger.memorising_since = 0 if memorises else None
    held_out = [NAN] * size
    for t, epoch in enumerate(random_epochs(seed, size, 6)):
        enter(ledger, t, epoch)
        for i, (loss, trained) in enumerate(zip(epoch.losses, epoch.trained, strict=True)):
            if not math.isnan(loss) and not (memorises and trained):
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


def test_when_memorisation_is_sensed_what_is_held_out_begins_anew() -> None:
    parts, ledger = halves(5, 4), Ledger(N, 8)
    for t in range(4):
        memorised = ledger.memorising_since is not None
        before = ledger.held_out.clone()
        ledger.write(t, losses_by(5, t, parts, 0.5), parts[t], uniform=True)
        if memorised:
            assert torch.equal(ledger.held_out.isnan(), before.isnan())  # all that were seen were trained on
        elif ledger.memorising_since == t:
            assert bool((~before.isnan()).any())
            assert bool(ledger.held_out.isnan().all())
    assert ledger.memorising_since in (1, 2)


def test_labels_do_not_change_the_mean_loss() -> None:
    with_labels, without = Ledger(30, 10, labels=torch.arange(30) % 3), Ledger(30, 10)
    for t, epoch in enumerate(random_epochs(5, 30, 4)):
        enter(with_labels, t, epoch)
        enter(without, t, epoch)
    assert torch.equal(with_labels.mean_loss().nan_to_num(9.0), without.mean_loss().nan_to_num(9.0))
    assert without.against() is None


def test_an_epoch_after_one_that_was_not_uniform_tells_nothing_of_memorisation() -> None:
    n = 200
    first, second = torch.arange(n) % 2 == 0, torch.arange(n) < n // 2
    for before, sensed in ((True, True), (False, False)):
        ledger = Ledger(n, 10)
        ledger.write(0, torch.where(first, 1.0, NAN), first, uniform=before)
        losses = torch.where(first, 0.5, 1.0).where(second, torch.tensor(NAN))
        ledger.write(1, losses, second, uniform=True)
        assert (not math.isnan(ledger.memorisation)) is sensed
