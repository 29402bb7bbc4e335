"""Label noise: clean labels [N] in, noisy labels [N] out.

A kind says which samples lose their label (a share of each class, or each sample on its own) and which label they
get (one of the others at random, the next class, one that a table gives, or one that the input says). Every kind is a
pure function of its arguments, the seed among them; `KINDS` names them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignprune._checks import choice, floor, integer, number
from alignprune._files import Kind, read_arrays, write_arrays
from alignprune._tensors import INTEGERS
from alignprune.errors import TypeMistake, ValueMistake

KIND = Kind("noise", 1, "draw the labels again, or train the run again in another folder")

_SPREAD = 0.1  # standard deviation of the samples' own rates, of instance-dependent noise
_BLOCK = 1 << 24  # numbers of the inputs that are looked at together

# Fine class ids of the 20 super-classes, in the order of their names.
_CIFAR100_SUPERCLASSES = (
    (4, 30, 55, 72, 95),  # aquatic mammals: beaver, dolphin, otter, seal, whale
    (1, 32, 67, 73, 91),  # fish: aquarium fish, flatfish, ray, shark, trout
    (54, 62, 70, 82, 92),  # flowers: orchid, poppy, rose, sunflower, tulip
    (9, 10, 16, 28, 61),  # food containers: bottle, bowl, can, cup, plate
    (0, 51, 53, 57, 83),  # fruit and vegetables: apple, mushroom, orange, pear, sweet pepper
    (22, 39, 40, 86, 87),  # household electrical devices: clock, keyboard, lamp, telephone, television
    (5, 20, 25, 84, 94),  # household furniture: bed, chair, couch, table, wardrobe
    (6, 7, 14, 18, 24),  # insects: bee, beetle, butterfly, caterpillar, cockroach
    (3, 42, 43, 88, 97),  # large carnivores: bear, leopard, lion, tiger, wolf
    (12, 17, 37, 68, 76),  # large man-made outdoor things: bridge, castle, house, road, skyscraper
    (23, 33, 49, 60, 71),  # large natural outdoor scenes: cloud, forest, mountain, plain, sea
    (15, 19, 21, 31, 38),  # large omnivores and herbivores: camel, cattle, chimpanzee, elephant, kangaroo
    (34, 63, 64, 66, 75),  # medium-sized mammals: fox, porcupine, possum, raccoon, skunk
    (26, 45, 77, 79, 99),  # non-insect invertebrates: crab, lobster, snail, spider, worm
    (2, 11, 35, 46, 98),  # people: baby, boy, girl, man, woman
    (27, 29, 44, 78, 93),  # reptiles: crocodile, dinosaur, lizard, snake, turtle
    (36, 50, 65, 74, 80),  # small mammals: hamster, mouse, rabbit, shrew, squirrel
    (47, 52, 56, 59, 96),  # trees: maple, oak, palm, pine, willow
    (8, 13, 48, 58, 90),  # vehicles 1: bicycle, bus, motorcycle, pickup truck, train
    (41, 69, 81, 85, 89),  # vehicles 2: lawn mower, rocket, streetcar, tank, tractor
)


def _cycle(groups: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The table that sends each class to the next of its group, and the last to the first."""
    following = {c: group[(i + 1) % len(group)] for group in groups for i, c in enumerate(group)}
    return tuple(following[c] for c in range(len(following)))


CIFAR10_FLIPS: tuple[int, ...] = (0, 1, 0, 5, 7, 3, 6, 7, 8, 1)
"""Bird -> airplane, cat -> dog, deer -> horse, dog -> cat, truck -> automobile; the other five classes stay."""

CIFAR100_FLIPS: tuple[int, ...] = _cycle(_CIFAR100_SUPERCLASSES)
"""Each class to the next of its super-class, by ascending fine id, and the last to the first."""


