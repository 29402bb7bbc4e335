"""The folder of a complete run, made without training."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from alignprune.bench.files import write_record
from alignprune.bench.grid.cells import JOB, JOB_KIND
from alignprune.bench.run.folder import RunFolder


def complete_run(
    folder: Path,
    job: dict[str, Any] | None,
    config: dict[str, Any],
    result: dict[str, Any] | None,
    epochs: Iterable[dict[str, Any]] | None = None,
) -> Path:
    """Write what a sweep leaves; job None is a run of no sweep, result None one that has not ended."""
    with closing(RunFolder(folder, config, resume=False)) as made:
        if epochs is not None:
            made.save_metrics(list(epochs))
            if result is None:
                made.save_checkpoint({"metrics": list(epochs)})
        if result is not None:
            made.save_result(result)
    if job is not None:
        write_record(folder / JOB, JOB_KIND, job)
    return folder
