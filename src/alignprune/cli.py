"""The command line: thin, it calls the rooms above with what `bench.parsing` reads, and draws what they report.

Heavy libraries are imported inside the functions that work with them, so that a mistake is answered at once.

Exit codes:
    0  done
    1  a run failed or diverged, no data set is complete or one is damaged, an installed library is broken, or a bug
       of AlignPrune, which shows its traceback
    2  a mistake that you can mend, in a line
  130  interrupted by Ctrl-C
  141  the reader of the output has left, as in `alignprune methods | head`
  143  interrupted by SIGTERM
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import platform
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import alignprune
from alignprune._checks import choice
from alignprune.bench import displays, parsing
from alignprune.errors import Diverged, LostRank, UserError, ValueMistake

if TYPE_CHECKING:
    from alignprune.bench.doctor import Report
    from alignprune.bench.run.listing import ListedRun

_LIBRARIES_OF_EXTRAS = {
    "altair",
    "jinja2",
    "pandas",
    "vl_convert",
    "datasets",
    "duckdb",
    "filelock",
    "lightning_fabric",
    "matplotlib",
    "PIL",
    "pyarrow",
    "ray",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "timm",
    "torchvision",
    "tyro",
}


# -- from the words to the exit code -----------------------------------------------------------------------


_SHARED = {
    "--help": "with any command: its options",
    "--debug": "with any command: show where in the code every error and warning arose",
    "--json": "the answer as JSON",
}
"""Options that stand anywhere in the line."""


def process() -> int:
    """The process ``alignprune``; returns its exit code.

    Imports make half a million objects, which all stay. So garbage is looked for only when the work begins, and where
    there was no work not at the end either: that takes a third off the help and off a mistyped option.
    """
    gc.disable()
    code = main()
    if not gc.isenabled():
        gc.freeze()
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, of this process or as given; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word not in ("--debug", "--json")]
    before = _hear_sigterm()
    if isinstance(sys.stdout, io.TextIOWrapper):  # what its encoding has no letter for, as in names of files
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with contextlib.nullcontext() if "--debug" in given else displays.plain_warnings():
            code = _run(words, as_json="--json" in given)
        sys.stdout.flush()  # here a closed pipe can be answered; Python's own flush at its end comes too late
        return code
    except BrokenPipeError:
        return 141
    except KeyboardInterrupt as stopped:
        command = _COMMANDS.get(words[0]) if words else None
        where = f": {stopped}" if str(stopped) else ""
        number = getattr(stopped, "signal", signal.SIGINT)
        return _fail(f"interrupted{where}.{command.interrupted if command else ''}", code=128 + number)
    except Exception as error:
        return _failed(error, words, debug="--debug" in given)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
        _empty_streams()


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: what it works on is stored, and what it started ends, too."""

    signal = signal.SIGTERM


