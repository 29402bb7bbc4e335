"""A run's folder: resolved configuration, metrics by epoch, checkpoint, result. Whole or absent, never half written.

config.json   what was run, every setting resolved
metrics.jsonl one line an epoch
checkpoint.pt everything that the rest of the run depends on
model.*       the trained model, at the end: `alignprune.bench.run.trained`
noise.npz     given and true labels, where the truth is known
losses.npz    latest losses by sample half-way and at the end, where the truth is known
trace.npz     losses and margins by sample in every epoch, with --trace
proxy.npz     what coreset methods choose by, with --collect
result.json   written last: a folder that has it is complete
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from alignprune._files import replace_file
from alignprune.bench.files import plain, save_tensors, write_json
from alignprune.errors import ExistingFile, MissingFile, ValueMistake


class RunFolder:
    """The folder of one run.

    Args:
        path: the folder; made if absent.
        config: resolved configuration, JSON values only.
        resume: go on with what is there.

    Raises:
        FileExistsError: if a run is there and ``resume`` is not set: nothing is overwritten.
        FileNotFoundError: if ``resume`` is set and no run is there.
        ValueError: if the run there has another configuration.
    """

    def __init__(self, path: Path, config: dict[str, Any], *, resume: bool) -> None:
        self.check(path, config, resume=resume)
        self.path = path
        if not resume:
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / "config.json", config)

    @staticmethod
    def check(path: Path, config: dict[str, Any], *, resume: bool) -> None:
        """Raise what making the folder would raise, and make nothing: for use before long preparations."""
        stored = path / "config.json"
        if not resume and stored.exists():
            raise ExistingFile(
                f"out={str(path)!r} is the folder of a run already, expected a new one: add --resume to go on with the "
                f"run, or choose another folder with --out"
            )
        if resume and not stored.exists():
            raise MissingFile(
                f"out={str(path)!r} is no run, expected one to go on with: leave --resume out to start one there"
            )
        if resume:
            _refuse_other(json.loads(stored.read_text()), plain(config), path)

    @property
    def result(self) -> dict[str, Any] | None:
        """The stored result of a complete run."""
        file = self.path / "result.json"
        return json.loads(file.read_text()) if file.exists() else None

    def save_epoch(self, metrics: list[dict[str, Any]], checkpoint: dict[str, Any]) -> None:
        """Store the metrics so far and the checkpoint that goes with them."""
        lines = "".join(json.dumps(plain(row)) + "\n" for row in metrics)
        replace_file(self.path / "metrics.jsonl", lambda file: file.write(lines.encode()))
        save_tensors(self.path / "checkpoint.pt", checkpoint)

    def save_result(self, result: dict[str, Any]) -> None:
        """Store the result: the run is complete."""
        write_json(self.path / "result.json", result)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The last checkpoint in a run's folder, tensors on the CPU; None before the first."""
    file = path / "checkpoint.pt"
    if not file.exists():
        return None
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _refuse_other(stored: dict[str, Any], given: dict[str, Any], path: Path) -> None:
    there, now = _dotted(stored), _dotted(given)
    differing = sorted(key for key in there.keys() | now.keys() if there.get(key) != now.get(key))
    if differing:
        changes = "; ".join(f"{key}: {there.get(key)!r} there, {now.get(key)!r} now" for key in differing)
        raise ValueMistake(
            f"out={str(path)!r} is a run with another configuration ({changes}), expected the same: give the same "
            f"options, or start anew with another --out"
        )


def _dotted(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings by their names with dots, those in records one by one."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
