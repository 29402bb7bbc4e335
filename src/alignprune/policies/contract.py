"""The contract of a policy: evidence goes in, the next epoch's Selection comes out.

Pure: a policy is a frozen record of settings, and all chance comes from the draws that it is given. Samples without a
score (NaN) are never left out by rank. Nothing is ever removed for good: every epoch chooses from the whole data set.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune._checks import floor
from alignprune._ranks import Draws, Indices, Keys
from alignprune.errors import TypeMistake, ValueMistake
from alignprune.memory.contract import Kind, Memory, MemorySpec, memory_of
from alignprune.ownership import Replicated
from alignprune.pool import ALONE, Pool
from alignprune.selection import Selection

End = Literal["high", "low"]
"""An end of a score's numbers."""


def check_takes_one(cls: type, name: str, argument: str) -> None:
    """Raise TypeMistake if a class has a method that cannot be called with exactly this one argument."""
    signature = inspect.signature(getattr(cls, name))
    try:
        signature.bind(cls, argument)
    except TypeError:
        given = ", ".join(list(signature.parameters)[1:]) or "nothing"
        raise TypeMistake(
            f"{cls.__name__}.{name}({given}) has another signature, expected {name}(self, {argument}): everything it "
            f"may look at is an attribute of {argument}"
        ) from None


UNCOUNTED: Indices = np.zeros(0, dtype=np.int64)
"""Stands for class sizes that are still to be counted."""