def _hear_sigterm() -> Any:
    """Let SIGTERM raise; returns the handler to go back to, None where nothing was changed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    ours = threading.current_thread() is threading.main_thread()  # elsewhere Python allows no handlers
    return signal.signal(signal.SIGTERM, end) if ours and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL else None


def _run(words: list[str], as_json: bool) -> int:
    if words[:1] == ["--version"]:
        print(alignprune.__version__)
        return 0
    name, *rest = ["help"] if not words or words[0] in ("-h", "--help") else words
    choice("command", name, _COMMANDS)
    try:
        return _answered(name, rest, as_json)
    except SystemExit as stopped:  # how tyro ends after its help or an unknown option, and rich at a closed pipe
        if isinstance(stopped.__context__, BrokenPipeError):
            raise stopped.__context__ from None
        return int(stopped.code or 0)


def _answered(name: str, words: list[str], as_json: bool) -> int:
    """Run a command; as JSON its answer is all that standard output gets, progress goes to standard error."""
    command = _COMMANDS[name]
    if not as_json or "--help" in words or "-h" in words:
        return command.run(words, False).code
    if not command.json:
        can = ", ".join(other for other, one in _COMMANDS.items() if one.json)
        raise ValueMistake(f"json=True is given with {name}, expected it with {can}: leave --json out")
    with contextlib.redirect_stdout(sys.stderr):
        answer = command.run(words, True)
    if answer.value is not None:
        from alignprune.bench.files import plain

        print(json.dumps(plain(answer.value), indent=2, allow_nan=False))
    return answer.code


def _failed(error: Exception, words: list[str], debug: bool) -> int:
    reason = _reason(error, words)
    if reason is None or debug:
        traceback.print_exception(error)
    if isinstance(error, LostRank):
        return _fail(str(error), code=1, own=True)
    if reason is not None:
        return _fail(reason, code=1 if isinstance(error, Diverged) else 2)
    return _fail(
        "this is a bug in AlignPrune. Please report it with the traceback above and this line:\n"
        f"alignprune {alignprune.__version__}, torch {_version('torch')}, python {platform.python_version()}, "
        f"{platform.system()}; {shlex.join(['alignprune', *words])}",
        code=1,
        own=True,
    )


def _reason(error: Exception, words: list[str]) -> str | None:
    """What the user can mend, in a line; None for a bug."""
    if isinstance(error, UserError):
        return _in_a_line(_said(error))
    if isinstance(error, OSError):
        files = " -> ".join(str(file) for file in (error.filename, error.filename2) if file is not None)
        said = f"{files}{': ' if files else ''}{error.strerror or error}"
        return f"{_in_a_line(said)}; --debug shows where it happened"
    if isinstance(error, ModuleNotFoundError):
        library = (error.name or "").partition(".")[0]
        if library in _LIBRARIES_OF_EXTRAS:
            return f"{words[0]} needs {library}: pip install 'alignprune[{_COMMANDS[words[0]].extra}]'"
    return None


def _said(error: UserError) -> str:
    """Its text; of one that a loader's process has sent, the last line: its traceback there goes before."""
    text = str(error).rstrip()
    return text.splitlines()[-1].partition(": ")[2] if text.startswith("Caught ") else text


def _in_a_line(text: str) -> str:
    """A text without what would break the line or move the cursor, as names and cells of files may hold."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not found"


def _fail(message: str, code: int = 2, *, own: bool = False) -> int:
    displays.complain(f"error: {message}\n", own=own)
    return code


def _empty_streams() -> None:
    """Write what the streams still hold, or drop it; else Python tries again at its end, and complains."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# -- the commands ------------------------------------------------------------------------------------------


class _Answer(NamedTuple):
    """What a command ends with: its exit code, and, where JSON is asked for, what it has to say instead of printing."""

    code: int = 0
    value: Any = None


def _help(words: list[str], as_json: bool) -> _Answer:
    if words and words[0] not in ("-h", "--help"):
        choice("command", words[0], _COMMANDS)
        return _COMMANDS[words[0]].run(["--help"], False)
    print(_overview())
    return _Answer()


def _overview() -> str:
    _, title, codes = (__doc__ or "").partition("Exit codes:\n")
    return "\n".join(
        [
            "usage: alignprune COMMAND [OPTIONS]",
            "",
            "Prune while training, robust to wrong labels.",
            "",
            *(f"  {name:<12}{command.summary}" for name, command in _COMMANDS.items()),
            "",
            *(f"  {option:<12}{meaning}" for option, meaning in _SHARED.items()),
            "  --version",
            "",
            f"{title}{codes.rstrip()}",
        ]
    )


def _demo(words: list[str], as_json: bool) -> _Answer:
    from alignprune.bench import demo

    config = parsing.parse(demo.DemoConfig, words, "demo", description=demo.__doc__)
    with displays.DemoDisplay(len(demo.METHODS) * config.seeds, config.epochs) as display:
        rows = demo.run(config, display.step)
    if as_json:
        return _Answer(value={"out": config.out, "noise_rate": demo.NOISE_RATE, "rows": rows})
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
    return _Answer()


def _train(words: list[str], as_json: bool) -> _Answer:
    config = parsing.parse_train(words)

    from alignprune._ranks import rank_and_world
    from alignprune.bench import commands

    with displays.TrainDisplay() as display:
        result = commands.train(config, display)
    if rank_and_world()[0] > 0:  # the first rank reports
        return _Answer()
    if as_json:
        return _Answer(value={"out": config.folder, **result})
    print(
        f"accuracy {result['accuracy']:.2%} after {result['epochs']} epochs and {result['forward_fraction']:.1%} of "
        f"the forward passes; written to {config.folder}"
    )
    return _Answer()


