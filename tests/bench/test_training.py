"""Training runs: exact resume, every method, the reference's kinds, what a run folder promises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignprune import presets
from alignprune.bench.runs import RunFolder, write_json
from alignprune.bench.training import Progress, TrainConfig, default_config, train


@pytest.fixture
def images(tmp_path: Path) -> str:
    """Small images of four classes, told apart by which quarter is bright; augmentation draws from the global RNG."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    pictures = rng.integers(0, 80, (200, 16, 16, 3), dtype=np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        picture[8 * (label // 2) :][:8, 8 * (label % 2) :][:, :8] += 120
    path = tmp_path / "quarters.npz"
    np.savez(
        path,
        x_train=pictures[:150],
        y_train=labels[:150],
        x_test=pictures[150:],
        y_test=labels[150:],
        x_reference=pictures[:20],
        y_reference=labels[:20],
    )
    return str(path)


def config(dataset: str, method: str, out: Path, **changes: Any) -> TrainConfig:
    base = default_config(dataset, method)
    recipe = replace(base.recipe, epochs=changes.pop("epochs", 5), batch_size=32, lr=0.02)
    return replace(
        base, recipe=recipe, model="resnet-small", device="cpu", noise="symmetric", noise_rate=0.3, out=out, **changes
    )


class Stop(Exception):
    """What a killed run looks like to this test."""


class StopAfter(Progress):
    """Interrupts a run after some epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def step(self, epoch: int, step: int, steps: int) -> None:
        if epoch == self.epochs:
            raise Stop


def comparable(result: dict[str, Any]) -> str:
    """All but the times, as text, since NaN is not equal to itself."""
    return json.dumps({key: value for key, value in result.items() if "second" not in key})


@pytest.mark.parametrize("method", ["infobatch+das", "seta", "ies"])
def test_a_resumed_run_ends_exactly_as_one_that_never_stopped(method: str, images: str, tmp_path: Path) -> None:
    whole = train(config(images, method, tmp_path / "whole"))
    with pytest.raises(Stop):
        train(config(images, method, tmp_path / "cut"), StopAfter(3))
    resumed = train(config(images, method, tmp_path / "cut", resume=True))
    assert comparable(resumed) == comparable(whole)
    ends = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "cut")]
    assert all(torch.equal(ends[0]["model"][key], ends[1]["model"][key]) for key in ends[0]["model"])
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    assert [comparable(json.loads(line)) for line in lines[0]] == [comparable(json.loads(line)) for line in lines[1]]


@pytest.mark.parametrize("method", sorted(presets.PRESETS))
def test_every_method_trains_and_reports(method: str, images: str, tmp_path: Path) -> None:
    result = train(config(images, method, tmp_path / "run"))
    assert result["epochs"] == 5
    assert result["forward_passes"] <= 5 * 150
    assert result["noise_rate"] == pytest.approx(0.3, abs=0.02)
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert stored["method"] == method
    assert stored["score"]["kind"] == type(presets.get(method).score).__name__
    assert (tmp_path / "run/noise.npz").exists()


def test_reference_by_indices_and_noisy_control(images: str, tmp_path: Path) -> None:
    np.save(tmp_path / "trusted.npy", np.arange(12))
    by_index = train(config(images, "infobatch+das", tmp_path / "a", reference=str(tmp_path / "trusted.npy"), epochs=2))
    assert by_index["reference_forward_passes"] == 2 * 12
    noisy = train(config(images, "infobatch+das", tmp_path / "b", reference="noisy", reference_size=30, epochs=2))
    assert noisy["reference_forward_passes"] == 2 * 30
    with pytest.raises(FileNotFoundError, match=r"missing\.npy"):
        train(config(images, "infobatch+das", tmp_path / "c", reference=str(tmp_path / "missing.npy")))
    with pytest.raises(ValueError, match="expected auto, clean, noisy, none"):
        train(config(images, "infobatch+das", tmp_path / "c", reference="cleen"))
    assert not (tmp_path / "c").exists()


def test_half_precision_trains_and_scores(images: str, tmp_path: Path) -> None:
    result = train(config(images, "infobatch+das", tmp_path / "run", precision="bf16"))
    assert np.isfinite(result["test_loss"])


def test_a_run_folder_never_holds_half_a_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {"seed": 0}, resume=False)
    folder.save_epoch([{"epoch": 1}], {"epoch": 1})

    class Unsaveable:
        def __reduce__(self) -> Any:
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        folder.save_epoch([{"epoch": 1}, {"epoch": 2}], {"epoch": Unsaveable()})
    assert folder.load_checkpoint() == {"epoch": 1}
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoint.pt", "config.json", "metrics.jsonl"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [1.0, float("inf")]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [1.0, None]}
