"""Label noise: clean labels [N] in, noisy labels [N] out.

Exactly round(rate * n_c) labels of every class c are flipped, so the measured rate equals the nominal one up
to rounding, in each class. Every kind is a pure function of (labels, num_classes, rate, seed); `KINDS` names
them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alignprune._checks import choice, integer, number

NoiseFunction = Callable[[Tensor, int, float, int], Tensor]

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def symmetric(labels: Tensor, num_classes: int, rate: float, seed: int) -> Tensor:
    """Flip a fixed share of each class to a class drawn uniformly from the others.

    Args:
        labels: Clean class ids, any integer dtype, shape [N], in 0..num_classes-1.
        num_classes: Number of classes C, at least 2.
        rate: Share of each class to flip, in [0, 1]; exactly round(rate * n_c) labels of class c (halves to
            even).
        seed: Seed of the draw, >= 0; torch's global generator is not used.

    Returns:
        Noisy labels, int64, shape [N], a new tensor on the device of `labels`.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If an argument has the wrong type.

    Source: uniform over the C-1 other classes as in CRUST and Prune4ReL. The AlignPrune paper describes c ->
        c+1 under this name, which its own accuracies rule out; that kind is `pairflip`.
    """
    noisy, chosen, generator = _choose(labels, num_classes, rate, seed)
    shift = torch.randint(1, num_classes, (len(chosen),), generator=generator)
    noisy[chosen] = (noisy[chosen] + shift) % num_classes
    return noisy.to(labels.device)


def pairflip(labels: Tensor, num_classes: int, rate: float, seed: int) -> Tensor:
    """Flip a fixed share of each class c to its neighbour (c + 1) mod C.

    Args:
        labels: Clean class ids, any integer dtype, shape [N], in 0..num_classes-1.
        num_classes: Number of classes C, at least 2.
        rate: Share of each class to flip, in [0, 1]; exactly round(rate * n_c) labels of class c (halves to
            even).
        seed: Seed of the draw, >= 0; torch's global generator is not used.

    Returns:
        Noisy labels, int64, shape [N], a new tensor on the device of `labels`.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If an argument has the wrong type.

    Source: the text of the AlignPrune paper (its "symmetric" noise); the name is that of Co-teaching.
    """
    noisy, chosen, _ = _choose(labels, num_classes, rate, seed)
    noisy[chosen] = (noisy[chosen] + 1) % num_classes
    return noisy.to(labels.device)


KINDS: dict[str, NoiseFunction] = {"symmetric": symmetric, "pairflip": pairflip}


@dataclass(frozen=True, eq=False)
class NoisyLabels:
    """Noisy labels beside the clean ones, with what is needed to draw them again.

    Args:
        labels: Noisy class ids, int64, shape [N].
        clean: Clean class ids, int64, shape [N].
        kind: A name in `KINDS`, or the name of labels that people or a crawler gave ("real", "worse", ...).
        rate: Nominal rate in [0, 1]; `noise_rate` is the measured one.
        seed: Seed of the draw; None for labels that were not drawn.

    Raises:
        ValueError: If labels and clean differ in shape, are not int64 [N], or rate is outside [0, 1].
    """

    labels: Tensor
    clean: Tensor
    kind: str
    rate: float
    seed: int | None

    def __post_init__(self) -> None:
        for name, value in (("labels", self.labels), ("clean", self.clean)):
            if value.ndim != 1 or value.dtype != torch.int64:
                raise ValueError(
                    f"NoisyLabels: {name} is {value.dtype} of shape {tuple(value.shape)}, expected int64 "
                    f"[N]; pass {name}.long().flatten()"
                )
        if self.labels.shape != self.clean.shape:
            raise ValueError(
                f"NoisyLabels: labels has {len(self.labels)} entries and clean {len(self.clean)}, expected "
                "as many; both must list the same samples in the same order"
            )
        _check_rate(self.rate)

    @property
    def is_noisy(self) -> Tensor:
        """Which labels differ from the clean ones: bool, shape [N]."""
        return self.labels != self.clean

    @property
    def noise_rate(self) -> float:
        """Measured share of wrong labels, in [0, 1]; 0 for no samples."""
        return int(self.is_noisy.sum()) / max(len(self.labels), 1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the labels to an .npz file; readers see the old file or the new one, never a part.

        Args:
            path: File to write, used as given; its folder must exist.

        Raises:
            OSError: If the file cannot be written.
        """
        target = Path(path)
        # In the same folder, because os.replace is atomic only inside one file system.
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                np.savez(
                    file,
                    labels=self.labels.cpu().numpy(),
                    clean=self.clean.cpu().numpy(),
                    kind=np.array(self.kind),
                    rate=np.array(self.rate, dtype=np.float64),
                    seed=np.array([] if self.seed is None else [self.seed], dtype=np.int64),
                )
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NoisyLabels:
        """Read what `save` wrote.

        Args:
            path: File that `save` wrote.

        Returns:
            The saved labels.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file was not written by `save`.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                seed = file["seed"]
                return cls(
                    labels=torch.from_numpy(file["labels"]),
                    clean=torch.from_numpy(file["clean"]),
                    kind=str(file["kind"]),
                    rate=float(file["rate"]),
                    seed=int(seed[0]) if len(seed) else None,
                )
        except FileNotFoundError:
            raise
        except Exception as error:  # numpy raises BadZipFile, KeyError, EOFError, ValueError, ... for a foreign file
            raise ValueError(
                f"path: {os.fspath(path)!r} does not hold saved labels ({type(error).__name__}: {error}); "
                "expected a file that NoisyLabels.save wrote"
            ) from error


def corrupt(labels: Tensor, kind: str, rate: float, num_classes: int, seed: int) -> NoisyLabels:
    """Draw label noise of a named kind.

    Args:
        labels: Clean class ids, any integer dtype, shape [N], in 0..num_classes-1.
        kind: A name in `KINDS`.
        rate: Share of each class to flip, in [0, 1].
        num_classes: Number of classes C, at least 2.
        seed: Seed of the draw, >= 0.

    Returns:
        The noisy and the clean labels, the latter a copy.

    Raises:
        ValueError: If kind is unknown or an argument is out of its range.
        TypeError: If an argument has the wrong type.
    """
    choice("kind", kind, KINDS)
    noisy = KINDS[kind](labels, num_classes, rate, seed)
    clean = labels.detach().to(torch.int64, copy=True)
    return NoisyLabels(labels=noisy, clean=clean, kind=kind, rate=float(rate), seed=seed)


def _choose(labels: Tensor, num_classes: int, rate: float, seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """Copy of the labels, round(rate * n_c) chosen positions of every class c, and the generator."""
    num_classes = integer("num_classes", num_classes, at_least=2, remedy="one class leaves nothing to flip to")
    rate = _check_rate(rate)
    seed = integer("seed", seed, at_least=0, remedy="choose any such number")
    _check_labels(labels, num_classes)
    copy = labels.detach().to("cpu", torch.int64, copy=True)
    generator = torch.Generator().manual_seed(seed)
    counts = torch.bincount(copy, minlength=num_classes).tolist()
    members = torch.argsort(copy, stable=True).split(counts)
    chosen = [
        positions[torch.randperm(count, generator=generator)[: round(rate * count)]]
        for positions, count in zip(members, counts, strict=True)
    ]
    return copy, torch.cat(chosen), generator


def _check_rate(rate: float) -> float:
    return number("rate", rate, low=0, high=1, remedy="write 20 % as 0.2")


def _check_labels(labels: Tensor, num_classes: int) -> None:
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels: a {type(labels).__name__} given, expected an integer tensor [N]; use torch.as_tensor")
    if labels.dtype not in _INTEGERS:
        raise TypeError(f"labels: dtype {labels.dtype} given, expected integer class ids; convert with .long()")
    if labels.ndim != 1:
        raise ValueError(
            f"labels: shape {tuple(labels.shape)} given, expected [N], one class id per sample; one-hot rows "
            "become ids with .argmax(1)"
        )
    if not len(labels):
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels: class ids {low}..{high} given, expected 0..{num_classes - 1}; raise num_classes or "
            "renumber the classes"
        )
