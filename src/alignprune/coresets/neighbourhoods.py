"""Prune4ReL: keep the samples by which the neighbourhoods of all are covered most confidently.

Chosen samples S give every sample i the confidence of its neighbourhood NC_i = sum_{p in S} sim(i, p) conf_p, where
sim = s * 1[s > tau] and s = (1 + cos(h_i, h_p)) / 2. Samples are chosen one by one; the next is the candidate x that
gains most, tanh((NC_x + conf_x) / eta) - tanh(NC_x / eta). A choice changes NC of its neighbours only, so a step costs
as much as there are neighbours, and no N x N matrix is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from alignprune._checks import choice, number
from alignprune.coresets.outputs import probability_margin
from alignprune.coresets.proxy import Proxy
from alignprune.coresets.settings import Settings

Confidence = Literal["max", "margin"]
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

_BLOCK = 2**24  # similarities computed at a time
_PAIR = 8  # bytes a stored neighbour takes
_LEAST = 1e-30  # a candidate of no confidence still ranks above one that is taken


def prediction_confidence(logits: Tensor, kind: Confidence = "max") -> Tensor:
    """How certain a prediction is: its largest probability, or that less the second largest.

    Args:
        logits: float [N, C], C >= 2.
        kind: "max" or "margin".

    Returns:
        float64 [N] in [0, 1].
    """
    return probability_margin(logits) if kind == "margin" else logits.double().softmax(1).amax(1)


def prune4rel(
    features: Tensor,
    confidence: Tensor,
    labels: Tensor,
    size: int,
    *,
    tau: float = 0.95,
    eta: float = 1.0,
    balance: bool = True,
    memory: int = 2 * 2**30,
) -> Tensor:
    """Choose samples greedily by the confidence they add to their neighbourhoods.

    With ``balance`` the classes take turns, by ascending id, each choosing its best candidate. A class that has none
    left leaves the turn. Once the class whose turn it is has given more than 1.5 times the size of the first class
    that left, balance is dropped, and the best candidate of all is chosen from there on.

    Of candidates that gain the same the first is chosen. The gain is compared by its logarithm, which separates
    candidates where both tanh are 1 in floating point.

    Args:
        features: float [N, d], on any device; similarities are computed there, in float32.
        confidence: float [N], at least 0.
        labels: int64 [N], class ids.
        size: samples to choose, 1 to N.
        tau: neighbours are more similar than this, in [0, 1).
        eta: how much confidence saturates a neighbourhood, greater than 0.
        balance: whether the classes take turns.
        memory: bytes to store neighbours in, 8 each. What does not fit is computed again when it is needed: slower by
            one product [N, d] x [d] a choice, with the same result.

    Returns:
        int64 [size], sample indices on the CPU, in the order chosen.

    Source: Park et al. (NeurIPS 2023), and the authors' code.
    """
    neighbours = _Neighbours(features, tau, memory)
    trust = confidence.double().cpu().numpy().clip(_LEAST) / eta
    covered = np.zeros(len(trust))  # NC / eta
    worth = _log_sinh(trust)
    gain = _log_gain(worth, covered, trust)
    turns = _turns(labels.cpu().numpy(), balance)
    chosen = np.empty(size, dtype=np.int64)
    for step in range(size):
        candidates = next(turns)
        pick = candidates[gain[candidates].argmax()]
        chosen[step] = pick
        worth[pick] = gain[pick] = -np.inf  # taken
        near, similarity = neighbours[pick]
        covered[near] += similarity * trust[pick]
        gain[near] = _log_gain(worth[near], covered[near], trust[near])
    return torch.from_numpy(chosen)


@dataclass(frozen=True)
class Prune4ReL(Settings):
    """Keep the samples by which the neighbourhoods of all are covered most confidently, class by class in turn.

    Attributes:
        tau: neighbours are more similar than this, (1 + cos) / 2 in [0, 1): 0.95 on CIFAR-100, WebVision and ImageNet,
            0.975 on CIFAR-10, 0.8 on Clothing-1M.
        eta: how much confidence saturates a neighbourhood, greater than 0.
        balance: whether the classes take turns.
        confidence: "max", the largest probability, or the "margin" to the second largest.

    Source: Park et al. (NeurIPS 2023), with a proxy trained by cross-entropy.
    """

    tau: float = 0.95
    eta: float = 1.0
    balance: bool = True
    confidence: Confidence = "max"

    def __post_init__(self) -> None:
        number("tau", self.tau, low=0, high=1, open_high=True, remedy="Prune4ReL uses 0.95 on CIFAR-100")
        number("eta", self.eta, low=1e-6, high=1e6, remedy="Prune4ReL uses 1")
        choice("confidence", self.confidence, get_args(Confidence))

    @property
    def needs(self) -> tuple[str, ...]:
        return ("strong_features", "strong_logits")

    def select(self, proxy: Proxy, size: int, generator: torch.Generator) -> Tensor:
        assert proxy.strong_features is not None  # in `needs`
        assert proxy.strong_logits is not None
        trust = prediction_confidence(proxy.strong_logits, self.confidence)
        return prune4rel(
            proxy.strong_features, trust, proxy.labels, size, tau=self.tau, eta=self.eta, balance=self.balance
        )


class _Neighbours:
    """The neighbours of every sample and their similarities: one row after the other, as far as the memory goes."""

    def __init__(self, features: Tensor, tau: float, memory: int) -> None:
        self.unit, self.tau = F.normalize(features.float()), tau
        room = min(memory // _PAIR, len(features) ** 2)
        self.near, self.similarity = np.empty(room, np.int32), np.empty(room, np.float32)  # takes memory when written
        self.ends = [0]  # of the rows stored
        for rows in self.unit.split(max(1, _BLOCK // len(features))):
            near, similarity, ends = self._compare(rows)
            start = self.ends[-1]
            if start + len(near) > room:
                break
            self.near[start : start + len(near)] = near
            self.similarity[start : start + len(near)] = similarity
            self.ends.extend((start + ends).tolist())

    def __getitem__(self, sample: int) -> tuple[Ints, Floats]:
        """Neighbours of a sample, ascending, itself included, and their similarities."""
        if sample + 1 < len(self.ends):
            row = slice(self.ends[sample], self.ends[sample + 1])
            return self.near[row], self.similarity[row]
        near, similarity, _ = self._compare(self.unit[sample : sample + 1])
        return near, similarity

    def _compare(self, rows: Tensor) -> tuple[Ints, Floats, Ints]:
        """Neighbours of some samples, one sample after the other, their similarities, and where each sample's end."""
        cosine = rows @ self.unit.T
        row, near = (cosine > 2 * self.tau - 1).nonzero(as_tuple=True)
        similarity = 0.5 + 0.5 * cosine[row, near]
        ends = torch.bincount(row, minlength=len(rows)).cumsum(0)
        return near.int().cpu().numpy(), similarity.cpu().numpy(), ends.cpu().numpy()


