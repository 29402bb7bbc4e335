from __future__ import annotations

import io
import math
import os
import subprocess
import sys
import time
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import alignprune as ap
from alignprune.losses.sop import SETTINGS, SOP, SOPLoss, SOPSettings
from alignprune.noise import corrupt

# This file is also the program of the ranks (see the end).

N, C = 40, 6
PLAIN = SOPSettings(lr_u=2.0, lr_v=3.0)
PLUS = replace(PLAIN, consistency=0.9, balance=0.1)
WORLD, BATCH = 2, 4


def batch(size: int = 30, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(index, labels, weak logits, strong logits); some predictions lie below the bound of q."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(N, generator=generator)[:size]
    labels = torch.randint(C, (size,), generator=generator)
    weak, strong = (4 * torch.randn(2, size, C, generator=generator, dtype=torch.float64)).to(dtype).unbind()
    return index, labels, weak, strong


def trained(settings: SOPSettings, dtype: torch.dtype = torch.float64) -> SOP:
    """A SOP whose u and v are anywhere in [-1.4, 1.4], some squares beyond 1; every third u is small."""
    sop = SOP(N, C, settings).to(dtype)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for rows in (sop.u, sop.v):
            rows.copy_(2.8 * torch.rand(rows.shape, generator=generator, dtype=torch.float64) - 1.4)
        sop.u[::3] *= 1e-3
    return sop


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum()


def loop(sop: SOP, index: Tensor, labels: Tensor, weak: Tensor, strong: Tensor) -> dict[str, Any]:
    """The formulas of section 3, a sample and a class at a time."""
    u, v = sop.u.detach().numpy(), sop.v.detach().numpy()
    out: dict[str, Any] = {"ce": [], "squared error": [], "kl": [], "recorded": []}
    qs = []
    for i, label, z, z_strong in zip(index.tolist(), labels.tolist(), weak.numpy(), strong.numpy(), strict=True):
        p, p_strong, q, error = softmax(z), softmax(z_strong), [], 0.0
        for c in range(C):
            y = 1.0 if c == label else 0.0
            added, taken = min(u[i, 0] ** 2 * y, 1.0), min(v[i, c] ** 2 * (1 - y), 1.0)
            q.append(max(p[c] + added - taken, 1e-4))
            error += (float(c == z.argmax()) + added - taken - y) ** 2
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


def whole(out: SOPLoss) -> Tensor:
    return out.losses.mean() + out.balance


def views(settings: SOPSettings, weak: Tensor, strong: Tensor) -> tuple[Tensor, ...]:
    return (weak, strong) if settings.consistency else (weak,)


# -------------------------------------------------------------------------- the loss


def test_losses_are_those_of_the_formula() -> None:
    sop, (index, labels, weak, strong) = trained(PLUS), batch()
    expected, out = loop(sop, index, labels, weak, strong), sop(index, labels, weak, strong)
    losses = expected["ce"] + expected["squared error"] + 0.9 * expected["kl"]
    np.testing.assert_allclose(out.losses.detach(), losses, rtol=1e-10)
    np.testing.assert_allclose(out.balance.item(), 0.1 * expected["balance"], rtol=1e-10)
    np.testing.assert_allclose(out.recorded, expected["recorded"], rtol=1e-10)


def test_sop_is_sop_plus_without_its_terms() -> None:
    sop, (index, labels, weak, strong) = trained(PLAIN), batch()
    expected, out = loop(sop, index, labels, weak, strong), sop(index, labels, weak)
    np.testing.assert_allclose(out.losses.detach(), expected["ce"] + expected["squared error"], rtol=1e-10)
    assert out.balance.item() == 0


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


def toy(num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points in 20 dimensions and the class, of four, whose direction they follow by a margin."""
    directions = torch.randn(4, 20, generator=torch.Generator().manual_seed(99))
    x = torch.randn(4 * num_samples, 20, generator=torch.Generator().manual_seed(seed))
    values, classes = (x @ directions.T).topk(2)
    clear = (values[:, 0] - values[:, 1] > 1.0).nonzero().squeeze(1)[:num_samples]
    return x[clear], classes[clear, 0]


def accuracy_after_training(labels: Tensor, x: Tensor, sop: SOP | None, test: tuple[Tensor, Tensor]) -> float:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 4))
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)]
    if sop is not None:
        optimizers.append(sop.make_optimizer())
    generator = torch.Generator().manual_seed(0)
    for _epoch in range(60):
        for index in torch.randperm(len(x), generator=generator).split(32):
            logits = network(x[index])
            loss = F.cross_entropy(logits, labels[index]) if sop is None else whole(sop(index, labels[index], logits))
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    with torch.no_grad():
        return (network(test[0]).argmax(1) == test[1]).double().mean().item()


def test_it_learns_the_clean_classes_from_labels_that_are_40_percent_wrong() -> None:
    (x, clean), test = toy(600, seed=0), toy(1000, seed=1)
    labels = corrupt(clean, "symmetric", 0.4, 4, seed=0).labels
    sop = SOP(600, 4, SOPSettings(lr_u=30, lr_v=30))
    plain = accuracy_after_training(labels, x, None, test)
    assert accuracy_after_training(labels, x, sop, test) > plain + 0.15  # measured: 0.80 and 0.49
    wrong, given_up = labels != clean, sop.u.detach().squeeze(1).square() > 0.5
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


def test_a_saved_state_goes_on_bit_for_bit() -> None:
    def step(sop: SOP, seed: int) -> None:
        optimizer = sop.make_optimizer()
        index, labels, weak, _ = batch(seed=seed)
        sop(index, labels, weak).losses.mean().backward()
        optimizer.step()
        sop.zero_grad()

    first, second = trained(PLAIN), SOP(N, C, PLAIN, seed=9).double()
    step(first, 1)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert set(first.state_dict()) == {"u", "v"}
    for sop in (first, second):
        step(sop, 2)
    assert torch.equal(first.u, second.u)
    assert torch.equal(first.v, second.v)


# -------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "name, lr_u, lr_v, consistency, balance",
    [
        ("cifar10-symmetric", 10, 10, 0.9, 0.1),
        ("cifar10-asymmetric", 10, 100, 0.9, 0.1),
        ("cifar100-symmetric", 1, 10, 0.9, 0.1),
        ("cifar100-asymmetric", 0.1, 100, 0.9, 0.1),
        ("cifar10n", 10, 10, 0.9, 0.1),
        ("cifar100n", 1, 10, 0.9, 0.1),
        ("clothing1m", 0.1, 1, 0, 0),
        ("webvision", 0.1, 1, 0, 0),
    ],
)
def test_settings_are_the_published_ones(
    name: str, lr_u: float, lr_v: float, consistency: float, balance: float
) -> None:
    settings = SETTINGS[name]
    assert (settings.lr_u, settings.lr_v, settings.consistency, settings.balance) == (lr_u, lr_v, consistency, balance)
    assert settings.label == ("sop+" if consistency else "sop")
    assert settings.source
    rates = {id(g["params"][0]): (g["lr"], g["momentum"], g["weight_decay"]) for g in optimizer_of(name).param_groups}
    assert list(rates.values()) == [(lr_u, 0, 0), (lr_v, 0, 0)]
    assert len(SETTINGS) == 8


def optimizer_of(name: str) -> torch.optim.SGD:
    return SOP(3, 2, SETTINGS[name]).make_optimizer()


def test_settings_are_frozen_and_checked() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAIN.lr_u = 1.0  # type: ignore[misc]
    for name in ("lr_u", "lr_v", "consistency", "balance"):
        for value in (-0.1, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"{name}=.* is out of range"):
                replace(PLUS, **{name: value})
    with pytest.raises(TypeError, match="settings='cifar10n' is str, expected one of losses.SETTINGS"):
        SOP(N, C, "cifar10n")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_classes=1 is out of range"):
        SOP(N, 1, PLAIN)
    with pytest.raises(ValueError, match="num_samples=0 is out of range"):
        SOP(0, C, PLAIN)


# -------------------------------------------------------------------------- refusals


def test_sop_plus_needs_a_second_view_and_sop_none() -> None:
    index, labels, weak, strong = batch()
    with pytest.raises(ValueError, match="strong_logits=None is given with consistency=0.9, expected the logits of a"):
        SOP(N, C, PLUS)(index, labels, weak)
    with pytest.raises(ValueError, match="strong_logits is given with consistency=0, .*, expected None: leave"):
        SOP(N, C, PLAIN)(index, labels, weak, strong)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (
            {"index": torch.tensor([0, N])},
            ValueError,
            f"index reaches from 0 to {N}, expected 0 to {N - 1}: make SOP wi",
        ),
        ({"index": torch.tensor([-1, 3])}, ValueError, "index reaches from -1 to 3"),
        ({"labels": torch.tensor([0, C])}, ValueError, f"labels reaches from 0 to {C}, expected 0 to {C - 1}"),
        ({"labels": torch.tensor([-1, 0])}, ValueError, "labels reaches from -1 to 0"),
        ({"index": torch.tensor([0.0, 1.0])}, TypeError, "index is torch.float32, expected integers"),
        ({"labels": torch.zeros(2, C)}, TypeError, "labels is torch.float32, expected integers"),
        ({"index": torch.tensor([1])}, ValueError, r"index has shape \(1,\) and logits \(2, 6\), expected \[B\]"),
        ({"labels": torch.tensor([[1], [2]])}, ValueError, r"labels has shape \(2, 1\) and logits \(2, 6\)"),
        ({"logits": torch.zeros(2, C + 1)}, ValueError, r"logits has shape \(2, 7\), expected \[B, 6\]"),
        ({"logits": torch.zeros(2)}, ValueError, r"logits has shape \(2,\), expected \[B, 6\]"),
        ({"logits": torch.zeros(2, C, dtype=torch.int64)}, TypeError, "logits is torch.int64, expected a float tensor"),
        ({"strong_logits": torch.zeros(4, C)}, ValueError, r"strong_logits has shape \(4, 6\), .* same for both views"),
        (
            {"logits": torch.zeros(2, C, device="meta")},
            ValueError,
            r"logits is on meta, expected cpu as u and v: use sop\.to",
        ),
    ],
)
def test_a_wrong_batch_is_named_before_anything_changes(
    change: dict[str, Tensor], error: type[Exception], message: str
) -> None:
    right = {"index": torch.tensor([0, 1]), "labels": torch.tensor([2, 3]), "logits": torch.zeros(2, C)}
    right["strong_logits"] = torch.zeros(2, C)
    sop = SOP(N, C, PLUS)
    sop(**right)
    with pytest.raises(error, match=message):
        sop(**right | change)


# -------------------------------------------------------------------------- several ranks


def logits_of(index: Tensor) -> Tensor:
    return torch.randn(N, C, generator=torch.Generator().manual_seed(2), dtype=torch.float64)[index]


def train_epochs(sop: SOP, parts: list[list[Tensor]]) -> dict[str, Tensor]:
    optimizer = sop.make_optimizer()
    for part in parts:
        for index in part:
            sop(index, index % C, logits_of(index)).losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        sop.sync()
    return sop.state_dict()


def epochs(rank: int | None) -> list[list[Tensor]]:
    """Three epochs of 32 of the samples; a rank reads every other sample of each batch, None reads all."""
    order = torch.Generator().manual_seed(7)
    whole_batches = [list(torch.randperm(N, generator=order)[:32].split(WORLD * BATCH)) for _ in range(3)]
    if rank is None:
        return whole_batches
    return [[index[rank::WORLD] for index in part] for part in whole_batches]


def rank_main(folder: Path, rank: int) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder / 'store'}", world_size=WORLD, rank=rank)
    out = {"as one": train_epochs(trained(PLAIN), epochs(rank))}
    sop = trained(PLAIN)  # both train on sample 3 and on one more each, and look at the other's
    with torch.no_grad():
        sop(torch.tensor([11 - rank]), torch.tensor([0]), torch.zeros(1, C))
    out["twice"] = train_epochs(sop, [[torch.tensor([3, 10 + rank])]])
    torch.save(out, folder / f"writing{rank}")
    (folder / f"writing{rank}").rename(folder / f"rank{rank}.pt")
    # Gloo can wait for ever for a peer that has closed its end first: nobody leaves before everybody has finished.
    while not all((folder / f"rank{peer}.pt").exists() for peer in range(WORLD)):
        time.sleep(0.01)
    os._exit(0)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without distributed")
def test_ranks_that_sync_are_one_run(tmp_path: Path) -> None:
    paths = [str(Path(ap.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    command = [sys.executable, __file__, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(WORLD)]
    try:
        assert [process.wait() for process in processes] == [0] * WORLD
    finally:
        for process in processes:
            process.kill()
            process.wait()
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD))
    alone, start = train_epochs(trained(PLAIN), epochs(None)), trained(PLAIN).state_dict()
    for name in ("u", "v"):
        assert torch.equal(first["as one"][name], second["as one"][name])
        torch.testing.assert_close(first["as one"][name], alone[name])
        assert torch.equal(first["twice"][name], second["twice"][name])
        changed = (first["twice"][name] != start[name]).any(1).nonzero().squeeze(1)
        assert changed.tolist() == [3, 10, 11]
    # the step of one rank alone, at its rates; sample 3 gets the same one from both
    halves = replace(PLAIN, lr_u=PLAIN.lr_u / WORLD, lr_v=PLAIN.lr_v / WORLD)
    once = train_epochs(trained(halves), [[torch.tensor([3, 10])]])
    torch.testing.assert_close(first["twice"]["v"][[3, 10]], once["v"][[3, 10]])


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]), int(sys.argv[2]))
