"""The contract of a memory: an epoch's losses go in and stay, as plain facts; what they mean others decide.

A score or a policy declares what it reads as a `MemorySpec`, a frozen record. The `Pruner` makes each memory once,
writes it at the end of every epoch, saves and loads it, and hands every reader those that it declared and no others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from alignprune._tensors import indices_of
from alignprune.errors import CallMistake
from alignprune.ownership import Replicated
from alignprune.pool import ALONE, Pool
from alignprune.selection import Selection

Kind = TypeVar("Kind", bound="Memory")


@dataclass(frozen=True)
class Room:
    """What a memory is made for; it may grow without breaking anyone's memory.

    Attributes:
        num_samples: samples n that this rank remembers, by slot: all N, unless the ranks own parts.
        epochs: of the whole training.
        labels: int32 [n], class codes 0 to C - 1, -1 = unlabelled; None = unknown.
        given: int32 [n], the same as the class ids that predictions are made in; None = unknown.
        device: where it shall live.
        path: a file to map what is large into; None = in memory.
    """

    num_samples: int
    epochs: int
    labels: Tensor | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009  # immutable
    path: str | None = None
    given: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Observed:
    """What an epoch showed of the samples; it may grow without breaking anyone's memory.

    Attributes:
        epoch: its number, from 0.
        losses: float32 [n], NaN where a sample was not seen.
        selection: what was selected for the epoch, by slot.
        predicted: int32 [n], the class that the network predicted, -1 where it said none; None = nowhere.
        steps: int32 [n], the step of the epoch in which a sample was read, from 0, -1 = not read; a step is one batch
            on every rank. None = no memory asked for them.
        pool: what all ranks know together of samples of which this one remembers n.
    """

    epoch: int
    losses: Tensor
    selection: Selection
    predicted: Tensor | None = None
    steps: Tensor | None = None
    pool: Pool = ALONE

    def __post_init__(self) -> None:
        if self.pool is ALONE:
            object.__setattr__(self, "pool", Pool(Replicated(len(self.losses))))

    @cached_property
    def seen(self) -> Tensor:
        """Whose loss is known, bool [N]."""
        return ~self.losses.isnan()

    @cached_property
    def trained(self) -> Tensor:
        """Which of them were trained on, not only looked at, bool [N]."""
        weights = self.selection.weights
        chosen = np.zeros(len(self.losses), dtype=bool)
        chosen[self.selection.indices.numpy()] = True if weights is None else weights.numpy() > 0
        return torch.from_numpy(chosen).to(self.losses.device).logical_and_(self.seen)

    @cached_property
    def looked_at(self) -> Tensor:
        """The others of them, int64, ascending."""
        return indices_of(self.seen & ~self.trained)


class Memory(ABC):
    """What every memory offers."""

    @abstractmethod
    def write(self, observed: Observed) -> None:
        """Enter one epoch."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that later epochs depend on: tensors and plain values only."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of `state_dict`, bit for bit."""

    def padded(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state of `state_dict` with every tensor in the shape that it has in the end, which loads as the state does.

        A checkpoint of ranks that own parts is read into tensors of known shapes. By default a state has them already.
        """
        return state

    def metrics(self) -> dict[str, float]:
        """Numbers about the whole run that `Pruner.metrics` reports; none by default."""
        return {}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Raise ValueMistake for a state that does not fit, and change nothing."""
        return None


@dataclass(frozen=True)
class MemorySpec(ABC):
    """Asks for a memory; subclasses are frozen records of its settings. Equal ones share one memory."""

    needs_steps: ClassVar[bool] = False
    """Whether the memory reads `Observed.steps`, which are kept where one does."""

    by_parts: ClassVar[bool] = False
    """Whether each rank can remember the samples that it owns alone: what concerns others the memory asks the pool, and
    the last dimension of every tensor in its state is of samples."""

    @abstractmethod
    def make(self, room: Room) -> Memory:
        """The memory, empty."""

    def met_by(self, other: MemorySpec) -> bool:
        """Whether the memory that another spec asks for serves this one as well."""
        return self == other


def memory_of(kind: type[Kind], memories: Iterable[Memory], reader: str) -> Kind:
    """The memory of a kind among those that a reader declared.

    Raises:
        CallMistake: if it declared none.
    """
    for memory in memories:
        if isinstance(memory, kind):
            return memory
    raise CallMistake(
        f"{reader} reads a {kind.__name__} that it did not declare, expected it among its memories: return a spec of "
        "it from the property `memories`"
    )
