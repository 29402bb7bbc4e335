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
from pathlib import Path
from typing import Any, Literal

from alignprune._checks import floor, integer, number
from alignprune.bench.contents import brief
from alignprune.bench.reading import naming
from alignprune.bench.recipes import position
from alignprune.bench.run.folder import RESULT, read_result
from alignprune.errors import MissingFile, ValueMistake

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
        e(P), at least 1; E0 itself where they differ by no more than 2.5 %.

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


def measured_share(folder: Path, base: str, epochs: int) -> float:
    """The mean pruned share that a finished run of the base method measured.

    Args:
        folder: of the base run.
        base: the method that it has to be a run of.
        epochs: of the recipe, which it has to have.

    Raises:
        FileNotFoundError: if it is not complete.
        ValueError: if it is another run.
    """
    if not (folder / RESULT).exists():
        raise MissingFile(
            f"base_run={str(folder)!r} holds no {RESULT}, expected a finished run: wait for it, or give another"
        )
    place, remedy = f"base_run={str(folder)!r}", "give the folder of such a run"
    result = read_result(folder)
    found = (result.get("method"), result.get("epochs"), result.get("prune_ratio"))
    if found != (base, epochs, None):
        method, length, ratio = map(brief, found)
        raise ValueMistake(
            f"{place} is a run of {method} over {length} epochs with prune ratio {ratio}, expected {base} over "
            f"{epochs} epochs without a prune ratio: {remedy}"
        )
    with naming(f"{place}: {RESULT}"):
        return number("pruned_share", result.get("pruned_share"), low=0, high=1, open_high=True, remedy=remedy)


class Spending:
    """How many samples a run has trained on, and how many it may.

    Args:
        limit: samples, with repetition, on all devices; None for no limit.
        devices: that train on as many at a time.

    Attributes:
        trained: samples so far, with repetition, on all devices.
    """

    def __init__(self, limit: int | None, devices: int) -> None:
        self.limit, self.devices = limit, devices
        self.trained = 0

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left."""
        return self.limit is not None and self.trained >= self.limit

    def affordable(self, count: int) -> int:
        """How many of so many samples a device may still train on."""
        return count if self.limit is None else min(count, -(-(self.limit - self.trained) // self.devices))

    def add(self, count: int) -> None:
        """Each device has trained on so many samples."""
        self.trained += count * self.devices

    def position(self, epoch: int, step: int, steps: int, epochs: int) -> float:
        """Where the run stands, in [0, 1): by samples where these are limited, else by epochs and steps."""
        return position(epoch, step, steps, epochs) if self.limit is None else self.trained / self.limit

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return {"trained": self.trained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.trained = state["trained"]


def _share(name: str, value: float, remedy: str) -> None:
    number(name, value, low=0, high=1, open_high=True, remedy=remedy)
