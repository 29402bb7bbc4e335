"""A small random proxy run, any part of which a test may replace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from alignprune.coresets import Proxy


def build(seed: int = 0, samples: int = 60, classes: int = 4, epochs: int = 32, **replaced: Any) -> Proxy:
    g = torch.Generator().manual_seed(seed)
    values: dict[str, Any] = {
        "labels": torch.randint(classes, (samples,), generator=g),
        "num_classes": classes,
        "logits": torch.randn(samples, classes, generator=g),
        "features": torch.randn(samples, 5, generator=g),
        "label_probabilities": torch.rand(epochs, samples, generator=g),
        "correct": torch.rand(epochs, samples, generator=g) < 0.5,
        "error_norms": torch.rand(3, samples, generator=g),
        "feature_norms": 5 * torch.rand(3, samples, generator=g),
        "strong_features": torch.randn(samples, 5, generator=g).half(),
        "strong_logits": torch.randn(samples, classes, generator=g),
        "self_supervised": torch.randn(samples, 6, generator=g),
    }
    rows = (values | replaced)["label_probabilities"].shape
    values["margins"] = 2 * torch.rand(rows, generator=g) - 1
    return Proxy(**(values | replaced))


@pytest.fixture
def make_proxy() -> Callable[..., Proxy]:
    return build
