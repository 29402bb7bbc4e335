"""Robust in whole runs, in which wrong labels are learned by heart."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import alignprune as ap
from alignprune.memory import Ledger
from alignprune.selection import Onset
from robust_evidence import generator, parts, suspects_of

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


class Slow(Training):
    """A training in which losses fall by being learned by heart alone, and those of right and wrong labels overlap."""

    START = torch.where(WRONG, 5.0, 3.4) + torch.randn(N, generator=generator(12)).clamp(-3, 3)

    def losses(self, index: Tensor) -> Tensor:
        noise = 0.05 * torch.rand(N, generator=generator(100 + self.pruner.epoch))
        return (self.START * torch.exp(-self.fit * self.times) + noise)[index]


@pytest.mark.parametrize("epochs, began", [(24, None), (28, None), (30, 14), (48, 23)])
def test_where_little_is_memorised_groups_that_are_apart_are_told_after_half_of_the_epochs_if_fifteen_are_left(
    epochs: int, began: int | None
) -> None:
    training = Slow(epochs, fit=0.03, labels=torch.arange(N) % 10).run()
    assert 0.015 < training.pruner.memory(Ledger).memorisation < 0.04
    onset = onset_of(training)
    assert (None if onset is None else onset.epoch) == began
    assert onset is None or 1 <= (onset.separation or 0.0) < 2
    assert [selection.suspects is None for selection in training.selections] == [
        began is None or epoch <= began + 1 for epoch in range(epochs)
    ]


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