def _turns(labels: Ints, balance: bool) -> Iterator[Ints]:
    """The candidates of every choice: one class after the other, and everyone once balance is dropped."""
    if balance:
        waiting = deque((np.flatnonzero(labels == c), 0) for c in np.unique(labels))
        smallest = len(labels)  # size of the first class that left
        while waiting:
            members, taken = waiting.popleft()
            if taken == len(members):
                smallest = min(smallest, taken)
                continue
            if taken > 1.5 * smallest:
                break
            yield members
            waiting.append((members, taken + 1))
    everyone = np.arange(len(labels))
    while True:
        yield everyone


def _log_gain(worth: Floats, covered: Floats, trust: Floats) -> Floats:
    """log(tanh(covered + trust) - tanh(covered)), as log of sinh(trust) / (cosh(covered + trust) cosh(covered))."""
    gain: Floats = worth - _log_cosh(covered + trust) - _log_cosh(covered)
    return gain


def _log_cosh(x: Floats) -> Floats:
    """log(2 cosh x), x >= 0."""
    result: Floats = x + np.log1p(np.exp(-2 * x))
    return result


def _log_sinh(x: Floats) -> Floats:
    """log(2 sinh x), x > 0."""
    result: Floats = x + np.log(-np.expm1(-2 * x))
    return result
