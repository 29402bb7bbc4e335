"""Completion in a shell: commands, options and the names that stand in registries.

The script is written once from the records that the command line itself reads, with all names in it, so that a shell
answers without starting Python. Options of one method, such as --policy.window, are offered with every method; where
nothing is known, files are. zsh reads the script of bash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tyro.conf import Positional, Suppress

from alignprune import coresets, losses, presets
from alignprune.bench import commands, data, demo, doctor, label_report, recipes
from alignprune.bench.grid import experiments
from alignprune.bench.results import side_by_side
from alignprune.bench.run import listing, trackers
from alignprune.bench.run.config import SETTINGS, default_config

Shell = Literal["bash", "zsh", "fish"]


@dataclass(frozen=True)
class CompletionConfig:
    """Print the script that completes commands, options and names; docs/cli.md says where each shell reads it.

    Attributes:
        shell: bash, zsh or fish.
    """

    shell: Positional[Shell]


@dataclass(frozen=True)
class _Words:
    """What may follow a command.

    Attributes:
        names: in the place of its arguments; none where these are files.
        options: each with the words for its value; None for an option without one.
    """

    names: tuple[str, ...]
    options: Mapping[str, tuple[str, ...] | None]


def script(shell: Shell, summaries: Mapping[str, str], shared: Iterable[str]) -> str:
    """The script for a shell.

    Args:
        shell: which.
        summaries: by command what it does, in a line.
        shared: options of every command, none of which has a value.
    """
    flags = dict.fromkeys(shared)
    words = _words(summaries)
    every = {name: _Words(words[name].names, {**words[name].options, **flags}) for name in summaries}
    return _fish(every, summaries) if shell == "fish" else _bash(every, zsh=shell == "zsh")


# -- what there is to complete -----------------------------------------------------------------------------


def _words(commands_there: Iterable[str]) -> dict[str, _Words]:
    datasets, grid = tuple(data.DATASETS), ("all", *experiments.EXPERIMENTS)
    protocols = tuple(experiments.PROTOCOLS)
    which = {"--protocol": protocols}
    found = {
        "demo": _Words((), _options(demo.DemoConfig)),
        "train": _Words(datasets, _train_options()),
        "audit": _Words(datasets, _options(label_report.AuditConfig)),
        "predict": _Words((), _options(commands.PredictConfig)),
        "runs": _Words((), _options(listing.RunsConfig)),
        "compare": _Words((), _options(side_by_side.CompareConfig)),
        "methods": _Words((), {"--markdown": None}),
        "data": _Words(("check", *datasets), _options(commands.DataConfig)),
        "sweep": _Words(grid, _options(commands.SweepConfig) | which),
        "table": _Words(grid, _options(commands.TableConfig) | which),
        "figure": _Words(grid, _options(commands.FigureConfig) | which),
        "export": _Words((), _options(commands.ExportConfig)),
        "doctor": _Words((), _options(doctor.DoctorConfig)),
        "completion": _Words(get_args(Shell), {}),
        "help": _Words(tuple(commands_there), {}),
    }
    return found


def _train_options() -> dict[str, tuple[str, ...] | None]:
    """The options of train with any method, static method and loss, and the names that they take."""
    configs = [default_config("cifar100n", method) for method in (*presets.PRESETS, *coresets.CORESETS)]
    configs += [default_config("cifar100n", "full", loss=loss) for loss in losses.LOSSES]
    settings = (setting for config in configs for setting in config.options().items())
    records = dict.fromkeys((name, type(value)) for name, value in settings if is_dataclass(value))
    others = {"dataset", *(name for name, _ in records)}
    own = [_option(name, kind) for name, kind in SETTINGS.items() if name not in others]
    parts = [_prefixed(f"{name}.", _options(record)) for name, record in records]
    return {option: values for part in (*own, *parts) for option, values in part.items()} | {
        "--config": (),
        "--method": (*presets.PRESETS, *coresets.CORESETS),
        "--recipe": tuple(recipes.RECIPES),
        "--loss": tuple(losses.LOSSES),
        "--reference": ("auto", "clean", "noisy", "none", *coresets.CORESETS),
        "--track": tuple(trackers.TRACKERS),
        "--epochs": (),
        "--batch-size": (),
    }


def _options(record: type) -> dict[str, tuple[str, ...] | None]:
    """The options that a record makes."""
    kinds, marked = get_type_hints(record), get_type_hints(record, include_extras=True)
    found: dict[str, tuple[str, ...] | None] = {}
    for field in fields(record):
        if not {Positional, Suppress} & set(getattr(marked[field.name], "__metadata__", ())):
            found |= _option(field.name, kinds[field.name])
    return found


def _option(name: str, kind: Any) -> dict[str, tuple[str, ...] | None]:
    """An option and the words for its value; of a flag also the one that turns it off."""
    option = name.replace("_", "-")
    if kind is bool:
        return {f"--{option}": None, f"--no-{option}": None}
    return {f"--{option}": get_args(kind) if get_origin(kind) is Literal else ()}


def _prefixed(prefix: str, options: Mapping[str, tuple[str, ...] | None]) -> dict[str, tuple[str, ...] | None]:
    return {f"--{prefix}{option[2:]}": values for option, values in options.items()}


# -- the scripts -------------------------------------------------------------------------------------------

_BASH = """\
# Completion of alignprune, written by `alignprune completion`.
_alignprune() {
    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" command="" words="" place
    for ((place = 1; place < COMP_CWORD; place++)); do
        case "${COMP_WORDS[place]}" in
            -*) ;;
            *) command="${COMP_WORDS[place]}"; break ;;
        esac
    done
    # --option=value comes as three words in bash
    [ "$previous" = "=" ] && previous="${COMP_WORDS[COMP_CWORD-2]}"
    [ "$current" = "=" ] && previous="${COMP_WORDS[COMP_CWORD-1]}" current=""
    case "$command $previous" in
