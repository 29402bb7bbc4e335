"""From cells to jobs: which runs an experiment takes, in which folders, and what each of them needs first.

A cell with a prune ratio needs a base run that calibrates its epochs, measured once for all seeds; a coreset or a
pseudo-clean reference needs the full training of its own seed, which collected what they choose by. Cells of different
experiments that agree share their runs, since a folder's name follows from the settings alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignprune import coresets, presets
from alignprune.bench.grid.cells import Cell, Protocol, Settings, key_of
from alignprune.bench.grid.experiments import full_training
from alignprune.bench.grid.sweep import Job
from alignprune.bench.results import store
from alignprune.bench.run.config import configure
from alignprune.bench.run.folder import write_json
from alignprune.bench.run.training import Progress, train
from alignprune.errors import ValueMistake

ROOT = Path("runs/sweeps")
"""Where sweeps keep their runs unless told."""


def jobs(
    cells: Iterable[Cell],
    protocol: Protocol,
    seeds: Sequence[int],
    root: Path,
    machine: Mapping[str, Any] | None = None,
) -> list[Job]:
    """The jobs that fill the cells, each after what it needs.

    Args:
        cells: of one experiment or several.
        protocol: that the cells were made for.
        seeds: of every cell; base runs take the first.
        root: folder of all runs.
        machine: settings of this machine that no result depends on, such as data_root, device, workers; they win over
            the protocol's.

    Returns:
        the jobs without repetitions.

    Raises:
        ValueError: for settings that no run can have, naming the cell.
    """
    found: dict[Path, Job] = {}

    def add(settings: Settings, seed: int) -> Path:
        folder = folder_of(settings, seed, protocol, root)
        if folder in found:
            return folder
        whole = {**settings, "seed": seed, "out": str(folder), **(machine or {})}
        needs = []
        base = _base(settings)
        if base is not None:
            needs.append(add(base, seeds[0]))
            whole["base_run"] = str(needs[-1])
        if _needs_proxy(settings):
            needs.append(add(full_training(settings), seed))
            whole["proxy"] = str(needs[-1])
        name = f"{folder.parent.name.rsplit('-', 1)[0]} seed {seed}"
        found[folder] = Job(name, folder, key_of(settings), protocol.name, seed, whole, tuple(needs))
        return folder

    for seed in seeds:
        for cell in cells:
            try:
                add(cell.settings, seed)
            except (ValueError, TypeError) as error:
                raise ValueMistake(f"{cell.block} {cell.row} {cell.column}: {error}") from error
    return list(found.values())


def folder_of(settings: Settings, seed: int, protocol: Protocol, root: Path) -> Path:
    """Where the run of these settings and this seed is kept."""
    parts = [Path(str(settings["dataset"])).stem, str(settings.get("noise", "given"))]
    if "noise_rate" in settings:
        parts[-1] += f"{100 * settings['noise_rate']:g}"
    parts.append(str(settings["method"]))
    if "prune_ratio" in settings:
        parts.append(f"P{100 * settings['prune_ratio']:g}")
    return root / protocol.name / "-".join([*parts, key_of(settings)]) / f"seed{seed}"


def work(job: Job) -> None:
    """Train one job to its end, or what is left of it, and archive it: what a sweep's workers do."""
    resume = (job.folder / "config.json").exists()
    described = {"key": job.key, "protocol": job.protocol, "seed": job.seed, "settings": dict(job.settings)}
    write_json(job.folder / "job.json", described)
    train(configure({**job.settings, "resume": resume}), _Log())
    store.archive(job.folder)


def _base(settings: Settings) -> Settings | None:
    """The run whose pruned share calibrates the epochs of this one; None where they are the recipe's."""
    method = str(settings["method"])
    if "prune_ratio" not in settings or method in coresets.CORESETS:
        return None
    base = presets.get(method).base
    if base is None:
        return None
    rest = {name: value for name, value in settings.items() if name not in ("prune_ratio", "budget")}
    if settings.get("budget") == "equal" or base == method:
        return rest
    # The base ranks by other scores: it keeps the policy's settings and drops the score's and the reference's.
    own = {name for name in rest if name.startswith("score.") or name in ("reference", "reference_size")}
    return {name: value for name, value in rest.items() if name not in own} | {"method": base}


def _needs_proxy(settings: Settings) -> bool:
    looks = settings["method"] in coresets.CORESETS and settings["method"] != "static-random"
    return looks or settings.get("reference") in coresets.CORESETS


class _Log(Progress):
    """A line an epoch, for the log of a worker."""

    def start(self, description: str, epochs: int) -> None:
        print(f"{description}, {epochs} epochs", flush=True)

    def epoch(self, metrics: dict[str, Any]) -> None:
        accuracy = "" if metrics["accuracy"] is None else f"  accuracy {metrics['accuracy']:.2%}"
        print(
            f"epoch {metrics['epoch']}  train loss {metrics['train_loss']:.3f}  pruned {metrics['pruned_share']:.1%}"
            f"{accuracy}  {metrics['images_per_second']:,.0f} samples/s",
            flush=True,
        )
