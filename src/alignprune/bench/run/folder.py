"""A run's folder: resolved configuration, metrics by epoch, checkpoints, result. Whole or absent, never half written.

noise.npz     given and true labels, where the truth is known; written first
config.json   what was run, every setting resolved: a folder that has it is a run's
metrics.jsonl one line an epoch
checkpoint.pt everything that the rest of the run depends on; checkpoint.previous.pt the one before it
model.*       the trained model, at the end: `alignprune.bench.run.trained`
losses.npz    latest losses by sample half-way and at the end, where the truth is known
trace.npz     losses and margins by sample in every epoch, with --trace
proxy.npz     what coreset methods choose by, with --collect
result.json   written last: a folder that has it is complete

Every file but metrics.jsonl, which is for other programs, holds its own seal (`alignprune._files`); the digest of the
metrics stands in result.json.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignprune._files import Kind, read_tensors
from alignprune.bench.files import plain, read_record, save_bytes, save_tensors, write_record
from alignprune.bench.places import refuse_unwritable
from alignprune.bench.run.lock import locked, refuse_in_use
from alignprune.errors import DamagedFile, ExistingFile, ValueMistake

if TYPE_CHECKING:
    from alignprune.noise import NoisyLabels

CONFIG, RESULT, METRICS, NOISE = "config.json", "result.json", "metrics.jsonl", "noise.npz"
CHECKPOINT, PREVIOUS, _NEXT = "checkpoint.pt", "checkpoint.previous.pt", "checkpoint.next.pt"

_AGAIN = "train the run again, in another folder"
CONFIGURATION_KIND = Kind("configuration", 1, f"put the one back that was written, or {_AGAIN}")
CHECKPOINT_KIND = Kind("checkpoint", 1, _AGAIN)
RESULT_KIND = Kind("result", 1, "remove it and go on with --resume, which writes it again")

_DIGEST = "metrics_digest"  # the field of a stored result that the metrics have to agree with


class RunFolder:
    """The folder of one run, to be written by this process alone; to be closed.

    Args:
        path: the folder; made if absent.
        config: resolved configuration, JSON values only.
        resume: go on with the run that is there, if one is.
        noise: the labels of the run beside the true ones, to be stored; None where no truth is known.

    Attributes:
        is_new: whether no run was there.

    Raises:
        FileExistsError: if a run is there and ``resume`` is not set, or a part of one: nothing is overwritten.
        ValueError: if the run there has another configuration.
        RuntimeError: if another process is in the folder.
    """

    def __init__(self, path: Path, config: dict[str, Any], *, resume: bool, noise: NoisyLabels | None = None) -> None:
        self.path = path
        with ExitStack() as stack:
            stack.enter_context(locked(path))
            self.check(path, config, resume=resume)
            self.is_new = not (path / CONFIG).exists()
            if noise is not None and (self.is_new or not (path / NOISE).exists()):
                noise.save(path / NOISE)
            if self.is_new:
                write_record(path / CONFIG, CONFIGURATION_KIND, config)
            self._lock = stack.pop_all()

    @staticmethod
    def check(path: Path, config: dict[str, Any], *, resume: bool) -> None:
        """Raise what making the folder would raise, and make nothing: for use before long preparations."""
        stored = path / CONFIG
        refuse_unwritable("out", path)
        refuse_in_use(path)
        if stored.exists() and not resume:
            raise ExistingFile(
                f"out={str(path)!r} is the folder of a run already, expected a new one: add --resume to go on with the "
                f"run, or choose another folder with --out"
            )
        if stored.exists():
            _refuse_other(read_config(path), plain(config), path)
            return
        for name in (CHECKPOINT, PREVIOUS, RESULT):
            if (path / name).exists():
                raise ExistingFile(
                    f"out={str(path)!r} holds {name} without the {CONFIG} of its run, expected both or none: put "
                    f"{CONFIG} back, or choose another folder with --out"
                )

    def close(self) -> None:
        """Let others into the folder."""
        self._lock.close()

    @property
    def result(self) -> dict[str, Any] | None:
        """The stored result of a complete run."""
        return read_result(self.path) if (self.path / RESULT).exists() else None

    def save_metrics(self, metrics: list[dict[str, Any]]) -> None:
        """Store a line an epoch."""
        save_bytes(self.path / METRICS, "".join(json.dumps(plain(row)) + "\n" for row in metrics).encode())

    def save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store a checkpoint; the last one becomes the one before it."""
        save_tensors(self.path / _NEXT, CHECKPOINT_KIND, checkpoint)
        if (self.path / CHECKPOINT).exists():
            os.replace(self.path / CHECKPOINT, self.path / PREVIOUS)
        os.replace(self.path / _NEXT, self.path / CHECKPOINT)

    def last_checkpoint(self, say: Callable[[str], object]) -> dict[str, Any] | None:
        """What the run goes on from: the last checkpoint, or where it is damaged the one before; None before the first.

        Args:
            say: hears of a checkpoint that is damaged.

        Raises:
            ValueError: if none is sound.
        """
        damage: DamagedFile | None = None
        for file in (self.path / CHECKPOINT, self.path / PREVIOUS):
            if not file.exists():
                continue
            try:
                found: dict[str, Any] = read_tensors(file, CHECKPOINT_KIND)
            except DamagedFile as error:
                damage = damage or error
            else:
                if damage is not None:
                    say(f"{damage}. Here the run goes on from {file.name}, the one before it")
                return found
        if damage is not None:
            raise damage
        return None

    def save_result(self, result: dict[str, Any]) -> None:
        """Store the result: the run is complete."""
        metrics = self.path / METRICS
        digest = hashlib.sha256(metrics.read_bytes()).hexdigest() if metrics.exists() else None
        write_record(self.path / RESULT, RESULT_KIND, {**result, _DIGEST: digest})


