"""From cells to jobs: which runs an experiment takes, in which folders, and what each of them needs first.

A single run is planned the same way: `proxy_of` is the run that it needs first, where nobody has given one.

A cell with a prune ratio needs a base run that calibrates its epochs, measured once for all seeds; a coreset or a
pseudo-clean reference needs the full training of its own seed, which collected what they choose by, and a training
without label issues the cross-validation of its own seed. Cells of different experiments that agree share their runs,
since a folder's name follows from the settings alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignprune import presets
from alignprune.bench.files import write_record
from alignprune.bench.grid.cells import JOB, JOB_KIND, Cell, Protocol, Settings, key_of
from alignprune.bench.grid.experiments import full_training
from alignprune.bench.grid.sweep import Job, complete
from alignprune.bench.run.config import TrainConfig, configure
from alignprune.bench.run.folder import CONFIG
from alignprune.bench.run.lock import FolderInUse, locked
from alignprune.bench.run.progress import Lines
from alignprune.errors import ValueMistake

FOLDS = 5
"""Of the cross-validation that a run is filtered by: each network is trained on four fifths."""

ROOT = Path("runs/sweeps")
"""Where sweeps keep their runs without a choice."""


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
        config, needs = configure(whole), []
        if config.pruning.base is not None:
            needs.append(add(_base(settings, config.pruning.base), seeds[0]))
            whole["base_run"] = str(needs[-1])
        if config.pruning.needs_proxy:
            needs.append(add(_proxy(settings), seed))
            whole["proxy"] = str(needs[-1])
        if config.pruning.without_issues:
            needs.append(add(_cross_validation(settings), seed))
            whole["cross_validation"] = str(needs[-1])
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
    if "folds" in settings:
        parts.append(f"{settings['folds']}folds")
    return root / protocol.name / "-".join([*parts, key_of(settings)]) / f"seed{seed}"


def proxy_of(config: TrainConfig) -> TrainConfig | None:
    """The proxy run that a run needs first: the full training on the same data, which collects, beside its folder.

    Returns:
        the run; None where none is needed or one is given.

    Raises:
        ValueError: for a run on several devices, which has to be given one.
    """
    if config.earlier.proxy is not None or not config.pruning.needs_proxy:
        return None
    if config.machine.devices > 1:
        raise ValueMistake(
            f"proxy=None is missing on {config.machine.devices} devices, expected the folder of the proxy run that "
            f"{config.pruning.method} is chosen by, which trains on one: run it first with --method full --collect, "
            f"then give its folder with --proxy"
        )
    folder, full = config.folder.with_name(config.folder.name + "-proxy"), presets.get("full")
    return config.with_settings(
        method="full",
        score=full.score,
        policy=full.policy,
        delta=full.delta,
        coreset=None,
        prune_ratio=None,
        budget="calibrated",
        co_teaching=None,
        without_issues=False,
        cross_validation=None,
        patience=None,
        ema=None,
        base_run=None,
        proxy=None,
        collect=True,
        trace=False,
        track=None,
        oracle=False,
        reference="none",
        out=folder,
        resume=False,
    )


def resumed(config: TrainConfig) -> TrainConfig:
    """The run, to be gone on with where it was begun."""
    return config.with_settings(resume=(config.folder / CONFIG).exists())


def home_of(folder: Path) -> str:
    """What a run's folder is called below the root: protocol/cell/seed<k>."""
    return "/".join(folder.parts[-3:])


def unexported(jobs: Sequence[Job], exported: Set[str]) -> list[Job]:
    """The jobs without those whose run is in an export, but for what the others need from its folder; in their order.

    Args:
        jobs: of `jobs`.
        exported: runs, as `alignprune.bench.results.store.Store.exported` gives them.
    """
    by_folder = {job.folder: job for job in jobs}
    wanted = [job for job in jobs if home_of(job.folder) not in exported]
    kept: set[Path] = set()
    while wanted:
        job = wanted.pop()
        kept.add(job.folder)
        wanted += [by_folder[need] for need in job.needs if need in by_folder and need not in kept]
    return [job for job in jobs if job.folder in kept]


def together(jobs: Sequence[Job], workers: int) -> list[Job]:
    """The jobs, those with each seed of a cell alongside that can be trained with it, in their order.

    The seeds of a cell are divided where there would else be less to do than there are workers.

    Args:
        jobs: of `jobs`.
        workers: processes that run at the same time.
    """
    from alignprune.bench.run import seeds

    cells: dict[str, list[Job]] = {}
    for job in jobs:
        if not complete(job.folder) and seeds.fit(configure(job.settings)):
            cells.setdefault(job.key, []).append(job)
    parts = math.ceil(workers / max(len(cells), 1))
    beside = {
        job.folder: tuple(other for other in found[part::parts] if other is not job)
        for found in cells.values()
        for part in range(parts)
        for job in found[part::parts]
    }
    return [replace(job, alongside=beside.get(job.folder, ())) for job in jobs]


def work(job: Job) -> list[Job]:
    """Run one job to its end, or what is left of it, and with it those alongside that nobody else works on.

    Returns:
        the jobs that are complete now.
    """
    with ExitStack() as held:
        taken = [job, *(other for other in job.alongside if _is_free(other, held))]
        for one in taken:
            place = {"key": one.key, "protocol": one.protocol, "cell": one.folder.parent.name, "seed": one.seed}
            write_record(one.folder / JOB, JOB_KIND, place | {"settings": dict(one.settings)})
        configs = [resumed(configure(one.settings)) for one in taken]
        if len(configs) == 1:
            _run_alone(configs[0])
        else:
            _run_together(configs)
        return [one for one in taken if complete(one.folder)]


def _is_free(job: Job, held: ExitStack) -> bool:
    """Whether a job can be taken, whose folder is then held."""
    if complete(job.folder) or not all(complete(need) for need in job.needs):
        return False
    try:
        held.enter_context(locked(job.folder))
    except FolderInUse:
        return False
    return not complete(job.folder)


def _run_alone(config: TrainConfig) -> None:
    from alignprune.bench.run import kinds

    kinds.run(config, Lines())


def _run_together(configs: Sequence[TrainConfig]) -> None:
    """Train several seeds at once; one beside the first that failed is left to its own job."""
    from alignprune.bench.run import seeds

    first, *others = seeds.train(configs, [Lines(f"seed {config.seed}: ") for config in configs])
    for config, outcome in zip(configs[1:], others, strict=True):
        if isinstance(outcome, BaseException):
            print(f"seed {config.seed}: {type(outcome).__name__}: {outcome}", flush=True)
    if isinstance(first, BaseException):
        raise first


def _without(settings: Settings, *names: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def _proxy(settings: Settings) -> Settings:
    """The full training by whose statistics samples are chosen."""
    whole = full_training(_without(settings, "oracle", "without_issues", "patience", "ema", "co_teaching"))
    return {**whole, "collect": True}


def _cross_validation(settings: Settings) -> Settings:
    """The cross-validation by whose probabilities labels are flagged."""
    return _without(_proxy(settings), "collect", "trace") | {"folds": FOLDS}


def _base(settings: Settings, base: str) -> Settings:
    """The run of the base method whose pruned share calibrates the epochs of this one."""
    rest = _without(settings, "prune_ratio", "budget", "patience", "ema")
    if base == settings["method"]:
        return rest
    # The base ranks by other scores: it keeps the policy's settings and drops the score's and the reference's.
    own = {name for name in rest if name.startswith("score.") or name in ("reference", "reference_size")}
    return {name: value for name, value in rest.items() if name not in own} | {"method": base}