def _audit(words: list[str], as_json: bool) -> _Answer:
    from alignprune.bench import label_report

    config = parsing.parse(label_report.AuditConfig, words, "audit")
    with displays.TrainDisplay() as display:
        report = label_report.run(config, display, display.line)
    if as_json:
        return _Answer(value={"out": report.folder, **report.summary})
    found = report.summary
    rate = found["noise_rate"]
    print(
        f"{found['num_label_issues']:,} of {found['num_samples']:,} labels are probably wrong"
        + ("" if rate["estimate"] is None else f"; {rate['estimate']:.1%} of all as estimated")
    )
    for line in [*([rate["reason"]] if rate["reason"] else []), *found["warnings"]]:
        print(f"note: {line}")
    print(f"written to {report.folder}: {', '.join(label_report.FILES)}")
    return _Answer()


def _predict(words: list[str], as_json: bool) -> _Answer:
    from alignprune.bench import commands

    config = parsing.parse(commands.PredictConfig, words, "predict")
    with displays.SamplesDisplay("features") as display:
        found = commands.predict(config, display.reached)
    if as_json:
        numbers = {"samples": len(found.ids), "known": found.known, "unknown": found.unknown}
        return _Answer(value={"out": config.out, "part": found.part, **numbers, "accuracy": found.accuracy})
    print(f"{len(found.ids)} samples ({found.part}); written to {config.out}")
    if found.accuracy is not None:
        print(f"accuracy {found.accuracy:.2%} by the given labels of {found.known} samples, right or wrong as they are")
    if found.unknown:
        print(f"{found.unknown} samples have a given label that is no class of the model, and do not count")
    return _Answer()


@dataclass(frozen=True)
class _MethodsConfig:
    """List the named methods: what each does, when it helps, what it costs, its settings and its source.

    Attributes:
        markdown: as a table in Markdown.
    """

    markdown: bool = False


def _methods(words: list[str], as_json: bool) -> _Answer:
    config = parsing.parse(_MethodsConfig, words, "methods")

    from alignprune import presets

    rows = presets.table()
    if as_json:
        return _Answer(value=rows)
    if config.markdown:
        print(markdown_table(rows))
        return _Answer()
    for row in rows:
        print(f"{row['method']}\n    {row['what it does']}")
        for name in ("when", "reference", "cost", "settings", "source"):
            print(f"    {name}: {row[name]}")
    return _Answer()


def _data(words: list[str], as_json: bool) -> _Answer:
    from alignprune.bench import commands, data

    config = parsing.parse(commands.DataConfig, words, "data")
    if config.dataset is not None:
        with displays.SamplesDisplay(config.dataset) as display:
            if not as_json:
                return _Answer(commands.check_data(config, display.reached))
            report = commands.open_files(config.dataset, config, display.reached)
        return _Answer(1 if report.damaged else 0, asdict(report))
    if not as_json:
        return _Answer(commands.check_data(config))
    found = data.check(config.data_root)
    return _Answer(0 if any(one.complete and one.found for one in found) else 1, [asdict(one) for one in found])


def _sweep(words: list[str], as_json: bool) -> _Answer:
    from alignprune.bench import commands

    config = parsing.parse(commands.SweepConfig, words, "sweep")
    if as_json and config.list:
        return _Answer(value=commands.listed(config))
    with displays.SweepDisplay() as display:
        if not as_json:
            return _Answer(commands.run_sweep(config, display))
        summary = commands.sweep_jobs(config, display)
    failed = [{"name": job.name, "error": error, "out": job.folder} for job, error in summary.failed]
    others = {name: [job.name for job in getattr(summary, name)] for name in ("done", "skipped", "blocked")}
    return _Answer(1 if failed else 0, {**others, "failed": failed})


def _table(words: list[str], as_json: bool) -> _Answer:
    from alignprune.bench import commands

    config = parsing.parse(commands.TableConfig, words, "table")
    return _Answer(value=commands.table_rows(config)) if as_json else _Answer(commands.show_tables(config))