def symmetric(labels: Tensor, num_classes: int, rate: float, seed: int) -> Tensor:
    """Flip a fixed share of each class to a class drawn uniformly from the others.

    Args:
        labels: integers [N], clean class ids, 0 to C - 1.
        num_classes: number of classes C, at least 2.
        rate: share of each class to flip, in [0, 1]; exactly round(rate * n_c) labels of class c (halves to even).
        seed: of the draw, >= 0; torch's global generator is not used.

    Returns:
        int64 [N], noisy class ids, a new tensor on the device of `labels`.

    Raises:
        ValueMistake: if an argument is out of its range.
        TypeMistake: if an argument has the wrong type.

    Source: uniform over the C-1 other classes as in CRUST and Prune4ReL. The AlignPrune paper describes c ->
        c+1 under this name, which its own accuracies rule out; that kind is `pairflip`.
    """
    noisy, rate, generator = _start(labels, num_classes, rate, seed)
    chosen = _share_of_each_class(noisy, num_classes, rate, generator)
    noisy[chosen] = _others(noisy[chosen], num_classes, generator)
    return noisy.to(labels.device)


def symmetric_independent(labels: Tensor, num_classes: int, rate: float, seed: int) -> Tensor:
    """Flip each sample on its own, with probability ``rate``, to a class drawn uniformly from the others.

    Args:
        labels: integers [N], clean class ids, 0 to C - 1.
        num_classes: number of classes C, at least 2.
        rate: probability of a flip, in [0, 1]; the share of wrong labels differs from it by chance.
        seed: of the draw, >= 0; torch's global generator is not used.

    Returns:
        int64 [N], noisy class ids, a new tensor on the device of `labels`.

    Raises:
        ValueMistake: if an argument is out of its range.
        TypeMistake: if an argument has the wrong type.

    Source: CRUST; also the symmetric noise of Co-teaching+, which draws each label by a transition matrix.
    """
    noisy, rate, generator = _start(labels, num_classes, rate, seed)
    chosen = torch.rand(len(noisy), generator=generator, dtype=torch.float64) < rate
    noisy[chosen] = _others(noisy[chosen], num_classes, generator)
    return noisy.to(labels.device)


def symmetric_inclusive(labels: Tensor, num_classes: int, rate: float, seed: int) -> Tensor:
    """Give a fixed share of all samples a class drawn uniformly from all classes, the true one among them.

    Args:
        labels: integers [N], clean class ids, 0 to C - 1.
        num_classes: number of classes C, at least 2.
        rate: share of samples to draw anew, in [0, 1]; exactly round(rate * N) (halves to even). The expected
            share of wrong labels is rate * (C-1) / C.
        seed: of the draw, >= 0; torch's global generator is not used.

    Returns:
        int64 [N], noisy class ids, a new tensor on the device of `labels`.

    Raises:
        ValueMistake: if an argument is out of its range.
        TypeMistake: if an argument has the wrong type.

    Source: ELR and SOP.
    """
    noisy, rate, generator = _start(labels, num_classes, rate, seed)
    chosen = torch.randperm(len(noisy), generator=generator)[: round(rate * len(noisy))]
    noisy[chosen] = torch.randint(num_classes, (len(chosen),), generator=generator)
    return noisy.to(labels.device)


def pairflip(labels: Tensor, num_classes: int, rate: float, seed: int) -> Tensor:
    """Flip a fixed share of each class c to its neighbour (c + 1) mod C.

    Args:
        labels: integers [N], clean class ids, 0 to C - 1.
        num_classes: number of classes C, at least 2.
        rate: share of each class to flip, in [0, 1]; exactly round(rate * n_c) labels of class c (halves to even).
        seed: of the draw, >= 0; torch's global generator is not used.

    Returns:
        int64 [N], noisy class ids, a new tensor on the device of `labels`.

    Raises:
        ValueMistake: if an argument is out of its range.
        TypeMistake: if an argument has the wrong type.

    Source: the text of the AlignPrune paper (its "symmetric" noise); the name is that of Co-teaching.
    """
    noisy, rate, generator = _start(labels, num_classes, rate, seed)
    chosen = _share_of_each_class(noisy, num_classes, rate, generator)
    noisy[chosen] = (noisy[chosen] + 1) % num_classes
    return noisy.to(labels.device)


