"""The commands of the benchmark: train a run, run the jobs of experiments, render what is there.

What a command needs of the heavy libraries is imported when it works, so that a mistyped name is refused at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from alignprune._checks import choice, integer
from alignprune.bench import data
from alignprune.bench.files import save_bytes
from alignprune.bench.grid import experiments, plan, sweep
from alignprune.bench.grid.cells import Cell, Experiment, Protocol
from alignprune.bench.grid.sweep import Job, Report, Summary
from alignprune.bench.places import refuse_file, refuse_unwritable
from alignprune.bench.run.budget import Budget
from alignprune.bench.run.config import TrainConfig
from alignprune.bench.run.lock import locked
from alignprune.bench.run.progress import Progress
from alignprune.bench.run.settings import Device, torch_device
from alignprune.errors import ExistingFile, UserError, ValueMistake

if TYPE_CHECKING:
    from alignprune.bench.results.store import Store
    from alignprune.bench.run.prediction import Predictions


@dataclass(frozen=True)
class DataConfig:
    """Which data sets are there, what is missing and where it comes from; or, with DATASET, which files are damaged.

    Attributes:
        action: "check".
        dataset: as for train: a folder, table or file of your own, hf:NAME_OR_PATH, or a named data set. Every image of
            it is opened, and those that cannot be read are listed.
        workers: threads that open files; None = one a core.
        data_root: folder of the named data sets; None = the environment variable ALIGNPRUNE_DATA.
    """

    action: Positional[Literal["check"]]
    dataset: Annotated[str | None, Positional, arg(metavar="[DATASET]", help_behavior_hint="")] = None
    workers: int | None = None
    data_root: Path | None = None


@dataclass(frozen=True)
class Which:
    """Which cells of which experiments.

    Attributes:
        names: tables and figures, such as table-1 or figure-3; "all" for every one.
        protocol: how large the runs are: paper, short, cpu, document, pretrained, scratch or scratch-40.
        rows: only these rows, as the paper prints them, or methods by name; empty = all.
        columns: only these columns, such as real or sym_0.2; empty = all.
        blocks: only these blocks, such as 50; empty = all. A block 0 of full training is always there.
        budget: "calibrated" as the paper, or "equal": at a prune ratio every method trains on as many samples.
        runs: folder of all sweeps' runs.
    """

    names: Annotated[tuple[str, ...], Positional, arg(metavar="NAME [NAME ...]", help_behavior_hint="(required)")]
    protocol: str = "paper"
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    budget: Budget = "calibrated"
    runs: Path = plan.ROOT


@dataclass(frozen=True)
class SweepConfig(Which):
    """Run what experiments take. A call after an interruption goes on; what is complete is not run again.

    Attributes:
        list: show how many runs each experiment takes, and run nothing.
        seeds: how many seeds, 0 to seeds - 1; None = the protocol's.
        engine: "local" processes, or "ray" for a cluster.
        workers: processes that run at the same time, on this machine.
        threads: of each process; None = the cores divided by the processes.
        gpus: of each run, such as 0.25; Ray only.
        address: of the Ray cluster; None starts or finds one here.
        retries: how often a run is tried again that failed by what may pass; a mistake to be mended is not.
        together: train the seeds of a head on features in one process, as one batched network; --no-together trains
            each by itself.
        device: where to train; None = the protocol's.
        loader_workers: loader processes of each run; None = the protocol's.
        data_root: folder of the named data sets; None = the environment variable ALIGNPRUNE_DATA.
    """

    list: bool = False
    seeds: int | None = None
    engine: Literal["local", "ray"] = "local"
    workers: int = 1
    threads: int | None = None
    gpus: float = 0.0
    address: str | None = None
    retries: int = 1
    together: bool = True
    device: str | None = None
    loader_workers: int | None = None
    data_root: Path | None = None

    def __post_init__(self) -> None:
        if self.seeds is not None:
            integer("seeds", self.seeds, at_least=1, remedy="3 as the paper")


@dataclass(frozen=True)
class TableConfig(Which):
    """Render tables from the runs that are there, beside the paper's numbers.

    Attributes:
        form: text, markdown or csv.
        measures: what to show of each cell, such as accuracy, forward_fraction, kept_noise; empty = the cell's own.
        against: a row, such as InfoBatch or Full-training; all others are shown as the difference to it, seed by seed.
        between: two rows, such as Full-training and Oracle; all others are shown as the share, in percent, of the way
            from the first to the second that they close, seed by seed.
        out: write to this file, or, with several tables, into this folder, instead of printing.
    """

    form: Literal["text", "markdown", "csv"] = "text"
    measures: tuple[str, ...] = ()
    against: str | None = None
    between: tuple[str, str] | None = None
    out: Path | None = None


@dataclass(frozen=True)
class FigureConfig(Which):
    """Draw figures, or tables as bars, from the runs that are there; or one's own run, from its folder.

    Attributes:
        names: tables and figures, such as table-1 or figure-3; "all" for every one; or folders of runs.
        out: folder to draw into.
        suffix: png, svg or pdf.
    """

    out: Path = Path("figures")
    suffix: Literal["png", "svg", "pdf"] = "png"


@dataclass(frozen=True)
class ExportConfig:
    """Write what runs left for tables and figures into three Parquet files, to publish or to keep when the runs go.

    Attributes:
        runs: folders of runs, or of earlier exports. A run that several have is taken from the first of them, which is
            said.
        out: folder for runs.parquet, epochs.parquet and rankings.parquet; an export that is there is replaced, so name
            it among ``runs`` where its runs are to stay.
    """

    out: Path
    runs: tuple[Path, ...] = (plan.ROOT,)


@dataclass(frozen=True)
class PredictConfig:
    """Ask the model of a finished run about samples: a class and its probability each.

    Attributes:
        run: folder of the run.
        data: an image, a folder of images (a subfolder named as a class gives that label), an .npz file with x (or
            x_test, or x_train), a .csv, .tsv or .parquet file with a column path, a column text or the features
            (?text=COLUMN and the like choose others), or hf:NAME_OR_PATH. Labels are not needed.
        out: file to write the table into, .csv or .parquet; it must not be there.
        device: where to compute.
        workers: loader processes.
    """

    run: Annotated[Path, Positional, arg(metavar="RUN")]
    data: Annotated[str, Positional, arg(metavar="DATA")]
    out: Path = Path("predictions.csv")
    device: Device = "auto"
    workers: int = 0

    def __post_init__(self) -> None:
        integer("workers", self.workers, at_least=0, remedy="0 loads in this process")


def train(config: TrainConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train a run, and first the proxy run that it needs where none is given.

    Args:
        config: everything.
        progress: hears of every step and epoch, on the first rank.

    Returns:
        the content of result.json.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: before any training, with what to do.
    """
    data.refuse_unknown(config.data.dataset, config.data.noise, config.data.noise_rate)
    from alignprune.bench.run import kinds, training

    first = plan.proxy_of(config)
    if first is not None:
        training.prepare(config, progress)  # what is wrong with the run is found before its proxy is trained
        with locked(first.folder, wait=True):
            if not sweep.complete(first.folder):
                training.train(plan.resumed(first), progress)
        config = config.with_settings(proxy=first.folder)
    return kinds.run(config, progress)


