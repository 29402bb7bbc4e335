"""The picture of one's own run, from its folder alone: how well it learns, what is left out, how the losses lie.

The epochs that there are, so that a run can be looked at while it trains. The fourth panel needs a trace.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alignprune.bench.results import charts
from alignprune.bench.results.charts import Panel
from alignprune.bench.run import trace
from alignprune.bench.run.folder import CONFIG, read_config, read_metrics
from alignprune.errors import MissingFile, ValueMistake

_EPOCHS_SHOWN = 3

# By panel and line the field of metrics.jsonl that is drawn.
_LINES = {
    "accuracy": {"test": "accuracy", "training, by the given labels": "train_accuracy"},
    "loss": {
        "test": "test_loss",
        "training": "train_loss",
        "reference": "reference_loss",
        "right labels": "clean_loss",
        "wrong labels": "noisy_loss",
    },
    "share": {
        "left out": "pruned_share",
        "estimated noise rate": "estimated_noise_rate",
        "wrong labels among the kept": "kept_noise",
    },
}
_TITLES = {"accuracy": "Accuracy", "loss": "Loss", "share": "Pruning"}


def picture(run: Path) -> Figure:
    """The picture of a run; `charts.save` writes it.

    Args:
        run: its folder; it need not be finished.

    Raises:
        FileNotFoundError: if the folder is no run.
        ValueError: if no epoch has ended yet, or a file is damaged.
    """
    settings, rows = _read(run)
    panels = [_over_epochs(kind, rows) for kind in _LINES]
    if (run / trace.FILE).exists():
        panels += _distribution(trace.load(run / trace.FILE))
    title = f"{settings.get('dataset')}: {settings.get('method')}, seed {settings.get('seed')} ({run})"
    return charts.lay_out(panels, 2, title)


def _read(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings, and a row an epoch."""
    if not (run / CONFIG).exists():
        raise MissingFile(
            f"run={str(run)!r} is no run, expected the folder that alignprune train wrote: check the path"
        )
    settings, rows = read_config(run), read_metrics(run)
    if not rows:
        raise ValueMistake(f"run={str(run)!r} has no epoch that has ended, expected one at least: wait for it")
    return settings, rows


def _over_epochs(kind: str, rows: list[dict[str, Any]]) -> Panel:
    """The lines of a panel that have a value in some epoch."""
    lines = {
        name: {row["epoch"]: float(row[field]) for row in rows if row.get(field) is not None}
        for name, field in _LINES[kind].items()
    }
    known = {name: values for name, values in lines.items() if values}
    return Panel(_TITLES[kind], partial(charts.paint_series, series=known, heading=kind), "epoch")


def _distribution(found: trace.StoredTrace) -> list[Panel]:
    """The losses of the first, the middle and the last epoch that saw samples, right and wrong labels apart.

    None where no loss was finite.
    """
    losses = found.losses.float().numpy()
    seen = np.flatnonzero(np.isfinite(losses).any(1))
    if not len(seen):
        return []
    chosen = sorted({int(seen[i]) for i in np.linspace(0, len(seen) - 1, _EPOCHS_SHOWN).round().astype(int)})
    wrong = None if found.is_noisy is None else found.is_noisy.numpy()
    kinds = (
        {"": np.full(losses.shape[1], True)} if wrong is None else {", right labels": ~wrong, ", wrong labels": wrong}
    )
    groups = [
        {f"epoch {epoch + 1}{kind}": losses[epoch][mask & np.isfinite(losses[epoch])] for kind, mask in kinds.items()}
        for epoch in chosen
    ]
    return [Panel("Recorded losses", partial(charts.paint_distributions, groups=groups), "loss")]