def asymmetric(
    labels: Tensor, num_classes: int, rate: float, seed: int, flips: Sequence[int], per_class: bool = True
) -> Tensor:
    """Flip a fixed share of the samples to the class that a table gives, as people confuse look-alikes.

    Args:
        labels: integers [N], clean class ids, 0 to C - 1.
        num_classes: number of classes C, at least 2.
        rate: share to flip, in [0, 1].
        seed: of the draw, >= 0; torch's global generator is not used.
        flips: integers [C], the class that each of the C classes turns into, its own where the class stays clean; such
            as `CIFAR10_FLIPS` and `CIFAR100_FLIPS`.
        per_class: whether exactly round(rate * n_c) labels of each class c are drawn (halves to even), or
            exactly floor(rate * N) of all labels together. A drawn label whose class stays remains right.

    Returns:
        int64 [N], noisy class ids, a new tensor on the device of `labels`.

    Raises:
        ValueMistake: if an argument is out of its range, or flips changes no class.
        TypeMistake: if an argument has the wrong type.

    Source: Patrini et al. (CVPR 2017); SOP for CIFAR-10. On CIFAR-100 the AlignPrune paper flips within the
        super-class. The draw from all labels, with (c + 1) mod 1000 as table, is that of Prune4ReL's ImageNet.
    """
    noisy, rate, generator = _start(labels, num_classes, rate, seed)
    table = _check_flips(flips, num_classes)
    if per_class:
        chosen = _share_of_each_class(noisy, num_classes, rate, generator)
    else:
        chosen = torch.randperm(len(noisy), generator=generator)[: floor(rate * len(noisy))]
    noisy[chosen] = table[noisy[chosen]]
    return noisy.to(labels.device)


