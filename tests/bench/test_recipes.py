from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.optim import Lars
from torch import nn
from torch.optim import lr_scheduler

from alignprune.bench.models import MODELS, create
from alignprune.bench.recipes import (
    RECIPES,
    Recipe,
    get,
    lr_and_momentum,
    make_optimizer,
    position,
    set_schedule,
    table,
)

ONECYCLE = RECIPES["cifar100"]
IMAGENET = ["convnext-t", "convnext-b", "deit-s", "deit-b", "swin-t", "swin-b"]
ADAMW = Recipe(name="own", source="test", optimizer="adamw", lr=1e-3, momentum=0.8, schedule="constant")


def torch_one_cycle(recipe: Recipe, steps: int) -> list[tuple[float, float]]:
    """(learning rate, momentum) at every step of torch's own scheduler."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=recipe.lr,
        total_steps=steps,
        pct_start=recipe.pct_start,
        div_factor=recipe.div_factor,
        final_div_factor=recipe.final_div_factor,
    )
    values = []
    for step in range(steps):
        values.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return values


def position_in_torch(recipe: Recipe, step: int, steps: int) -> float:
    """Torch ends its phases at steps pct * T - 1 and T - 1; the same share of the same phase here."""
    peak = recipe.pct_start * steps - 1
    if step < peak:
        return recipe.pct_start * step / peak
    return recipe.pct_start + (1 - recipe.pct_start) * (step - peak) / (steps - 1 - peak)


@pytest.mark.parametrize("name", ["cifar100", "cifar10"])
@pytest.mark.parametrize("pct_start", [0.3, 0.17])
def test_one_cycle_is_torchs_at_the_same_share_of_each_phase(name: str, pct_start: float) -> None:
    recipe = replace(RECIPES[name], pct_start=pct_start)
    steps = 1000
    for step, expected in enumerate(torch_one_cycle(recipe, steps)[:-1]):
        assert lr_and_momentum(recipe, position_in_torch(recipe, step, steps)) == pytest.approx(
            expected, rel=1e-9, abs=1e-9
        )


def test_one_cycle_is_within_one_step_of_torchs_at_every_step_of_a_run() -> None:
    epochs, steps = 40, 25
    reference = torch_one_cycle(ONECYCLE, epochs * steps)
    # Torch reaches the peak one step early; half a cosine of height h and n steps moves by at most h * pi /
    # (2 n).
    slope = math.pi / 2 / (0.3 * epochs * steps)
    for step, (lr, momentum) in enumerate(reference):
        here = lr_and_momentum(ONECYCLE, position(step // steps, step % steps, steps, epochs))
        assert here[0] == pytest.approx(lr, abs=1.01 * slope * 5.2)
        assert here[1] == pytest.approx(momentum, abs=1.01 * slope * 0.1)


def test_cifar_recipe_starts_peaks_and_ends_where_the_paper_says() -> None:
    assert lr_and_momentum(ONECYCLE, 0.0) == pytest.approx((0.208, 0.95))
    assert lr_and_momentum(ONECYCLE, 0.3) == pytest.approx((5.2, 0.85))
    assert lr_and_momentum(ONECYCLE, 1 - 1e-9) == pytest.approx((0.208e-4, 0.95), rel=1e-6)
    assert lr_and_momentum(RECIPES["cifar10"], 0.0)[0] == pytest.approx(0.2248)


def test_momentum_stays_without_the_cycle() -> None:
    fixed = replace(ONECYCLE, cycle_momentum=False)
    assert {lr_and_momentum(fixed, p)[1] for p in (0.0, 0.1, 0.3, 0.9)} == {0.9}


def torch_rates(
    lr: float, steps: int, make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]
) -> list[float]:
    """Learning rate at every step of one of torch's schedulers."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def rates(recipe: Recipe, steps: int) -> list[float]:
    """Learning rate at every one of so many steps of a run."""
    return [lr_and_momentum(recipe, step / steps)[0] for step in range(steps)]


@pytest.mark.parametrize(
    "name, last", [("sgd", 0.0), ("divbs", 1e-4), ("prune4rel", 1e-4), ("sop", 2e-4), ("features", 0.0)]
)
def test_cosine_is_torchs_annealing(name: str, last: float) -> None:
    recipe = RECIPES[name]
    expected = torch_rates(recipe.lr, 300, lambda sgd: lr_scheduler.CosineAnnealingLR(sgd, T_max=300, eta_min=last))
    assert rates(recipe, 300) == pytest.approx(expected)


