"""Networks that torch.compile writes code for: the same run, and a compiler that is missing is found before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from alignprune.bench.run import trained
from alignprune.bench.run.config import TrainConfig, configure
from alignprune.bench.run.training import train


@pytest.fixture
def digits(tmp_path: Path) -> str:
    import numpy as np

    x, y = load_digits(return_X_y=True)
    file = tmp_path / "digits.npz"
    np.savez(file, x_train=x[:256].astype("f4"), y_train=y[:256], x_test=x[256:356].astype("f4"), y_test=y[256:356])
    return str(file)


def config(dataset: str, out: Path, **settings: Any) -> TrainConfig:
    common = {"recipe": "head", "method": "full", "recipe.epochs": 2, "recipe.batch_size": 64, "device": "cpu"}
    return configure({"dataset": dataset, **common, "out": str(out), **settings})


def test_a_compiled_network_is_the_network(digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced, not built: the compiler itself is torch's."""
    monkeypatch.setenv("CXX", "python3")  # one that is there
    in_place, compiled = nn.Module.compile, []

    def trace(self: nn.Module) -> None:
        compiled.append(self)
        in_place(self, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", trace)

    results = [train(config(digits, tmp_path / str(flag), compile=flag, ema=0.9)) for flag in (False, True)]

    assert len(compiled) == 1
    assert results[0]["test_loss"] == results[1]["test_loss"]
    (plain, _), (other, _) = (trained.load(tmp_path / str(flag)) for flag in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), other.state_dict().values(), strict=True))
    assert plain.state_dict().keys() == other.state_dict().keys()
    assert "compile" not in json.loads((tmp_path / "True" / "config.json").read_text())


def test_a_compiler_that_is_missing_is_found_before_the_training(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")

    with pytest.raises(
        ValueError, match="compile=True is given, but no-such-compiler is not there, .* leave --compile"
    ):
        train(config(digits, tmp_path / "run", compile=True))

    assert not (tmp_path / "run").exists()
