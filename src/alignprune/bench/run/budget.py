"""The prune ratio P: which share of the forward passes of a full training a run saves, and how it comes to save it.

Methods that leave out a fixed share save P directly. The others save what their scores say, so their epochs are
chosen: a default run of the base method measures its mean pruned share p, and

    E(P) = E0 (1 - P) / (1 - p)                                      methods calibrated on their base

epochs then spend as much as (1 - P) E0 epochs on the full data, to the nearest epoch. A method with the paper's score
runs as many epochs as its base, and forwards what it forwards; in the "equal" mode each method is calibrated on itself
and stops at exactly the same number of training samples.
"""

from __future__ import annotations

import math
from typing import Literal

from alignprune._checks import floor, integer, number

Budget = Literal["calibrated", "equal"]

# The paper's own 30 % row is the default run of 200 epochs, where the formula gives 196 or 197.
TOLERANCE = 0.025


def calibrated_epochs(epochs: int, prune_ratio: float, base_pruned_share: float) -> int:
    """Epochs that save the prune ratio, calibrated on the base method.

    Args:
        epochs: epochs E0 of the full training.
        prune_ratio: share P of its forward passes to save, in [0, 1).
        base_pruned_share: mean share p of the data set that a run of the base method over E0 epochs left out, in
            [0, 1).

    Returns:
        E(P), at least 1; E0 itself where they differ by no more than 2.5 %.

    Raises:
        ValueError: if an argument is out of its range.

    Source: AlignPrune 4.1, "adjust the number of training epochs"; the formula reproduces the ratio of its Tables 3
        and F.
    """
    integer("epochs", epochs, at_least=1, remedy="epochs of the full training")
    _share("prune_ratio", prune_ratio, "0.5 saves half of the forward passes")
    _share("base_pruned_share", base_pruned_share, "take pruned_share of the base run's result.json")
    found = max(1, round(epochs * (1 - prune_ratio) / (1 - base_pruned_share)))
    return epochs if abs(found - epochs) <= TOLERANCE * epochs else found


def training_samples(epochs: int, prune_ratio: float, num_samples: int) -> int:
    """Samples that a run may train on, counted with repetition: floor((1 - P) E0 N).

    Args:
        epochs: epochs E0 of the full training.
        prune_ratio: share P of its forward passes to save, in [0, 1).
        num_samples: size N of the full data set.
    """
    _share("prune_ratio", prune_ratio, "0.5 saves half of the forward passes")
    return floor((1 - prune_ratio) * epochs * num_samples)


def equal_epochs(epochs: int, prune_ratio: float, own_pruned_share: float) -> int:
    """Epochs after which a method has surely trained on `training_samples`, if it prunes as it did when measured.

    Args, Raises: as in `calibrated_epochs`, with the share that the method itself left out.

    Returns:
        the epochs that the samples last for, rounded up, and one more: the run is cut inside of it.
    """
    _share("prune_ratio", prune_ratio, "0.5 saves half of the forward passes")
    _share("own_pruned_share", own_pruned_share, "take pruned_share of the method's own result.json")
    return math.ceil(epochs * (1 - prune_ratio) / (1 - own_pruned_share)) + 1


def _share(name: str, value: float, remedy: str) -> None:
    number(name, value, low=0, high=1, open_high=True, remedy=remedy)
