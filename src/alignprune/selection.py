"""Selection: the samples of one epoch, their weights, and the labels that are probably wrong.

What a policy makes and everything after it reads. It carries its own state, so that a run that ended can be asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune.errors import TypeMistake, ValueMistake


@dataclass(frozen=True)
class Onset:
    """From when on samples are flagged as suspects.

    Attributes:
        epoch: at whose end wrong labels were found to do harm, or to lie apart from right ones.
        separation: how far two groups of samples lay apart then, Ashman's D; None = no two groups.
    """

    epoch: int
    separation: float | None = None


@dataclass(frozen=True, eq=False)
class Selection:
    """The samples of one epoch.

    Attributes:
        indices: int64 [K], ascending, each sample at most once.
        weights: float32 [K] loss weights of these samples, or None where all are 1; 0 = only looked at.
        num_samples: size N of the data set they are chosen from.
        suspects: int64 [S], ascending: samples whose label the policy takes for wrong, whether they are looked at or
            left out; None for policies that flag none.
        noise_rate: share of wrong labels in the data set as the policy estimates it, in [0, 1]; None where it does not,
            or cannot.
        uniform: whether the samples were drawn without regard to anything known of them but when they were seen.
        onset: from when on the policy flags suspects; None = not yet, or never.
        thresholds: the scores at which the policy has decided, ascending: one, or the two ends of a window; empty where
            it did not decide by a score.

    Raises:
        TypeMistake, ValueMistake: for tensors that are not as described.
    """

    indices: Tensor
    weights: Tensor | None
    num_samples: int
    suspects: Tensor | None = None
    noise_rate: float | None = None
    uniform: bool = False
    onset: Onset | None = None
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_indices("indices", self.indices, self.num_samples)
        if self.suspects is not None:
            _check_indices("suspects", self.suspects, self.num_samples)
        weights = self.weights
        if weights is not None and (
            not isinstance(weights, Tensor) or weights.dtype != torch.float32 or weights.shape != self.indices.shape
        ):
            raise TypeMistake(
                f"weights={_described(weights)} is no weight for every index, expected float32 [{len(self.indices)}]: "
                f"one for each of indices, or None where all are 1"
            )
        if weights is not None and not bool((weights >= 0).all()):
            raise ValueMistake(
                f"weights={_described(weights)} holds {float(weights[~(weights >= 0)][0])}, expected numbers >= 0: 0 "
                f"for a sample that is only looked at"
            )

    @classmethod
    def full(cls, num_samples: int) -> Selection:
        """All samples, weight 1."""
        return cls(torch.arange(num_samples), None, num_samples, uniform=True)

    @classmethod
    def of_mask(
        cls, keep: NDArray[np.bool_], *, uniform: bool = False, thresholds: tuple[float, ...] = ()
    ) -> Selection:
        """The samples whose entry in a boolean array [N] is true, weight 1."""
        chosen = torch.from_numpy(np.flatnonzero(keep))
        return cls(chosen, None, len(keep), uniform=uniform, thresholds=thresholds)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def pruned_share(self) -> float:
        """Share of the data set that is left out, in [0, 1]."""
        return 1.0 - len(self) / self.num_samples

    @cached_property
    def pruned(self) -> Tensor:
        """The samples left out, int64 [N - K], ascending."""
        return torch.from_numpy(np.flatnonzero(~self.mask()))

    @property
    def trained(self) -> Tensor:
        """The samples that are trained on, not only looked at, int64 [T], ascending."""
        return self.indices if self.weights is None else self.indices[self.weights > 0]

    def mask(self) -> NDArray[np.bool_]:
        """Which samples are selected, bool [N]; a new array."""
        keep = np.zeros(self.num_samples, dtype=bool)
        keep[self.indices.numpy()] = True
        return keep

    def dense_weights(self) -> Tensor | None:
        """Loss weights by sample, float32 [N], 1 for samples left out; None where all are 1."""
        if self.weights is None:
            return None
        return torch.ones(self.num_samples, dtype=torch.float32).index_copy_(0, self.indices, self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only; the whole data set is stored as None."""
        whole = len(self) == self.num_samples
        return {
            "indices": None if whole else self.indices,
            "weights": self.weights,
            "num_samples": self.num_samples,
            "suspects": self.suspects,
            "noise_rate": self.noise_rate,
            "uniform": self.uniform,
            "onset": None if self.onset is None else [self.onset.epoch, self.onset.separation],
            "thresholds": list(self.thresholds),
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Selection:
        """The selection that `state_dict` was taken of; refuses what is none."""
        indices, onset = state["indices"], state["onset"]
        return cls(
            indices=torch.arange(state["num_samples"]) if indices is None else indices.clone(),
            weights=state["weights"],
            num_samples=state["num_samples"],
            suspects=state["suspects"],
            noise_rate=state["noise_rate"],
            uniform=state["uniform"],
            onset=None if onset is None else Onset(*onset),
            thresholds=tuple(state["thresholds"]),
        )


def _check_indices(name: str, indices: object, num_samples: int) -> None:
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64 or indices.ndim != 1 or not indices.is_cpu:
        raise TypeMistake(
            f"{name}={_described(indices)} is no list of samples, expected int64 [K] on the CPU: such as "
            f"torch.from_numpy(numpy.flatnonzero(keep))"
        )
    if not len(indices):
        return
    values = indices.numpy()
    if not (values[1:] > values[:-1]).all():
        raise ValueMistake(
            f"{name}={_described(indices)} is not ascending, expected each sample once, in order: use "
            "Selection.of_mask, or indices.unique()"
        )
    if values[0] < 0 or values[-1] >= num_samples:
        raise ValueMistake(
            f"{name}={_described(indices)} reaches from {values[0]} to {values[-1]}, expected 0 to {num_samples - 1}: "
            f"indices of the data set"
        )


def _described(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
