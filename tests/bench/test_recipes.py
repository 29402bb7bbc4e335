from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from timm.optim import Lars
from torch import nn

from alignprune.bench.recipes import (
    RECIPES,
    Recipe,
    get,
    lr_and_momentum,
    make_optimizer,
    position,
    set_schedule,
)

ONECYCLE = RECIPES["cifar100"]
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


def test_cosine_is_torchs_annealing_to_zero() -> None:
    recipe = RECIPES["sgd"]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        lr, momentum = lr_and_momentum(recipe, step / 50)
        assert (lr, momentum) == pytest.approx((optimizer.param_groups[0]["lr"], 0.9))
        optimizer.step()
        scheduler.step()


def test_constant_stays() -> None:
    assert lr_and_momentum(ADAMW, 0.0) == lr_and_momentum(ADAMW, 0.99) == (1e-3, 0.8)


def test_an_epoch_starts_at_the_same_rate_however_much_was_pruned() -> None:
    assert position(70, 0, 391, 200) == position(70, 0, 12, 200) == 70 / 200
    assert position(70, 6, 12, 200) == 70.5 / 200


def test_every_step_lies_inside_the_run() -> None:
    assert position(199, 10**9 - 1, 10**9, 200) < 1
    with pytest.raises(ValueError, match=r"epoch=200 is out of range, expected a value in 0\.\.199"):
        position(200, 0, 10, 200)
    with pytest.raises(ValueError, match=r"step=10 is out of range, expected a value in 0\.\.9"):
        position(0, 10, 10, 200)
    with pytest.raises(ValueError, match="position=1.0 is out of range"):
        lr_and_momentum(ONECYCLE, 1.0)


@pytest.mark.parametrize(
    "recipe, kind",
    [(ONECYCLE, Lars), (RECIPES["sgd"], torch.optim.SGD), (ADAMW, torch.optim.AdamW)],
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
            assert (group["betas"] if kind is torch.optim.AdamW else [group["momentum"]])[0] == momentum
            assert group["weight_decay"] == 5e-4


def test_sgd_uses_nesterov_momentum() -> None:
    optimizer = make_optimizer(RECIPES["sgd"], [nn.Parameter(torch.ones(3))])
    assert optimizer.param_groups[0]["nesterov"]


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


def test_recipes_are_frozen_and_say_where_they_come_from() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.source
    assert (ONECYCLE.lr, ONECYCLE.epochs, ONECYCLE.batch_size, ONECYCLE.label_smoothing) == (
        5.2,
        200,
        128,
        0.1,
    )
    assert (RECIPES["sgd"].epochs, RECIPES["sgd"].label_smoothing) == (60, 0.0)
    with pytest.raises(FrozenInstanceError):
        ONECYCLE.lr = 1.0  # type: ignore[misc]


def test_unknown_names_list_the_known_and_the_nearest() -> None:
    message = "recipe='cifar-100' is unknown, expected one of cifar100, cifar10, sgd; did you mean 'cifar100'?"
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
        ({"epochs": 0}, "epochs=0 is out of range, expected a value >= 1"),
        ({"batch_size": 0}, "batch_size=0 is out of range"),
        ({"lr": 0.0}, "lr=0.0 is out of range, expected a value > 0"),
        ({"lr": math.nan}, "lr=nan is out of range"),
        ({"momentum": 1.0}, "momentum=1.0 is out of range"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0 is out of range"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0 is out of range"),
        ({"pct_start": 0.0}, "pct_start=0.0 is out of range"),
        ({"div_factor": 0.5}, "div_factor=0.5 is out of range"),
        ({"final_div_factor": 0.0}, "final_div_factor=0.0 is out of range"),
        ({"schedule": "cosine"}, "cycle_momentum=True is given with schedule 'cosine'"),
    ],
)
def test_values_out_of_range_are_named(change: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(ONECYCLE, **change)  # type: ignore[arg-type]