def class_sizes(labels: Tensor | None, pool: Pool) -> Indices:
    """How many samples each class has, over all ranks, int64 [C]; none without labels.

    Args:
        labels: int32 [n], class codes 0 to C - 1 of the samples that this rank remembers, -1 = unlabelled.
        pool: what all ranks know together.
    """
    if labels is None:
        return np.zeros(0, dtype=np.int64)
    own = np.bincount(labels.numpy() + 1)[1:]
    classes = int(pool.highest(np.array([len(own)]))[0])
    sizes: Indices = pool.total(np.pad(own, (0, classes - len(own))))
    return sizes


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a policy chooses by; it may grow without breaking anyone's policy.

    It is of the n samples that this rank remembers, by slot: of all N, and a slot is the sample's index, unless the
    ranks own parts (`Pruner`, ``ownership``). What concerns all samples is then asked of the pool.

    Attributes:
        score: float32 [n] on the CPU, higher = kept first, as in the papers; NaN = no score yet.
        suspect: the end of the score that wrong labels gather at, as the score says.
        epoch: that is chosen for, from 0; the number of epochs after the last one.
        epochs: of the whole training.
        draws: the only source of chance.
        memories: that the policy declared; see `memory`.
        labels: int32 [n], class codes 0 to C - 1, -1 = unlabelled; None = unknown.
        pool: what all ranks know together; by default nobody else knows anything.
        class_sizes: int64 [C], how many samples each class has, over all ranks, none without labels; counted unless
            given.
    """

    score: Tensor
    suspect: End
    epoch: int
    epochs: int
    draws: Draws
    memories: tuple[Memory, ...] = ()
    labels: Tensor | None = None
    pool: Pool = ALONE
    class_sizes: Indices = field(default_factory=lambda: UNCOUNTED)

    def __post_init__(self) -> None:
        if self.pool is ALONE:
            object.__setattr__(self, "pool", Pool(Replicated(len(self.score))))
        if self.class_sizes is UNCOUNTED:
            object.__setattr__(self, "class_sizes", class_sizes(self.labels, self.pool))

    @property
    def num_samples(self) -> int:
        """Size N of the data set."""
        return self.pool.num_samples

    @property
    def size(self) -> int:
        """Samples n that this rank remembers, and chooses among."""
        return self.pool.size

    @cached_property
    def suspicion(self) -> Tensor:
        """The score, turned so that higher = more probably wrong, float32 [n]; NaN = no score yet."""
        return self.score if self.suspect == "high" else -self.score

    def keys(self, purpose: str, slots: Indices | None = None) -> Keys:
        """`Draws.keys` of the samples at some slots, or of all."""
        return self.draws.keys(purpose, self.pool.samples() if slots is None else self.pool.samples_of(slots))

    def uniform(self, purpose: str, slots: Indices | None = None) -> NDArray[np.float32]:
        """`Draws.uniform` of the samples at some slots, or of all."""
        return self.draws.uniform(purpose, self.pool.samples() if slots is None else self.pool.samples_of(slots))

    def choose(self, purpose: str, slots: Indices | None, count: int) -> Indices:
        """Draw ``count`` of the samples at some slots, or of all, over all ranks: see `Pool.choose`."""
        return self.pool.choose(self.draws, purpose, slots, count)

    def memory(self, kind: type[Kind]) -> Kind:
        """The memory of a kind, of those that the policy declared; CallMistake if it declared none."""
        return memory_of(kind, self.memories, "the policy")


@dataclass(frozen=True)
class Policy(ABC):
    """What every policy offers; subclasses are frozen records of their settings."""

    annealing: ClassVar[float] = 1.0
    """Default of ``delta``: annealing starts at epoch floor(delta * epochs); 1 = never."""

    reads_probabilities: ClassVar[bool] = False
    """Whether a loss is read as minus the log of the label's probability: a smoothed one, which never falls to 0, would
    mislead it, so plain cross-entropies have to be recorded (`Pruner.reduce`, ``record``)."""

    needs_labels: ClassVar[bool] = False
    """Whether it cannot choose without the labels (`Pruner`, ``labels``)."""

    probes: ClassVar[bool] = False
    """Whether it chooses inside each batch, by a forward pass of the whole batch before the step (`choose`)."""

    by_parts: ClassVar[bool] = False
    """Whether each rank can choose among the samples that it owns: all that concerns others it asks the pool."""

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        for name in ("select", "anneal"):
            check_takes_one(cls, name, "evidence")

    @property
    def memories(self) -> tuple[MemorySpec, ...]:
        """What it reads beside the score; none, unless the policy says otherwise."""
        return ()

    @abstractmethod
    def select(self, evidence: Evidence) -> Selection:
        """Choose the samples of an epoch."""

    def anneal(self, evidence: Evidence) -> Selection:
        """Choose the samples of an annealing epoch: all of them, unless the policy says otherwise."""
        return Selection.full(evidence.size)

    def choose(self, batch: BatchEvidence) -> Tensor:
        """Choose the part of a batch to train on, int64 [m]: all of it, unless the policy probes batches."""
        return torch.arange(len(batch.logits), device=batch.logits.device)

    def check(self, num_samples: int) -> None:
        """Raise ValueMistake if the policy cannot work on a data set of this size."""
        return None


@dataclass(frozen=True, eq=False)
class BatchEvidence:
    """What a batch policy chooses by; it may grow without breaking anyone's policy.

    Attributes:
        logits: [B, C] of a forward pass in evaluation mode, without gradient.
        features: [B, d], what the last linear layer sees.
        labels: int64 [B], class ids as the network has them.
        generator: the only source of chance, on the device of the logits.
        rank_of_trust: gives `trust`; asked only if that is read.
    """

    logits: Tensor
    features: Tensor
    labels: Tensor
    generator: torch.Generator
    rank_of_trust: Callable[[], Tensor]

    @property
    def trust(self) -> Tensor:
        """Share of the scored samples that are more suspicious, float32 [B] in [0, 1]; 1 where there is no score."""
        return self.rank_of_trust()


@dataclass(frozen=True)
class BatchPolicy(Policy):
    """A policy that chooses inside each batch.

    An epoch selects every sample; each batch is probed by a forward pass in evaluation mode, and only the chosen part
    of it is trained on (`Pruner.choose`).
    """

    probes: ClassVar[bool] = True

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        check_takes_one(cls, "choose", "batch")

    def select(self, evidence: Evidence) -> Selection:
        return Selection(torch.arange(evidence.size, device="cpu"), None, evidence.size)

    @abstractmethod
    def choose(self, batch: BatchEvidence) -> Tensor:
        """Choose the part of a batch to train on: int64 [m], positions in the batch, each at most once, m >= 1."""


def uniform(evidence: Evidence, share_left_out: float) -> Selection:
    """floor((1 - share_left_out) * N) samples, drawn without regard to anything."""
    drawn = evidence.choose("select", None, floor((1 - share_left_out) * evidence.num_samples))
    return Selection(torch.from_numpy(drawn), None, evidence.size, uniform=True)


def refuse_empty(name: str, share: float, num_samples: int) -> None:
    """Raise ValueMistake where a share left out leaves no sample."""
    if floor((1 - share) * num_samples) < 1:
        raise ValueMistake(
            f"{name}={share} leaves none of num_samples={num_samples}, expected one at least: choose a smaller share"
        )