def instance_dependent(labels: Tensor, num_classes: int, rate: float, seed: int, inputs: Tensor) -> Tensor:
    """Flip each sample with a probability of its own, to a class that its input prefers.

    The probabilities are normally distributed around the rate, with a standard deviation of 0.1, or of half of the way
    to 0 or 1 where that is less, and lie in [0, 1]. Each class has a random projection of the inputs to C preferences,
    and the label is drawn by their softmax over the other classes. Of many numbers an input one class gets nearly all
    of it, so that samples that look alike are given the same wrong label.

    Args:
        labels: integers [N], clean class ids, 0 to C - 1.
        num_classes: number of classes C, at least 2.
        rate: mean probability of a flip, in [0, 1]; the share of wrong labels differs from it by chance.
        seed: of the draw, >= 0; torch's global generator is not used.
        inputs: [N, ...], any real dtype, finite: pixels, features or columns of a table; each number of a sample is
            standardised over the samples.

    Returns:
        int64 [N], noisy class ids, a new tensor on the device of `labels`.

    Raises:
        ValueMistake: if an argument is out of its range, or inputs are not as many as labels.
        TypeMistake: if an argument has the wrong type.

    Source: Xia et al., Part-dependent Label Noise (NeurIPS 2020), algorithm 2. There the deviation is 0.1 throughout,
        and inputs are taken as they are.
    """
    noisy, rate, generator = _start(labels, num_classes, rate, seed)
    rows, mean, scale = _standardised(inputs, len(noisy))
    chances = _around(rate, torch.rand(len(noisy), generator=generator, dtype=torch.float64))
    lost = torch.rand(len(noisy), generator=generator, dtype=torch.float64) < chances
    members = [(lost & (noisy == c)).nonzero().squeeze(1) for c in range(num_classes)]
    for c, of_class in enumerate(members):
        projection = torch.randn(rows.shape[1], num_classes, generator=generator, dtype=torch.float64)
        for block in of_class.split(max(1, _BLOCK // rows.shape[1])):
            # In double precision, so that the order of sums on another machine decides nothing.
            preferences = ((rows[block].double() - mean) / scale) @ projection
            preferences[:, c] = -math.inf
            noisy[block] = torch.multinomial(preferences.softmax(1), 1, generator=generator).squeeze(1)
    return noisy.to(labels.device)


KINDS: dict[str, Callable[..., Tensor]] = {
    "symmetric": symmetric,
    "symmetric-independent": symmetric_independent,
    "symmetric-inclusive": symmetric_inclusive,
    "pairflip": pairflip,
    "asymmetric": asymmetric,
    "instance-dependent": instance_dependent,
}


@dataclass(frozen=True, eq=False)
class NoisyLabels:
    """Noisy labels beside the clean ones, with what they were drawn by.

    Attributes:
        labels: int64 [N], noisy class ids.
        clean: int64 [N], clean class ids.
        kind: a name in `KINDS`, or the name of labels that people or a crawler gave ("real", "worse", ...).
        rate: nominal rate in [0, 1]; `noise_rate` is the measured one.
        seed: of the draw; None for labels that were not drawn.

    Raises:
        ValueMistake: if labels and clean differ in shape, are not int64 [N], or rate is outside [0, 1].
    """

    labels: Tensor
    clean: Tensor
    kind: str
    rate: float
    seed: int | None

    def __post_init__(self) -> None:
        for name, value in (("labels", self.labels), ("clean", self.clean)):
            if value.ndim != 1 or value.dtype != torch.int64:
                raise ValueMistake(
                    f"{name} is {value.dtype} of shape {tuple(value.shape)}, expected int64 "
                    f"[N]: pass {name}.long().flatten()"
                )
        if self.labels.shape != self.clean.shape:
            raise ValueMistake(
                f"labels has {len(self.labels)} entries and clean {len(self.clean)}, expected "
                "the same number: both must list the same samples in the same order"
            )
        _check_rate(self.rate)

    @property
    def is_noisy(self) -> Tensor:
        """bool [N], which labels differ from the clean ones."""
        return self.labels != self.clean

    @property
    def noise_rate(self) -> float:
        """Measured share of wrong labels, in [0, 1]; 0 for no samples."""
        return int(self.is_noisy.sum()) / max(len(self.labels), 1)

    def confusion(self, num_classes: int) -> Tensor:
        """Count how often each class was given each label.

        Args:
            num_classes: number of classes C; every label lies in 0 to C - 1.

        Returns:
            int64 [C, C], counts: row = clean class, column = noisy label.

        Raises:
            ValueMistake: if num_classes is too small for the labels.
        """
        num_classes = integer("num_classes", num_classes, at_least=1, remedy="take that of the data set")
        for labels in (self.clean, self.labels):
            _check_labels(labels, num_classes)
        pairs = self.clean * num_classes + self.labels
        return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the labels to an .npz file; readers see the old file or the new one, never a part.

        Args:
            path: file to write, used as given; its folder must exist.

        Raises:
            OSError: if the file cannot be written.
        """
        arrays: dict[str, Any] = {
            "labels": self.labels.cpu().numpy(),
            "clean": self.clean.cpu().numpy(),
            "kind": np.array(self.kind),
            "rate": np.array(self.rate, dtype=np.float64),
            "seed": np.array([] if self.seed is None else [self.seed], dtype=np.int64),
        }
        write_arrays(path, KIND, arrays, compressed=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NoisyLabels:
        """Read what `save` wrote.

        Args:
            path: file that `save` wrote.

        Returns:
            the saved labels.

        Raises:
            FileNotFoundError: if there is no such file.
            DamagedFile, ValueMistake: if the file is not, bit for bit, what `save` wrote.
        """
        found = read_arrays(path, KIND, needed=("labels", "clean", "kind", "rate", "seed"))
        seed = found["seed"]
        return cls(
            labels=torch.from_numpy(found["labels"]),
            clean=torch.from_numpy(found["clean"]),
            kind=str(found["kind"]),
            rate=float(found["rate"]),
            seed=int(seed[0]) if len(seed) else None,
        )


def corrupt(
    labels: Tensor,
    kind: str,
    rate: float,
    num_classes: int,
    seed: int,
    flips: Sequence[int] | None = None,
    per_class: bool = True,
    inputs: Tensor | None = None,
) -> NoisyLabels:
    """Draw label noise of a named kind.

    Args:
        labels: integers [N], clean class ids, 0 to C - 1.
        kind: a name in `KINDS`.
        rate: nominal rate in [0, 1]; what it is a share of depends on the kind.
        num_classes: number of classes C, at least 2.
        seed: of the draw, >= 0.
        flips: integers [C], for "asymmetric": the class that each class turns into; None for every other kind.
        per_class: for "asymmetric", whether each class gives its share or all labels together.
        inputs: [N, ...], for "instance-dependent": what each sample looks like; None for every other kind.

    Returns:
        the noisy and the clean labels, the latter a copy.

    Raises:
        ValueMistake: if kind is unknown, an argument is out of its range or does not belong to the kind.
        TypeMistake: if an argument has the wrong type.
    """
    choice("kind", kind, KINDS)
    options = _options(kind, flips, per_class, inputs)
    noisy = KINDS[kind](labels, num_classes, rate, seed, **options)
    clean = labels.detach().to(torch.int64, copy=True)
    return NoisyLabels(labels=noisy, clean=clean, kind=kind, rate=float(rate), seed=seed)


def _options(kind: str, flips: Sequence[int] | None, per_class: bool, inputs: Tensor | None) -> dict[str, object]:
    """The arguments that a kind takes beyond those of every kind."""
    for name, given, owner in (
        ("flips", flips is not None, "asymmetric"),
        ("per_class", not per_class, "asymmetric"),
        ("inputs", inputs is not None, "instance-dependent"),
    ):
        if given and kind != owner:
            raise ValueMistake(
                f"{name} is given with kind={kind!r}, which takes none, expected kind={owner!r}: leave it out, or "
                "choose that"
            )
    if kind == "asymmetric":
        if flips is None:
            raise ValueMistake(
                "flips=None is given with kind='asymmetric', expected the class that each class turns into: pass "
                "CIFAR10_FLIPS, CIFAR100_FLIPS or a list of your own, or choose kind 'pairflip' for c -> c + 1"
            )
        return {"flips": flips, "per_class": per_class}
    if kind == "instance-dependent":
        if inputs is None:
            raise ValueMistake(
                "inputs=None is given with kind='instance-dependent', expected what the wrong labels depend on, a "
                "tensor [N, ...]: pass the pixels or features of the samples, or choose another kind"
            )
        return {"inputs": inputs}
    return {}


def _start(labels: Tensor, num_classes: int, rate: float, seed: int) -> tuple[Tensor, float, torch.Generator]:
    """A copy of the labels to write the noise into, the checked rate, and the generator to draw with."""
    integer("num_classes", num_classes, at_least=2, remedy="one class leaves nothing to flip to")
    rate = _check_rate(rate)
    seed = integer("seed", seed, at_least=0, remedy="choose any such number")
    _check_labels(labels, num_classes)
    return labels.detach().to("cpu", torch.int64, copy=True), rate, torch.Generator().manual_seed(seed)


def _share_of_each_class(labels: Tensor, num_classes: int, rate: float, generator: torch.Generator) -> Tensor:
    """Positions of round(rate * n_c) labels of every class c."""
    counts = torch.bincount(labels, minlength=num_classes).tolist()
    members = torch.argsort(labels, stable=True).split(counts)
    chosen = [
        positions[torch.randperm(count, generator=generator)[: round(rate * count)]]
        for positions, count in zip(members, counts, strict=True)
    ]
    return torch.cat(chosen)


def _others(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """For every label one of the C-1 others."""
    shift = torch.randint(1, num_classes, (len(labels),), generator=generator)
    return (labels + shift) % num_classes


def _around(rate: float, draws: Tensor) -> Tensor:
    """Probabilities around a rate, by the quantiles of a normal distribution that is cut off at 0 and 1.

    Args:
        rate: in [0, 1].
        draws: uniform in [0, 1), float64 [N].
    """
    spread = min(_SPREAD, rate / 2, (1 - rate) / 2)
    if not spread:
        return torch.full_like(draws, rate)
    ends = torch.tensor([(0 - rate) / spread, (1 - rate) / spread], dtype=torch.float64)
    low, high = torch.special.ndtr(ends)
    quantiles: Tensor = torch.special.ndtri(low + draws * (high - low))
    return (rate + spread * quantiles).clamp(0, 1)


def _standardised(inputs: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs as rows [N, D], with the mean and the standard deviation of every column, float64 [D]."""
    if not isinstance(inputs, Tensor) or inputs.is_complex() or inputs.dtype == torch.bool:
        given = str(inputs.dtype) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeMistake(f"inputs is {given}, expected a tensor of numbers [N, ...]: use torch.as_tensor")
    if inputs.ndim < 2 or len(inputs) != size or not inputs[:1].numel() >= min(1, size):
        raise ValueMistake(
            f"inputs has shape {tuple(inputs.shape)}, expected [{size}, ...], at least one number for each label: give "
            "those of the same samples, in the same order"
        )
    rows = inputs.detach().cpu().flatten(1)
    blocks = rows.split(max(1, _BLOCK // max(1, rows.shape[1])))
    none = torch.zeros(rows.shape[1], dtype=torch.float64)
    mean = sum((block.double().sum(0) for block in blocks), none) / max(1, size)
    if not bool(mean.isfinite().all()):
        raise ValueMistake("inputs holds numbers that are not finite, expected finite ones: fill in what is missing")
    variance = sum(((block.double() - mean).square().sum(0) for block in blocks), none) / max(1, size)
    return rows, mean, torch.where(variance > 0, variance.sqrt(), 1.0)


def _check_rate(rate: float) -> float:
    return number("rate", rate, low=0, high=1, remedy="write 20 % as 0.2")


def _check_labels(labels: Tensor, num_classes: int) -> None:
    if not isinstance(labels, Tensor):
        raise TypeMistake(f"labels is {type(labels).__name__}, expected an integer tensor [N]: use torch.as_tensor")
    if labels.dtype not in INTEGERS:
        raise TypeMistake(f"labels is {labels.dtype}, expected integer class ids: convert with .long()")
    if labels.ndim != 1:
        raise ValueMistake(
            f"labels has shape {tuple(labels.shape)}, expected [N], one class id a sample: one-hot rows "
            "become ids with .argmax(1)"
        )
    if not len(labels):
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueMistake(
            f"labels holds class ids {low} to {high}, expected 0 to {num_classes - 1}: raise num_classes, or "
            "renumber the classes"
        )


def _check_flips(flips: Sequence[int], num_classes: int) -> Tensor:
    """The table as int64 [C]."""
    if len(flips) != num_classes:
        raise ValueMistake(
            f"flips has {len(flips)} entries, expected {num_classes}, one for each class: a class that stays "
            "clean has its own id"
        )
    for c, target in enumerate(flips):
        integer(f"flips[{c}]", target, at_least=0, remedy=f"a class id below {num_classes}")
        if target >= num_classes:
            raise ValueMistake(
                f"flips[{c}]={target} is out of range, expected a class id from 0 to {num_classes - 1}: {c} keeps it"
            )
    if list(flips) == list(range(num_classes)):
        raise ValueMistake("flips changes no class, expected at least one that changes: use rate 0 for no noise")
    return torch.tensor(list(flips), dtype=torch.int64)
