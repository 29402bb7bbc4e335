"""Ranking: scores [N] in, chosen samples out; what the static methods share.

Equal scores are put in a random order that the generator decides. Counts of forgetting events are equal by the
thousand, and breaking such ties by position would favour whatever the data set happens to list first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignprune._checks import floor


def ranked(score: Tensor, generator: torch.Generator) -> Tensor:
    """All samples, the highest score first, equal scores in random order.

    Args:
        score: float or integers [N], no NaN, on the CPU.
        generator: decides between equal scores.

    Returns:
        int64 [N], sample indices, a permutation.
    """
    shuffled = torch.randperm(len(score), generator=generator, device="cpu")
    return shuffled[score[shuffled].argsort(descending=True, stable=True)]


def largest(score: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The ``size`` samples of highest score, int64 [size], highest first."""
    return ranked(score, generator)[:size]


def smallest(score: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The ``size`` samples of lowest score, int64 [size], lowest first."""
    return ranked(-score, generator)[:size]


def central(score: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The ``size`` samples in the middle of the ranking, int64 [size]; of an odd rest the low end has one more."""
    first = (len(score) - size) // 2
    return ranked(score, generator)[first : first + size]


def largest_of_each_class(
    score: Tensor, labels: Tensor, num_classes: int, size: int, generator: torch.Generator
) -> Tensor:
    """The samples of highest score of every class, each class giving the same share: exactly ``size`` together.

    Args:
        score: float or integers [N], no NaN, on the CPU.
        labels: int64 [N], class ids, 0 to C - 1.
        num_classes: number of classes C.
        size: samples to choose, 1 to N.
        generator: decides between equal scores.

    Returns:
        int64 [size], sample indices, by class.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    return first_of_each(ranked(score, generator), labels, counts, shares(counts, size))


def largest_with_floor(
    score: Tensor, labels: Tensor, num_classes: int, size: int, class_floor: float, generator: torch.Generator
) -> Tensor:
    """The samples of highest score, where no class falls below a share of what a balanced choice would give it.

    Every class first gives its best floor(class_floor * size / C) samples, or all it has; the rest comes from the
    ranking of all.

    Args:
        score: float or integers [N], no NaN, on the CPU.
        labels: int64 [N], class ids, 0 to C - 1.
        num_classes: number of classes C.
        size: samples to choose, 1 to N.
        class_floor: share in [0, 1].
        generator: decides between equal scores.

    Returns:
        int64 [size], sample indices, without order.
    """
    order = ranked(score, generator)
    counts = torch.bincount(labels, minlength=num_classes)
    granted = first_of_each(order, labels, counts, counts.clamp(max=floor(class_floor * size / num_classes)))
    free = torch.ones(len(score), dtype=torch.bool, device="cpu")
    free[granted] = False
    return torch.cat([granted, order[free[order]][: size - len(granted)]])


def shares(counts: Tensor, size: int) -> Tensor:
    """Divide ``size`` among classes in proportion to their counts, by the method of largest remainders.

    Args:
        counts: int64 [C], samples of every class, together at least ``size``.
        size: what to divide.

    Returns:
        int64 [C], summing to ``size``; a class gets its exact share rounded down or up, never more than it has. Of
        equal remainders the lower class id is rounded up.
    """
    total = int(counts.sum())
    share, remainder = size * counts // total, size * counts % total  # integers: no rounding decides
    short = size - int(share.sum())
    share[remainder.argsort(descending=True, stable=True)[:short]] += 1
    return share


def first_of_each(order: Tensor, labels: Tensor, counts: Tensor, quotas: Tensor) -> Tensor:
    """The first ``quotas[c]`` samples of every class c in the order."""
    by_class = order[labels[order].argsort(stable=True)]
    classes = labels[by_class]
    place = torch.arange(len(order), device="cpu") - (counts.cumsum(0) - counts)[classes]  # inside of the class
    return by_class[place < quotas[classes]]
