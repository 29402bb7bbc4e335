"""Training recipes: optimiser, learning rate and momentum as functions of the position in the run.

position(e, j) = (e + j / L_e) / E with L_e the number of batches of epoch e. Pruning changes L_e from epoch
to epoch; the schedule depends on the position alone, so epoch e starts at the same learning rate however much
was pruned, and a run of other length goes through the whole schedule.

The records are those of the paper's Table A and of its baselines' own code. A setting that the schedule or the
optimiser of a recipe does not read is refused, never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Annotated, Any

import torch
from torch import nn
from tyro.conf import Suppress, arg

from alignprune._checks import choice
from alignprune.bench.airbench import Whitening
from alignprune.errors import TypeMistake, ValueMistake

OPTIMIZERS = ("lars", "sgd", "adam", "adamw")
SCHEDULES = ("onecycle", "cosine", "constant", "multistep", "exponential", "linear", "triangle")

# Defaults of torch's OneCycleLR: the momentum falls to the first while the learning rate rises.
BASE_MOMENTUM = 0.85
MAX_MOMENTUM = 0.95

# The reference LARS (InfoBatch's script) scales a tensor's step by 1e-3 ||w|| / (||g|| + wd ||w||).
TRUST_COEFFICIENT = 1e-3

# The settings that belong to some schedules only.
_SCHEDULES_OF = {
    "pct_start": ("onecycle", "triangle"),
    "div_factor": ("onecycle", "triangle"),
    "final_div_factor": ("onecycle", "triangle"),
    "cycle_momentum": ("onecycle",),
    "min_lr": ("cosine",),
    "warmup": ("cosine",),
    "milestones": ("multistep",),
    "gamma": ("multistep", "exponential"),
    "decay_start": ("linear",),
    "late_momentum": ("linear",),
}


def _check(name: str, value: float, valid: bool, expected: str) -> None:
    if not valid:
        raise ValueMistake(f"{name}={value!r} is out of range, expected a number {expected}: change it")


@dataclass(frozen=True)
class Recipe:
    """How to train a network; change single values with `dataclasses.replace`.

    Shares are shares of the run: 0.2 of 100 epochs is epoch 20.

    Attributes:
        name: its key in `RECIPES`.
        source: where the values come from.
        epochs: epochs E of the full run.
        batch_size: samples per step; the last partial batch is kept.
        optimizer: "lars", "sgd", "adam" or "adamw".
        lr: learning rate, the highest of the schedule.
        lr_batch_size: batch size that lr is stated for: the learning rate is lr * batch_size / lr_batch_size; None =
            lr as it is.
        momentum: momentum, or Adam's first beta; without effect where `cycle_momentum` is set.
        nesterov: sgd: Nesterov's momentum.
        weight_decay: weight decay.
        decay_all: whether all parameters decay; False spares biases, normalisations and what the network names in
            `no_weight_decay` (position embeddings).
        bias_scaler: factor of the learning rate of the normalisations' biases; their weight decay is divided by it, so
            that they decay as all others.
        whitening_share: share in which the bias of the network's whitening layer is trained; fixed from there on.
        clip: largest norm of the gradient of all parameters; 0 = no limit.
        label_smoothing: label smoothing of the cross-entropy, also of the recorded losses.
        translate: augmentation: images are moved by up to so many pixels in each direction, by keys of (seed, epoch,
            sample), and mirrored in every other epoch; None = the data set's own.
        model: network that the recipe is meant for, a name for `alignprune.bench.models.create`; None = any.
        weights: what that network starts from, as for `create`; None = fresh weights.
        trained_stages: how many of that network's last stages are trained, with what follows them; the others and the
            stem keep weights and statistics. None = the whole network.
        drop_path: stochastic depth of that network: the share of samples that skip its last block.
        schedule: "onecycle", "cosine", "constant", "multistep", "exponential", "linear" or "triangle".
        pct_start: onecycle, triangle: share in which the learning rate rises.
        div_factor: onecycle, triangle: first learning rate = highest / div_factor.
        final_div_factor: onecycle, triangle: last learning rate = first / final_div_factor.
        cycle_momentum: onecycle: move the momentum from 0.95 to 0.85 and back, opposite to the learning rate.
        warmup: cosine: share in which the learning rate rises linearly from 0; the half cosine is the rest.
        min_lr: cosine: last learning rate; does not grow with the batch size.
        milestones: multistep: shares at which the learning rate is multiplied by gamma, ascending.
        gamma: multistep: factor of a milestone; exponential: factor of an epoch.
        decay_start: linear: share after which the learning rate falls to 0; constant before.
        late_momentum: linear: momentum from decay_start on; None = unchanged.

    Raises:
        ValueError: if a value is out of its range, or given without the schedule or optimiser that reads it.
    """

    name: Suppress[str]
    source: Suppress[str]
    epochs: Annotated[int, arg(aliases=["--epochs"])] = 200
    batch_size: Annotated[int, arg(aliases=["--batch-size"])] = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    lr_batch_size: int | None = None
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay_all: bool = True
    bias_scaler: float = 1.0
    whitening_share: float = 1.0
    clip: float = 0.0
    label_smoothing: float = 0.0
    translate: int | None = None
    model: str | None = None
    weights: str | None = None
    trained_stages: int | None = None
    drop_path: float = 0.0
    schedule: str = "cosine"
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    cycle_momentum: bool = False
    warmup: float = 0.0
    min_lr: float = 0.0
    milestones: tuple[float, ...] = ()
    gamma: float = 1.0
    decay_start: float = 0.0
    late_momentum: float | None = None

    def __post_init__(self) -> None:
        choice("optimizer", self.optimizer, OPTIMIZERS)
        choice("schedule", self.schedule, SCHEDULES)
        self._check_ranges()
        self._check_readers()

    @property
    def peak_lr(self) -> float:
        """The highest learning rate of the run, at this batch size."""
        return self.lr if self.lr_batch_size is None else self.lr * self.batch_size / self.lr_batch_size

    def _check_ranges(self) -> None:
        _check("epochs", self.epochs, self.epochs >= 1, ">= 1")
        _check("batch_size", self.batch_size, self.batch_size >= 1, ">= 1")
        _check("lr", self.lr, 0 < self.lr < math.inf, "> 0")
        if self.lr_batch_size is not None:
            _check("lr_batch_size", self.lr_batch_size, self.lr_batch_size >= 1, ">= 1")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, ">= 0")
        _check("bias_scaler", self.bias_scaler, 0 < self.bias_scaler < math.inf, "> 0")
        _check("whitening_share", self.whitening_share, 0 < self.whitening_share <= 1, "in (0, 1]")
        _check("clip", self.clip, 0 <= self.clip < math.inf, ">= 0")
        _check("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "in [0, 1)")
        if self.translate is not None:
            _check("translate", self.translate, self.translate >= 0, ">= 0")
        if self.trained_stages is not None:
            _check("trained_stages", self.trained_stages, self.trained_stages >= 0, ">= 0")
        _check("drop_path", self.drop_path, 0 <= self.drop_path < 1, "in [0, 1)")
        _check("pct_start", self.pct_start, 0 < self.pct_start < 1, "in (0, 1)")
        _check("div_factor", self.div_factor, 1 <= self.div_factor < math.inf, ">= 1")
        _check("final_div_factor", self.final_div_factor, 1 <= self.final_div_factor < math.inf, ">= 1")
        _check("warmup", self.warmup, 0 <= self.warmup < 1, "in [0, 1)")
        _check("min_lr", self.min_lr, 0 <= self.min_lr <= self.peak_lr, f"in [0, {self.peak_lr:g}]")
        _check("gamma", self.gamma, 0 < self.gamma <= 1, "in (0, 1]")
        _check("decay_start", self.decay_start, 0 <= self.decay_start < 1, "in [0, 1)")
        if self.late_momentum is not None:
            _check("late_momentum", self.late_momentum, 0 <= self.late_momentum < 1, "in [0, 1)")
        shares = (0.0, *self.milestones, 1.0)
        if any(not before < after for before, after in pairwise(shares)):
            raise ValueMistake(
                f"milestones={self.milestones!r} is out of range, expected ascending numbers in (0, 1): shares of the "
                "run"
            )

    def _check_readers(self) -> None:
        default = {field.name: field.default for field in fields(self)}
        for name, schedules in _SCHEDULES_OF.items():
            value = getattr(self, name)
            if value != default[name] and self.schedule not in schedules:
                raise ValueMistake(
                    f"{name}={value!r} is given with schedule {self.schedule!r}, expected "
                    f"{' or '.join(map(repr, schedules))}: leave it at {default[name]!r} for any other schedule"
                )
        if self.schedule == "multistep" and not self.milestones:
            raise ValueMistake(
                "milestones=() is given with schedule 'multistep', expected one at least: (0.5,) steps once, half-way"
            )
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueMistake(
                f"nesterov=True is given with optimizer {self.optimizer!r} and momentum={self.momentum!r}, expected "
                "'sgd' and a momentum > 0: leave it out, since no other optimiser here has Nesterov's momentum"
            )


_CIFAR100 = Recipe(
    name="cifar100",
    source="Table A; what it leaves open is that of InfoBatch's examples/cifar_example.py (SeTa ships the same): label "
    "smoothing, and the momentum cycle that OneCycleLR runs by default",
    model="resnet18",
    optimizer="lars",
    lr=5.2,
    label_smoothing=0.1,
    schedule="onecycle",
    cycle_momentum=True,
)

_WEBVISION = Recipe(
    name="webvision",
    source="Table A; momentum 0.9 and Nesterov of Prune4ReL's code, whose set-up the paper follows",
    model="inception-resnet-v2",
    epochs=100,
    batch_size=32,
    lr=0.02,
    nesterov=True,
    schedule="multistep",
    milestones=(0.5,),
    gamma=0.1,
)

_SGD_COSINE = Recipe(
    name="sgd-cosine",
    source="The usual SGD recipe for small images, to compare with the paper's LARS",
    nesterov=True,
)

_UNMIXED = (
    "Paper: default settings, 100 epochs. Here without mixup and cutmix, since a mixed loss belongs to two samples and "
    "a trajectory to one, and without averaged weights"
)

_ADAMW = Recipe(
    name="adamw",
    source=_UNMIXED,
    epochs=100,
    optimizer="adamw",
    weight_decay=0.05,
    decay_all=False,
    label_smoothing=0.1,
)

_CONVNEXT = replace(
    _ADAMW,
    name="convnext-t",
    source=f"{_UNMIXED}. Values of facebookresearch/ConvNeXt: TRAINING.md and the defaults of main.py, with its 20 "
    "epochs of warm-up",
    model="convnext-t",
    batch_size=4096,
    lr=4e-3,
    lr_batch_size=4096,
    drop_path=0.1,
    warmup=0.2,
    min_lr=1e-6,
)

_DEIT = replace(
    _ADAMW,
    name="deit-s",
    source=f"{_UNMIXED} or repeated augmentation. Values of facebookresearch/deit: the defaults of main.py, with its 5 "
    "epochs of warm-up",
    model="deit-s",
    batch_size=1024,
    lr=5e-4,
    lr_batch_size=512,
    drop_path=0.1,
    warmup=0.05,
    min_lr=1e-5,
)

_SWIN = replace(
    _ADAMW,
    name="swin-t",
    source=f"{_UNMIXED}. Values of microsoft/Swin-Transformer: config.py at batch 1024, with its 20 epochs of warm-up; "
    "Dyn-Unc's code mixes nothing either",
    model="swin-t",
    batch_size=1024,
    lr=1e-3,
    lr_batch_size=1024,
    clip=5.0,
    drop_path=0.2,
    warmup=0.2,
    min_lr=1e-5,
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _CIFAR100,
        replace(_CIFAR100, name="cifar10", lr=5.62),
        _WEBVISION,
        replace(
            _WEBVISION,
            name="clothing1m",
            source="Table A; momentum 0.9 and Nesterov of Prune4ReL's code (its weight decay is 1e-3)",
            model="resnet50",
            weights="pretrained",
            epochs=10,
            lr=0.002,
        ),
        _CONVNEXT,
        replace(_CONVNEXT, name="convnext-b", model="convnext-b", drop_path=0.5),
        _DEIT,
        replace(_DEIT, name="deit-b", model="deit-b"),
        _SWIN,
        replace(_SWIN, name="swin-b", model="swin-b", drop_path=0.5),
        replace(
            _CIFAR100,
            name="infobatch-imagenet",
            source="henryqin1997/InfoBatch-ImageNet: r50_unsup_90.sh, prune_experiment_unsup.py",
            model="resnet50",
            epochs=90,
            batch_size=1024,
            lr=6.4,
            weight_decay=1e-5,
        ),
        Recipe(
            name="news",
            source="Co-teaching+ (xingruiyu/coteaching_plus, main.py), which the paper follows for NEWS; its loop "
            "leaves out the first of the 200 epochs",
            model="newsnet",
            optimizer="adam",
            lr=1e-3,
            weight_decay=0.0,
            schedule="linear",
            decay_start=0.4,
            late_momentum=0.1,
        ),
        Recipe(
            name="features",
            source="Adam at its usual learning rate with a cosine, long enough for a perceptron to memorise its data",
            model="mlp",
            epochs=30,
            optimizer="adam",
            lr=1e-3,
            weight_decay=0.0,
            schedule="cosine",
        ),
        Recipe(
            name="head",
            source="Adam at its usual learning rate with a cosine, as for features, in 20 epochs",
            model="head",
            epochs=20,
            optimizer="adam",
            lr=1e-3,
            weight_decay=0.0,
            schedule="cosine",
        ),
        Recipe(
            name="scratch",
            source="airbench94 (arXiv 2404.00498): its learning rate 11.5 and weight decay 0.0153 are those of torch's "
            "SGD at 11.5 / (1 + 1 / (1 - 0.85)) and 0.0153 / 11.5. More epochs, smaller batches, no Lookahead",
            model="airbench-half",
            epochs=20,
            batch_size=256,
            lr=1.5,
            lr_batch_size=1024,
            momentum=0.85,
            nesterov=True,
            weight_decay=0.0153 / 11.5,
            bias_scaler=64.0,
            whitening_share=0.3,
            label_smoothing=0.2,
            translate=2,
            schedule="triangle",
            pct_start=0.23,
            div_factor=1 / 0.2,
            final_div_factor=0.2 / 0.07,
        ),
        Recipe(
            name="finetune",
            source="Adam at its usual learning rate with a cosine, as for head; images are moved by 4 of 64 pixels",
            model="efficientnet-lite0",
            weights="packaged",
            trained_stages=2,
            epochs=10,
            batch_size=64,
            optimizer="adam",
            lr=1e-3,
            weight_decay=0.0,
            translate=4,
            schedule="cosine",
        ),
        replace(_SGD_COSINE, name="sgd", source="sgd-cosine, shortened to 60 epochs", epochs=60),
        _SGD_COSINE,
        Recipe(
            name="ies",
            source="IES (tmllab/2025_ICLR_IES, cifar_main.py)",
            model="resnet18",
            batch_size=64,
            schedule="exponential",
            gamma=0.96,
        ),
        Recipe(
            name="divbs",
            source="DivBS (Feng-Hong/DivBS, cfg/cifar100_DivBS_01.yaml); it trains on a tenth of each batch",
            model="resnet18",
            batch_size=320,
            min_lr=1e-4,
        ),
        replace(
            _SGD_COSINE,
            name="dual",
            source="DUAL (behaapyy/dual-pruning, exp_cifar/train_subset.py); batch 64 at prune ratio 0.8, 32 at 0.9",
            model="resnet18",
        ),
        replace(
            _SGD_COSINE,
            name="prune4rel",
            source="Prune4ReL (kaist-dmlab/Prune4Rel, arguments.py and scripts/sop_CF100.sh)",
            model="preactresnet18",
            epochs=300,
            lr=0.02,
            min_lr=1e-4,
        ),
        Recipe(
            name="sop",
            source="SOP (shengliu66/SOP) on CIFAR: config_cifar100.json, with the weight decay of its Table A.1 (the "
            "file says 1e-3). For Tables D and E take resnet18 and 200 epochs",
            model="preactresnet18",
            epochs=300,
            lr=0.02,
            min_lr=2e-4,
        ),
        Recipe(
            name="moderate",
            source="Moderate-DS (tmllab/2023_ICLR_Moderate-DS, train.py and utils.py); it reports the best epoch",
            model="resnet50",
            schedule="multistep",
            milestones=(0.3, 0.6, 0.8),
            gamma=0.2,
        ),
        replace(
            _SGD_COSINE,
            name="deepcore",
            source="DeepCore (PatrickZH/DeepCore, main.py)",
            batch_size=256,
            min_lr=1e-4,
        ),
        replace(
            _SGD_COSINE,
            name="deepcore-proxy",
            source="DeepCore's training before the selection (main.py, --selection_*)",
            epochs=40,
            batch_size=256,
            schedule="constant",
        ),
    )
}


def get(name: str) -> Recipe:
    """Look up a recipe.

    Args:
        name: a key of `RECIPES`.

    Returns:
        the recipe.

    Raises:
        ValueError: if there is no such recipe.
    """
    choice("recipe", name, RECIPES)
    return RECIPES[name]


def table() -> list[dict[str, str]]:
    """One row a recipe, for help and docs: model, optimiser, learning rate, schedule, sizes, the rest, source."""
    return [
        {
            "recipe": recipe.name,
            "model": _model_text(recipe),
            "optimiser": _optimizer_text(recipe),
            "learning rate": f"{recipe.lr:g}" + (f" at {recipe.lr_batch_size}" if recipe.lr_batch_size else ""),
            "schedule": _schedule_text(recipe),
            "epochs": str(recipe.epochs),
            "batch": str(recipe.batch_size),
            "weight decay": f"{recipe.weight_decay:.3g}" + ("" if recipe.decay_all else ", no norm or bias"),
            "label smoothing": f"{recipe.label_smoothing:g}",
            "source": recipe.source,
        }
        for recipe in RECIPES.values()
    ]


def make_optimizer(recipe: Recipe, network: nn.Module | Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the recipe's optimiser, at the learning rate and momentum of position 0.

    Args:
        recipe: the recipe.
        network: the network to train, or its parameters where all of them decay.

    Returns:
        the optimiser.

    Raises:
        TypeError: if the recipe treats some parameters apart, and they come without the network.
        ValueError: if it treats those of a whitening layer apart, and the network has none.

    Source: AlignPrune 4.1 for LARS, by way of InfoBatch's examples/lars.py.
    """
    lr, momentum = lr_and_momentum(recipe, 0.0)
    parameters = _parameters(recipe, network)
    decay, betas = recipe.weight_decay, (momentum, 0.999)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=lr, betas=betas, weight_decay=decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay, nesterov=recipe.nesterov)
    from timm.optim import Lars

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
        epoch: epoch e, from 0.
        step: step j inside the epoch, from 0.
        steps: steps L_e of this epoch.
        epochs: epochs E of the run.

    Returns:
        (e + j / L_e) / E, in [0, 1).

    Raises:
        ValueError: if epoch or step lies outside the run.
    """
    _check("epoch", epoch, 0 <= epoch < epochs, f"from 0 to {epochs - 1}")
    _check("step", step, 0 <= step < steps, f"from 0 to {steps - 1}")
    # Rounding may lift the last step of a very long epoch to 1.
    return min((epoch + step / steps) / epochs, math.nextafter(1.0, 0.0))


def lr_and_momentum(recipe: Recipe, position: float) -> tuple[float, float]:
    """Learning rate and momentum at a position of the run.

    Args:
        recipe: the recipe.
        position: share of the run that has passed, in [0, 1).

    Returns:
        (learning rate, momentum).

    Raises:
        ValueError: if position is outside [0, 1).

    Source: the schedulers of torch.optim.lr_scheduler as functions of the position; OneCycleLR with cosine annealing
        as a function of the share of its phase; "linear" is Co-teaching+'s adjust_learning_rate.
    """
    _check("position", position, 0 <= position < 1, "in [0, 1)")
    return _lr(recipe, position), _momentum(recipe, position)


def set_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, position: float) -> None:
    """Write the learning rate and momentum of a position into the optimiser's parameter groups.

    Args:
        optimizer: optimiser that `make_optimizer` made for this recipe.
        recipe: the recipe.
        position: share of the run that has passed, in [0, 1).

    Raises:
        ValueError: if position is outside [0, 1).
    """
    lr, momentum = lr_and_momentum(recipe, position)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0) if position < group.get("trained_until", 1.0) else 0.0
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


def _lr(recipe: Recipe, position: float) -> float:
    peak = recipe.peak_lr
    match recipe.schedule:
        case "onecycle":
            first = peak / recipe.div_factor
            return _one_cycle(first, peak, first / recipe.final_div_factor, recipe.pct_start, position)
        case "triangle":
            first = peak / recipe.div_factor
            last = first / recipe.final_div_factor
            if position < recipe.pct_start:
                return first + (peak - first) * position / recipe.pct_start
            return peak + (last - peak) * (position - recipe.pct_start) / (1 - recipe.pct_start)
        case "cosine" if position < recipe.warmup:
            return peak * position / recipe.warmup
        case "cosine":
            return _cosine(peak, recipe.min_lr, (position - recipe.warmup) / (1 - recipe.warmup))
        case "multistep":
            return peak * recipe.gamma ** sum(position >= milestone for milestone in recipe.milestones)
        case "exponential":
            return peak * recipe.gamma ** (position * recipe.epochs)
        case "linear":
            return peak * min(1.0, (1 - position) / (1 - recipe.decay_start))
    return peak


def _momentum(recipe: Recipe, position: float) -> float:
    if recipe.cycle_momentum:
        return _one_cycle(MAX_MOMENTUM, BASE_MOMENTUM, MAX_MOMENTUM, recipe.pct_start, position)
    if recipe.late_momentum is not None and position >= recipe.decay_start:
        return recipe.late_momentum
    return recipe.momentum


def _one_cycle(first: float, turn: float, last: float, pct_start: float, position: float) -> float:
    """Go from first to turn in the share pct_start, then on to last, each along half a cosine."""
    if position < pct_start:
        return _cosine(first, turn, position / pct_start)
    return _cosine(turn, last, (position - pct_start) / (1 - pct_start))


def _cosine(start: float, end: float, share: float) -> float:
    """Go from start to end along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def _parameters(recipe: Recipe, network: nn.Module | Iterable[nn.Parameter]) -> Any:
    """The parameters as the optimiser takes them: in groups where they differ in weight decay or learning rate."""
    if recipe.decay_all and recipe.bias_scaler == 1 and recipe.whitening_share == 1:
        return _trained(network) if isinstance(network, nn.Module) else network
    if not isinstance(network, nn.Module):
        raise TypeMistake(
            f"network is a list of parameters without names, but recipe {recipe.name!r} treats some of them apart, "
            "expected a module: pass the network itself"
        )
    lr, _ = lr_and_momentum(recipe, 0.0)
    spared: set[str] = set() if recipe.decay_all else getattr(network, "no_weight_decay", set)()
    scaled = _biases(network, _NORMALISATIONS) if recipe.bias_scaler != 1 else set()
    early = _whitening_bias(recipe, network) if recipe.whitening_share != 1 else set()
    groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            scale = recipe.bias_scaler if name in scaled else 1.0
            decays = recipe.decay_all or (parameter.ndim > 1 and not name.endswith(".bias") and name not in spared)
            until = recipe.whitening_share if name in early else 1.0
            groups.setdefault((scale, recipe.weight_decay / scale if decays else 0.0, until), []).append(parameter)
    return [
        {"params": found, "lr": lr * scale, "lr_scale": scale, "weight_decay": decay, "trained_until": until}
        for (scale, decay, until), found in groups.items()
    ]


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


