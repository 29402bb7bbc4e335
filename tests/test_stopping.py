"""Early stopping in a loop of one's own: which epoch is kept, when it ends, and what a resumed one goes on from."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import alignprune as ap
from alignprune.errors import CallMistake, TypeMistake, ValueMistake


class Network(nn.Module):
    """A weight, a buffer of batch norm, and a state of its own that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.seen: list[int] = []

    def get_extra_state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.seen = list(state["seen"])

    def at(self, epoch: int) -> Network:
        """As it is after an epoch."""
        with torch.no_grad():
            self.norm.weight.fill_(epoch)
            self.norm.running_mean.fill_(epoch)  # type: ignore[union-attr,operator]
        self.seen.append(epoch)
        return self


def run(accuracies: list[float], patience: int | None) -> tuple[ap.EarlyStopping, Network]:
    stopper, network = ap.EarlyStopping(patience), Network()
    for epoch, accuracy in enumerate(accuracies, start=1):
        stopper.update(accuracy, network.at(epoch))
        if stopper.should_stop:
            break
    return stopper, network


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=1, max_size=12), st.none() | st.integers(1, 4))
def test_the_first_best_epoch_is_kept_and_the_training_ends_patience_epochs_after_it(
    accuracies: list[float], patience: int | None
) -> None:
    ends = [
        end
        for end in range(1, len(accuracies) + 1)
        if end - (accuracies.index(max(accuracies[:end])) + 1) == patience  # so many since the best of those
    ]
    seen = accuracies[: ends[0] if ends else len(accuracies)]
    best = seen.index(max(seen)) + 1
    stopper, network = run(accuracies, patience)
    assert (stopper.epochs, stopper.epoch, stopper.accuracy) == (len(seen), best, max(seen))
    assert stopper.should_stop == bool(ends)
    stopper.restore(network)
    assert network.norm.weight.item() == network.norm.running_mean.item() == best  # type: ignore[union-attr,operator]
    assert network.seen == list(range(1, best + 1))


def test_update_says_whether_the_epoch_is_the_best_so_far() -> None:
    stopper = ap.EarlyStopping()
    assert [stopper.update(accuracy, Network()) for accuracy in (0.2, 0.2, 0.3, 0.1)] == [True, False, True, False]


def test_a_resumed_training_stops_where_one_that_never_stopped_does() -> None:
    accuracies = [0.1, 0.5, 0.3, 0.4, 0.45, 0.2]
    whole, _ = run(accuracies, patience=3)
    cut, network = run(accuracies[:3], patience=3)
    file = io.BytesIO()
    torch.save(cut.state_dict(), file)
    file.seek(0)
    resumed = ap.EarlyStopping(patience=3)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for accuracy in accuracies[3:]:
        if resumed.should_stop:
            break
        resumed.update(accuracy, network.at(9))
    assert (
        (resumed.epochs, resumed.epoch, resumed.accuracy) == (whole.epochs, whole.epoch, whole.accuracy) == (5, 2, 0.5)
    )
    resumed.restore(network)
    assert network.norm.weight.item() == 2


@pytest.mark.parametrize("patience", [0, -1, 2.0, True])
def test_a_patience_that_is_no_number_of_epochs_is_refused(patience: Any) -> None:
    with pytest.raises((TypeMistake, ValueMistake), match=f"patience={patience}.*expected an integer >= 1"):
        ap.EarlyStopping(patience)


@pytest.mark.parametrize("accuracy", [math.nan, math.inf, None, torch.tensor(0.5)])
def test_an_accuracy_that_is_no_finite_number_is_refused_and_counts_as_no_epoch(accuracy: Any) -> None:
    stopper = ap.EarlyStopping()
    with pytest.raises((TypeMistake, ValueMistake), match="accuracy=.*correct.item"):
        stopper.update(accuracy, Network())
    assert stopper.epochs == 0


def test_what_cannot_be_restored_is_refused() -> None:
    stopper = ap.EarlyStopping()
    with pytest.raises(CallMistake, match="restore is called before an epoch has ended"):
        stopper.restore(Network())
    stopper.update(0.5, Network())
    with pytest.raises(ValueMistake, match="model=Linear is another network than the one of update"):
        stopper.restore(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"weights": None}, "state.weights is NoneType, expected a dict"),
        ({"epoch": -1}, "state.epoch=-1 is out of range"),
        ({"epochs": "3"}, "state.epochs='3' is str"),
        ({"epoch": 3}, "state.epoch=3 is later than state.epochs=2"),
        ({"accuracy": math.nan}, "state.accuracy=nan"),
    ],
)
def test_a_damaged_state_is_refused_and_nothing_is_changed(change: dict[str, Any], said: str) -> None:
    state = run([0.1, 0.2], None)[0].state_dict()
    stopper, _ = run([0.3], None)
    with pytest.raises((TypeMistake, ValueMistake), match=said):
        stopper.load_state_dict({**state, **change})
    del state["epoch"]
    with pytest.raises(ValueMistake, match="the state lacks epoch"):
        stopper.load_state_dict(state)
    assert (stopper.epochs, stopper.epoch, stopper.accuracy) == (1, 1, 0.3)
