"""What a pruner reports after an epoch: plain numbers, each of which can be counted by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import alignprune as ap

N, EPOCHS = 60, 16
LABELS = [i % 3 for i in range(N)]
WRONG = torch.arange(N) % 5 == 0


def losses(epoch: int) -> torch.Tensor:
    """Wrong labels stay high for long."""
    noise = torch.rand(N, generator=torch.Generator().manual_seed(epoch))
    return torch.where(WRONG, 6.0, 2.0) * 0.9**epoch + 0.2 * noise


def epoch(pruner: ap.Pruner) -> None:
    for index in torch.tensor(list(pruner.sampler)).split(16):
        pruner.reduce(index, losses(pruner.epoch)[index])
    pruner.end_epoch(reference_loss=0.9**pruner.epoch if pruner.needs_reference else None)


@pytest.mark.parametrize("name", [name for name in ap.PRESETS if name not in ("ies", "divbs")])
def test_every_number_is_plain_and_is_what_the_pruner_says(name: str) -> None:
    how: dict[str, Any] = {"ramp": 1, "noise_rate": 0.2} if name == "robust" else {}
    pruner = ap.Pruner.from_preset(name, num_samples=N, epochs=EPOCHS, labels=LABELS, **how)
    before = pruner.metrics()
    assert (before["epoch"], before["selected"], before["overhead_seconds"]) == (0, len(pruner.selection), 0)
    read = 0
    for done in range(1, EPOCHS + 1):
        read += len(pruner.sampler)
        epoch(pruner)
        found = pruner.metrics()
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in found.values())
        assert (found["epoch"], found["progress"]) == (done, done / EPOCHS)
        assert (found["forward_passes"], found["nonfinite"]) == (read, 0)
        assert found["selected"] == len(pruner.selection)
        assert found["pruned_share"] == pytest.approx(1 - len(pruner.selection) / N)
        assert ("suspects" in found) == (pruner.suspects is not None)
        assert found["overhead_seconds"] > before["overhead_seconds"]


def test_the_threshold_parts_what_may_be_pruned_from_what_is_kept() -> None:
    pruner = ap.Pruner.from_preset("infobatch", num_samples=N, epochs=EPOCHS)
    epoch(pruner)
    mean = losses(0).double().mean().item()
    assert pruner.metrics()["threshold"] == pytest.approx(mean, rel=1e-6)
    assert (pruner.scores[pruner.selection.pruned] < mean).all()


def test_a_window_has_two_ends_between_which_the_selected_lie() -> None:
    pruner = ap.Pruner.from_preset("seta", num_samples=N, epochs=EPOCHS)
    for _ in range(3):
        epoch(pruner)
    found, chosen = pruner.metrics(), pruner.scores[pruner.selection.indices]
    assert (found["threshold_low"], found["threshold_high"]) == (chosen.min(), chosen.max())


def test_robust_reports_its_suspects_its_rate_and_the_least_suspicious_of_them() -> None:
    pruner = ap.Pruner.from_preset("robust", num_samples=N, epochs=EPOCHS, noise_rate=0.2, ramp=1)
    while pruner.suspects is None or not len(pruner.suspects):
        epoch(pruner)
    found = pruner.metrics()
    assert found["suspects"] == len(pruner.suspects) == 12
    assert found["noise_rate"] == 0.2
    assert found["threshold"] == pruner.scores[pruner.suspects].min()


def test_what_was_decided_is_still_known_after_a_state_is_loaded() -> None:
    pruner, again = (ap.Pruner.from_preset("seta", num_samples=N, epochs=EPOCHS) for _ in range(2))
    for _ in range(3):
        epoch(pruner)
    again.load_state_dict(pruner.state_dict())
    timeless = {"overhead_seconds": 0}
    assert again.metrics() | timeless == pruner.metrics() | timeless
