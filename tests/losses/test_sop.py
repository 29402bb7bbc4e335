from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignprune.losses import SOP, LossOutcome, SOPSettings
from loss_batches import NOISY, C, N, accuracy_with, batch, plain_accuracy, softmax, wrong_labels

PLAIN = SOPSettings(lr_u=2.0, lr_v=3.0)
PLUS = replace(PLAIN, consistency=0.9, balance=0.1)


def trained(settings: SOPSettings, dtype: torch.dtype = torch.float64) -> SOP:
    """A SOP whose u and v are anywhere in [-1.4, 1.4], some squares beyond 1; every third u is small."""
    sop = SOP(N, C, settings).to(dtype)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for rows in (sop.u, sop.v):
            rows.copy_(2.8 * torch.rand(rows.shape, generator=generator, dtype=torch.float64) - 1.4)
        sop.u[::3] *= 1e-3
    return sop


def loop(sop: SOP, index: Tensor, labels: Tensor, weak: Tensor, strong: Tensor) -> dict[str, Any]:
    """The formulas of section 3, a sample and a class at a time."""
    u, v = sop.u.detach().numpy(), sop.v.detach().numpy()
    out: dict[str, Any] = {"ce": [], "squared error": [], "kl": [], "recorded": []}
    qs = []
    for i, label, z, z_strong in zip(index.tolist(), labels.tolist(), weak, strong, strict=True):
        p, p_strong, q, error = softmax(z), softmax(z_strong), [], 0.0
        for c in range(C):
            y = 1.0 if c == label else 0.0
            added, taken = min(u[i, 0] ** 2 * y, 1.0), min(v[i, c] ** 2 * (1 - y), 1.0)
            q.append(max(p[c] + added - taken, 1e-4))
            error += (float(c == int(z.argmax())) + added - taken - y) ** 2
        q = [min(max(value / sum(q), 1e-4), 1.0) for value in q]
        qs.append(q)
        out["ce"].append(-math.log(q[label]))
        out["squared error"].append(error)
        out["kl"].append(sum(p[c] * math.log(p[c] / p_strong[c]) for c in range(C)))
        out["recorded"].append(-math.log(p[label]))
    means = [min(max(sum(q[c] for q in qs) / len(qs), 1e-4), 1.0) for c in range(C)]
    return {key: np.array(value) for key, value in out.items()} | {"balance": -sum(map(math.log, means)) / C}


def literal(
    u: Tensor, v: Tensor, index: Tensor, labels: Tensor, weak: Tensor, strong: Tensor, settings: SOPSettings
) -> Tensor:
    """The whole loss of a batch with dense u [N, 1] and v [N, C], differentiable, to be checked against `loop`."""
    y = torch.eye(C, dtype=weak.dtype)[labels]
    added = torch.clamp(u[index] ** 2 * y, 0, 1)
    taken = torch.clamp(v[index] ** 2 * (1 - y), 0, 1)
    exponentials = torch.exp(weak)
    p = exponentials / exponentials.sum(1, keepdim=True)
    q = torch.clamp(F.normalize(torch.clamp(p + added - taken.detach(), min=1e-4), p=1, dim=1), 1e-4, 1)
    hard = torch.eye(C, dtype=weak.dtype)[weak.detach().argmax(1)]
    total = -(y * q.log()).sum() / len(index) + ((hard + added - taken - y) ** 2).sum() / len(index)
    p_strong = torch.exp(strong) / torch.exp(strong).sum(1, keepdim=True)
    divergence = (p.detach() * (p.detach() / p_strong).log()).sum(1).mean()
    even = -(torch.clamp(q.mean(0), 1e-4, 1).log() / C).sum()
    return total + settings.consistency * divergence + settings.balance * even


def whole(out: LossOutcome) -> Tensor:
    return out.losses.mean() + out.extra


def views(settings: SOPSettings, weak: Tensor, strong: Tensor) -> tuple[Tensor, ...]:
    return (weak, strong) if settings.consistency else (weak,)


# -------------------------------------------------------------------------- the loss


def test_losses_are_those_of_the_formula() -> None:
    sop, (index, labels, weak, strong) = trained(PLUS), batch()
    expected, out = loop(sop, index, labels, weak, strong), sop(index, labels, weak, strong)
    losses = expected["ce"] + expected["squared error"] + 0.9 * expected["kl"]
    np.testing.assert_allclose(out.losses.detach(), losses, rtol=1e-10)
    np.testing.assert_allclose(out.extra.item(), 0.1 * expected["balance"], rtol=1e-10)
    np.testing.assert_allclose(out.recorded, expected["recorded"], rtol=1e-10)


