"""Training recipes: optimiser, learning rate and momentum as functions of the position in the run.

position(e, j) = (e + j / L_e) / E with L_e the number of batches of epoch e. Pruning changes L_e from epoch
to epoch; the schedule depends on the position alone, so epoch e starts at the same learning rate however much
was pruned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from timm.optim import Lars
from torch import nn
from tyro.conf import Suppress, arg

from alignprune._checks import choice

OPTIMIZERS = ("lars", "sgd", "adamw")
SCHEDULES = ("onecycle", "cosine", "constant")

# Defaults of torch's OneCycleLR: the momentum falls to the first while the learning rate rises.
BASE_MOMENTUM = 0.85
MAX_MOMENTUM = 0.95

# The reference LARS (InfoBatch's script) scales a tensor's step by 1e-3 ||w|| / (||g|| + wd ||w||).
TRUST_COEFFICIENT = 1e-3


def _check(name: str, value: float, valid: bool, expected: str) -> None:
    if not valid:
        raise ValueError(f"{name}={value!r} is out of range, expected a value {expected}")


@dataclass(frozen=True)
class Recipe:
    """How to train a network; change single values with `dataclasses.replace`.

    Args:
        name: Its key in `RECIPES`.
        source: Where the values come from.
        epochs: Epochs E of the full run.
        batch_size: Samples per step; the last partial batch is kept.
        optimizer: "lars", "sgd" (with Nesterov momentum) or "adamw".
        lr: Learning rate, the highest of the schedule.
        momentum: Momentum, or AdamW's first beta; without effect where `cycle_momentum` is set.
        weight_decay: Weight decay, on all parameters.
        schedule: "onecycle", "cosine" (to 0) or "constant".
        label_smoothing: Label smoothing of the cross-entropy, also of the recorded losses.
        pct_start: onecycle: share of the run in which the learning rate rises.
        div_factor: onecycle: first learning rate = lr / div_factor.
        final_div_factor: onecycle: last learning rate = first / final_div_factor.
        cycle_momentum: onecycle: move the momentum from 0.95 to 0.85 and back, opposite to the learning rate.

    Raises:
        ValueError: If a value is out of its range.
    """

    name: Suppress[str]
    source: Suppress[str]
    epochs: Annotated[int, arg(aliases=["--epochs"])] = 200
    batch_size: Annotated[int, arg(aliases=["--batch-size"])] = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    label_smoothing: float = 0.0
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    cycle_momentum: bool = False

    def __post_init__(self) -> None:
        choice("optimizer", self.optimizer, OPTIMIZERS)
        choice("schedule", self.schedule, SCHEDULES)
        if self.cycle_momentum and self.schedule != "onecycle":
            raise ValueError(
                f"cycle_momentum=True is given with schedule {self.schedule!r}, expected 'onecycle'; no "
                "other schedule has a cycle"
            )
        _check("epochs", self.epochs, self.epochs >= 1, ">= 1")
        _check("batch_size", self.batch_size, self.batch_size >= 1, ">= 1")
        _check("lr", self.lr, 0 < self.lr < math.inf, "> 0")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, ">= 0")
        _check("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "in [0, 1)")
        _check("pct_start", self.pct_start, 0 < self.pct_start < 1, "in (0, 1)")
        _check("div_factor", self.div_factor, 1 <= self.div_factor < math.inf, ">= 1")
        _check("final_div_factor", self.final_div_factor, 1 <= self.final_div_factor < math.inf, ">= 1")


_CIFAR_SOURCE = (
    "AlignPrune 4.1, which follows InfoBatch; values of InfoBatch's examples/cifar_example.py (SeTa ships "
    "the same), with the momentum cycle that OneCycleLR runs by default"
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="cifar100",
            source=_CIFAR_SOURCE,
            optimizer="lars",
            lr=5.2,
            schedule="onecycle",
            label_smoothing=0.1,
            cycle_momentum=True,
        ),
        Recipe(
            name="cifar10",
            source=_CIFAR_SOURCE,
            optimizer="lars",
            lr=5.62,
            schedule="onecycle",
            label_smoothing=0.1,
            cycle_momentum=True,
        ),
        Recipe(
            name="sgd",
            source="The usual SGD recipe for small images (DUAL, Prune4ReL and DivBS use it), shortened to 60 epochs",
            epochs=60,
        ),
    )
}


def get(name: str) -> Recipe:
    """Look up a recipe.

    Args:
        name: A key of `RECIPES`.

    Returns:
        The recipe.

    Raises:
        ValueError: If there is no such recipe.
    """
    choice("recipe", name, RECIPES)
    return RECIPES[name]


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the recipe's optimiser, at the learning rate and momentum of position 0.

    Args:
        recipe: The recipe.
        parameters: Parameters to train; all of them get the weight decay.

    Returns:
        The optimiser.

    Source: AlignPrune 4.1 for LARS, by way of InfoBatch's examples/lars.py.
    """
    lr, momentum = lr_and_momentum(recipe, 0.0)
    decay = recipe.weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, betas=(momentum, 0.999), weight_decay=decay)
    if recipe.optimizer == "sgd":
        nesterov = momentum > 0
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay, nesterov=nesterov)
    # Same constants as the reference: eps 0, ratio 1 where ||w|| or ||g|| is 0, decay inside the ratio and on
    # all parameters. Three things differ. timm scales the gradient by the ratio before it enters the momentum
    # buffer; the reference scales the buffer by the present ratio. The two agree while the ratio is constant,
    # but a tensor that starts at zero (the shifts of the normalisations) carries its first, unscaled step on
    # in timm's buffer and moves further. timm limits neither the ratio to 50 nor the gradient's entries to
    # [-10, 10].
    return Lars(
        parameters,
        lr=lr,
        momentum=momentum,
        weight_decay=decay,
        trust_coeff=TRUST_COEFFICIENT,
        eps=0.0,
        always_adapt=True,
    )


