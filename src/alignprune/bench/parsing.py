"""One way to parse: the words of a command, in any order, into its record."""

from __future__ import annotations

import contextlib
import gc
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from alignprune._checks import choice
from alignprune.bench import displays
from alignprune.errors import UserError, ValueMistake

if TYPE_CHECKING:
    from alignprune.bench.run.config import TrainConfig

_Config = TypeVar("_Config")


def parse(kind: type[_Config], words: Sequence[str], command: str, **settings: Any) -> _Config:
    """Read the words of a command, in any order, into its record."""
    arguments, options = _parted(_split(words), _numbers_of_values(get_type_hints(kind)))
    return _record(kind, [*arguments, *options], command, **settings)


def _record(kind: type[_Config], words: Sequence[str], command: str, **settings: Any) -> _Config:
    """The record of words, the arguments of the command first. The work begins after that.

    tyro answers what it cannot read in a box of its own, with the nearest option. It would do so too with a mistake
    that the record itself finds, which here is raised as what it is.
    """
    import tyro

    answer = io.StringIO()
    try:
        with contextlib.redirect_stderr(answer):
            record = tyro.cli(kind, args=words, prog=f"alignprune {command}", **settings)
        gc.enable()
        return record
    except SystemExit as stopped:
        mistake = _mistake_behind(stopped)
        if mistake is None:
            raise
        answer.truncate(0)
        raise mistake from None
    finally:
        if answer.getvalue():
            displays.complain(answer.getvalue())


def _split(words: Sequence[str]) -> list[str]:
    """The words with every --option=value as two: one form to search, and tyro finds the nearest of --optoin=value."""
    pairs = (word.split("=", 1) if word.startswith("--") else [word] for word in words)
    return [word for pair in pairs for word in pair]


def _mistake_behind(error: BaseException) -> UserError | None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__context__
    return cause


def parse_train(words: Sequence[str]) -> TrainConfig:
    """Read the options of ``alignprune train``, in any order.

    Method, recipe, loss, features and data set are looked up first: they say which settings there are and what
    their defaults are.

    Raises:
        UserError: for what is missing, unknown, or out of range.
        SystemExit: after the help, and after an option that there is not.
    """
    import tyro

    from alignprune import coresets, presets

    words = _split(words)
    names, _ = _taken_names(words)
    file = names.get("--config")
    method = names.get("--method", None if file else "infobatch+das")
    if method is not None:  # before the heavy libraries of the recipes
        choice("method", method, [*presets.PRESETS, *coresets.CORESETS])

    from alignprune.bench.run import config as configs
    from alignprune.bench.run import stored

    def default(dataset: str | None) -> TrainConfig:
        chosen = {name: names.get(f"--{name}") for name in ("recipe", "loss", "features")}
        if file is not None:
            return stored.from_file(Path(file), dataset=dataset, method=method, **chosen)
        return configs.default_config(dataset or "cifar100n", str(method), **chosen)

    arguments, options = _parted(words, _numbers_of_values(configs.kinds_of(default(None))))
    dataset = arguments[0] if arguments else None
    _, rest = _taken_names(options)
    given = default(dataset)
    config = _record(
        configs.TrainConfig,
        [*arguments, *rest],
        "train",
        default=given,
        description=_train_help(),
        config=(tyro.conf.AvoidSubcommands,),  # method and --loss have said which settings there are
    )
    if dataset is None and file is None:  # only now: an option that there is not may have hidden it
        raise ValueMistake(
            "DATASET is missing: alignprune train cifar100n, a folder of images, a table.csv or a file.npz"
        )
    if config.data.labels != given.data.labels and config.data.labels_digest == given.data.labels_digest:
        return config.with_settings(labels_digest=None)  # of the file that the option has replaced
    return config


def _train_help() -> str:
    from alignprune import coresets, losses, presets

    return (
        "Train a classifier with a pruning method. DATASET: a named data set (alignprune data check lists them), or "
        "your own: a folder (train/CLASS/, test/CLASS/, or CLASS/ alone), a table (.csv, .tsv or .parquet with a "
        "column label and a column path or columns of numbers), an .npz file (x_train, y_train; optional x_test, "
        "y_test, x_reference, y_reference, y_train_clean, class_names, ids) or hf:NAME_OR_PATH; ?label=COLUMN and the "
        "like choose columns, --holdout 0.1 stands in for a test split. --method NAME is one of "
        f"{', '.join(presets.PRESETS)}, whose settings are --score.* and --policy.*, or, with --prune-ratio, one of "
        f"{', '.join(coresets.CORESETS)}, whose settings are --coreset.*. --recipe NAME chooses a recipe, "
        f"--loss NAME one of {', '.join(losses.LOSSES)}, whose settings are --loss.*. --features pretrained, "
        "sentences or tfidf trains on fixed vectors of the samples, with the recipe features. --config RUN/config.json "
        "takes all settings from an earlier run, the data set too; options on the line override them."
    )


def _taken_names(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The options that name a set of settings, the last value of each, and the words without them."""
    names, rest, following = {}, [], iter(words)
    for word in following:
        if word not in ("--method", "--recipe", "--loss", "--features", "--config"):
            rest.append(word)
        elif (name := next(following, None)) is not None:
            names[word] = name
        else:
            raise ValueMistake(f"{word} is the last word, expected a name after it")
    return names, rest


def _parted(words: Sequence[str], number_of_values: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """The arguments of a command, and its options with their values: tyro takes arguments that stand together."""
    arguments: list[str] = []
    options: list[str] = []
    expected = 0.0
    for word in words:
        if word.startswith("--"):
            expected = number_of_values.get(word[2:].replace("_", "-"), 1)
            options.append(word)
        elif expected or word.startswith("-"):
            expected = max(0.0, expected - 1)
            options.append(word)
        else:
            arguments.append(word)
    return arguments, options


def _numbers_of_values(kinds: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """How many words follow an option, by its name, for those that do not take one: flags and lists.

    Args:
        kinds: types of the settings by their names.
        prefix: of the options.
    """
    numbers: dict[str, float] = {}
    for setting, kind in kinds.items():
        name = setting.replace("_", "-")
        if kind is bool:
            numbers |= {f"{prefix}{name}": 0, f"{prefix}no-{name}": 0}
        elif is_dataclass(kind):
            numbers |= _numbers_of_values(get_type_hints(kind), f"{name}.")
        else:
            numbers |= {f"{prefix}{name}": length for length in _lengths(kind)}
    return numbers


def _lengths(kind: Any) -> list[float]:
    """How many values a list of that type holds; nothing for what is no list."""
    lists = [get_args(part) for part in (kind, *get_args(kind)) if get_origin(part) is tuple]
    return [math.inf if parts[-1] is Ellipsis else len(parts) for parts in lists]
