"""The trace of a run against loops over its batches."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alignprune import Pruner
from alignprune.bench.run.observers import EndOfEpoch
from alignprune.bench.run.trace import Trace, load, margins


def test_a_margin_is_the_lead_over_the_best_other_class() -> None:
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 5
    expected = [
        row[label] - max(value for other, value in enumerate(row) if other != label)
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert margins(logits, labels).tolist() == pytest.approx(expected, abs=1e-6)
    assert ((margins(logits, labels) > 0) == (logits.argmax(1) == labels)).all()


def step(trace: Trace, index: list[int], losses: list[float], logits: list[list[float]]) -> None:
    trace.step(torch.tensor(index), torch.tensor(losses), torch.tensor(logits), torch.zeros(len(index)).long())


def end_epoch(trace: Trace, reference_loss: float | None) -> None:
    pruner = Pruner.from_preset("full", num_samples=2, epochs=1)
    trace.end_epoch(EndOfEpoch(0, False, pruner.selection, reference_loss, nn.Identity(), pruner))


def test_every_epoch_is_a_row_and_unseen_samples_have_gaps(tmp_path: Path) -> None:
    trace = Trace(4, epochs=5, is_noisy=torch.tensor([True, False, False, True]))
    step(trace, [2, 0], [1.5, 0.5], [[1.0, 3.0, 2.0], [4.0, 0.0, 1.0]])
    step(trace, [1], [2.5], [[0.0, 0.0, -1.0]])
    end_epoch(trace, 0.75)
    step(trace, [3], [0.25], [[2.0, 1.0, 0.0]])
    end_epoch(trace, None)
    step(trace, [0], [9.0], [[0.0, 0.0, 0.0]])  # of an epoch that does not end
    trace.save(tmp_path)
    nan = math.nan
    with np.load(tmp_path / "trace.npz") as stored:
        np.testing.assert_array_equal(stored["losses"], np.float16([[0.5, 2.5, 1.5, nan], [nan, nan, nan, 0.25]]))
        np.testing.assert_array_equal(stored["margins"], np.float16([[3, 0, -2, nan], [nan, nan, nan, 1]]))
        np.testing.assert_array_equal(stored["reference"], np.float32([0.75, nan]))
        assert stored["is_noisy"].tolist() == [True, False, False, True]
        assert (stored["losses"].dtype, stored["margins"].dtype) == (np.float16, np.float16)


def test_what_was_saved_is_read_again(tmp_path: Path) -> None:
    trace = Trace(2, epochs=3)
    step(trace, [1], [0.5], [[1.0, 2.0]])
    end_epoch(trace, 1.25)
    trace.save(tmp_path)
    found = load(tmp_path / "trace.npz")
    assert found.is_noisy is None
    assert len(found.losses) == 1
    for name in ("losses", "margins", "reference"):
        assert torch.equal(getattr(found, name).nan_to_num(-9), getattr(trace, name).nan_to_num(-9))


def test_large_values_are_held_and_those_that_are_not_finite_left_out() -> None:
    trace = Trace(3, epochs=1)
    step(trace, [0, 1, 2], [1e6, math.inf, 1.0], [[-1e6, 0.0], [0.0, 0.0], [math.nan, 0.0]])
    end_epoch(trace, None)
    largest = torch.finfo(torch.float16).max
    assert trace.losses[0].nan_to_num(-9).tolist() == [largest, -9, 1.0]
    assert trace.margins[0].nan_to_num(-9).tolist() == [-largest, 0.0, -9]
