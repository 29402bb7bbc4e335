"""Methods that read the proxy's training dynamics: how p_y, the probability of the given label, moved by epoch.

Rows are epochs, [T, N]. A window is ``window`` successive epochs; windows start at every epoch that leaves one full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.distributions import Beta

from alignprune._checks import choice, integer, number
from alignprune.coresets.proxy import Extent, Proxy
from alignprune.coresets.ranking import largest, largest_of_each_class
from alignprune.coresets.settings import Settings
from alignprune.errors import ValueMistake

NeverLearned = Literal["least", "most"]
Sampling = Literal["beta", "largest"]

_ANCHORS = 10  # samples of highest score whose mean p_y places DUAL's Beta density
_CONCENTRATION = 16.0  # a + b of that density


def forgetting_events(correct: Tensor) -> Tensor:
    """How often a sample went from right to wrong between successive epochs.

    Args:
        correct: bool [T, N], whether the prediction was the given label.

    Returns:
        int64 [N]; 0 for a sample that was never right.
    """
    return (correct[:-1] & ~correct[1:]).sum(0)


def dynamic_uncertainty(label_probabilities: Tensor, window: int = 10) -> Tensor:
    """Standard deviation of p_y inside a window, averaged over all windows.

    Args:
        label_probabilities: float [T, N], p_y, T >= window.
        window: epochs in a window, the paper's J, at least 2.

    Returns:
        float64 [N]; the standard deviation is the unbiased one, over window - 1.

    Raises:
        ValueMistake: for fewer epochs than a window.

    Source: He et al. (CVPR 2024).
    """
    return _mean_over_windows(label_probabilities, window, lambda rows: rows.std(0))


def dual_score(label_probabilities: Tensor, window: int = 10) -> Tensor:
    """Uncertain and difficult: std(p_y) * (1 - mean(p_y)) inside a window, averaged over all windows.

    Args:
        label_probabilities: float [T, N], p_y, T >= window.
        window: epochs in a window, the paper's J, at least 2.

    Returns:
        float64 [N].

    Raises:
        ValueMistake: for fewer epochs than a window.

    Source: Cho et al. (2025).
    """
    return _mean_over_windows(label_probabilities, window, lambda rows: rows.std(0) * (1 - rows.mean(0)))


def dual_density(mean_probability: Tensor, score: Tensor, size: int, c_d: float = 4.0) -> Beta:
    """The Beta density over mean p_y that DUAL samples by: the fewer samples are kept, the easier they are.

    b = 15 (1 - mu) (1 - P^c_d) and a = 16 - b, where mu is the mean p_y of the 10 samples of highest score and
    P = 1 - size / N the share left out.

    Args:
        mean_probability: float [N], p_y averaged over the epochs.
        score: float [N], `dual_score`, not all 0.
        size: samples to choose, 1 to N.
        c_d: how late easy samples are preferred, greater than 0; 4 on CIFAR-100, 5.5 on CIFAR-10, 11 on ImageNet.

    Returns:
        a Beta distribution with float64 parameters.

    Raises:
        ValueMistake: if no score is positive: then no p_y ever moved.

    Source: Cho et al. (2025), and the authors' code.
    """
    if not (score > 0).any():
        raise ValueMistake(
            "label_probabilities never change, expected them to, since DUAL ranks by their spread: record one row an "
            "epoch of a training"
        )
    anchors = score.topk(min(_ANCHORS, len(score))).indices
    mu = mean_probability.double()[anchors].mean()
    left_out = 1 - size / len(score)
    b = 15 * (1 - mu) * (1 - left_out**c_d)
    return Beta(_CONCENTRATION - b, b)


def draw(log_weight: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw samples one after the other without replacement, each with probability proportional to its weight.

    Dividing the weights by independent Exp(1) variables and taking the largest is such a draw. In logarithms no weight
    is too small: those of weight 0 come last, in random order.

    Args:
        log_weight: float [N], may hold -inf.
        size: samples to draw, 1 to N.
        generator: the source of the draws.

    Returns:
        int64 [size], sample indices in the order drawn.
    """
    noise = torch.empty(len(log_weight), dtype=torch.float64, device="cpu").exponential_(generator=generator)
    return largest(log_weight.double() - noise.log(), size, generator)


