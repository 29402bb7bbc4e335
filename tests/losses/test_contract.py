"""What holds for every named loss: what it takes, what it records, what it keeps and what it refuses."""

from __future__ import annotations

import io
import math
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import alignprune as ap
from alignprune.losses import ELRSettings, GCESettings, LossSettings, RowLoss, SampleLoss, SOPSettings, get
from loss_batches import C, N, batch, softmax

NAMES = ["elr-cifar10", "gce", "smoothing", "negative-smoothing", "sce-cifar10", "sop-clothing1m", "sop-cifar10n"]
"""One of each kind; the last compares two views."""


def views(name: str, weak: Tensor, strong: Tensor) -> tuple[Tensor, ...]:
    return (weak, strong) if get(name).settings.needs_strong else (weak,)


def make(name: str, dtype: torch.dtype = torch.float64) -> SampleLoss:
    return get(name).settings.make(N, C, seed=3).to(dtype)


def stepped(loss: SampleLoss, seed: int, order: Tensor | None = None) -> Tensor:
    """The losses of a batch, after a step of what is learned beside the network; classes renamed by ``order``."""
    index, labels, weak, strong = batch(seed=seed)
    if order is not None:
        labels, weak, strong = order.argsort()[labels], weak[:, order], strong[:, order]
    out = loss(index, labels, *((weak, strong) if loss.settings.needs_strong else (weak,)))
    optimizer = loss.make_optimizer()
    if optimizer is not None:
        (out.losses.mean() + out.extra).backward()
        optimizer.step()
        loss.zero_grad()
    return out.losses.detach()