VALUES
        *)
            case "$command $current" in
OPTIONS
NAMES
            esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _alignprune alignprune
"""

_ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"


def _bash(every: Mapping[str, _Words], *, zsh: bool) -> str:
    """The script of bash; a word that is completed with nothing becomes the name of a file."""
    values = [f"        {pattern}) words={words} ;;" for command in every for pattern, words in _values(command, every)]
    options = [f'                "{command} -"*) words={_listed(known.options)} ;;' for command, known in every.items()]
    names = [f'                "{command} "*) words={_listed(known.names)} ;;' for command, known in every.items()]
    names.append(f'                " "*) words={_listed(every)} ;;')
    body = _BASH
    for place, lines in (("VALUES", values), ("OPTIONS", options), ("NAMES", names)):
        body = body.replace(place, "\n".join(lines))
    return (_ZSH if zsh else "") + body


def _values(command: str, every: Mapping[str, _Words]) -> list[tuple[str, str]]:
    """Patterns of bash for the options of a command that have the same words for their value, and these words."""
    alike: dict[str, list[str]] = {}
    for option, words in every[command].options.items():
        if words is not None:
            alike.setdefault(_listed(words), []).append(f'"{command} {option}"')
    return [("|".join(patterns), words) for words, patterns in alike.items()]


def _fish(every: Mapping[str, _Words], summaries: Mapping[str, str]) -> str:
    lines = ["# Completion of alignprune, written by `alignprune completion fish`."]
    for command, known in every.items():
        start = f"complete -c alignprune -n '__fish_seen_subcommand_from {command}'"
        lines.append(
            f"complete -c alignprune -n __fish_use_subcommand -f -a {command} -d {_quoted(summaries[command])}"
        )
        if known.names:
            lines.append(f"{start} -a {_listed(known.names)}")
        for option, words in known.options.items():
            value = "" if words is None else f" -x -a {_listed(words)}" if words else " -r"
            lines.append(f"{start} -l {option[2:]}{value}")
    return "\n".join(lines) + "\n"


def _listed(words: Iterable[str]) -> str:
    return _quoted(" ".join(words))


def _quoted(text: str) -> str:
    """A text as one word; fish and bash agree on single quotes with none inside."""
    return "'" + text.replace("'", "’") + "'"
