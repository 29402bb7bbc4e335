"""Which runs are below a folder and how each stands, by its small files: neither models nor checkpoints are opened.

finished     result.json is there, and agrees with its seal and with metrics.jsonl
running      a process is in the folder
failed       a sweep has written there why its last attempt ended (error.json)
interrupted  none of these: nobody is in the folder, and --resume goes on
damaged      config.json, result.json or metrics.jsonl is not what was written

Torch is not imported: a thousand runs are listed in a second or two.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from alignprune.bench.run.folder import CONFIG, METRICS, RESULT, read_config, read_final_metrics, read_result
from alignprune.bench.run.lock import is_held
from alignprune.errors import MissingFile, UserError, ValueMistake

ERROR = "error.json"
"""In a run's folder: why the last attempt of a sweep failed; gone once one succeeds."""

State = Literal["finished", "running", "interrupted", "failed", "damaged"]


@dataclass(frozen=True)
class RunsConfig:
    """List the runs below a folder, the newest last: how each stands, and what came of it so far.

    Attributes:
        folder: where to look.
    """

    folder: Annotated[Path, Positional, arg(metavar="[FOLDER]")] = Path("runs")


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """A run as its folder tells; what is not known is None.

    Attributes:
        folder: of the run.
        state: how it stands.
        reason: why it failed, or what is damaged.
        dataset, method, noise, noise_rate, seed: as configured; noise None is the data set's own.
        epochs_done: epochs that have ended.
        epochs: that it was to take at most; None where a budget decides.
        accuracy: of the trained model, or as last measured.
        suspects: how many labels the method held for wrong, last.
        forward_fraction: share of the forward passes of a full training that it took, when it is finished.
        changed: when its result, else its metrics, else its configuration was written: ISO 8601, in UTC.
    """

    folder: Path
    state: State
    reason: str | None = None
    dataset: str | None = None
    method: str | None = None
    noise: str | None = None
    noise_rate: float | None = None
    seed: int | None = None
    epochs_done: int = 0
    epochs: int | None = None
    accuracy: float | None = None
    suspects: int | None = None
    forward_fraction: float | None = None
    changed: str


def runs_below(root: Path) -> list[ListedRun]:
    """The runs in a folder and below it, the one that changed last at the end.

    Args:
        root: where to look; may be a run itself. Links are not followed, and what a run has in its folder is its own.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is no folder, or holds no run.
    """
    if not root.exists():
        raise MissingFile(f"folder={str(root)!r} is not there, expected a folder with runs: check the path")
    if not root.is_dir():
        raise ValueMistake(
            f"folder={str(root)!r} is a file, expected a folder with runs: name the folder that holds it"
        )
    found = sorted((listed(folder) for folder in _folders(root)), key=lambda run: (run.changed, run.folder))
    if not found:
        raise ValueMistake(
            f"folder={str(root)!r} holds no run, expected folders that alignprune train or sweep wrote: check the path"
        )
    return found


def listed(folder: Path) -> ListedRun:
    """How the run in a folder stands; it has to have a configuration."""
    settings: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    state, reason = _state(folder)
    try:
        settings = read_config(folder)
        if (folder / RESULT).exists():
            result, rows = read_result(folder), read_final_metrics(folder)
        else:
            rows = _metrics_so_far(folder)
    except (UserError, OSError) as error:
        state, reason = "damaged", str(error)
    return ListedRun(
        folder=folder,
        state=state,
        reason=reason,
        dataset=settings.get("dataset"),
        method=settings.get("method"),
        noise=settings.get("noise"),
        noise_rate=settings.get("noise_rate"),
        seed=settings.get("seed"),
        epochs_done=result.get("epochs", len(rows)),
        epochs=_epochs(settings),
        accuracy=result.get("accuracy", _last(rows, "accuracy")),
        suspects=_last(rows, "suspects"),
        forward_fraction=result.get("forward_fraction"),
        changed=_changed(folder),
    )


def _folders(root: Path) -> Iterator[Path]:
    """The folders of runs; not those of the folds inside a run."""
    for folder, below, files in os.walk(root):
        if CONFIG in files:
            below.clear()
            yield Path(folder)


def _state(folder: Path) -> tuple[State, str | None]:
    if (folder / RESULT).exists():
        return "finished", None
    if is_held(folder):
        return "running", None
    if (folder / ERROR).exists():
        return "failed", _error(folder)
    return "interrupted", None


def _error(folder: Path) -> str | None:
    """What a sweep has written; None where that cannot be read, since it is only told."""
    try:
        found = json.loads((folder / ERROR).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return str(found["error"]) if isinstance(found, dict) and "error" in found else None


def _metrics_so_far(folder: Path) -> list[dict[str, Any]]:
    """A record an epoch of a run that is not complete, whose metrics have no seal yet."""
    file = folder / METRICS
    if not file.exists():
        return []
    try:
        return [dict(json.loads(line)) for line in file.read_bytes().splitlines()]
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueMistake(
            f"path={str(file)!r} is damaged ({error}), expected a line of JSON an epoch: remove it and go on with "
            f"--resume, which writes it again"
        ) from error


def _epochs(settings: dict[str, Any]) -> int | None:
    """Those of the recipe, unless samples are counted, or a base run has said how many there are."""
    decided = settings.get("prune_ratio") is not None and (
        settings.get("budget") == "equal" or settings.get("base_pruned_share") is not None
    )
    return None if decided else settings.get("recipe", {}).get("epochs")


def _last(rows: list[dict[str, Any]], field: str) -> Any:
    return next((row[field] for row in reversed(rows) if row.get(field) is not None), None)


def _changed(folder: Path) -> str:
    file = next((folder / name for name in (RESULT, METRICS, CONFIG) if (folder / name).exists()), folder)
    return datetime.fromtimestamp(file.stat().st_mtime, timezone.utc).isoformat(timespec="seconds")
