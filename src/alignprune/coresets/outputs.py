"""Methods that read the proxy's outputs: how far a prediction is from the given label, or from being certain.

p = softmax(logits), y = the given label, h = the features below the last linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from alignprune.coresets.proxy import Proxy
from alignprune.coresets.ranking import largest, smallest
from alignprune.coresets.settings import Settings


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the given label, -log p_y.

    Args:
        logits: float [N, C].
        labels: int64 [N], given labels, 0 to C - 1.

    Returns:
        float64 [N], at least 0.
    """
    return F.cross_entropy(logits.double(), labels, reduction="none")


def probability_margin(logits: Tensor) -> Tensor:
    """The largest probability less the second largest.

    Args:
        logits: float [N, C], C >= 2.

    Returns:
        float64 [N] in [0, 1].
    """
    top = logits.double().softmax(1).topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def gradient_norm(error_norms: Tensor, feature_norms: Tensor) -> Tensor:
    """Norm of the last layer's loss gradient, ||p - onehot(y)|| sqrt(1 + ||h||^2), averaged over checkpoints.

    The gradient of one sample is (p - onehot(y)) (outer) [h, 1], with the 1 for the bias, and the norm of an outer
    product is the product of the norms.

    Args:
        error_norms: float [R, N], ||p - onehot(y)||.
        feature_norms: float [R, N], ||h||.

    Returns:
        float64 [N].
    """
    return (error_norms.double() * (1 + feature_norms.double().square()).sqrt()).mean(0)


def error_norm(error_norms: Tensor) -> Tensor:
    """Norm of the prediction error, ||p - onehot(y)||, averaged over checkpoints.

    Args:
        error_norms: float [R, N], ||p - onehot(y)||.

    Returns:
        float64 [N].
    """
    return error_norms.double().mean(0)


@dataclass(frozen=True)
class SmallLoss(Settings):
    """Keep the smallest losses: what the proxy agrees with.

    Source: Jiang et al. (ICML 2018), as ranked by Prune4ReL's baseline.
    """

    def select(self, proxy: Proxy, size: int, generator: torch.Generator) -> Tensor:
        return smallest(label_loss(proxy.logits, proxy.labels), size, generator)


@dataclass(frozen=True)
class Margin(Settings):
    """Keep the smallest margins: what the proxy is least certain of. The labels are not read.

    Source: Coleman et al. (ICLR 2020).
    """

    def select(self, proxy: Proxy, size: int, generator: torch.Generator) -> Tensor:
        return smallest(probability_margin(proxy.logits), size, generator)


@dataclass(frozen=True)
class GraNd(Settings):
    """Keep the largest gradients of the last layer.

    Source: Paul et al. (NeurIPS 2021).
    """

    def select(self, proxy: Proxy, size: int, generator: torch.Generator) -> Tensor:
        return largest(gradient_norm(proxy.error_norms, proxy.feature_norms), size, generator)


@dataclass(frozen=True)
class EL2N(Settings):
    """Keep the largest prediction errors.

    Source: Paul et al. (NeurIPS 2021).
    """

    def select(self, proxy: Proxy, size: int, generator: torch.Generator) -> Tensor:
        return largest(error_norm(proxy.error_norms), size, generator)