def test_warm_up_is_torchs_linear_rise_before_the_annealing() -> None:
    recipe = replace(RECIPES["convnext-t"], warmup=0.2)
    expected = torch_rates(
        4e-3,
        100,
        lambda sgd: lr_scheduler.SequentialLR(
            sgd,
            [
                lr_scheduler.LinearLR(sgd, start_factor=1e-12, total_iters=20),
                lr_scheduler.CosineAnnealingLR(sgd, T_max=80, eta_min=1e-6),
            ],
            milestones=[20],
        ),
    )
    assert rates(recipe, 100) == pytest.approx(expected, abs=1e-12)
    assert rates(recipe, 100)[20] == 4e-3


@pytest.mark.parametrize(
    "name, milestones, gamma", [("webvision", [50], 0.1), ("clothing1m", [5], 0.1), ("moderate", [60, 120, 160], 0.2)]
)
def test_multistep_is_torchs(name: str, milestones: list[int], gamma: float) -> None:
    recipe, steps = RECIPES[name], 7
    expected = torch_rates(
        recipe.lr, recipe.epochs, lambda sgd: lr_scheduler.MultiStepLR(sgd, milestones=milestones, gamma=gamma)
    )
    for epoch, lr in enumerate(expected):
        for step in (0, steps - 1):
            assert lr_and_momentum(recipe, position(epoch, step, steps, recipe.epochs))[0] == pytest.approx(lr)


def test_exponential_is_torchs_at_every_epoch_and_even_between() -> None:
    recipe = RECIPES["ies"]
    epochs = torch_rates(0.1, 200, lambda sgd: lr_scheduler.ExponentialLR(sgd, gamma=0.96))
    steps = torch_rates(0.1, 400, lambda sgd: lr_scheduler.ExponentialLR(sgd, gamma=0.96**0.5))
    assert rates(recipe, 200) == pytest.approx(epochs)
    assert rates(recipe, 400) == pytest.approx(steps)


def test_linear_is_constant_and_then_falls_to_zero_with_a_low_beta() -> None:
    recipe = RECIPES["news"]
    expected = torch_rates(
        1e-3, 200, lambda sgd: lr_scheduler.LambdaLR(sgd, lambda e: min(1.0, (200 - e) / (200 - 80)))
    )
    assert rates(recipe, 200) == pytest.approx(expected)
    betas = [lr_and_momentum(recipe, epoch / 200)[1] for epoch in range(200)]
    assert betas == [0.9] * 80 + [0.1] * 120


def test_the_triangle_goes_straight_from_a_fifth_to_the_peak_and_to_seven_hundredths() -> None:
    recipe = RECIPES["scratch"]
    peak = 11.5 / (1 + 1 / (1 - 0.85)) * 256 / 1024
    # As its source writes it down, for a run of 1000 steps.
    for step in range(1000):
        rising, falling = step / 230, (step - 230) / 770
        share = 0.2 * (1 - rising) + rising if step < 230 else (1 - falling) + 0.07 * falling
        assert lr_and_momentum(recipe, step / 1000) == (pytest.approx(share * peak), 0.85)


@given(st.sampled_from(sorted(RECIPES)), st.floats(0, 1, exclude_max=True))
def test_no_recipe_leaves_its_range(name: str, where: float) -> None:
    recipe = RECIPES[name]
    lr, momentum = lr_and_momentum(recipe, where)
    assert 0 <= lr <= recipe.peak_lr * (1 + 1e-12)
    assert 0 < momentum < 1


def test_the_learning_rate_grows_with_the_batch_where_it_is_stated_for_one() -> None:
    deit = RECIPES["deit-s"]
    assert deit.peak_lr == pytest.approx(1e-3)  # 5e-4 for 512 samples, and 1024 of them
    assert replace(deit, batch_size=256).peak_lr == pytest.approx(2.5e-4)
    assert lr_and_momentum(replace(deit, batch_size=256), 0.05)[0] == pytest.approx(2.5e-4)
    assert replace(RECIPES["sgd"], batch_size=512).peak_lr == 0.1