def _figure(words: list[str], as_json: bool) -> _Answer:
    from alignprune.bench import commands

    files = commands.draw_figures(parsing.parse(commands.FigureConfig, words, "figure"))
    if as_json:
        return _Answer(value={"written": files})
    for file in files:
        print(f"written to {file}")
    return _Answer()


def _export(words: list[str], as_json: bool) -> _Answer:
    from alignprune.bench import commands

    config = parsing.parse(commands.ExportConfig, words, "export")

    from alignprune.bench.results import exports

    done = exports.export(config.runs, config.out)
    if as_json:
        return _Answer(value={"out": config.out, **asdict(done)})
    for folder, count in done.passed_over.items():
        print(f"{folder}: {count:,} runs are taken from a folder before it")
    for folder, count in done.unarchived.items():
        print(f"{folder}: complete runs without an archive, which are left out: {count:,}; sweep again")
    print(f"{done.runs:,} runs with {done.epochs:,} epochs, {done.size / 1e6:.1f} MB; written to {config.out}")
    return _Answer()


def _runs(words: list[str], as_json: bool) -> _Answer:
    from alignprune.bench.run import listing

    config = parsing.parse(listing.RunsConfig, words, "runs")
    found = listing.runs_below(config.folder)
    if as_json:
        return _Answer(value=[asdict(run) for run in found])
    _print_table(
        f"Runs below {config.folder}",
        ["run", "state", "data set", "method", "noise", "epochs", "accuracy", "suspects", "forward passes", "when"],
        [_run_row(run, config.folder) for run in found],
    )
    for run in found:
        if run.reason is not None:
            print(f"{run.folder}: {_in_a_line(run.reason)}")
    return _Answer()


def _run_row(run: ListedRun, root: Path) -> list[str]:
    done, of = str(run.epochs_done), run.epochs
    return [
        str(run.folder.relative_to(root)),
        run.state,
        run.dataset or "-",
        run.method or "-",
        (run.noise or "-") + ("" if run.noise_rate is None else f" {run.noise_rate:.0%}"),
        done if of is None else f"{done}/{of}",
        _shown(run.accuracy, ".2%"),
        _shown(run.suspects, ",d"),
        _shown(run.forward_fraction, ".1%"),
        f"{datetime.fromisoformat(run.changed).astimezone():%Y-%m-%d %H:%M}",
    ]