def predict(config: PredictConfig, progress: Callable[[int, int], object] | None = None) -> Predictions:
    """Ask the model of a run, and write its table.

    Args:
        config: which.
        progress: hears how many samples of how many are turned into vectors, where the run reads such.

    Raises:
        ValueError, FileNotFoundError, FileExistsError, RuntimeError: before anything is written, with what to do.
    """
    from alignprune.bench.run import prediction

    prediction.check_out(config.out)
    found = prediction.predict(config.run, config.data, torch_device(config.device), config.workers, progress)
    prediction.write(found, config.out)
    return found


def check_data(config: DataConfig, progress: Callable[[int, int], object] | None = None) -> int:
    """Print the state of every data set, or the damaged files of one.

    Args:
        config: which.
        progress: hears how many samples of how many have been opened.

    Returns:
        0 if one data set at least whose files have to be fetched is complete; of one, if nothing is damaged.
    """
    if config.dataset is not None:
        return _check_files(config.dataset, config, progress)
    found = data.check(config.data_root)
    for status in found:
        print(f"{status.name}: {'complete' if status.complete else 'incomplete' if status.found else 'absent'}")
        lines = [("there", name) for name in status.found] + [("missing", name) for name in status.missing]
        if not status.complete:
            lines += [("note", status.note)] * bool(status.note) + [("source", status.source)]
        for name, text in lines:
            print(f"    {name:<9}{text}")
    return 0 if any(status.complete and status.found for status in found) else 1