def test_sop_is_sop_plus_without_its_terms() -> None:
    sop, (index, labels, weak, strong) = trained(PLAIN), batch()
    expected, out = loop(sop, index, labels, weak, strong), sop(index, labels, weak)
    np.testing.assert_allclose(out.losses.detach(), expected["ce"] + expected["squared error"], rtol=1e-10)
    assert out.extra.item() == 0


@pytest.mark.parametrize("settings", [PLAIN, PLUS, replace(PLAIN, balance=0.5)])
def test_gradients_are_those_of_the_literal_formula(settings: SOPSettings) -> None:
    sop, (index, labels, weak, strong) = trained(settings), batch()
    u, v = sop.u.detach().clone().requires_grad_(), sop.v.detach().clone().requires_grad_()
    theirs = [weak.clone().requires_grad_(), strong.clone().requires_grad_()]
    ours = [weak.clone().requires_grad_(), strong.clone().requires_grad_()]
    expected = literal(u, v, index, labels, *theirs, settings)
    loss = whole(sop(index, labels, *views(settings, *ours)))
    torch.testing.assert_close(loss, expected)
    expected.backward()
    loss.backward()
    torch.testing.assert_close(sop.u.grad.to_dense(), u.grad)
    torch.testing.assert_close(sop.v.grad.to_dense(), v.grad)
    torch.testing.assert_close(ours[0].grad, theirs[0].grad)
    if settings.consistency:
        torch.testing.assert_close(ours[1].grad, theirs[1].grad)


def test_the_noise_model_learns_from_the_squared_error_and_u_from_the_cross_entropy_too() -> None:
    sop, (index, labels, weak, _) = trained(PLAIN), batch()
    sop(index, labels, weak.requires_grad_()).losses.mean().backward()
    y = torch.eye(C, dtype=torch.float64)[labels]
    hard = torch.eye(C, dtype=torch.float64)[weak.argmax(1)]
    u, v = sop.u.detach()[index], sop.v.detach()[index]
    inside_u, inside_v = (u.abs() <= 1).double(), (v.abs() <= 1).double()
    # d/dv of (hard + U - V - y)² / B with V = v² off the label, by hand
    error = hard + (u**2).clamp(max=1) * y - (v**2).clamp(max=1) * (1 - y) - y
    torch.testing.assert_close(sop.v.grad.to_dense()[index], -4 * error * v * (1 - y) * inside_v / len(index))
    of_the_error = (4 * error * u * y * inside_u).sum(1, keepdim=True) / len(index)
    of_the_rest = sop.u.grad.to_dense()[index] - of_the_error
    assert (of_the_rest * u <= 1e-12).all()  # -log q falls as u² grows
    assert (of_the_rest.abs() > 1e-6).any()


def test_the_weak_view_is_the_fixed_target_of_the_strong_one() -> None:
    index, labels, weak, strong = batch()
    gradients = []
    for consistency in (0.9, 0.3):
        sop, z = trained(replace(PLAIN, consistency=consistency)), weak.clone().requires_grad_()
        sop(index, labels, z, strong).losses.mean().backward()
        gradients.append(z.grad)
    assert torch.equal(*gradients)


def test_a_fresh_sop_is_cross_entropy_and_the_count_of_errors() -> None:
    sop, (index, labels, weak, _) = SOP(N, C, PLAIN), batch(dtype=torch.float32)
    weak = weak / 4  # no probability near the bound
    out = sop(index, labels, weak)
    wrong = (weak.argmax(1) != labels).float()
    assert 0 < wrong.mean() < 1
    torch.testing.assert_close(out.losses, F.cross_entropy(weak, labels, reduction="none") + 2 * wrong)
    torch.testing.assert_close(out.recorded, F.cross_entropy(weak, labels, reduction="none"))


def test_a_label_given_up_costs_nothing_where_the_prediction_is_sure() -> None:
    sop = SOP(N, C, PLAIN)
    index, labels, sure = torch.tensor([7]), torch.tensor([1]), torch.full((1, C), -20.0)
    sure[0, 4] = 20.0
    assert sop(index, labels, sure).losses.item() == pytest.approx(2 - math.log(1e-4), rel=1e-3)
    with torch.no_grad():
        sop.u[7] = sop.v[7, 4] = 1.0  # the label 1 is noise, the truth is 4
    assert sop(index, labels, sure).losses.item() == pytest.approx(0, abs=1e-3)


