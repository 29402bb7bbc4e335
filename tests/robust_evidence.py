"""What `Robust` is asked with in tests, and what its selections say."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import alignprune as ap
from alignprune._ranks import Draws
from alignprune.memory import Ledger
from alignprune.policies import Evidence, Robust
from alignprune.selection import Onset

NAN = math.nan
EPOCHS = 20


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scores_of(n: int, wrong: float = 0.4, seed: int = 0) -> Tensor:
    """Two kinds of samples, the first ``wrong`` of them with high losses, well apart."""
    values = torch.randn(n, generator=generator(seed))
    values[: round(wrong * n)] += 8
    return values


def ledger_of(n: int, since: int | None = 2, last_seen: Tensor | None = None) -> Ledger:
    """A ledger of a run whose onset was an epoch, and in which two groups were apart then."""
    ledger = Ledger(n)
    ledger.onset = None if since is None else Onset(since, 5.0)
    if last_seen is not None:
        ledger.last_seen.copy_(last_seen)
    return ledger


def evidence(
    score: Tensor,
    epoch: int = 15,
    seed: int = 0,
    ledger: Ledger | None = None,
    labels: Tensor | None = None,
    **more: Any,
) -> Evidence:
    memories = (ledger or ledger_of(len(score)),)
    how: dict[str, Any] = {"suspect": "high", "epochs": EPOCHS, "draws": Draws(seed, epoch)}
    codes = None if labels is None else labels.int()
    return Evidence(score=score, epoch=epoch, memories=memories, labels=codes, **(how | more))


def select(policy: Robust, score: Tensor, *args: Any, **more: Any) -> ap.Selection:
    return policy.select(evidence(score, *args, **more))


def suspects_of(selection: ap.Selection) -> list[int]:
    assert selection.suspects is not None
    return selection.suspects.tolist()


def left_out_of(selection: ap.Selection) -> list[int]:
    """Who is not trained on, which with a prune ratio of 0 are those that are flagged, suspects or not."""
    return sorted(set(range(selection.num_samples)) - set(selection.trained.tolist()))


def parts(selection: ap.Selection) -> tuple[dict[int, float], list[int]]:
    """The samples trained on with their weights, and those that are only looked at."""
    weights = [1.0] * len(selection) if selection.weights is None else selection.weights.tolist()
    pairs = list(zip(selection.indices.tolist(), weights, strict=True))
    return {i: weight for i, weight in pairs if weight > 0}, [i for i, weight in pairs if weight == 0]


def highest(values: list[float], count: int) -> set[int]:
    known = [i for i, value in enumerate(values) if not math.isnan(value)]
    return set(sorted(known, key=lambda i: -values[i])[:count])