def open_files(dataset: str, config: DataConfig, progress: Callable[[int, int], object] | None) -> data.Report:
    """Open every sample of a data set; `progress` hears how many of how many are done."""
    return data.open_all(data.load(dataset, root=config.data_root), config.workers, progress)


def _check_files(dataset: str, config: DataConfig, progress: Callable[[int, int], object] | None) -> int:
    report = open_files(dataset, config, progress)
    for damage in report.damaged:
        print(f"{damage.sample}: {damage.reason}")
    counts = ", ".join(f"{count:,} {split}" for split, count in report.counts.items())
    print(f"{dataset}: {len(report.damaged):,} of {sum(report.counts.values()):,} samples damaged ({counts})")
    return 1 if report.damaged else 0


def run_sweep(config: SweepConfig, report: Report) -> int:
    """Run the jobs of the chosen experiments, or list them, and print what came of it; 1 if some failed."""
    if config.list:
        _print_list(listed(config))
        return 0
    started = time.perf_counter()
    summary = sweep_jobs(config, report)
    print(_summary_text(summary, time.perf_counter() - started))
    return 1 if summary.failed else 0


def sweep_jobs(config: SweepConfig, report: Report) -> Summary:
    """Run the jobs of the chosen experiments, and archive them.

    Raises:
        ValueError, FileNotFoundError, FileExistsError, ImportError: before any job starts, for what none of them could
            do: data sets that are not there, a folder that cannot be written, a device or a library that is missing.
    """
    refuse_unwritable("runs", config.runs)
    protocol = experiments.protocol(config.protocol)
    seeds = range(config.seeds if config.seeds is not None else protocol.seeds)
    cells = [cell for _, chosen in chosen_cells(config, protocol) for cell in chosen]
    machine = {"device": config.device, "workers": config.loader_workers, "data_root": config.data_root}
    given = {name: str(value) if name == "data_root" else value for name, value in machine.items() if value is not None}
    jobs = plan.unexported(plan.jobs(cells, protocol, seeds, config.runs, given), _store(config).exported())
    _refuse_in_vain(config, [job for job in jobs if not sweep.complete(job.folder)])
    if config.together and config.engine == "local" and len(seeds) > 1:
        jobs = plan.together(jobs, config.workers)
    summary = sweep.run(
        jobs,
        work,
        engine=config.engine,
        workers=config.workers,
        retries=config.retries,
        threads=config.threads,
        gpus=config.gpus,
        address=config.address,
        report=report,
    )
    skipped, failed = [], list(summary.failed)
    for job in summary.skipped:
        try:
            _archive_complete(job.folder)
            skipped.append(job)
        except UserError as error:  # a file of it is damaged
            failed.append((job, f"{type(error).__name__}: {error}"))
    return replace(summary, skipped=tuple(skipped), failed=tuple(failed))


def _refuse_in_vain(config: SweepConfig, jobs: list[Job]) -> None:
    """Refuse jobs before they start that would all fail, or fail at their end."""
    wanted = [(job.settings["dataset"], job.settings.get("noise")) for job in jobs]
    data.refuse_missing(wanted, config.data_root)
    for embeddings in {job.settings.get("embeddings") for job in jobs}:
        data.word_vectors(embeddings)
    if config.engine == "local":  # the nodes of a cluster have devices of their own
        for device in {job.settings.get("device", "auto") for job in jobs}:
            torch_device(device)
    if any("folds" in job.settings for job in jobs):
        from alignprune.bench.run import confident_learning

        confident_learning.refuse_without_cleanlab()


def _archive_complete(folder: Path) -> None:
    """Archive a run that was complete before, if it was stopped before its archive or there are new rankers."""
    from alignprune.bench.results import store
    from alignprune.bench.run.folder import read_result

    read_result(folder)  # refuses a damaged one, which only looks complete
    if not store.is_archived(folder):
        store.archive(folder)


def work(job: Job) -> None:
    """Train one job to its end, or what is left of it, and archive all that is complete: what a sweep's workers do."""
    done = plan.work(job)
    from alignprune.bench.results import store

    for one in done:
        store.archive(one.folder)