def position(epoch: int, step: int, steps: int, epochs: int) -> float:
    """Where a step lies in the run.

    Args:
        epoch: Epoch e, from 0.
        step: Step j inside the epoch, from 0.
        steps: Steps L_e of this epoch.
        epochs: Epochs E of the run.

    Returns:
        (e + j / L_e) / E, in [0, 1).

    Raises:
        ValueError: If epoch or step lies outside the run.
    """
    _check("epoch", epoch, 0 <= epoch < epochs, f"in 0..{epochs - 1}")
    _check("step", step, 0 <= step < steps, f"in 0..{steps - 1}")
    # Rounding may lift the last step of a very long epoch to 1.
    return min((epoch + step / steps) / epochs, math.nextafter(1.0, 0.0))


def lr_and_momentum(recipe: Recipe, position: float) -> tuple[float, float]:
    """Learning rate and momentum at a position of the run.

    Args:
        recipe: The recipe.
        position: Share of the run that has passed, in [0, 1).

    Returns:
        (learning rate, momentum).

    Raises:
        ValueError: If position is outside [0, 1).

    Source: torch.optim.lr_scheduler.OneCycleLR with cosine annealing, as a function of the share of its
        phase.
    """
    _check("position", position, 0 <= position < 1, "in [0, 1)")
    if recipe.schedule == "constant":
        return recipe.lr, recipe.momentum
    if recipe.schedule == "cosine":
        return _cosine(recipe.lr, 0.0, position), recipe.momentum
    first = recipe.lr / recipe.div_factor
    if position < recipe.pct_start:
        share = position / recipe.pct_start
        lr, momentum = _cosine(first, recipe.lr, share), _cosine(MAX_MOMENTUM, BASE_MOMENTUM, share)
    else:
        share = (position - recipe.pct_start) / (1 - recipe.pct_start)
        last = first / recipe.final_div_factor
        lr, momentum = _cosine(recipe.lr, last, share), _cosine(BASE_MOMENTUM, MAX_MOMENTUM, share)
    return lr, momentum if recipe.cycle_momentum else recipe.momentum


def set_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, position: float) -> None:
    """Write the learning rate and momentum of a position into the optimiser's parameter groups.

    Args:
        optimizer: Optimiser that `make_optimizer` made for this recipe.
        recipe: The recipe.
        position: Share of the run that has passed, in [0, 1).

    Raises:
        ValueError: If position is outside [0, 1).
    """
    lr, momentum = lr_and_momentum(recipe, position)
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


def _cosine(start: float, end: float, share: float) -> float:
    """Go from start to end along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
