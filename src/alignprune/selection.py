"""Selection: the samples of one epoch, their weights, and the labels that are probably wrong.

What a policy makes and everything after it reads. It carries its own state, so that a run that ended can be asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune._checks import described, integer, number
from alignprune._tensors import DAMAGED, check_names, is_plain
from alignprune.errors import TypeMistake, ValueMistake

_SIZE = "the size of the data set"


@dataclass(frozen=True)
class Onset:
    """From when on samples are flagged as suspects.

    Attributes:
        epoch: at whose end wrong labels were found to do harm, or to lie apart from right ones.
        separation: how far two groups of samples lay apart then, Ashman's D; None = no two groups.

    Raises:
        TypeMistake, ValueMistake: for numbers out of range.
    """

    epoch: int
    separation: float | None = None

    def __post_init__(self) -> None:
        integer("onset.epoch", self.epoch, at_least=0, remedy="the epoch at whose end it was sensed")
        if self.separation is not None:
            number("onset.separation", self.separation, low=0, high=math.inf, remedy="None says that there is none")

    @property
    def state(self) -> list[Any]:
        """Its numbers, as plain values."""
        return [self.epoch, self.separation]

    @classmethod
    def from_state(cls, state: object) -> Onset | None:
        """The onset of these numbers, None of None; refuses what is none."""
        if state is None:
            return None
        if not isinstance(state, list) or len(state) != 2:
            raise TypeMistake(
                f"onset={described(state)} is none, expected an epoch and a separation, or None: {DAMAGED}"
            )
        return cls(*state)


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
        memorises: whether the network learns labels by heart, more than hardly any; None = the policy cannot tell.
        thresholds: the scores at which the policy has decided, ascending: one, or the two ends of a window; empty where
            it did not decide by a score.
        among: int64, ascending, the samples that it was chosen among, where ranks own parts; None = all.

    Raises:
        TypeMistake, ValueMistake: for what is not as described.
    """

    indices: Tensor
    weights: Tensor | None
    num_samples: int
    suspects: Tensor | None = None
    noise_rate: float | None = None
    uniform: bool = False
    onset: Onset | None = None
    memorises: bool | None = None
    thresholds: tuple[float, ...] = ()
    among: Tensor | None = None

    def __post_init__(self) -> None:
        integer("num_samples", self.num_samples, at_least=1, remedy=_SIZE)
        _check_indices("indices", self.indices, self.num_samples)
        if self.suspects is not None:
            _check_indices("suspects", self.suspects, self.num_samples)
        weights = self.weights
        if weights is not None:
            _check_weights(weights, len(self.indices))
        if self.noise_rate is not None:
            number("noise_rate", self.noise_rate, low=0, high=1, remedy="None says that it cannot be estimated")
        _check_decision(self.uniform, self.onset, self.memorises, self.thresholds)

    @classmethod
    def full(cls, num_samples: int) -> Selection:
        """All samples, weight 1."""
        return cls(torch.arange(num_samples, device="cpu"), None, num_samples, uniform=True)

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
        """Share of the samples that it was chosen among that is left out, in [0, 1]."""
        return 1.0 - len(self) / (self.num_samples if self.among is None else len(self.among))

    @cached_property
    def pruned(self) -> Tensor:
        """The samples left out, int64, ascending."""
        if self.among is not None:
            return self.among[~torch.isin(self.among, self.indices, assume_unique=True)]
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

    def of(self, samples: NDArray[np.int64], num_samples: int) -> Selection:
        """This selection of slots as one of the samples that have them, int64 [n], in a data set of that size."""
        chosen = samples[self.indices.numpy()]
        order = np.argsort(chosen, kind="stable")
        flagged = None if self.suspects is None else torch.from_numpy(np.sort(samples[self.suspects.numpy()]))
        return replace(
            self,
            indices=torch.from_numpy(chosen[order]),
            weights=None if self.weights is None else self.weights[torch.from_numpy(order)],
            num_samples=num_samples,
            suspects=flagged,
            among=torch.from_numpy(np.sort(samples)),
        )

    def dense_weights(self) -> Tensor | None:
        """Loss weights by sample, float32 [N], 1 for samples left out; None where all are 1."""
        if self.weights is None:
            return None
        dense = torch.ones(self.num_samples, dtype=torch.float32, device="cpu")
        return dense.index_copy_(0, self.indices, self.weights)

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
            "onset": None if self.onset is None else self.onset.state,
            "memorises": self.memorises,
            "thresholds": list(self.thresholds),
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Selection:
        """The selection that `state_dict` was taken of; refuses what is none."""
        names = [field.name for field in fields(cls) if field.name != "among"]
        check_names("the state of the selection", state, names)
        indices, thresholds = state["indices"], state["thresholds"]
        if indices is None:
            size = integer("num_samples", state["num_samples"], at_least=1, remedy=_SIZE)
            indices = torch.arange(size, device="cpu")
        parts = {
            "indices": indices,
            "onset": Onset.from_state(state["onset"]),
            "thresholds": tuple(thresholds) if isinstance(thresholds, list) else thresholds,
        }
        return cls(**{name: state[name] for name in names} | parts)


