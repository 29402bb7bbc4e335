from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import Dataset

from alignprune.bench import models
from alignprune.bench.data import TensorData
from alignprune.bench.feature_networks import Mlp
from alignprune.bench.run.self_supervised import nt_xent, simclr_features

N = 26


class Noise(nn.Module):
    """An augmentation: a random shift of all pixels, and noise on each."""

    def forward(self, image: Tensor) -> Tensor:
        return image + 0.2 * torch.randn(()) + 0.2 * torch.randn(image.shape)


class Recorder(Dataset[tuple[Tensor, int]]):
    """A data set that notes the lists of indices that it is asked for."""

    def __init__(self, samples: TensorData) -> None:
        self.samples = samples
        self.asked: list[list[int]] = []
        self.given: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        items = self.samples.__getitems__(indices)
        self.asked.append(list(indices))
        self.given.append(torch.stack([x for x, _ in items]))
        return items


IMAGES = torch.randn(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % 3
PLAIN = TensorData(IMAGES, LABELS)
SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 1.0}


def views(labels: Tensor = LABELS) -> TensorData:
    return TensorData(IMAGES, labels, Noise())


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.create("resnet-small", 3, (3, 8, 8))


def loop(z1: Tensor, z2: Tensor, temperature: float) -> float:
    """SimCLR's equation 1, a pair at a time."""
    rows = [*z1.tolist(), *z2.tolist()]
    count = len(z1)

    def similarity(i: int, k: int) -> float:
        dot = sum(a * b for a, b in zip(rows[i], rows[k], strict=True))
        return dot / math.hypot(*rows[i]) / math.hypot(*rows[k])

    total = 0.0
    for i in range(2 * count):
        partner = i + count if i < count else i - count
        others = sum(math.exp(similarity(i, k) / temperature) for k in range(2 * count) if k != i)
        total -= math.log(math.exp(similarity(i, partner) / temperature) / others)
    return total / (2 * count)


# -------------------------------------------------------------------------- the loss


@given(count=st.integers(1, 6), width=st.integers(1, 5), temperature=st.floats(0.05, 5), seed=st.integers(0, 2**32 - 1))
def test_nt_xent_is_that_of_the_equation(count: int, width: int, temperature: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z1, z2 = 3 * torch.randn(2, count, width, generator=generator, dtype=torch.float64)
    assert nt_xent(z1, z2, temperature).item() == pytest.approx(loop(z1, z2, temperature), rel=1e-9, abs=1e-12)


def test_nt_xent_is_low_where_partners_are_near_and_log_of_the_others_where_all_are_the_same() -> None:
    corners = torch.eye(4)
    assert nt_xent(corners, corners, 0.05).item() < 1e-6
    assert nt_xent(corners, corners.roll(1, 0), 0.05).item() > 10
    assert nt_xent(torch.ones(4, 2), torch.ones(4, 2), 0.5).item() == pytest.approx(math.log(7))


def test_nt_xent_has_a_gradient_at_every_view() -> None:
    z1, z2 = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5), (z1.requires_grad_(), z2.requires_grad_()))


def test_nt_xent_refuses_what_is_no_pair_of_views() -> None:
    with pytest.raises(ValueError, match=r"z1 has shape \(4, 3\) and z2 \(5, 3\), expected \[B, d\] both"):
        nt_xent(torch.ones(4, 3), torch.ones(5, 3), 0.5)
    with pytest.raises(ValueError, match=r"z1 has shape \(4,\)"):
        nt_xent(torch.ones(4), torch.ones(4), 0.5)
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature=.* is out of range, expected a number > 0"):
            nt_xent(torch.ones(4, 3), torch.ones(4, 3), temperature)


# -------------------------------------------------------------------------- the features


def test_features_are_what_the_trained_network_gives_its_classifier_in_the_samples_order() -> None:
    trained = network()
    features = simclr_features(trained, views(), PLAIN, **SMALL)
    trained.eval()
    with torch.no_grad():
        expected = torch.cat([models.features_and_logits(trained, image[None])[0] for image in IMAGES])
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, expected)


def test_training_finds_partners_better_and_tells_so_after_every_epoch() -> None:
    told: list[tuple[int, float]] = []
    simclr_features(
        network(), views(), PLAIN, epochs=12, batch_size=13, lr=2.0, progress=lambda *news: told.append(news)
    )
    assert [epoch for epoch, _ in told] == list(range(1, 13))
    assert told[0][1] == pytest.approx(math.log(25), abs=1.0)
    assert told[-1][1] < told[0][1] - 0.3


