"""What the networks of a cross-validation see in the samples that they were not trained on.

probabilities.npz holds, for N samples of C classes:

probabilities  float32 [N, C]  of each class, by the network that was trained without the sample's fold, as it was in
                               its best epoch
last           float32 [N, C]  the same, by the network of the last epoch
labels         int64 [N]       given class ids
is_noisy       bool [N]        whether the given label is wrong; absent where that is not known
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alignprune._files import Kind, read_arrays
from alignprune.bench.files import save_arrays

FILE = "probabilities.npz"
KIND = Kind("probabilities", 1, "run the cross-validation again, in another folder")


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What a probabilities.npz holds, for N samples of C classes.

    Attributes:
        probabilities, last: float32 [N, C], by the networks of the best and of the last epoch.
        labels: given class ids, int64 [N].
        is_noisy: bool [N]; None where the truth is not known.
    """

    probabilities: Tensor
    last: Tensor
    labels: Tensor
    is_noisy: Tensor | None

    def save(self, folder: Path) -> None:
        """Write it into a run's folder, whole or not at all."""
        arrays = {"probabilities": self.probabilities, "last": self.last, "labels": self.labels}
        truth = {} if self.is_noisy is None else {"is_noisy": self.is_noisy}
        save_arrays(folder / FILE, KIND, **{name: values.numpy() for name, values in (arrays | truth).items()})

    @classmethod
    def load(cls, folder: Path) -> OutOfFold:
        """Read it from the folder of a complete run.

        Raises:
            FileNotFoundError, ValueError: if it is not there, or damaged.
        """
        stored = read_arrays(folder / FILE, KIND, needed=("probabilities", "last", "labels"))
        found = {name: torch.from_numpy(values) for name, values in stored.items()}
        return cls(found["probabilities"], found["last"], found["labels"], found.get("is_noisy"))