def _check_weights(weights: object, count: int) -> None:
    if (
        not isinstance(weights, Tensor)
        or weights.dtype != torch.float32
        or weights.shape != (count,)
        or not weights.is_cpu
    ):
        raise TypeMistake(
            f"weights={described(weights)} is no weight for every index, expected float32 [{count}] on the CPU: one "
            f"for each of indices, or None where all are 1"
        )
    if not is_plain(weights):  # with a gradient, the second step would go through the graph of the first
        raise TypeMistake(
            f"weights={described(weights)} is sparse or has a gradient, expected plain numbers: weights.detach(), or "
            f"to_dense()"
        )
    least, most = (0.0, 0.0) if not count else (float(end) for end in weights.aminmax())
    if not 0 <= least <= most < math.inf:  # NaN is neither
        wrong = weights[~((weights >= 0) & weights.isfinite())]
        raise ValueMistake(
            f"weights={described(weights)} holds {float(wrong[0])}, expected finite numbers >= 0: 0 for a sample that "
            f"is only looked at"
        )


def _check_decision(uniform: object, onset: object, memorises: object, thresholds: object) -> None:
    """Refuse what does not say how a policy has decided."""
    if not isinstance(uniform, bool):
        raise TypeMistake(
            f"uniform={described(uniform)} is {type(uniform).__name__}, expected True or False: say which"
        )
    if onset is not None and not isinstance(onset, Onset):
        raise TypeMistake(
            f"onset={described(onset)} is {type(onset).__name__}, expected an Onset: or None while there is none"
        )
    if memorises is not None and not isinstance(memorises, bool):
        raise TypeMistake(
            f"memorises={described(memorises)} is {type(memorises).__name__}, expected True or False: or None where it "
            f"is unknown"
        )
    if not isinstance(thresholds, tuple) or len(thresholds) > 2:
        raise TypeMistake(
            f"thresholds={described(thresholds)} is {type(thresholds).__name__}, expected a tuple of at most two "
            f"numbers: the ends of what was chosen"
        )
    for threshold in thresholds:
        number("thresholds", threshold, low=-math.inf, high=math.inf, remedy="a score")


def _check_indices(name: str, indices: object, num_samples: int) -> None:
    if (
        not isinstance(indices, Tensor)
        or indices.dtype != torch.int64
        or indices.ndim != 1
        or not indices.is_cpu
        or not is_plain(indices)
    ):
        raise TypeMistake(
            f"{name}={described(indices)} is no list of samples, expected int64 [K] on the CPU: such as "
            f"torch.from_numpy(numpy.flatnonzero(keep))"
        )
    if not len(indices):
        return
    values = indices.numpy()
    if not (values[1:] > values[:-1]).all():
        raise ValueMistake(
            f"{name}={described(indices)} is not ascending, expected each sample once, in order: use "
            "Selection.of_mask, or indices.unique()"
        )
    if values[0] < 0 or values[-1] >= num_samples:
        raise ValueMistake(
            f"{name}={described(indices)} reaches from {values[0]} to {values[-1]}, expected 0 to {num_samples - 1}: "
            f"indices of the data set"
        )