def test_features_are_trained_as_torch_trains_them_by_default() -> None:
    recipe, parameter = RECIPES["features"], nn.Parameter(torch.zeros(1))
    optimizer, usual = make_optimizer(recipe, [parameter]), torch.optim.Adam([parameter])
    assert type(optimizer) is torch.optim.Adam
    for name in ("lr", "betas", "eps", "weight_decay"):
        assert optimizer.param_groups[0][name] == usual.param_groups[0][name]


def test_constant_stays() -> None:
    assert lr_and_momentum(ADAMW, 0.0) == lr_and_momentum(ADAMW, 0.99) == (1e-3, 0.8)


def test_an_epoch_starts_at_the_same_rate_however_much_was_pruned() -> None:
    assert position(70, 0, 391, 200) == position(70, 0, 12, 200) == 70 / 200
    assert position(70, 6, 12, 200) == 70.5 / 200


def test_every_step_lies_inside_the_run() -> None:
    assert position(199, 10**9 - 1, 10**9, 200) < 1
    with pytest.raises(ValueError, match=r"epoch=200 is out of range, expected a number from 0 to 199"):
        position(200, 0, 10, 200)
    with pytest.raises(ValueError, match=r"step=10 is out of range, expected a number from 0 to 9"):
        position(0, 10, 10, 200)
    with pytest.raises(ValueError, match="position=1.0 is out of range"):
        lr_and_momentum(ONECYCLE, 1.0)


@pytest.mark.parametrize(
    "recipe, kind",
    [
        (ONECYCLE, Lars),
        (RECIPES["sgd"], torch.optim.SGD),
        (ADAMW, torch.optim.AdamW),
        (replace(RECIPES["news"], weight_decay=5e-4), torch.optim.Adam),
    ],
)
def test_the_schedule_reaches_every_parameter_group(recipe: Recipe, kind: type) -> None:
    optimizer = make_optimizer(recipe, [nn.Parameter(torch.ones(3))])
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    assert type(optimizer) is kind
    for where in (0.0, 0.2, 0.7):
        set_schedule(optimizer, recipe, where)
        lr, momentum = lr_and_momentum(recipe, where)
        for group in optimizer.param_groups:
            assert group["lr"] == lr
            assert (group["betas"] if "betas" in group else [group["momentum"]])[0] == momentum
            assert group["weight_decay"] == 5e-4