def test_the_recorded_fit_has_no_gradient_and_does_not_depend_on_u_and_v() -> None:
    index, labels, weak, strong = batch()
    fresh = SOP(N, C, PLUS).double()(index, labels, weak.requires_grad_(), strong).recorded
    assert not fresh.requires_grad
    assert torch.equal(fresh, trained(PLUS)(index, labels, weak, strong).recorded)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_with_in_float32(dtype: torch.dtype) -> None:
    sop, (index, labels, weak, strong) = trained(PLUS, torch.float32), batch()
    weak, strong = weak.to(dtype), strong.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        out = sop(index, labels, weak, strong)
    assert [value.dtype for value in out] == [torch.float32] * 3
    for half, full in zip(out, sop(index, labels, weak.float(), strong.float()), strict=True):
        assert torch.equal(half, full)


# -------------------------------------------------------------------------- the step


@pytest.mark.parametrize("settings", [PLAIN, PLUS])
def test_a_step_is_that_of_dense_sgd_and_leaves_other_rows_alone(settings: SOPSettings) -> None:
    sop = trained(settings)
    dense = {name: nn.Parameter(rows.detach().clone()) for name, rows in sop.named_parameters()}
    before = {name: rows.detach().clone() for name, rows in dense.items()}
    optimizer = sop.make_optimizer()
    reference = torch.optim.SGD(
        [{"params": [dense["u"]], "lr": settings.lr_u}, {"params": [dense["v"]], "lr": settings.lr_v}], lr=1.0
    )
    seen = set()
    for seed in range(3):
        index, labels, weak, strong = batch(seed=seed)
        index[1] = index[0]  # a sample may come twice
        seen |= set(index.tolist())
        for step in (optimizer, reference):
            step.zero_grad()
        whole(sop(index, labels, *views(settings, weak, strong))).backward()
        assert sop.v.grad.is_sparse
        assert sop.v.grad._values().shape == (len(index), C)
        literal(dense["u"], dense["v"], index, labels, weak, strong, settings).backward()
        for step in (optimizer, reference):
            step.step()
    others = sorted(set(range(N)) - seen)
    assert others
    for name, rows in sop.named_parameters():
        torch.testing.assert_close(rows, dense[name])
        assert torch.equal(rows[others], before[name][others])
        assert not torch.equal(rows, before[name])


def test_it_learns_the_clean_classes_from_labels_that_are_40_percent_wrong() -> None:
    sop = SOPSettings(lr_u=30, lr_v=30).make(NOISY, 4)
    assert isinstance(sop, SOP)
    assert accuracy_with(sop) > plain_accuracy() + 0.15  # measured: 0.80 and 0.50
    wrong, given_up = wrong_labels(), sop.u.detach().squeeze(1).square() > 0.5
    assert given_up[wrong].double().mean() > 0.6
    assert given_up[~wrong].double().mean() < 0.2


# -------------------------------------------------------------------------- state


def test_u_and_v_start_small_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    sop, same, other = (SOP(500, 20, PLAIN, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert (sop.u.shape, sop.v.shape) == ((500, 1), (500, 20))
    assert torch.equal(sop.u, same.u)
    assert torch.equal(sop.v, same.v)
    assert not torch.equal(sop.u, other.u)
    for rows in (sop.u, sop.v):
        assert rows.dtype == torch.float32
        assert rows.std().item() == pytest.approx(1e-8, rel=0.15)
        assert abs(rows.mean().item()) < 2e-9


# -------------------------------------------------------------------------- settings


def test_the_rates_are_those_of_the_settings_without_momentum_and_decay() -> None:
    rates = [(g["lr"], g["momentum"], g["weight_decay"]) for g in SOP(3, 2, PLAIN).make_optimizer().param_groups]
    assert rates == [(2, 0, 0), (3, 0, 0)]


def test_settings_out_of_range_are_refused() -> None:
    for name in ("lr_u", "lr_v", "consistency", "balance"):
        for value in (-0.1, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"{name}=.* is out of range"):
                replace(PLUS, **{name: value})
    with pytest.raises(ValueError, match="seed=-1 is out of range"):
        PLAIN.make(N, C, seed=-1)