@dataclass(frozen=True)
class Forgetting(Settings):
    """Keep what was forgotten most often, the same share of every class.

    Attributes:
        epochs: first epochs of the proxy run to count in; None = all.
        never_learned: where samples rank that were never right: "least" forgotten, with 0 events, as the published
            codes count; "most" forgotten, as the paper's text has it.

    Source: Toneva et al. (ICLR 2019).
    """

    epochs: int | None = None
    never_learned: NeverLearned = "least"

    def __post_init__(self) -> None:
        _check_epochs(self.epochs, at_least=2)
        choice("never_learned", self.never_learned, get_args(NeverLearned))

    def check(self, extent: Extent) -> None:
        super().check(extent)
        if extent.epochs < 2:
            raise ValueMistake(
                f"the proxy run has {extent.epochs} epoch, expected at least 2, since what is learned in one is "
                "forgotten in another: train it longer"
            )
        _check_length(extent, epochs=self.epochs)

    def select(self, proxy: Proxy, size: int, generator: torch.Generator) -> Tensor:
        correct = proxy.correct[: self.epochs]
        events = forgetting_events(correct)
        if self.never_learned == "most":
            events = events.masked_fill(~correct.any(0), len(correct))  # more than anything can be forgotten
        return largest_of_each_class(events, proxy.labels, proxy.num_classes, size, generator)


@dataclass(frozen=True)
class DynUnc(Settings):
    """Keep the samples whose label probability moves most.

    Attributes:
        window: epochs in a window, the paper's J.
        epochs: first epochs of the proxy run to read; None = all, as in the paper.

    Source: He et al. (CVPR 2024).
    """

    window: int = 10
    epochs: int | None = None

    def __post_init__(self) -> None:
        integer("window", self.window, at_least=2, remedy="Dyn-Unc uses 10")
        _check_epochs(self.epochs, at_least=self.window)

    def check(self, extent: Extent) -> None:
        super().check(extent)
        _check_length(extent, epochs=self.epochs, window=self.window)

    def select(self, proxy: Proxy, size: int, generator: torch.Generator) -> Tensor:
        return largest(dynamic_uncertainty(proxy.label_probabilities[: self.epochs], self.window), size, generator)


@dataclass(frozen=True)
class DUAL(Settings):
    """Draw samples that are uncertain and difficult early in training, easier ones the fewer are kept.

    Attributes:
        window: epochs in a window, the paper's J.
        epochs: first epochs of the proxy run to read, the paper's T; 30 on CIFAR, 60 on ImageNet.
        c_d: how late easy samples are preferred; 4 on CIFAR-100, 5.5 on CIFAR-10, 11 on ImageNet.
        sampling: "beta" draws in proportion to score times Beta density; "largest" keeps the largest scores.

    Source: Cho et al. (2025).
    """

    window: int = 10
    epochs: int = 30
    c_d: float = 4.0
    sampling: Sampling = "beta"

    def __post_init__(self) -> None:
        integer("window", self.window, at_least=2, remedy="DUAL uses 10")
        _check_epochs(self.epochs, at_least=self.window)
        number("c_d", self.c_d, low=0.1, high=100, remedy="DUAL uses 4 on CIFAR-100")
        choice("sampling", self.sampling, get_args(Sampling))

    def check(self, extent: Extent) -> None:
        super().check(extent)
        _check_length(extent, epochs=self.epochs)

    def select(self, proxy: Proxy, size: int, generator: torch.Generator) -> Tensor:
        rows = proxy.label_probabilities[: self.epochs]
        score = dual_score(rows, self.window)
        if self.sampling == "largest":
            return largest(score, size, generator)
        mean = rows.double().mean(0).clamp(0, 1)  # rounding must not leave the density's support
        density = dual_density(mean, score, size, self.c_d)
        # A p_y that stands still at 0 or 1 has score 0, and there the density may be infinite.
        weight = torch.where(score > 0, density.log_prob(mean) + score.log(), -torch.inf)
        return draw(weight, size, generator)


def _mean_over_windows(rows: Tensor, window: int, statistic: Callable[[Tensor], Tensor]) -> Tensor:
    integer("window", window, at_least=2, remedy="the published methods use 10")
    if len(rows) < window:
        raise ValueMistake(
            f"label_probabilities has {len(rows)} epochs, expected at least window={window}: train the proxy longer, "
            "or choose a shorter window"
        )
    starts = range(len(rows) - window + 1)
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for start in starts:
        total += statistic(rows[start : start + window].double())
    return total / len(starts)


def _check_length(extent: Extent, **needed: int | None) -> None:
    """Refuse a proxy run of fewer epochs than some setting needs; None needs nothing."""
    for name, epochs in needed.items():
        if epochs is not None and extent.epochs < epochs:
            raise ValueMistake(
                f"{name}={epochs} is out of range, expected at most {extent.epochs}, the epochs of the proxy run: "
                f"train it longer, or lower {name}"
            )


def _check_epochs(epochs: int | None, *, at_least: int) -> None:
    if epochs is not None:
        integer("epochs", epochs, at_least=at_least, remedy="the first epochs of the proxy run to read")