def test_each_batch_holds_two_views_of_each_of_its_samples() -> None:
    recorder = Recorder(views())
    simclr_features(network(), recorder, PLAIN, epochs=3, batch_size=8)
    assert len(recorder.asked) == 3 * (N // 8)
    for indices, images in zip(recorder.asked, recorder.given, strict=True):
        assert indices[:8] == indices[8:]
        assert len(set(indices)) == 8
        assert not torch.equal(images[:8], images[8:])
    epochs = [[index for batch in recorder.asked[i : i + 3] for index in batch[:8]] for i in (0, 3, 6)]
    assert all(len(set(epoch)) == 24 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({frozenset(epoch) for epoch in epochs}) > 1  # not always the same two are left out


def test_a_small_data_set_is_one_batch() -> None:
    recorder = Recorder(views())
    simclr_features(network(), recorder, PLAIN, epochs=1, batch_size=512)
    assert [len(indices) for indices in recorder.asked] == [2 * N]


def test_features_depend_on_the_seed_alone_and_never_on_the_labels() -> None:
    first = simclr_features(network(), views(), PLAIN, seed=1, **SMALL)
    torch.manual_seed(1234)
    before = torch.get_rng_state()
    assert torch.equal(simclr_features(network(), views(LABELS.flip(0)), PLAIN, seed=1, **SMALL), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(simclr_features(network(), views(), PLAIN, seed=2, **SMALL), first)


def test_the_order_depends_on_the_seed() -> None:
    orders = []
    for seed in (1, 1, 2):
        recorder = Recorder(views())
        simclr_features(network(), recorder, PLAIN, epochs=1, batch_size=8, seed=seed)
        orders.append(recorder.asked)
    assert orders[0] == orders[1] != orders[2]


def steps(**settings: Any) -> list[tuple[float, list[tuple[int, ...]], float]]:
    """(learning rate, shapes of the parameters, norm of their gradient) at every step."""
    seen = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        (group,) = optimizer.param_groups
        norm = torch.cat([p.grad.flatten() for p in group["params"] if p.grad is not None]).norm().item()
        seen.append((group["lr"], [tuple(p.shape) for p in group["params"]], norm))

    hook = register_optimizer_step_pre_hook(look)
    try:
        simclr_features(network(), views(), PLAIN, batch_size=8, **settings)
    finally:
        hook.remove()
    return seen


def test_the_learning_rate_grows_with_the_batch_and_falls_along_half_a_cosine() -> None:
    rates = [rate for rate, _, _ in steps(epochs=2, lr=0.7)]
    assert rates == pytest.approx([0.7 * 8 / 256 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)])


def test_network_and_head_learn_together() -> None:
    _, shapes, _ = steps(epochs=1)[0]
    assert shapes == [tuple(p.shape) for p in network().parameters()] + [(128, 128), (128,), (128, 128), (128,)]


def test_each_step_has_its_own_gradient() -> None:
    norms = [norm for _, _, norm in steps(epochs=5, lr=1e-12)]  # the network stays where it is
    assert max(norms) < 3 * min(norms)


def test_the_network_needs_no_fixed_kind() -> None:
    samples = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    plain = TensorData(samples, torch.zeros(20, dtype=torch.int64))
    noisy = TensorData(samples, torch.zeros(20, dtype=torch.int64), Noise())
    assert simclr_features(Mlp(2, 5, width=7), noisy, plain, epochs=1).shape == (20, 7)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 1}, "batch_size=1 is out of range, expected an integer >= 2"),
        ({"epochs": 0}, "epochs=0 is out of range"),
        ({"lr": 0.0}, "lr=0.0 is out of range"),
        ({"temperature": 0.0}, "temperature=0.0 is out of range"),
        ({"seed": -1}, "seed=-1 is out of range"),
        (
            {"evaluation": TensorData(IMAGES[:5], LABELS[:5])},
            "views has 26 samples and evaluation 5, expected the same",
        ),
        ({"lr": 1e30}, "lr=1e\\+30 is too high, since the mean loss of epoch .* is .*: lower it"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simclr_features(**{"network": network(), "views": views(), "evaluation": PLAIN, **SMALL, **change})