_NORMALISATIONS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def _biases(network: nn.Module, layers: type[nn.Module] | tuple[type[nn.Module], ...]) -> set[str]:
    """The names of the biases of such layers."""
    found = {f"{name}.bias" for name, layer in network.named_modules() if isinstance(layer, layers)}
    return found & {name for name, _ in network.named_parameters()}


def _whitening_bias(recipe: Recipe, network: nn.Module) -> set[str]:
    found = _biases(network, Whitening)
    if not found:
        raise ValueMistake(
            f"whitening_share={recipe.whitening_share:g} is given with a {type(network).__name__}, which has no "
            "whitening layer, expected 1: use --recipe.whitening-share 1, or the model airbench"
        )
    return found


def _model_text(recipe: Recipe) -> str:
    parts = [recipe.model or "any"]
    if recipe.weights is not None:
        parts.append(recipe.weights)
    if recipe.trained_stages is not None:
        parts.append(f"last {recipe.trained_stages} stages")
    if recipe.drop_path:
        parts.append(f"drop path {recipe.drop_path:g}")
    return ", ".join(parts)


def _optimizer_text(recipe: Recipe) -> str:
    momentum = f"{MAX_MOMENTUM:g} to {BASE_MOMENTUM:g}" if recipe.cycle_momentum else f"{recipe.momentum:g}"
    if recipe.late_momentum is not None:
        momentum += f", then {recipe.late_momentum:g}"
    kind = "beta1" if recipe.optimizer.startswith("adam") else "Nesterov" if recipe.nesterov else "momentum"
    biases = f", biases of norms x {recipe.bias_scaler:g}" if recipe.bias_scaler != 1 else ""
    clip = f", gradient norm <= {recipe.clip:g}" if recipe.clip else ""
    name = {"lars": "LARS", "sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[recipe.optimizer]
    return f"{name}, {kind} {momentum}{biases}{clip}"


def _schedule_text(recipe: Recipe) -> str:
    match recipe.schedule:
        case "onecycle":
            return f"one cycle, peak at {recipe.pct_start:.0%}"
        case "cosine":
            return (f"warm-up to {recipe.warmup:.0%}, " if recipe.warmup else "") + f"cosine to {recipe.min_lr:g}"
        case "multistep":
            return f"x {recipe.gamma:g} at " + ", ".join(f"{milestone:.0%}" for milestone in recipe.milestones)
        case "exponential":
            return f"x {recipe.gamma:g} an epoch"
        case "linear":
            return f"constant to {recipe.decay_start:.0%}, then linear to 0"
        case "triangle":
            last = 1 / (recipe.div_factor * recipe.final_div_factor)
            return f"linear from {1 / recipe.div_factor:.0%}, peak at {recipe.pct_start:.0%}, to {last:.0%}"
    return "constant"