def read_result(run: Path) -> dict[str, Any]:
    """The result of a complete run.

    Raises:
        FileNotFoundError, ValueError: as `alignprune._files.check_seal`.
    """
    found = read_record(run / RESULT, RESULT_KIND)
    found.pop(_DIGEST, None)
    return found


def read_config(run: Path) -> dict[str, Any]:
    """The resolved configuration of a run, as it was written.

    Raises:
        FileNotFoundError, ValueError: as `alignprune._files.check_seal`.
    """
    return read_record(run / CONFIG, CONFIGURATION_KIND)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run, a record an epoch: metrics.jsonl where it is complete, before that those of its checkpoint.

    Raises:
        ValueError: if they are damaged.
    """
    if not (run / RESULT).exists():
        state = read_checkpoint(run)
        return [] if state is None else [plain(row) for row in state["metrics"]]
    return read_final_metrics(run)


def read_final_metrics(run: Path) -> list[dict[str, Any]]:
    """The metrics of a complete run, a record an epoch.

    Raises:
        ValueError: if they are damaged.
    """
    file = run / METRICS
    content = file.read_bytes() if file.is_file() else None
    digest = read_record(run / RESULT, RESULT_KIND).get(_DIGEST)
    if digest != (None if content is None else hashlib.sha256(content).hexdigest()):
        raise DamagedFile(
            f"path={str(file)!r} is damaged or was changed by hand, expected the metrics that the run ended with: "
            f"{_AGAIN}"
        )
    return [json.loads(line) for line in (content or b"").splitlines()]


def read_checkpoint(run: Path) -> dict[str, Any] | None:
    """The last checkpoint of a run, tensors on the CPU; None where there is none.

    Raises:
        ValueError: if it is damaged.
    """
    file = run / CHECKPOINT
    if not file.exists():
        return None
    state: dict[str, Any] = read_tensors(file, CHECKPOINT_KIND)
    return state


def _refuse_other(stored: dict[str, Any], given: dict[str, Any], path: Path) -> None:
    differing = differences([stored, given])
    if differing:
        changes = "; ".join(f"{name}: {there!r} there, {now!r} now" for name, (there, now) in differing.items())
        raise ValueMistake(
            f"out={str(path)!r} is a run with another configuration ({changes}), expected the same: give the same "
            f"options, or start anew with another --out"
        )


def differences(configs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """What is not the same in all of these configurations: by the setting's name, with dots, the value in each.

    Of records of several kinds the kind alone, since all in them differs; None stands for a setting that is not there.
    """
    flat = [_dotted(config) for config in configs]
    names = sorted(set().union(*flat))
    values = {name: [one.get(name) for one in flat] for name in names}
    differing = [name for name in names if any(value != values[name][0] for value in values[name])]
    others = {name.removesuffix("kind") for name in differing if name.endswith(".kind")}
    return {name: values[name] for name in differing if name.endswith(".kind") or not name.startswith(tuple(others))}


def _dotted(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings by their names with dots, those in records one by one."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