def _shown(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def _compare(words: list[str], as_json: bool) -> _Answer:
    from alignprune.bench.results import side_by_side

    config = parsing.parse(side_by_side.CompareConfig, words, "compare")
    runs = side_by_side.read(config.runs)
    settings, results = side_by_side.settings_that_differ(runs), side_by_side.results_of(runs)
    side_by_side.draw(runs, config.out)
    if as_json:
        about = [asdict(run.about) for run in runs]
        return _Answer(value={"out": config.out, "runs": about, "settings": settings, "results": results})
    _print_table(
        "What differs, and what came of it",
        ["", *(run.name for run in runs)],
        [
            *([name, *(_shown(value, "") for value in values)] for name, values in settings.items()),
            *([name, *(_shown(value, side_by_side.RESULTS[name].form) for value in results[name])] for name in results),
        ],
    )
    for run in runs:
        if run.about.state != "finished":
            print(f"{run.name} is {run.about.state}: compared by the {len(run.epochs)} epochs that it has")
    print(f"written to {config.out}")
    return _Answer()


def _doctor(words: list[str], as_json: bool) -> _Answer:
    from alignprune.bench import doctor

    config = parsing.parse(doctor.DoctorConfig, words, "doctor")
    with displays.SamplesDisplay("libraries") as display:
        report = doctor.examine(config, display.reached)
    code = 1 if report.broken else 0
    if as_json:
        return _Answer(code, asdict(report))
    for title, lines in _findings(report).items():
        print(title)
        for line in lines:
            print(f"    {line}")
    return _Answer(code)


def _findings(report: Report) -> dict[str, list[str]]:
    """What the doctor found, in lines below titles."""
    every: tuple[Any, ...] = (*report.libraries, *report.extras, *report.devices, *report.datasets)
    names = max((len(one.name) for one in every), default=0)
    found = {
        f"alignprune {report.alignprune}, python {report.python}, {report.system}": [
            f"{one.name:<{names}}  {one.version}" for one in report.libraries
        ],
        "extras": [
            f"{one.name:<{names}}  "
            + ("complete" if one.install is None else f"without {', '.join(one.missing)}: {one.install}")
            for one in report.extras
        ],
        "devices": [
            f"{one.name:<{names}}  {one.about}"
            + ("" if one.free is None or one.memory is None else f", {_gib(one.free)} of {_gib(one.memory)} GiB free")
            for one in report.devices
        ],
        f"data sets in {report.data_root}": [
            f"{one.name:<{names}}  " + ("complete" if one.complete else f"{len(one.missing)} missing")
            for one in report.datasets
        ],
        "broken": list(report.broken),
    }
    if report.data_root is None:
        found["data sets: no folder is given, by --data-root or ALIGNPRUNE_DATA"] = []
    return {title: lines for title, lines in found.items() if lines or title.startswith("data sets:")}


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"


def _completion(words: list[str], as_json: bool) -> _Answer:
    from alignprune.bench import completion

    config = parsing.parse(completion.CompletionConfig, words, "completion")
    summaries = {name: command.summary for name, command in _COMMANDS.items()}
    print(completion.script(config.shell, summaries, _SHARED), end="")
    return _Answer()


class _Command(NamedTuple):
    """A command: its summary in the overview, the extra it needs, what an interruption leaves, whether it has JSON."""

    run: Callable[[list[str], bool], _Answer]
    summary: str
    extra: str = "bench"
    interrupted: str = ""
    json: bool = True


_COMMANDS = {
    "demo": _Command(_demo, "six methods on real digits with 40 % wrong labels, one to three minutes", extra="demo"),
    "train": _Command(
        _train,
        "train a classifier: cifar100n, cifar10n, a folder of images, TABLE.csv, FILE.npz, hf:NAME",
        interrupted=" The same command with --resume goes on.",
    ),
    "audit": _Command(
        _audit,
        "which labels are probably wrong: trains on a folder, table or file, or takes a run, and writes a report",
        extra="audit",
        interrupted=" The same command goes on.",
    ),
    "predict": _Command(_predict, "what the model of a finished run says of images, arrays or a table"),
    "runs": _Command(_runs, "list the runs below a folder: how each stands, and what came of it"),
    "compare": _Command(_compare, "what differs between runs and what came of it, as a table and a picture"),
    "methods": _Command(_methods, "list the named methods and their settings", extra="cli"),
    "data": _Command(
        _data, "data check: which data sets are there, what is missing; data check DATASET: which files are damaged"
    ),
    "sweep": _Command(
        _sweep,
        "run what a table or figure of the paper takes; --list shows all of them",
        interrupted=" Finished runs are stored; the same command goes on.",
    ),
    "table": _Command(_table, "a table of the paper from the runs that are there, beside its numbers"),
    "figure": _Command(_figure, "a figure of the paper from the runs that are there, or of a run in its folder"),
    "export": _Command(_export, "what runs left for tables and figures in three files, to publish or to keep"),
    "doctor": _Command(
        _doctor,
        "what is installed, what it can compute on, which data is there, what to do about the rest",
        extra="cli",
    ),
    "completion": _Command(_completion, "the script that completes commands, options and names in a shell", json=False),
    "help": _Command(_help, "this overview; help COMMAND, or COMMAND --help: the options of a command", json=False),
}


# -- one way to draw ---------------------------------------------------------------------------------------


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Rows with equal keys as a Markdown table."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([row[name].replace("|", "\\|") for name in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _print_table(title: str, head: list[str], rows: list[list[str]]) -> None:
    from rich.table import Table

    from alignprune.bench.console import console

    table = Table(title=title)
    for name in head:
        table.add_column(name, justify="left" if name == head[0] else "right")
    for row in rows:
        table.add_row(*row)
    console().print(table)


if __name__ == "__main__":
    sys.exit(process())
