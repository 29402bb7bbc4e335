"""How good a network is: accuracy and plain cross-entropy on a test set."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

BATCH_SIZE = 512
"""Samples of an evaluation batch, which keeps no gradient."""


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader[Any], device: torch.device) -> tuple[float, float]:
    """Accuracy in [0, 1] and mean cross-entropy over all samples of the loader, in evaluation mode."""
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    size = 0
    for x, y in loader:
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        logits = model(x).float()
        right += (logits.argmax(1) == y).sum()
        total += F.cross_entropy(logits, y, reduction="sum").double()
        size += len(y)
    return int(right) / size, float(total) / size
