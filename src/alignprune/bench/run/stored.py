"""A configuration from the config.json that a run wrote: every option as there, but for those that are named anew.

What is there has to be a setting of this version and of its type; each mistake is refused with the key, in dots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from alignprune._checks import choice
from alignprune.bench import recipes
from alignprune.bench.contents import quoted
from alignprune.bench.files import SEAL
from alignprune.bench.reading import json_object, naming
from alignprune.bench.run import config as configs
from alignprune.bench.run.config import TrainConfig
from alignprune.bench.run.settings import FEATURES_OF
from alignprune.errors import MissingFile, TypeMistake, ValueMistake
from alignprune.losses import KINDS

# Which settings belong to a name, and give way when another is chosen.
_OF_METHOD = ("score", "policy", "delta", "coreset", "base_pruned_share")
_RECORDS = ("score", "policy", "coreset", "loss", "recipe")


def read(path: Path) -> dict[str, Any]:
    """The settings in a config.json, as they are there.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no JSON of settings, or of another version.
    """
    if not path.exists():
        raise MissingFile(f"config={str(path)!r} is not there, expected the config.json of a run: check the path")
    place = f"config={str(path)!r}"
    found = json_object(place, path, "the config.json of a run", "check the file")
    version = found.get("version")
    if version != configs.VERSION:
        raise ValueMistake(
            f"{place} has version={quoted(version)}, expected {configs.VERSION}: give the config.json of a run "
            f"of this version of alignprune"
        )
    return {name: value for name, value in found.items() if name not in ("version", SEAL)}  # a copy may be edited


def configuration(
    settings: Mapping[str, Any],
    *,
    dataset: str | None = None,
    method: str | None = None,
    recipe: str | None = None,
    loss: str | None = None,
    features: str | None = None,
) -> TrainConfig:
    """The configuration of stored settings.

    Args:
        settings: as `read` gives them; what is missing is as the method and the recipe have it.
        dataset, method, recipe, loss, features: names that take the place of those in the settings, with all that
            belongs to them; None leaves them.

    Raises:
        TypeError, ValueError: for a key that there is not, and for a value of another type or out of range.
    """
    named = {"dataset": dataset, "method": method}
    rest = {**settings, **{name: value for name, value in named.items() if value is not None}}
    for name in rest:
        choice("key", name, configs.SETTINGS)
    for name in named:
        if name not in rest:
            raise ValueMistake(f"{name} is missing, expected a name: add it")
    if rest["method"] != settings.get("method"):
        rest = {name: value for name, value in rest.items() if name not in _OF_METHOD}
    if features is not None and features != settings.get("features"):
        rest = {name: value for name, value in rest.items() if name not in FEATURES_OF}
        rest["features"] = features
    if recipe is not None:
        rest.pop("recipe", None)
    if loss is not None:
        rest.pop("loss", None)
    dataset, method = (_typed(str, rest.pop(name), name) for name in named)
    chosen = _typed(configs.SETTINGS["features"], rest.get("features", "none"), "features")
    named_recipe = recipe or _name_of(rest.get("recipe", {"name": None}))
    made = configs.default_config(dataset, method, named_recipe, loss, chosen)
    own = made.options()
    records = {name: _record(own[name], rest.pop(name), name) for name in _RECORDS if name in rest}
    return made.with_settings(**records, **{name: _typed(configs.SETTINGS[name], rest[name], name) for name in rest})


def _name_of(recipe: Any) -> str | None:
    """The name of the recipe that the stored one was made from; None for the data set's own."""
    name = _typed(dict, recipe, "recipe").get("name")
    if name is not None:
        choice("recipe.name", name, recipes.RECIPES)
    return name


def _record(default: Any, stored: Any, key: str) -> Any:
    """The stored record, and what is missing in it as the default has it.

    Args:
        default: what the method, the recipe or the named loss has there; None for nothing.
        stored: values by name, with the kind of the record where there are several; None for no record.
        key: name of the record.
    """
    kinds = KINDS if key == "loss" else {} if default is None else {type(default).__name__: type(default)}
    if stored is None or not kinds:
        if stored is not default:
            raise ValueMistake(f"{key}={quoted(stored)} is given, expected {default!r} with this method: leave it out")
        return None
    values = dict(_typed(dict, stored, key))
    kind = type(default).__name__ if key == "recipe" else values.pop("kind", None)
    choice(f"{key}.kind", kind, kinds)
    record = kinds[kind]
    hints = get_type_hints(record)
    known = [field.name for field in fields(record)]
    for name in values:
        choice("key", f"{key}.{name}", [f"{key}.{other}" for other in known])
    typed = {name: _typed(hints[name], value, f"{key}.{name}") for name, value in values.items()}
    whole = {**({} if default is None else {name: getattr(default, name) for name in known}), **typed}
    for field in fields(record):
        if field.name not in whole and field.default is MISSING:
            raise ValueMistake(f"{key}.{field.name} is missing, expected a value: add it")
    return record(**whole)


def _typed(hint: Any, value: Any, key: str) -> Any:
    """A JSON value as a setting of that type."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for option in options:
        fits, found = _as(option, value)
        if fits:
            return found
    names = " or ".join("null" if option is NoneType else _words(option) for option in options)
    raise TypeMistake(f"{key}={quoted(value)} is {type(value).__name__}, expected {names}: mend it, or leave it out")


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(map(repr, get_args(hint)))
    return "a list of numbers" if get_origin(hint) is tuple else "text" if hint is Path else str(hint.__name__)


def _as(hint: Any, value: Any) -> tuple[bool, Any]:
    """Whether a JSON value is of a type, and what it is as that type."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if get_origin(hint) is Literal:
        return value in get_args(hint), value
    if get_origin(hint) is tuple:
        parts = [_as(get_args(hint)[0], part) for part in value] if isinstance(value, list) else [(False, None)]
        return all(fits for fits, _ in parts), tuple(part for _, part in parts)
    if hint is float:
        return number, float(value) if number else None
    if hint is int:
        return number and isinstance(value, int), value
    if hint is Path:
        return isinstance(value, str), Path(value) if isinstance(value, str) else None
    return isinstance(value, hint), value


def from_file(path: Path, **names: str | None) -> TrainConfig:
    """`configuration` of what `read` finds; every mistake also names the file."""
    settings = read(path)
    with naming(f"config={str(path)!r}"):
        return configuration(settings, **names)
