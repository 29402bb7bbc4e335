"""Scores: one number a sample. Memories (and the reference) go in; the score says once which end of it is suspect.

NaN = no score yet: the sample is kept, with weight 1, and enters no statistic. "Higher = kept first" is how the papers'
policies read a score; which end wrong labels gather at is another question, and `Score.suspect` answers it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from alignprune import alignment
from alignprune._checks import choice, integer, number
from alignprune._modes import full_float32
from alignprune._streamed import streamed_alignment_score
from alignprune._tensors import bounded_
from alignprune.alignment import CorrelationName, FlatRule
from alignprune.errors import TypeMistake
from alignprune.memory import (
    AverageSpec,
    BankSpec,
    Gaps,
    Ledger,
    LedgerSpec,
    MemorySpec,
    Precision,
    RunningAverage,
    TrajectoryBank,
)
from alignprune.memory.contract import Kind, Memory, memory_of
from alignprune.memory.packing import chunks, uninitialised
from alignprune.policies.contract import End, check_takes_one

ReferenceTiming = Literal["after", "before"]

_COLUMNS = 65_536  # samples scored at a time where the reference differs from sample to sample


@dataclass(frozen=True, eq=False)
class History:
    """What a score is made from; it may grow without breaking anyone's score.

    Attributes:
        reference: float64 [epochs + 1], the reference loss before training and after every epoch, NaN = unknown.
        memories: that the score declared, with at least one epoch; see `memory`.
    """

    reference: Tensor
    memories: tuple[Memory, ...]

    def memory(self, kind: type[Kind]) -> Kind:
        """The memory of a kind, of those that the score declared; CallMistake if it declared none."""
        return memory_of(kind, self.memories, "the score")


@dataclass(frozen=True)
class Score(ABC):
    """What every score offers; subclasses are frozen records of their settings."""

    suspect: ClassVar[End]
    """Which end of its numbers wrong labels gather at: "high" for losses, "low" for alignment. Every score says it."""
    needs_reference: ClassVar[bool] = False
    """Whether `Pruner.end_epoch` must be given the reference loss."""
    needs_pruned: ClassVar[bool] = False
    """Whether the losses of pruned samples must be refreshed every epoch (`Pruner.record`)."""
    needs_batches: ClassVar[bool] = False
    """Whether it is made for the mean losses of batches (`Pruner.reduce_batch`)."""
    by_parts: ClassVar[bool] = False
    """Whether the number of a sample depends on that sample's memory alone, so that ranks can own parts."""

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        check_takes_one(cls, "__call__", "history")
        if getattr(cls, "suspect", None) not in get_args(End):
            raise TypeMistake(
                f"{cls.__name__}.suspect={getattr(cls, 'suspect', None)!r} is no end of the scores, expected 'high' or "
                f"'low': say in the class which end wrong labels gather at, 'high' for a loss"
            )

    @property
    @abstractmethod
    def memories(self) -> tuple[MemorySpec, ...]:
        """What this score reads."""

    @abstractmethod
    def __call__(self, history: History) -> Tensor:
        """Score the samples that this rank remembers: float32 [n], NaN where a sample has no score yet."""


@dataclass(frozen=True)
class Loss(Score):
    """The latest training loss, kept while a sample is pruned: what InfoBatch and SeTa rank by.

    Source: Qin et al. (ICLR 2024).
    """

    suspect: ClassVar[End] = "high"
    by_parts: ClassVar[bool] = True

    @property
    def memories(self) -> tuple[MemorySpec, ...]:
        return (BankSpec(1, "carry"),)

    def __call__(self, history: History) -> Tensor:
        return history.memory(TrajectoryBank).recent(1)[0]


@dataclass(frozen=True)
class BatchLoss(Score):
    """The exponential average of the mean losses of the batches that a sample was in: no loss a sample is needed.

    A batch's mean is a sample's share of it and the noise of its company, which differs from epoch to epoch; the
    average lets the share remain. For criteria that return one number: `Pruner.reduce_batch`.

    Attributes:
        decay: share of the average that stays at every batch, in [0, 1); its authors' range is 0.7 to 0.9.

    Source: Zhou et al. (CVPR 2026), Batch Loss Score.
    """

    suspect: ClassVar[End] = "high"
    by_parts: ClassVar[bool] = True
    needs_batches: ClassVar[bool] = True

    decay: float = 0.8

    def __post_init__(self) -> None:
        number("decay", self.decay, low=0, high=1, open_high=True, remedy="0.8 averages over five epochs or so")

    @property
    def memories(self) -> tuple[MemorySpec, ...]:
        return (AverageSpec(self.decay),)

    def __call__(self, history: History) -> Tensor:
        return history.memory(RunningAverage).losses