@pytest.mark.parametrize("name", NAMES)
def test_the_recorded_losses_are_plain_cross_entropy_without_gradient(name: str) -> None:
    index, labels, weak, strong = batch()
    loss = make(name)
    stepped(loss, 1)
    out = loss(index, labels, *views(name, weak.requires_grad_(), strong))
    expected = [-math.log(softmax(row)[label]) for row, label in zip(weak.detach(), labels.tolist(), strict=True)]
    assert out.recorded.tolist() == pytest.approx(expected, rel=1e-10)
    assert not out.recorded.requires_grad
    assert out.losses.requires_grad
    assert (out.losses.shape, out.extra.shape) == ((30,), ())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_with_in_float32(name: str, dtype: torch.dtype) -> None:
    index, labels, weak, strong = batch(dtype=dtype)
    half, full = make(name, torch.float32), make(name, torch.float32)
    for loss in (half, full):
        stepped(loss, 1)
    with torch.autocast("cpu", torch.bfloat16):
        out = half(index, labels, *views(name, weak, strong))
    assert [value.dtype for value in out] == [torch.float32] * 3
    for value, expected in zip(out, full(index, labels, *views(name, weak.float(), strong.float())), strict=True):
        assert torch.equal(value, expected)


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_names(name: str) -> None:
    order = torch.tensor([2, 5, 0, 4, 1, 3])
    loss, renamed = make(name), make(name)
    for seed in range(3):  # what is kept of the samples is renamed, too: u and v differ by 1e-8 at their start
        torch.testing.assert_close(stepped(renamed, seed, order), stepped(loss, seed), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_whether_it_learns_and_has_an_optimiser_then(name: str) -> None:
    assert get(name).settings.learns == (make(name).make_optimizer() is not None)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_reads_and_changes_the_rows_of_its_batch_alone(name: str) -> None:
    loss = make(name)
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    assert bool(before) == isinstance(loss, RowLoss)
    stepped(loss, 0)
    changed = batch()[0]
    for key, value in loss.state_dict().items():
        rows = (value != before[key]).any(1).nonzero().squeeze(1).tolist()
        assert rows
        assert set(rows) <= set(changed.tolist())


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_rests_is_cross_entropy_and_moves_what_it_keeps_all_the_same(name: str) -> None:
    index, labels, weak, strong = batch()
    active, resting = make(name), make(name)
    resting.active = False
    own, out = (loss(index, labels, *views(name, weak, strong)) for loss in (active, resting))
    expected = F.cross_entropy(weak.requires_grad_(), labels, reduction="none")
    out = resting(index, labels, *views(name, weak, strong))
    torch.testing.assert_close(out.losses, expected)
    assert float(out.extra) == 0.0
    (gradient,) = torch.autograd.grad(out.losses.mean() + out.extra, weak)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.mean(), weak)[0])
    assert not torch.equal(own.losses.detach(), expected.detach())
    active(index, labels, *views(name, weak, strong))
    for key, value in active.state_dict().items():
        torch.testing.assert_close(resting.state_dict()[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_looking_without_gradients_changes_nothing(name: str) -> None:
    loss = make(name)
    stepped(loss, 1)
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    index, labels, weak, strong = batch()
    with torch.no_grad():
        looked = loss(index, labels, *views(name, weak, strong))
    assert all(torch.equal(value, before[key]) for key, value in loss.state_dict().items())
    assert torch.equal(looked.losses, loss(index, labels, *views(name, weak, strong)).losses.detach())


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_goes_on_bit_for_bit(name: str) -> None:
    first, second = make(name), get(name).settings.make(N, C, seed=9).double()
    stepped(first, 1)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(stepped(first, 2), stepped(second, 2))
    assert torch.equal(stepped(first, 3), stepped(second, 3))


@pytest.mark.parametrize("name", NAMES)
def test_the_global_generator_is_not_used(name: str) -> None:
    before = torch.get_rng_state()
    stepped(make(name), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_pruner_minimises_the_losses_and_ranks_by_what_is_recorded() -> None:
    index, labels, weak, _ = batch()
    loss = make("gce")
    pruner = ap.Pruner.from_preset("full", num_samples=N, epochs=2)
    out = loss(index, labels, weak.requires_grad_())
    value = pruner.reduce(index, out.losses, record=out.recorded) + out.extra
    assert value.item() == pytest.approx(out.losses.mean().item(), rel=1e-12)
    pruner.end_epoch(partial=True)
    assert pruner.scores[index].tolist() == pytest.approx(out.recorded.tolist(), rel=1e-6)


# -------------------------------------------------------------------------- one of one's own


@dataclass(frozen=True)
class Squared(LossSettings):
    """1 - p of the label, squared."""

    power: float = 2.0

    def make(self, num_samples: int, num_classes: int, *, seed: int = 0) -> SquaredLoss:
        return SquaredLoss(num_samples, num_classes, self)


class SquaredLoss(SampleLoss):
    made_with = Squared
    settings: Squared

    def compute(
        self, index: Tensor, labels: Tensor, logits: Tensor, strong_logits: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        p = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
        return (1 - p) ** self.settings.power, logits.new_zeros(())


def test_a_loss_of_ones_own_says_its_settings_and_its_equation() -> None:
    index, labels, weak, _ = batch()
    out = Squared().make(N, C)(index, labels, weak)
    expected = [(1 - softmax(row)[label]) ** 2 for row, label in zip(weak, labels.tolist(), strict=True)]
    assert out.losses.tolist() == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(out.recorded, F.cross_entropy(weak, labels, reduction="none"))
    assert Squared().source == "own"


# -------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_frozen_and_those_of_the_loss(name: str) -> None:
    settings = get(name).settings
    with pytest.raises(FrozenInstanceError):
        settings.source = "mine"  # type: ignore[misc]
    other = ELRSettings(0.5, 1) if isinstance(settings, GCESettings) else GCESettings(0.7)
    for wrong in (other, name):
        expected = f"is {type(wrong).__name__}, expected {type(settings).__name__}: take those of a name in losses.LOSS"
        with pytest.raises(TypeError, match=expected):
            type(make(name))(N, C, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_classes=1 is out of range"):
        settings.make(N, 1)
    with pytest.raises(ValueError, match="num_samples=0 is out of range"):
        settings.make(0, C)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_view_is_given_where_it_is_compared_and_only_there(name: str) -> None:
    index, labels, weak, strong = batch()
    if get(name).settings.needs_strong:
        with pytest.raises(ValueError, match="strong_logits=None is given with SOPSettings that compare two views"):
            make(name)(index, labels, weak)
    else:
        kind = type(get(name).settings).__name__
        with pytest.raises(ValueError, match=f"strong_logits is given with {kind} that compare no views, expected Non"):
            make(name)(index, labels, weak, strong)


WRONG: list[tuple[dict[str, Tensor], type[Exception], str]] = [
    ({"index": torch.tensor([0, N])}, ValueError, f"index reaches from 0 to {N}, expected 0 to {N - 1}: make the loss"),
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
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change, error, message", WRONG)
def test_a_wrong_batch_is_named_before_anything_changes(
    name: str, change: dict[str, Tensor], error: type[Exception], message: str
) -> None:
    right: dict[str, Any] = {"index": torch.tensor([0, 1]), "labels": torch.tensor([2, 3]), "logits": torch.zeros(2, C)}
    if get(name).settings.needs_strong:
        right["strong_logits"] = torch.zeros(2, C)
    loss = make(name)
    loss(**right)
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    with pytest.raises(error, match=message):
        loss(**right | change)
    assert all(torch.equal(value, before[key]) for key, value in loss.state_dict().items())


def test_a_view_elsewhere_or_of_another_batch_is_named() -> None:
    two = SOPSettings(1, 1, consistency=0.9).make(N, C)
    index, labels, weak, strong = batch(size=2, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"strong_logits has shape \(4, 6\), .* same for both views"):
        two(index, labels, weak, torch.zeros(4, C))
    with pytest.raises(ValueError, match=r"logits is on meta, expected cpu, where the loss is: use loss\.to\(meta\)"):
        two(index, labels, weak.to("meta"), strong)