def steps_of(recipe: Recipe, start: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
    """Where the recipe's optimiser takes a tensor, at the learning rate of position 0."""
    parameter = nn.Parameter(start.clone())
    optimizer = make_optimizer(recipe, [parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.fixture
def walk() -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(6, 4, 3, dtype=torch.float64, generator=generator)
    return start, gradients


@pytest.mark.parametrize("name, nesterov", [("sgd", True), ("ies", False)])
def test_sgd_steps_as_written_down(name: str, nesterov: bool, walk: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    w, buffer = walk[0], torch.zeros(4, 3)
    for gradient in walk[1]:
        g = gradient + 5e-4 * w
        buffer = 0.9 * buffer + g
        w = w - 0.1 * (g + 0.9 * buffer if nesterov else buffer)
    torch.testing.assert_close(steps_of(RECIPES[name], *walk), w)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_steps_as_written_down(optimizer: str, walk: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    recipe = Recipe(name="own", source="test", optimizer=optimizer, lr=0.01, momentum=0.8, weight_decay=0.3)
    w, m, v = walk[0], torch.zeros(4, 3), torch.zeros(4, 3)
    for t, gradient in enumerate(walk[1], start=1):
        g = gradient + 0.3 * w if optimizer == "adam" else gradient
        w = w - 0.01 * 0.3 * w if optimizer == "adamw" else w
        m, v = 0.8 * m + 0.2 * g, 0.999 * v + 0.001 * g * g
        w = w - 0.01 * (m / (1 - 0.8**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    torch.testing.assert_close(steps_of(recipe, *walk), w)


class WithPositions(nn.Module):
    """A linear layer, a norm and a table that it names as not to decay."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.LayerNorm(3)
        self.positions = nn.Parameter(torch.ones(2, 3))

    def no_weight_decay(self) -> set[str]:
        return {"positions"}


@pytest.mark.parametrize("decay_all", [True, False])
def test_weight_decay_spares_norms_biases_and_what_the_network_names(decay_all: bool) -> None:
    network = WithPositions()
    for parameter in network.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    recipe = replace(ADAMW, weight_decay=0.5, lr=0.1, decay_all=decay_all)
    make_optimizer(recipe, network).step()
    after = {name: float(parameter.detach().mean()) for name, parameter in network.named_parameters()}
    decayed = set(after) if decay_all else {"linear.weight"}
    assert after == {name: pytest.approx(1 - 0.1 * 0.5 if name in decayed else 1.0) for name in after}


def test_names_are_needed_to_treat_parameters_apart() -> None:
    for name in ("swin-t", "scratch"):
        with pytest.raises(TypeError, match=f"recipe '{name}' treats some of them apart, .*: pass the network itself"):
            make_optimizer(RECIPES[name], WithPositions().parameters())


def test_biases_of_norms_learn_faster_and_decay_as_all_others() -> None:
    network = WithPositions()
    for parameter in network.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.ones_like(parameter)
    recipe = Recipe(name="own", source="test", lr=0.01, momentum=0.0, weight_decay=0.5, bias_scaler=64)
    make_optimizer(recipe, network).step()
    after = {name: float(parameter.detach().mean()) for name, parameter in network.named_parameters()}
    slow, fast = 1 - 0.01 - 0.01 * 0.5, 1 - 0.64 - 0.01 * 0.5
    assert after == {name: pytest.approx(fast if name == "norm.bias" else slow) for name in after}


def test_the_schedule_moves_the_faster_biases_too() -> None:
    recipe = RECIPES["scratch"]
    optimizer = make_optimizer(recipe, create("airbench-half", 3, (3, 32, 32)))
    for where in (0.0, 0.23, 0.9):
        set_schedule(optimizer, recipe, where)
        lr = lr_and_momentum(recipe, where)[0]
        assert {group["lr"] for group in optimizer.param_groups} - {0.0} == {lr, 64 * lr}


def test_the_bias_of_a_whitening_stands_still_after_its_share() -> None:
    recipe, network = RECIPES["scratch"], create("airbench-half", 3, (3, 32, 32))
    optimizer = make_optimizer(recipe, network)
    parameters = dict(network.named_parameters())
    for where, moving in ((0.0, True), (0.29, True), (0.3, False), (0.9, False)):
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        set_schedule(optimizer, recipe, where)
        optimizer.step()
        moved = {name for name, parameter in parameters.items() if not torch.equal(parameter, before[name])}
        trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
        assert moved == (trained if moving else trained - {"whitening.bias"})


def test_a_whitening_share_is_refused_without_a_whitening() -> None:
    with pytest.raises(ValueError, match="whitening_share=0.3 is given with a ResNet, which has no whitening layer"):
        make_optimizer(RECIPES["scratch"], create("resnet-small", 3, (3, 32, 32)))


def reference_lars_step(w: torch.Tensor, g: torch.Tensor, lr: float, decay: float) -> torch.Tensor:
    """First step of the reference, from its description; momentum has no part in it."""
    norm_w, norm_g = w.pow(2).sum().sqrt(), g.pow(2).sum().sqrt()
    ratio = 1.0 if norm_w == 0 or norm_g == 0 else float(1e-3 * norm_w / (norm_g + decay * norm_w))
    return w - lr * min(ratio, 50.0) * (g + decay * w).clamp(-10, 10)


@pytest.mark.parametrize("start", ["weights", "zeros"])
def test_the_first_lars_step_is_the_reference_step(start: str) -> None:
    torch.manual_seed(0)
    before = torch.randn(4, 5) if start == "weights" else torch.zeros(4, 5)
    parameter = nn.Parameter(before.clone())
    parameter.grad = torch.randn(4, 5)
    make_optimizer(ONECYCLE, [parameter]).step()
    expected = reference_lars_step(before, parameter.grad, lr=0.208, decay=5e-4)
    torch.testing.assert_close(parameter.detach(), expected)


# (model, epochs, batch size, optimiser, learning rate, schedule, weight decay)
TABLE_A = {
    "cifar100": ("resnet18", 200, 128, "lars", 5.2, "onecycle", 5e-4),
    "cifar10": ("resnet18", 200, 128, "lars", 5.62, "onecycle", 5e-4),
    "webvision": ("inception-resnet-v2", 100, 32, "sgd", 0.02, "multistep", 5e-4),
    "clothing1m": ("resnet50", 10, 32, "sgd", 0.002, "multistep", 5e-4),
}


@pytest.mark.parametrize("name", TABLE_A)
def test_table_a_is_the_papers(name: str) -> None:
    recipe = RECIPES[name]
    assert (
        recipe.model,
        recipe.epochs,
        recipe.batch_size,
        recipe.optimizer,
        recipe.peak_lr,
        recipe.schedule,
        recipe.weight_decay,
    ) == TABLE_A[name]
    assert recipe.weights == ("pretrained" if name == "clothing1m" else None)
    assert recipe.momentum == 0.9


# (epochs, batch size, learning rate, Nesterov, weight decay): facts of the repositories
BASELINES = {
    "sgd": (60, 128, 0.1, True, 5e-4),
    "sgd-cosine": (200, 128, 0.1, True, 5e-4),
    "ies": (200, 64, 0.1, False, 5e-4),
    "divbs": (200, 320, 0.1, False, 5e-4),
    "dual": (200, 128, 0.1, True, 5e-4),
    "prune4rel": (300, 128, 0.02, True, 5e-4),
    "sop": (300, 128, 0.02, False, 5e-4),
    "moderate": (200, 128, 0.1, False, 5e-4),
    "deepcore": (200, 256, 0.1, True, 5e-4),
    "deepcore-proxy": (40, 256, 0.1, True, 5e-4),
    "infobatch-imagenet": (90, 1024, 6.4, False, 1e-5),
    "news": (200, 128, 1e-3, False, 0.0),
    "scratch": (20, 256, 0.375, True, pytest.approx(0.0153 / 11.5)),
}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_have_the_values_of_their_code(name: str) -> None:
    r = RECIPES[name]
    assert (r.epochs, r.batch_size, r.peak_lr, r.nesterov, r.weight_decay) == BASELINES[name]


# (highest learning rate, drop path, gradient norm, epochs of warm-up)
PUBLIC = {
    "convnext-t": (4e-3, 0.1, 0, 20),
    "convnext-b": (4e-3, 0.5, 0, 20),
    "deit-s": (1e-3, 0.1, 0, 5),
    "deit-b": (1e-3, 0.1, 0, 5),
    "swin-t": (1e-3, 0.2, 5, 20),
    "swin-b": (1e-3, 0.5, 5, 20),
}


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_recipes_are_the_public_ones_at_100_epochs_without_mixing(name: str) -> None:
    r = RECIPES[name]
    assert (r.peak_lr, r.drop_path, r.clip, r.warmup * r.epochs) == pytest.approx(PUBLIC[name])
    assert (r.model, r.epochs, r.optimizer, r.weight_decay, r.decay_all) == (name, 100, "adamw", 0.05, False)
    assert r.label_smoothing == 0.1
    assert "without mixup and cutmix" in r.source


def test_recipes_are_frozen_and_say_where_they_come_from() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.source
        assert recipe.model is None or recipe.model in MODELS
    assert ONECYCLE.label_smoothing == 0.1
    with pytest.raises(FrozenInstanceError):
        ONECYCLE.lr = 1.0  # type: ignore[misc]


def test_the_table_tells_every_recipe_in_words() -> None:
    rows = {row["recipe"]: row for row in table()}
    assert list(rows) == list(RECIPES)
    assert len({tuple(row) for row in rows.values()}) == 1
    assert rows["clothing1m"]["model"] == "resnet50, pretrained"
    assert rows["cifar100"]["optimiser"] == "LARS, momentum 0.95 to 0.85"
    assert rows["swin-b"]["optimiser"] == "AdamW, beta1 0.9, gradient norm <= 5"
    assert rows["deit-s"]["learning rate"] == "0.0005 at 512"
    assert rows["deit-s"]["weight decay"] == "0.05, no norm or bias"
    assert rows["scratch"]["optimiser"] == "SGD, Nesterov 0.85, biases of norms x 64"
    assert {name: rows[name]["schedule"] for name in ("cifar10", "moderate", "ies", "news", "scratch", "swin-t")} == {
        "cifar10": "one cycle, peak at 30%",
        "moderate": "x 0.2 at 30%, 60%, 80%",
        "ies": "x 0.96 an epoch",
        "news": "constant to 40%, then linear to 0",
        "scratch": "linear from 20%, peak at 23%, to 7%",
        "swin-t": "warm-up to 20%, cosine to 1e-05",
    }


def test_unknown_names_list_the_known_and_the_nearest() -> None:
    known = ", ".join(RECIPES)
    message = f"recipe='cifar-100' is unknown, expected one of {known}; did you mean 'cifar100'?"
    with pytest.raises(ValueError, match=re.escape(message)):
        get("cifar-100")
    assert get("sgd") is RECIPES["sgd"]
    with pytest.raises(ValueError, match=r"optimizer='lar' is unknown, .* did you mean 'lars'"):
        replace(ONECYCLE, optimizer="lar")
    with pytest.raises(ValueError, match="schedule='step' is unknown"):
        replace(ONECYCLE, schedule="step", cycle_momentum=False)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"epochs": 0}, "epochs=0 is out of range, expected a number >= 1"),
        ({"batch_size": 0}, "batch_size=0 is out of range"),
        ({"lr": 0.0}, "lr=0.0 is out of range, expected a number > 0"),
        ({"lr": math.nan}, "lr=nan is out of range"),
        ({"momentum": 1.0}, "momentum=1.0 is out of range"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0 is out of range"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0 is out of range"),
        ({"pct_start": 0.0}, "pct_start=0.0 is out of range"),
        ({"div_factor": 0.5}, "div_factor=0.5 is out of range"),
        ({"final_div_factor": 0.0}, "final_div_factor=0.0 is out of range"),
        ({"clip": -1.0}, "clip=-1.0 is out of range"),
        ({"drop_path": 1.0}, "drop_path=1.0 is out of range"),
        ({"lr_batch_size": 0}, "lr_batch_size=0 is out of range"),
        ({"min_lr": 6.0}, r"min_lr=6.0 is out of range, expected a number in \[0, 5.2\]"),
        ({"warmup": 1.0}, "warmup=1.0 is out of range"),
        ({"gamma": 0.0}, "gamma=0.0 is out of range"),
        ({"decay_start": 1.0}, "decay_start=1.0 is out of range"),
        ({"bias_scaler": 0.0}, "bias_scaler=0.0 is out of range"),
        ({"whitening_share": 0.0}, r"whitening_share=0.0 is out of range, expected a number in \(0, 1\]"),
        ({"translate": -1}, "translate=-1 is out of range"),
        ({"late_momentum": -0.1}, "late_momentum=-0.1 is out of range"),
        ({"milestones": (0.6, 0.3)}, r"milestones=\(0.6, 0.3\) is out of range, expected ascending numbers"),
        ({"milestones": (0.5, 1.0)}, r"milestones=\(0.5, 1.0\) is out of range"),
    ],
)
def test_values_out_of_range_are_named(change: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(ONECYCLE, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change, match",
    [
        ({"schedule": "cosine"}, "cycle_momentum=True is given with schedule 'cosine', expected 'onecycle'"),
        ({"warmup": 0.1}, "warmup=0.1 is given with schedule 'onecycle', expected 'cosine'"),
        ({"min_lr": 0.1}, "min_lr=0.1 is given with schedule 'onecycle', expected 'cosine'"),
        ({"milestones": (0.5,)}, "milestones=.* is given with schedule 'onecycle', expected 'multistep'"),
        ({"gamma": 0.5}, "gamma=0.5 is given with schedule 'onecycle', expected 'multistep' or 'exponential'"),
        ({"decay_start": 0.5}, "decay_start=0.5 is given with schedule 'onecycle', expected 'linear'"),
        ({"late_momentum": 0.1}, "late_momentum=0.1 is given with schedule 'onecycle', expected 'linear'"),
        ({"nesterov": True}, "nesterov=True is given with optimizer 'lars'"),
        (
            {"schedule": "cosine", "cycle_momentum": False, "pct_start": 0.2},
            "pct_start=0.2 is given with schedule 'cosine', expected 'onecycle' or 'triangle'",
        ),
        ({"schedule": "multistep", "cycle_momentum": False}, r"milestones=\(\) is given with schedule 'multistep'"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(change: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(ONECYCLE, **change)  # type: ignore[arg-type]
