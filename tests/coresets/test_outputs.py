"""Small loss, margin, GraNd and EL2N against their formulas, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from alignprune import coresets
from alignprune.coresets import Proxy

Make = Callable[..., Proxy]


def softmax(logits: list[float]) -> list[float]:
    exponentials = [math.exp(z) for z in logits]
    return [value / sum(exponentials) for value in exponentials]


def loss(proxy: Proxy, i: int) -> float:
    return -math.log(softmax(proxy.logits[i].tolist())[int(proxy.labels[i])])


def margin(proxy: Proxy, i: int) -> float:
    first, second = sorted(softmax(proxy.logits[i].tolist()), reverse=True)[:2]
    return first - second


def grand(proxy: Proxy, i: int) -> float:
    rows = zip(proxy.error_norms[:, i].tolist(), proxy.feature_norms[:, i].tolist(), strict=True)
    return sum(error * math.sqrt(1 + feature**2) for error, feature in rows) / len(proxy.error_norms)


def el2n(proxy: Proxy, i: int) -> float:
    return sum(proxy.error_norms[:, i].tolist()) / len(proxy.error_norms)


@pytest.mark.parametrize(
    "name, formula, sign", [("small-loss", loss, 1), ("margin", margin, 1), ("grand", grand, -1), ("el2n", el2n, -1)]
)
@pytest.mark.parametrize("size", [1, 17, 60])
def test_the_end_of_the_ranking_is_kept(
    make_proxy: Make, name: str, formula: Callable[[Proxy, int], float], sign: int, size: int
) -> None:
    proxy = make_proxy(seed=size)
    expected = sorted(range(60), key=lambda i: sign * formula(proxy, i))[:size]
    assert coresets.select(name, proxy, size, seed=0).tolist() == sorted(expected)


def test_grand_is_the_norm_of_the_last_layers_gradient() -> None:
    g = torch.Generator().manual_seed(0)
    features, labels = torch.randn(7, 5, generator=g), torch.randint(3, (7,), generator=g)
    layer = torch.nn.Linear(5, 3)
    errors = layer(features).softmax(1) - torch.nn.functional.one_hot(labels, 3)
    norms = coresets.gradient_norm(errors.detach().norm(dim=1)[None], features.norm(dim=1)[None])
    for i in range(7):
        layer.zero_grad()
        torch.nn.functional.cross_entropy(layer(features[i : i + 1]), labels[i : i + 1]).backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in layer.parameters()])
        assert float(norms[i]) == pytest.approx(float(gradient.norm()), rel=1e-5)


def test_a_confident_network_still_ranks() -> None:
    logits = torch.tensor([[2000.0, 0.0], [3000.0, 0.0], [0.0, 1000.0]])
    assert coresets.label_loss(logits, torch.tensor([1, 1, 1])).tolist() == [2000.0, 3000.0, 0.0]
    assert coresets.probability_margin(logits).tolist() == [1.0, 1.0, 1.0]