def show_tables(config: TableConfig) -> int:
    """Print or write the chosen tables. All are made before one is written."""
    from alignprune.bench.results import tables

    protocol, runs = experiments.protocol(config.protocol), _store(config)
    suffix = {"text": ".txt", "markdown": ".md", "csv": ".csv"}[config.form]
    chosen = chosen_cells(config, protocol)
    if config.out is not None:
        refuse_unwritable("out", config.out if len(chosen) > 1 else config.out.parent)
        if len(chosen) == 1 and config.out.is_dir():
            raise ExistingFile(f"out={str(config.out)!r} is a folder, expected a file for one table: name one in it")
    rendered = {
        f"{experiment.name}-{protocol.name}{suffix}": tables.render(
            _narrowed(experiment, cells), protocol, runs, config.form, config.measures, config.against, config.between
        )
        for experiment, cells in chosen
    }
    for name, text in rendered.items():
        if config.out is None:
            print(text)
        else:
            file = config.out / name if len(chosen) > 1 else config.out
            save_bytes(file, (text if text.endswith("\n") else text + "\n").encode())
            print(f"written to {file}")
    return 0


def table_rows(config: TableConfig) -> list[dict[str, Any]]:
    """The chosen tables as rows, one a cell and measure: the columns of the form csv, numbers not rounded.

    Raises:
        ValueError: if a file to write is given: these rows are the answer itself.
    """
    from alignprune.bench.results import tables

    if config.out is not None:
        raise ValueMistake(
            f"out={str(config.out)!r} is given with --json, which prints, expected one of them: leave --json out, or "
            f"redirect what it prints"
        )
    protocol, runs = experiments.protocol(config.protocol), _store(config)
    return [
        row
        for experiment, cells in chosen_cells(config, protocol)
        for row in tables.rows(
            _narrowed(experiment, cells), protocol, runs, config.measures, config.against, config.between
        )
    ]


def draw_figures(config: FigureConfig) -> list[Path]:
    """Draw the chosen figures: of experiments, and of runs by their folders. All are drawn before one is written.

    Returns:
        the files that were written.
    """
    from alignprune.bench.results import charts, figures, one_run

    refuse_unwritable("out", config.out)
    runs = [Path(name) for name in config.names if name not in experiments.EXPERIMENTS and Path(name).is_dir()]
    names = tuple(name for name in config.names if Path(name) not in runs)
    _check_runs(config, runs, names)
    drawn = {run.resolve().name: one_run.picture(run) for run in runs}
    if names or not runs:
        protocol, stored = experiments.protocol(config.protocol), _store(config)
        for experiment, cells in chosen_cells(replace(config, names=names), protocol):
            narrowed = _narrowed(experiment, cells)
            drawn[f"{experiment.name}-{protocol.name}"] = figures.picture(narrowed, protocol, stored)
    files = {config.out / f"{name}.{config.suffix}": picture for name, picture in drawn.items()}
    for file, picture in files.items():
        charts.save(picture, file)
    return list(files)


def _store(which: Which) -> Store:
    """The runs that are there."""
    from alignprune.bench.results.store import Store

    refuse_file("runs", which.runs)
    return Store(which.runs)


def _check_runs(config: FigureConfig, runs: list[Path], names: tuple[str, ...]) -> None:
    """Refuse a choice of cells where only runs are drawn, and runs whose pictures would have the same name."""
    for option in ("rows", "columns", "blocks"):
        if runs and not names and getattr(config, option):
            raise ValueMistake(
                f"{option}={getattr(config, option)!r} is given with the folder of a run, which has none, expected a "
                f"table or figure: leave it out"
            )
    drawn = [run.resolve().name for run in runs]
    for name in drawn:
        if drawn.count(name) > 1:
            raise ValueMistake(
                f"names holds {drawn.count(name)} runs in folders called {name!r}, expected one a call, since the "
                f"picture has that name: draw each into an --out of its own"
            )


