"""IES: what lies below a fixed threshold is left out."""

from __future__ import annotations

import math

import pytest
import torch

from alignprune._ranks import Draws
from alignprune.policies import IES, Evidence
from alignprune.selection import Selection


def chosen(policy: IES, score: list[float]) -> Selection:
    return policy.select(Evidence(torch.tensor(score), "high", 1, 20, Draws(0, 1)))


def test_ies_leaves_out_what_is_strictly_below_its_threshold() -> None:
    score = [0.5, 0.25, 0.75, math.nan, 0.5, -1.0]
    selection = chosen(IES(threshold=0.5), score)
    assert selection.indices.tolist() == [0, 2, 3, 4]
    assert selection.weights is None
    assert len(chosen(IES(threshold=-2), score)) == 6


def test_ies_may_leave_out_all() -> None:
    assert len(chosen(IES(threshold=1.0), [0.1, 0.2])) == 0


def test_ies_never_anneals() -> None:
    assert IES().annealing == 1.0


def test_a_threshold_that_is_no_number_is_named() -> None:
    with pytest.raises(TypeError, match="threshold='low' is str"):
        IES(threshold="low")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threshold=nan is out of range"):
        IES(threshold=math.nan)