@dataclass(frozen=True)
class Alignment(Score):
    """The Dynamic Alignment Score: correlation of a sample's loss trajectory with the reference's.

    Attributes:
        window: epochs compared, the paper's N (25; 5 on Clothing-1M), at least 2.
        correlation: "pearson", or "cosine" as in the paper's ablation.
        gaps: epochs in which the sample was pruned: "paired" compares the epochs it was seen in; "carry" repeats its
            last loss; "last_obs" compares its last ``window`` observations (twice the memory).
        min_observations: fewer than this (or than the window) and a sample has no score; nothing is pruned before.
        flat: a trajectory without a trend gets "zero" (neutral), or is "exempt" from pruning.
        reference_timing: the reference loss of an epoch is measured "after" its updates, or "before" them.
        precision: what a loss is kept in: "float32", or "bfloat16" or "float16" for half of the memory.

    Source: paper section 3.2, equations 3 to 5, Algorithm 1. `docs/methods.md` says what it leaves open.
    """

    suspect: ClassVar[End] = "low"
    by_parts: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True

    window: int = 25
    correlation: CorrelationName = "pearson"
    gaps: Gaps = "paired"
    min_observations: int = 3
    flat: FlatRule = "zero"
    reference_timing: ReferenceTiming = "after"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        integer("window", self.window, at_least=2, remedy="a correlation needs two epochs; the paper uses 25")
        integer("min_observations", self.min_observations, at_least=2, remedy="a correlation needs two points")
        choice("correlation", self.correlation, get_args(CorrelationName))
        choice("gaps", self.gaps, get_args(Gaps))
        choice("flat", self.flat, get_args(FlatRule))
        choice("reference_timing", self.reference_timing, get_args(ReferenceTiming))
        choice("precision", self.precision, get_args(Precision))

    @property
    def memories(self) -> tuple[MemorySpec, ...]:
        return (BankSpec(self.window, self.gaps, self.precision),)

    def __call__(self, history: History) -> Tensor:
        bank, reference = history.memory(TrajectoryBank), history.reference
        by_epoch = reference[1:] if self.reference_timing == "after" else reference[:-1]
        in_one_pass = self.gaps != "last_obs" and not by_epoch[bank.row_epochs].isnan().any()
        out = uninitialised(bank.num_samples, device=bank.device)
        if in_one_pass:
            self._stream(bank, by_epoch[bank.row_epochs], out)
        else:
            for columns in bank.parts():
                self._compare(bank, by_epoch, columns, out[columns])
        return out

    def _stream(self, bank: TrajectoryBank, reference: Tensor, out: Tensor) -> None:
        with full_float32(bank.device):
            for columns, block in bank.blocks():
                streamed_alignment_score(
                    block,
                    bank.squares[columns],
                    bank.seen[:, columns] if bank.has_gaps else None,
                    reference,
                    correlation=self.correlation,
                    min_observations=min(self.min_observations, self.window),
                    flat=self.flat,
                    out=out[columns],
                )

    def _compare(self, bank: TrajectoryBank, by_epoch: Tensor, columns: slice, out: Tensor) -> None:
        for few in chunks(columns, _COLUMNS):
            out[few.start - columns.start : few.stop - columns.start] = alignment.dynamic_alignment_score(
                bank.trajectories(few),
                bank.reference_of(by_epoch, few),
                correlation=self.correlation,
                min_observations=min(self.min_observations, self.window),
                flat=self.flat,
            )


@dataclass(frozen=True)
class SecondDifference(Score):
    """How much the loss still bends: the mean of the last ``smoothing`` absolute second differences.

    ``|l(t) - 2 l(t-1) + l(t-2)|``; a sample whose loss runs straight is mastered. Needs the losses of pruned samples
    too, see `Pruner.record`.

    Attributes:
        smoothing: second differences averaged; 3 as its authors' code, 1 as their algorithm.

    Source: Yuan et al. (ICLR 2025), IES.
    """

    suspect: ClassVar[End] = "high"
    by_parts: ClassVar[bool] = True
    needs_pruned: ClassVar[bool] = True

    smoothing: int = 3

    def __post_init__(self) -> None:
        integer("smoothing", self.smoothing, at_least=1, remedy="IES averages 3 second differences")

    @property
    def memories(self) -> tuple[MemorySpec, ...]:
        return (BankSpec(self.smoothing + 3),)

    def __call__(self, history: History) -> Tensor:
        bank = history.memory(TrajectoryBank)
        if bank.written < self.smoothing + 3:  # one second difference more than are averaged, as in the authors' code
            return torch.full((bank.num_samples,), torch.nan, dtype=torch.float32, device=bank.device)
        losses = bank.recent(self.smoothing + 2)
        return bounded_(losses.diff(n=2, dim=0).abs_().mean(0))


@dataclass(frozen=True)
class ExposureLoss(Score):
    """The mean loss since the start, in which a loss counts as far as the sample was held out.

    Sum over the epochs t of ``(1 + n_t) ** -exponent * (l_t - m_t)`` over the sum of the weights: n_t is how often the
    sample had been trained on since the onset, m_t the mean loss of the samples trained on in that epoch.
    Where the network does not memorise this is a plain mean; where it does, the early epochs and the losses of samples
    that are looked at without training count most. Needs no reference.

    Attributes:
        exponent: 0 gives every epoch the same weight, 1 a single exposure half of it.

    Source: this library, `docs/robust.md`.
    """

    suspect: ClassVar[End] = "high"
    by_parts: ClassVar[bool] = True

    exponent: float = 0.5

    def __post_init__(self) -> None:
        number("exponent", self.exponent, low=0, high=10, remedy="0 counts all losses alike, 1 as 1 / (1 + exposures)")

    @property
    def memories(self) -> tuple[MemorySpec, ...]:
        return (LedgerSpec(self.exponent),)

    def __call__(self, history: History) -> Tensor:
        return history.memory(Ledger).mean_loss()


__all__ = ["Alignment", "BatchLoss", "ExposureLoss", "History", "Loss", "Score", "SecondDifference"]
