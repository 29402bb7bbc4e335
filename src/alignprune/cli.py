"""The command line: thin, it reads options, calls the rooms above and draws what they tell.

alignprune demo              six methods on real digits with wrong labels
alignprune train DATASET     a full experiment
alignprune methods           the named methods
alignprune data check        which data sets are there
alignprune sweep NAME        run what a table or figure of the paper takes
alignprune table NAME        the paper's table from the runs that are there
alignprune figure NAME       the paper's figure from the runs that are there
"""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import alignprune
from alignprune import coresets, presets, relabel
from alignprune.errors import ValueMistake
from alignprune.sampler import rank_and_world

if TYPE_CHECKING:
    from alignprune.bench.run.config import TrainConfig

_Config = TypeVar("_Config")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``alignprune``; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] == "--version":
        print(alignprune.__version__)
        return 0
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    command, rest = words[0], words[1:]
    if command not in _COMMANDS:
        near = difflib.get_close_matches(command, _COMMANDS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return _fail(f"{command!r} is no command, expected one of {', '.join(_COMMANDS)}{hint}")
    try:
        return _COMMANDS[command][0](rest)
    except ModuleNotFoundError as error:
        extra = "demo" if command == "demo" else "bench"
        return _fail(f"{error}: install what {command!r} needs with pip install 'alignprune[{extra}]'")
    except (ValueError, TypeError, FileNotFoundError, FileExistsError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        hints = {
            "train": " The run is stored up to its last whole epoch; --resume goes on.",
            "sweep": " Finished runs are stored; the same command goes on.",
        }
        hint = hints.get(command, "")
        return _fail(f"interrupted.{hint}", code=130)


def _demo(words: list[str]) -> int:
    import tyro

    from alignprune.bench import demo

    config = tyro.cli(demo.DemoConfig, args=words, prog="alignprune demo", description=demo.__doc__)
    with _Display() as display:
        task = display.add("", len(demo.METHODS) * config.seeds * config.epochs)
        rows = demo.run(config, lambda method, seed: display.advance(task, f"{method}, seed {seed}"))
    _print_table(
        f"Digits, {demo.NOISE_RATE:.0%} wrong labels, {config.epochs} epochs, {config.seeds} seeds",
        ["method", "accuracy", "forward passes", "seconds", "wrong kept", "AUROC"],
        [
            [
                row["method"],
                f"{row['accuracy_mean']:.1%} ± {row['accuracy_std'] * 100:.1f}",
                f"{row['forward_fraction']:.0%}",
                f"{row['seconds']:.1f}",
                f"{row['kept_noise']:.1%}",
                f"{row['noise_auroc']:.2f}",
            ]
            for row in rows
        ],
    )
    print("wrong kept: share of wrong labels among the kept samples; AUROC: of the score for finding the wrong labels")
    print(f"written to {config.out}: summary.json, loss_distribution.png, trajectories.png")
    return 0


def _train(words: list[str]) -> int:
    from alignprune.bench import commands

    config = parse_train(words)
    with _TrainDisplay() as display:
        result = commands.train(config, display)
    if rank_and_world()[0] > 0:  # the first rank tells
        return 0
    print(
        f"accuracy {result['accuracy']:.2%} after {result['epochs']} epochs and {result['forward_fraction']:.1%} of "
        f"the forward passes; written to {config.folder}"
    )
    return 0


def parse_train(words: Sequence[str]) -> TrainConfig:
    """Read the options of ``alignprune train``.

    Method, recipe and data set are looked up first: they say which settings there are and what their defaults are.
    """
    import tyro

    from alignprune.bench.run import config as configs

    words = list(words)
    dataset = "cifar100n" if not words or words[0].startswith("-") else words[0]
    method = _option(words, "--method") or "infobatch+das"
    names = {name: _option(words, f"--{name}") for name in ("recipe", "relabel")}
    default = configs.default_config(dataset, method, **names)
    for name in names:
        words = _without(words, f"--{name}")
    if (not words or words[0].startswith("-")) and not {"-h", "--help"} & set(words):
        raise ValueMistake("DATASET is missing: alignprune train cifar100n, a file.npz or a folder")
    return tyro.cli(
        configs.TrainConfig,
        args=words,
        default=default,
        prog="alignprune train",
        description=_TRAIN_HELP,
        config=(tyro.conf.AvoidSubcommands,),  # method and --relabel have said which settings there are
    )


def _option(words: list[str], name: str) -> str | None:
    for position, word in enumerate(words):
        if word == name and position + 1 < len(words):
            return words[position + 1]
        if word.startswith(name + "="):
            return word[len(name) + 1 :]
    return None


def _without(words: list[str], name: str) -> list[str]:
    value = _option(words, name)
    if value is None:
        return words
    if f"{name}={value}" in words:
        return [word for word in words if word != f"{name}={value}"]
    at = words.index(name)
    return words[:at] + words[at + 2 :]


def _methods(words: list[str]) -> int:
    if words not in ([], ["--markdown"]):
        return _fail(f"{' '.join(words)!r} is unknown, expected nothing or --markdown")
    rows = presets.table()
    if words:
        print(markdown_table(rows))
        return 0
    for row in rows:
        print(f"{row['method']}\n    {row['what it does']}")
        for name in ("when", "reference", "cost", "settings", "source"):
            print(f"    {name}: {row[name]}")
    return 0


def _data(words: list[str]) -> int:
    from alignprune.bench import commands

    return commands.check_data(_parsed(commands.DataConfig, words, "data"))


def _sweep(words: list[str]) -> int:
    from alignprune.bench import commands

    config = _parsed(commands.SweepConfig, words, "sweep")
    with _SweepDisplay() as display:
        return commands.run_sweep(config, display)


def _table(words: list[str]) -> int:
    from alignprune.bench import commands

    return commands.show_tables(_parsed(commands.TableConfig, words, "table"))


def _figure(words: list[str]) -> int:
    from alignprune.bench import commands

    return commands.draw_figures(_parsed(commands.FigureConfig, words, "figure"))


def _parsed(kind: type[_Config], words: list[str], command: str) -> _Config:
    import tyro

    return tyro.cli(kind, args=words, prog=f"alignprune {command}")


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Rows with equal keys as a Markdown table."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([row[name].replace("|", "\\|") for name in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


_COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "demo": (_demo, "six methods on real digits with 40 % wrong labels, about a minute"),
    "train": (_train, "train a classifier: cifar100n, cifar10n, FILE.npz or a folder of images"),
    "methods": (_methods, "list the named methods and their settings"),
    "data": (_data, "data check: which data sets are there, what is missing and where it comes from"),
    "sweep": (_sweep, "run what a table or figure of the paper takes; --list tells all of them"),
    "table": (_table, "a table of the paper from the runs that are there, beside its numbers"),
    "figure": (_figure, "a figure of the paper from the runs that are there"),
}

_TRAIN_HELP = (
    "Train a classifier with a pruning method. DATASET: a named data set (alignprune data check lists them), the path "
    "of an .npz file (x_train, y_train, x_test, y_test; optional x_reference, y_reference, y_train_clean), a folder "
    "(train/CLASS/, test/CLASS/) or hf:NAME_OR_PATH. --method NAME is one of "
    + ", ".join(presets.PRESETS)
    + ", whose settings are --score.* and --policy.*, or, with --prune-ratio, one of "
    + ", ".join(coresets.CORESETS)
    + ", whose settings are --coreset.*. --recipe NAME chooses a recipe, --relabel NAME one of "
    + ", ".join(relabel.SETTINGS)
    + "."
)


def _overview() -> str:
    lines = ["usage: alignprune COMMAND [OPTIONS]", "", "Prune while training, robust to wrong labels.", ""]
    lines += [f"  {name:<9}{summary}" for name, (_, summary) in _COMMANDS.items()]
    lines += ["", "alignprune COMMAND --help tells the options of a command."]
    return "\n".join(lines)


def _fail(message: str, code: int = 2) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def _print_table(title: str, head: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for name in head:
        table.add_column(name, justify="left" if name == head[0] else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


class _Display:
    """A live progress bar on a terminal; silent elsewhere."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.bars = Bars(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=True
        )

    def __enter__(self) -> Any:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def add(self, description: str, total: int) -> Any:
        return self.bars.add_task(description, total=total)

    def advance(self, task: Any, description: str) -> None:
        self.bars.update(task, advance=1, description=description)


class _TrainDisplay(_Display):
    """One bar for the epochs, one for the batches, and a line an epoch that stays."""

    def start(self, description: str, epochs: int) -> None:
        self.bars.console.print(description)
        self.epochs, self.epoch_task = epochs, self.add("epochs", epochs)
        self.step_task = self.add("batches", 1)

    def step(self, epoch: int, step: int, steps: int) -> None:
        self.bars.update(self.epoch_task, completed=epoch)
        self.bars.update(self.step_task, completed=step + 1, total=steps)

    def epoch(self, metrics: dict[str, Any]) -> None:
        seen = "      -" if metrics["accuracy"] is None else f"{metrics['accuracy']:7.2%}"
        line = (
            f"epoch {metrics['epoch']:>3}/{self.epochs}  accuracy{seen}  "
            f"train loss {metrics['train_loss']:.3f}  pruned {metrics['pruned_share']:5.1%}"
        )
        if metrics["kept_noise"] is not None:
            line += f"  wrong labels kept {metrics['kept_noise']:5.1%}  AUROC {metrics['score_auroc']:.2f}"
        self.bars.console.print(
            line + f"  {metrics['images_per_second']:,.0f} images/s", highlight=False, soft_wrap=True
        )


class _SweepDisplay(_Display):
    """One bar for the runs, and a line for each that ends."""

    def started(self, job: Any) -> None:
        self._tell(job, "started")

    def finished(self, job: Any, seconds: float) -> None:
        self._tell(job, f"done in {seconds:.0f} s")

    def failed(self, job: Any, error: str, attempt: int, final: bool) -> None:
        self._tell(job, f"failed, attempt {attempt}{'' if final else ', will be tried again'}: {error}")

    def skipped(self, job: Any) -> None:
        """It was complete: the last line counts those."""

    def _tell(self, job: Any, what: str) -> None:
        self.bars.console.print(f"{time.strftime('%H:%M:%S')}  {job.name}: {what}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
