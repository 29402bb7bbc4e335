"""The proxy: what one training on the full, noisy data set reports of every sample.

Training a proxy is the costly part of static selection, so it is done once. It fills this record, and every method in
`coresets` is a pure function of it. N samples, C classes, T epochs, R checkpoints, d features.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignprune._checks import integer
from alignprune._files import Kind, read_arrays, write_arrays
from alignprune.errors import TypeMistake, ValueMistake

KIND = Kind("proxy", 1, "train the proxy run again, in another folder")

_FLOAT = (torch.float32,)
_HALF_OR_FLOAT = (torch.float16, torch.float32)

# Of every field: dtypes, axes, and what it lists. A letter means the same size everywhere, except d.
_LAYOUT: dict[str, tuple[tuple[torch.dtype, ...], str, str]] = {
    "labels": ((torch.int64,), "N", "the given class ids"),
    "logits": (_FLOAT, "NC", "one row a sample, in the order of labels"),
    "features": (_HALF_OR_FLOAT, "Nd", "one row a sample, in the order of labels"),
    "label_probabilities": (_FLOAT, "TN", "one row an epoch"),
    "correct": ((torch.bool,), "TN", "one row an epoch, the epochs of label_probabilities"),
    "error_norms": (_FLOAT, "RN", "one row a checkpoint"),
    "feature_norms": (_FLOAT, "RN", "one row a checkpoint, the checkpoints of error_norms"),
    "margins": (_FLOAT, "TN", "one row an epoch, the epochs of label_probabilities"),
    "strong_features": (_HALF_OR_FLOAT, "Nd", "one row a sample, in the order of labels"),
    "strong_logits": (_FLOAT, "NC", "one row a sample, in the order of labels"),
    "self_supervised": (_HALF_OR_FLOAT, "Nd", "one row a sample, in the order of labels"),
}

_ROUNDING = 1e-3  # a kernel may return a probability of 1.0000001
_RANGES = {
    "label_probabilities": (0.0, 1.0, "record the softmax probability of the given label"),
    "margins": (-1.0, 1.0, "record the probability of the given label less the largest other one"),
    "error_norms": (0.0, math.sqrt(2), "record the norm of softmax(logits) - onehot(label)"),
    "feature_norms": (0.0, math.inf, "record the norm of the features"),
}


@dataclass(frozen=True)
class Extent:
    """How much a proxy run records, or will record: what a method needs to know before that run is trained.

    Attributes:
        samples: N.
        num_classes: C.
        epochs: T.
        recorded: fields of `Proxy` that may be None and are not.
    """

    samples: int
    num_classes: int
    epochs: int
    recorded: frozenset[str]


@dataclass(frozen=True, eq=False)
class Proxy:
    """The record of one proxy run; all tensors on the CPU, samples in the order of the data set.

    "Evaluation" means: network in evaluation mode, inputs under the evaluation transform. "Training time" means: the
    very forward passes that the proxy was trained by, so augmented, in training mode, each sample once an epoch. The
    "snapshot" is one moment of the run, the end of its warm-up (10 epochs on CIFAR-10, 30 on CIFAR-100, say), when
    clean labels are learned and wrong ones not yet; the run may end there, or go on.

    Attributes:
        labels: int64 [N], the given, possibly wrong class ids, 0 to C - 1: what the proxy was trained on.
        num_classes: C, at least 2.
        logits: float32 [N, C], evaluation, at the snapshot.
        features: float16 or float32 [N, d], what the last linear layer sees, from the same pass as the logits.
        label_probabilities: float32 [T, N], training time: row t holds the softmax probability of the given label in
            epoch t, from 0, without label smoothing, up to the end of the run. Methods that want the beginning only
            have a setting ``epochs``.
        correct: bool [T, N], training time: whether the largest logit was that of the given label.
        error_norms: float32 [R, N], evaluation: row r holds the Euclidean norm of softmax(logits) - onehot(label) at
            checkpoint r. GraNd and EL2N average over all R: a single row is the snapshot alone, more are early moments.
        feature_norms: float32 [R, N], evaluation: the Euclidean norms of the features at the same checkpoints.
        strong_features: float16 or float32 [N, d], at the snapshot, like features but from one strongly augmented view
            of every input (AutoAugment, flip, crop, Cutout); for Prune4ReL. None where it was not recorded.
        strong_logits: float32 [N, C], from the same pass as strong_features; both are given, or none.
        self_supervised: float16 or float32 [N, d], evaluation, features of a network that was trained without labels
            (SimCLR, SwAV); for SSP. None where there is no such network.
        margins: float32 [T, N], training time, like label_probabilities: the probability of the given label less the
            largest one of another class; for CCS. None where it was not recorded.

    Raises:
        TypeMistake: for a field that is no tensor, or has another dtype.
        ValueMistake: for a wrong shape or device, for values that are not finite or out of their range.
    """

    labels: Tensor
    num_classes: int
    logits: Tensor
    features: Tensor
    label_probabilities: Tensor
    correct: Tensor
    error_norms: Tensor
    feature_norms: Tensor
    strong_features: Tensor | None = None
    strong_logits: Tensor | None = None
    self_supervised: Tensor | None = None
    margins: Tensor | None = None

    def __post_init__(self) -> None:
        integer("num_classes", self.num_classes, at_least=2, remedy="the number of classes of the data set")
        if (self.strong_features is None) != (self.strong_logits is None):
            given = "strong_logits" if self.strong_features is None else "strong_features"
            raise ValueMistake(
                f"{given} is given alone, expected strong_features and strong_logits: record both in one pass"
            )
        sizes = {"C": self.num_classes}
        for name, value in self._tensors():
            _check_layout(name, value, sizes)
            _check_values(name, value)
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.num_classes:
            raise ValueMistake(
                f"labels holds class ids {low} to {high}, expected 0 to {self.num_classes - 1}: raise num_classes, "
                "or renumber the classes"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def extent(self) -> Extent:
        """How much it records."""
        optional = (field.name for field in fields(self) if field.default is None)
        recorded = frozenset(name for name in optional if getattr(self, name) is not None)
        return Extent(len(self), self.num_classes, len(self.label_probabilities), recorded)

    def _tensors(self) -> list[tuple[str, Tensor]]:
        """Names and values of the tensors that are given."""
        values = [(field.name, getattr(self, field.name)) for field in fields(self) if field.name in _LAYOUT]
        return [(name, value) for name, value in values if value is not None]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to an .npz file; readers see the old file or the new one, never a part.

        Args:
            path: file to write, used as given; its folder must exist.

        Raises:
            OSError: if the file cannot be written.
        """
        arrays: dict[str, Any] = {name: value.detach().numpy() for name, value in self._tensors()}
        count = np.array(self.num_classes)
        write_arrays(path, KIND, {"num_classes": count, **arrays}, compressed=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Proxy:
        """Read what `save` wrote.

        Args:
            path: file that `save` wrote.

        Returns:
            the saved record, checked anew.

        Raises:
            FileNotFoundError: if there is no such file.
            DamagedFile, ValueMistake: if the file is not, bit for bit, what `save` wrote.
        """
        found = read_arrays(path, KIND, needed=("num_classes",))
        count = int(found.pop("num_classes"))
        return cls(num_classes=count, **{name: torch.from_numpy(values) for name, values in found.items()})


def _check_layout(name: str, value: Tensor, sizes: dict[str, int]) -> None:
    """Compare a tensor with its layout; ``sizes`` holds the axes known so far and learns the new ones."""
    dtypes, axes, lists = _LAYOUT[name]
    if not isinstance(value, Tensor):
        raise TypeMistake(f"{name} is {type(value).__name__}, expected a tensor: use torch.as_tensor")
    if value.dtype not in dtypes:
        expected = " or ".join(str(dtype) for dtype in dtypes)
        raise TypeMistake(f"{name} is {value.dtype}, expected {expected}: convert with .to({dtypes[-1]})")
    if value.device.type != "cpu":
        raise ValueMistake(f"{name} is on {value.device}, expected the CPU: pass {name}.cpu()")
    known = {axis: sizes.get(axis, size) for axis, size in zip(axes, value.shape, strict=False) if axis != "d"}
    fits = all(size == known.get(axis, size) for axis, size in zip(axes, value.shape, strict=False))
    if value.ndim != len(axes) or not fits or not value.numel():
        expected = ", ".join(f"{axis}={sizes[axis]}" if axis in sizes else f"{axis} >= 1" for axis in axes)
        raise ValueMistake(f"{name} has shape {tuple(value.shape)}, expected [{expected}]: {lists}")
    sizes.update(known)


def _check_values(name: str, value: Tensor) -> None:
    finite = value.isfinite()
    if not finite.all():
        raise ValueMistake(
            f"{name} holds {int((~finite).sum())} values that are not finite, expected none: lower the learning rate "
            "if the proxy run diverged, or record float32 if its features do not fit into float16"
        )
    if name in _RANGES:
        low, high, remedy = _RANGES[name]
        least, most = float(value.min()), float(value.max())
        if least < low - _ROUNDING or most > high + _ROUNDING:
            raise ValueMistake(
                f"{name} holds values from {least:g} to {most:g}, expected [{low:g}, {high:g}]: {remedy}"
            )
