"""Declared memories: who gets which, what a pruner keeps, and one of a user's own."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import alignprune as ap
from alignprune.errors import CallMistake, ValueMistake
from alignprune.memory import (
    BankSpec,
    Ledger,
    LedgerSpec,
    Memory,
    MemorySpec,
    Readings,
    Room,
    RunningAverage,
    TrajectoryBank,
)
from alignprune.policies import Evidence, Full, InfoBatch, Policy, Robust
from alignprune.scores import Alignment, ExposureLoss, History, Loss, Score
from alignprune.selection import Selection

N = 40


def kinds(pruner: ap.Pruner) -> list[type[Memory]]:
    return [type(memory) for memory in pruner.memories]


def epoch(pruner: ap.Pruner) -> None:
    for index in torch.tensor(list(pruner.sampler)).split(16):
        generator = torch.Generator().manual_seed(pruner.epoch)
        pruner.reduce(index, torch.rand(N, generator=generator)[index])
    pruner.end_epoch(reference_loss=1 / (1 + pruner.epoch) if pruner.needs_reference else None)


# What is kept.


@pytest.mark.parametrize(
    "score, policy, expected",
    [
        (ExposureLoss(), Robust(), [Ledger]),
        (ExposureLoss(exponent=2.0), Robust(), [Ledger]),
        (ExposureLoss(), Full(), [Ledger]),
        (Alignment(), Robust(), [TrajectoryBank, Ledger]),
        (Loss(), Robust(), [TrajectoryBank, Ledger]),
        (Alignment(), InfoBatch(), [TrajectoryBank]),
        (Loss(), Full(), [TrajectoryBank]),
    ],
    ids=str,
)
def test_what_score_and_policy_declare_is_kept_once_and_nothing_else(
    score: Score, policy: Policy, expected: list[type[Memory]]
) -> None:
    pruner = ap.Pruner(N, 5, score, policy)
    assert kinds(pruner) == expected
    assert len(pruner.state_dict()["memories"]) == len(expected)
    for kind in (TrajectoryBank, Ledger):
        if kind in expected:
            assert pruner.memory(kind) is pruner.memories[expected.index(kind)]
        else:
            with pytest.raises(CallMistake, match=f"the method reads a {kind.__name__} that it did not declare"):
                pruner.memory(kind)


def test_the_ledger_of_robust_is_the_one_that_exposure_loss_asks_for() -> None:
    assert ap.Pruner(N, 5, ExposureLoss(exponent=2.0), Robust()).memory(Ledger).exponent == 2.0
    assert ap.Pruner.from_preset("robust", num_samples=N, epochs=5, exponent=1.5).memory(Ledger).exponent == 1.5


@pytest.mark.parametrize("name", list(ap.PRESETS))
def test_no_named_method_keeps_a_memory_that_nobody_reads(name: str) -> None:
    own = {"robust": Ledger, "infobatch+bls": RunningAverage, "seta+bls": RunningAverage}
    pruner = ap.Pruner.from_preset(name, num_samples=N, epochs=5, labels=torch.arange(N) % 3, journal=False)
    assert kinds(pruner) == [own.get(name, TrajectoryBank), *([Readings] if name == "repb" else [])]


def test_the_bank_is_as_long_as_its_score_says() -> None:
    for score, window, gaps in ((Loss(), 1, "carry"), (Alignment(window=7, gaps="last_obs"), 7, "last_obs")):
        bank = ap.Pruner(N, 5, score, Full()).memory(TrajectoryBank)
        assert (bank.window, bank.gaps, bank.num_samples) == (window, gaps, N)


# Who gets it.


def test_a_reader_gets_a_memory_by_its_kind_and_is_refused_one_that_it_did_not_declare() -> None:
    bank = BankSpec(2).make(Room(N, 5))
    history = History(torch.zeros(6), (bank,))
    assert history.memory(TrajectoryBank) is bank
    with pytest.raises(
        CallMistake, match="the score reads a Ledger that it did not declare, expected it among its mem"
    ):
        history.memory(Ledger)
    assert history.memory(Memory) is bank  # type: ignore[type-abstract]


def test_specs_are_met_by_equal_ones() -> None:
    assert BankSpec(5).met_by(BankSpec(5, "paired"))
    for other in (BankSpec(6), BankSpec(5, "carry"), LedgerSpec()):
        assert not BankSpec(5).met_by(other)


# One of a user's own.


class Counts(Memory):
    """How often each sample was seen, and in which epochs anything was."""

    def __init__(self, size: int, step: int) -> None:
        self.seen, self.step, self.epochs = torch.zeros(size, dtype=torch.int64), step, []

    def write(self, observed: ap.Observed) -> None:
        self.seen += self.step * ~observed.losses.isnan()
        self.epochs.append([observed.epoch, len(observed.selection)])

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen.clone(), "epochs": [list(pair) for pair in self.epochs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen.copy_(state["seen"])
        self.epochs = [list(pair) for pair in state["epochs"]]

    def check_state_dict(self, state: dict[str, Any]) -> None:
        if state["seen"].shape != self.seen.shape:
            raise ValueMistake("seen has another size")


@dataclass(frozen=True)
class CountsSpec(MemorySpec):
    """Asks for `Counts`."""

    step: int = 1

    def make(self, room: Room) -> Counts:
        rooms.append(room)
        return Counts(room.num_samples, self.step)


rooms: list[Room] = []


@dataclass(frozen=True)
class Seen(Score):
    """How often a sample was seen."""

    suspect: ClassVar[Any] = "high"

    @property
    def memories(self) -> tuple[MemorySpec, ...]:
        return (CountsSpec(2),)

    def __call__(self, history: History) -> Tensor:
        return history.memory(Counts).seen.float()


@dataclass(frozen=True)
class Rarest(Policy):
    """The half that was seen least, by chance among equals."""

    step: int = 2

    @property
    def memories(self) -> tuple[MemorySpec, ...]:
        return (CountsSpec(self.step),)

    def select(self, evidence: Evidence) -> Selection:
        seen, size = evidence.memory(Counts).seen, evidence.num_samples
        order = (seen + torch.from_numpy(evidence.draws.uniform("turn", size))).argsort()
        return Selection(order[: size // 2].sort().values, None, size)


def test_a_memory_of_ones_own_is_made_written_saved_and_loaded() -> None:
    rooms.clear()
    pruner = ap.Pruner(N, 6, Seen(), Rarest(), labels=["a", "b"] * (N // 2), seed=2)
    assert [(room.num_samples, room.epochs) for room in rooms] == [(N, 6)]  # one for the score and the policy
    assert rooms[0].labels is not None
    assert rooms[0].labels.tolist() == [0, 1] * (N // 2)
    for _ in range(4):
        epoch(pruner)
    counts = pruner.memory(Counts)
    assert counts.epochs == [[0, 20], [1, 20], [2, 20], [3, 20]]
    assert counts.seen.tolist() == [4] * N  # each half twice, in steps of 2
    assert pruner.scores.tolist() == [4.0] * N
    buffer = io.BytesIO()
    torch.save(pruner.state_dict(), buffer)
    resumed = ap.Pruner(N, 6, Seen(), Rarest(), labels=["a", "b"] * (N // 2), seed=2)
    resumed.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    for each in (pruner, resumed):
        epoch(each)
    assert resumed.memory(Counts).state_dict()["epochs"] == counts.epochs
    assert torch.equal(resumed.memory(Counts).seen, counts.seen)
    assert torch.equal(resumed.selection.indices, pruner.selection.indices)


def test_specs_that_differ_get_a_memory_each_and_every_reader_its_own() -> None:
    pruner = ap.Pruner(N, 6, Seen(), Rarest(step=7))
    for _ in range(2):
        epoch(pruner)
    two, seven = pruner.memories
    assert isinstance(two, Counts)
    assert isinstance(seven, Counts)
    assert two.seen.tolist() == [2] * N
    assert seven.seen.tolist() == [7] * N
    assert pruner.scores.tolist() == [2.0] * N


def test_a_state_that_a_memory_refuses_leaves_the_pruner_as_it_was() -> None:
    pruner = ap.Pruner(N, 6, Seen(), Rarest())
    epoch(pruner)
    state = pruner.state_dict()
    other = ap.Pruner(N, 6, Seen(), Rarest())
    before = other.selection
    with pytest.raises(ValueMistake, match="seen has another size"):
        other.load_state_dict(state | {"memories": [{"seen": torch.zeros(3), "epochs": []}]})
    assert (other.epoch, other.selection, other.memory(Counts).epochs) == (0, before, [])


def test_a_memory_needs_no_check_of_its_states() -> None:
    class Plain(Counts):
        def check_state_dict(self, state: dict[str, Any]) -> None:
            return Memory.check_state_dict(self, state)

    Plain(3, 1).check_state_dict({"anything": 1})