def chosen_cells(which: Which, protocol: Protocol) -> list[tuple[Experiment, tuple[Cell, ...]]]:
    """The experiments and cells that are asked for.

    Raises:
        ValueError: for a name, row, column or block that is nowhere, with the nearest.
    """
    if not which.names:
        raise ValueMistake("NAME is missing, expected a table or figure: table-1 or figure-3; --list shows all")
    wanted = {experiment.name: experiment for name in which.names for experiment in experiments.get(name)}
    chosen = [(experiment, experiments.cells_of(experiment, protocol)) for experiment in wanted.values()]
    every = [cell for _, cells in chosen for cell in cells]
    known_rows = {name for cell in every for name in (cell.row, str(cell.settings["method"]))}
    for option, given, known in (
        ("rows", which.rows, known_rows),
        ("columns", which.columns, {cell.column for cell in every}),
        ("blocks", which.blocks, {cell.block for cell in every}),
    ):
        for name in given:
            choice(option, name, sorted(known))
    return [
        (experiment, tuple(_budgeted(cell, which.budget) for cell in cells if _wanted(cell, which)))
        for experiment, cells in chosen
    ]


def _budgeted(cell: Cell, budget: Budget) -> Cell:
    if budget == "calibrated" or "prune_ratio" not in cell.settings:
        return cell
    return replace(cell, settings={**cell.settings, "budget": budget})


def _wanted(cell: Cell, which: Which) -> bool:
    full = cell.is_full_training
    return (
        (not which.rows or full or cell.row in which.rows or cell.settings["method"] in which.rows)
        and (not which.columns or cell.column in which.columns)
        and (not which.blocks or cell.block in which.blocks or (full and cell.block == "0"))
    )


def _narrowed(experiment: Experiment, cells: tuple[Cell, ...]) -> Experiment:
    return replace(experiment, cells=lambda _: cells)


def listed(config: SweepConfig) -> dict[str, Any]:
    """How many runs each experiment takes, and how many of them are complete.

    Returns:
        protocol and seeds; ``experiments``, each with cells, runs and complete, None where the protocol has none; and
        runs and complete of all together, those that experiments share counted once.
    """
    exported = _store(config).exported()
    protocol = experiments.protocol(config.protocol)
    seeds = config.seeds if config.seeds is not None else protocol.seeds
    rows: list[dict[str, Any]] = []
    every: dict[Path, Job] = {}
    for experiment in [part for name in config.names or ("all",) for part in experiments.get(name)]:
        row: dict[str, Any] = {"name": experiment.name, "title": experiment.title}
        try:
            cells = experiments.cells_of(experiment, protocol)
        except ValueError:
            rows.append(row | dict.fromkeys(("cells", "runs", "complete")))
            continue
        jobs = {job.folder: job for job in plan.jobs(cells, protocol, range(seeds), config.runs)}
        every |= jobs
        rows.append(row | {"cells": len(cells), "runs": len(jobs), "complete": _complete(jobs, exported)})
    together = {"runs": len(every), "complete": _complete(every, exported)}
    return {"protocol": protocol.name, "seeds": seeds, "experiments": rows, **together}


def _print_list(found: dict[str, Any]) -> None:
    from rich.table import Table

    from alignprune.bench.console import console

    protocol = experiments.protocol(found["protocol"])
    table = Table(title=f"protocol {protocol.name}: {protocol.summary}", title_justify="left")
    table.add_column("name", min_width=max(len(row["name"]) for row in found["experiments"]))  # to be copied, so whole
    table.add_column("what it shows")
    for name in ("cells", "runs", "complete"):
        table.add_column(name, justify="right", min_width=len(name))
    for row in found["experiments"]:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    table.add_section()
    together = (str(found["runs"]), str(found["complete"]))
    table.add_row("all", "runs that experiments share counted once", "", *together)
    console().print(table)
    others = ", ".join(name for name in experiments.PROTOCOLS if name != protocol.name)
    print(f"{found['seeds']} seeds; -: not in this protocol. Other protocols: --protocol {others}")


def _complete(jobs: dict[Path, Job], exported: set[str]) -> int:
    return sum(sweep.complete(folder) or plan.home_of(folder) in exported for folder in jobs)


def _summary_text(summary: Summary, seconds: float) -> str:
    done, before = len(summary.done), len(summary.skipped)
    lines = [f"{done} runs done in {seconds / 60:.1f} minutes, {before} were complete before"]
    lines += [f"failed: {job.name}: {error} ({job.folder / 'log.txt'})" for job, error in summary.failed]
    lines += [f"not run, since it needs a failed one: {job.name}" for job in summary.blocked]
    if summary.failed or summary.blocked:
        lines.append("the same command goes on with all that is not complete")
    return "\n".join(lines)
