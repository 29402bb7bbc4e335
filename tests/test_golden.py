"""Golden trajectories: what every preset selects, epoch by epoch, is what it was when the method was last looked at.

The one place where the code is compared with its own earlier output: a change of meaning that no other test expects
does not pass in silence. `tests/golden/write.py` says what the trajectories are, and writes them anew.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import alignprune as ap

FOLDER = Path(__file__).parent / "golden"
SPEC = importlib.util.spec_from_file_location("golden", FOLDER / "write.py")
assert SPEC is not None
assert SPEC.loader is not None
golden: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(golden)

CLOSE = 5e-5  # of a score or a rate, between machines whose matrix products round differently


def same(stored: Any, found: Any) -> bool:
    """Equality, but for the last digits of what is no integer."""
    if isinstance(stored, list) and isinstance(found, list):
        return len(stored) == len(found) and all(map(same, stored, found))
    if isinstance(stored, float) and isinstance(found, float):
        return abs(stored - found) <= CLOSE * max(1.0, abs(stored))
    return bool(stored == found)


def differences(name: str, stored: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[str]:
    """Where two trajectories differ in the first epoch in which they do, in words."""
    assert [list(row) for row in stored] == [list(row) for row in found], f"{name}: other epochs or fields than stored"
    for before, now in zip(stored, found, strict=True):
        changed = [field for field in before if not same(before[field], now[field])]
        if changed:
            return [f"{name}, epoch {now['epoch']}: {field}={now[field]}, was {before[field]}" for field in changed]
    return []


@pytest.mark.parametrize("name", list(ap.PRESETS))
def test_a_preset_selects_what_it_did(name: str) -> None:
    changed = differences(name, json.loads(golden.path(name).read_text()), golden.trajectory(name))
    assert not changed, "\n".join(
        [*changed, f"If that is meant: python tests/golden/write.py {name}, and commit the difference with the reason"]
    )


def test_a_change_is_named_by_preset_epoch_and_field() -> None:
    stored = json.loads(golden.path("robust").read_text())
    assert differences("robust", stored, stored) == []
    row = stored[9]
    other = [*stored[:9], row | {"selected": 5, "noise_rate": row["noise_rate"] + 0.001}, *stored[10:]]
    assert differences("robust", stored, other) == [
        f"robust, epoch 9: selected=5, was {row['selected']}",
        f"robust, epoch 9: noise_rate={row['noise_rate'] + 0.001}, was {row['noise_rate']}",
    ]
    rounded = [*stored[:9], row | {"noise_rate": row["noise_rate"] + 1e-6}, *stored[10:]]
    assert differences("robust", stored, rounded) == []


def test_every_trajectory_that_is_stored_is_of_a_preset() -> None:
    assert {file.stem for file in FOLDER.glob("*.json")} == set(ap.PRESETS)


def test_the_losses_of_the_formula_are_exact_in_float32() -> None:
    training = golden.Training()
    for epoch in range(golden.EPOCHS):
        losses = training.losses(epoch, golden.SAMPLES)
        assert losses.dtype == torch.float32
        assert torch.equal(losses.double() * 2**19, (losses.double() * 2**19).round())
        assert 0 < losses.min() <= losses.max() < 8
        training.train(epoch, golden.SAMPLES[epoch % 2 :: 2])


# -------------------------------------------------------------------------- a real training, within bounds

# Accuracy on held-out digits with right labels, and the share of the data that is selected on average: what five seeds
# came to, and some points on either side.
BANDS = {
    "full": ((0.77, 0.92), (1.0, 1.0)),
    "infobatch": ((0.79, 0.94), (0.70, 0.76)),
    "infobatch+das": ((0.82, 0.96), (0.81, 0.87)),
    "robust": ((0.92, 0.98), (0.499, 0.501)),
}


@pytest.mark.parametrize("name", BANDS)
def test_a_real_training_on_digits_with_wrong_labels_ends_within_its_bounds(name: str) -> None:
    fifths = golden.SAMPLES // 10 % 5
    held_out, clean = fifths == 0, fifths == 1
    x, y, true = golden.PIXELS / 16, golden.GIVEN, golden.TRUE
    train_set = torch.utils.data.TensorDataset(x[~held_out & ~clean], y[~held_out & ~clean])
    reference = ap.Reference.subset(torch.utils.data.TensorDataset(x[clean], true[clean]))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    labels = train_set.tensors[1]
    pruner = ap.Pruner.from_preset(name, num_samples=len(train_set), epochs=30, labels=labels)
    shares: list[float] = []
    for _ in range(pruner.epochs):
        shares.append(len(pruner.selection) / len(train_set))
        for index, (inputs, given) in pruner.loader(train_set, batch_size=64):
            loss = pruner.reduce(index, F.cross_entropy(model(inputs), given, reduction="none"))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        pruner.end_epoch(reference.loss(model) if pruner.needs_reference else None)
    accuracy = float((predicted(model, x[held_out]) == true[held_out]).float().mean())
    (lowest, highest), (fewest, most) = BANDS[name]
    assert lowest <= accuracy <= highest
    assert fewest <= sum(shares) / len(shares) <= most
    if name == "robust":
        wrong = golden.WRONG[~held_out & ~clean]
        assert pruner.suspects is not None
        assert wrong[pruner.suspects].float().mean() > 0.9
        assert len(pruner.suspects) > 0.8 * int(wrong.sum())
        assert pruner.noise_rate == pytest.approx(float(wrong.float().mean()), abs=0.05)


@torch.no_grad()
def predicted(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).argmax(1)
