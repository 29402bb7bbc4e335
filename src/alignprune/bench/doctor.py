"""What is installed here, what it can compute on, and which data it finds; what is missing is told, and is no mistake.

It needs the core and the extra cli alone. Which libraries an extra takes is read from the package's own metadata.
Something is broken where a library is installed and does not import, or where torch or numpy are too old for the core.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import alignprune
from alignprune.errors import ValueMistake

if TYPE_CHECKING:
    from alignprune.bench.data import DatasetStatus

_PACKAGE = "alignprune"
_OF_DEVELOPERS = {"dev", "lint", "test"}

# Such as "torch>=2.6; extra == 'bench'" or "alignprune[cli]; extra == 'bench'".
_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)\s*(?:\[(?P<extras>[^]]*)\])?\s*\(?(?P<bound>[^;)]*)\)?\s*(?:;(?P<when>.*))?"
)
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w.-]+)""")
_PYTHON = re.compile(r"""python_version\s*>=\s*['"](\d+)\.(\d+)""")
_RELEASE = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True)
class DoctorConfig:
    """Tell what is installed, what it can compute on and which data sets there are, and what to do about the rest.

    Attributes:
        data_root: folder of the named data sets; None = the environment variable ALIGNPRUNE_DATA.
    """

    data_root: Path | None = None


@dataclass(frozen=True)
class Library:
    """A library that the package or one of its extras needs, and that is installed.

    Attributes:
        name: as it is installed.
        version: of it.
        problem: why it cannot be imported; None where it can.
    """

    name: str
    version: str
    problem: str | None


@dataclass(frozen=True)
class Extra:
    """An extra of the package.

    Attributes:
        name: in the brackets of pip.
        missing: libraries that are not there, or too old.
        install: the line that gets them; None where nothing is missing.
    """

    name: str
    missing: tuple[str, ...]
    install: str | None


@dataclass(frozen=True)
class Device:
    """Something to compute on.

    Attributes:
        name: "cpu", "cuda:0", "mps".
        about: which it is.
        free, memory: bytes; None where the system does not say.
    """

    name: str
    about: str
    free: int | None = None
    memory: int | None = None


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        alignprune, python, system: versions, and the kind of machine.
        libraries: of the package and its extras, as far as they are installed.
        extras: each with what it lacks.
        devices: to compute on; none where torch does not import.
        data_root: folder of the named data sets; None where none is given.
        datasets: how each stands; none without a data root.
        broken: what has to be mended, each with what to do.
    """

    alignprune: str
    python: str
    system: str
    libraries: tuple[Library, ...]
    extras: tuple[Extra, ...]
    devices: tuple[Device, ...]
    data_root: str | None
    datasets: tuple[DatasetStatus, ...]
    broken: tuple[str, ...]


def examine(config: DoctorConfig, progress: Callable[[int, int], object]) -> Report:
    """Look at everything. Each installed library is imported once, which takes a while.

    Args:
        config: where the data is.
        progress: hears how many libraries of how many have been imported.
    """
    needs = _needs()
    names = sorted({need.name for each in needs.values() for need in each})
    libraries = tuple(_installed(names, progress))
    broken = [_breakage(library) for library in libraries if library.problem is not None]
    usable = not any(library.problem for library in libraries if library.name in ("torch", "numpy"))
    versions = {library.name: library.version for library in libraries}
    root, datasets = _datasets(config.data_root) if usable else (None, ())
    return Report(
        alignprune=alignprune.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        libraries=libraries,
        extras=tuple(_extra(name, each, versions) for name, each in sorted(needs.items()) if name),
        devices=tuple(_devices()) if usable else (),
        data_root=root,
        datasets=datasets,
        broken=(*broken, *_lacks(needs.get("", []), versions, _mend)),
    )


# -- libraries ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Need:
    name: str
    bound: str


def _needs() -> dict[str, list[_Need]]:
    """By extra what it takes, "" the package itself; those of the extras in it are among them."""
    try:
        found = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:  # run from its source
        found = []
    direct: dict[str, list[_Need]] = {"": []}
    within: dict[str, list[str]] = {}
    for text in found:
        parts = _REQUIREMENT.fullmatch(text.strip())
        if parts is None or not _applies(parts["when"] or ""):
            continue
        extra = next(iter(_EXTRA.findall(parts["when"] or "")), "")
        if parts["name"] == _PACKAGE:
            within.setdefault(extra, []).extend(name.strip() for name in parts["extras"].split(","))
        else:
            direct.setdefault(extra, []).append(_Need(parts["name"], parts["bound"].strip()))
    extras = (direct.keys() | within.keys()) - _OF_DEVELOPERS
    return {extra: _resolved(extra, direct, within) for extra in extras}


def _resolved(extra: str, direct: dict[str, list[_Need]], within: dict[str, list[str]]) -> list[_Need]:
    inner = [need for name in within.get(extra, []) for need in _resolved(name, direct, within)]
    return [*direct.get(extra, []), *inner]


def _applies(when: str) -> bool:
    return all(sys.version_info[:2] >= (int(major), int(minor)) for major, minor in _PYTHON.findall(when))


def _installed(names: list[str], progress: Callable[[int, int], object]) -> Iterator[Library]:
    for done, name in enumerate(names, 1):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found = metadata.distribution(name)
            yield Library(name, found.version, _problem(found))
        progress(done, len(names))


def _problem(found: metadata.Distribution) -> str | None:
    """Why a library does not import; None where it does, in silence."""
    module = _module_of(found)
    if module is None:
        return None
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:  # whatever a library that is broken raises
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def _module_of(found: metadata.Distribution) -> str | None:
    """What to import of a library: what has its name, or else what it brings."""
    files = [file for file in found.files or () if file.suffix == ".py"]
    packages = {file.parts[0] for file in files if file.parts[1:] == ("__init__.py",)}
    names = packages | {file.stem for file in files if len(file.parts) == 1}
    own = re.sub(r"[-.]+", "_", found.metadata["Name"]).lower()
    return own if own in names else min((name for name in packages if name.isidentifier()), default=None)


def _extra(name: str, needs: list[_Need], versions: dict[str, str]) -> Extra:
    missing = _lacks(needs, versions, _named)
    return Extra(name, missing, f"pip install '{_PACKAGE}[{name}]'" if missing else None)


def _lacks(needs: list[_Need], versions: dict[str, str], say: Callable[[_Need, str | None], str]) -> tuple[str, ...]:
    """What is said of those that are not there, or too old, each once."""
    found = ((need, versions.get(need.name)) for need in needs)
    return tuple(
        dict.fromkeys(say(need, there) for need, there in found if there is None or not _is_met(need.bound, there))
    )


def _breakage(library: Library) -> str:
    return (
        f"{library.name} {library.version} is installed and does not import ({library.problem}): "
        f"pip install --force-reinstall {library.name}"
    )


def _named(need: _Need, there: str | None) -> str:
    return f"{need.name}{need.bound}" + ("" if there is None else f" ({there} is there)")


def _mend(need: _Need, there: str | None) -> str:
    """Of the core, without which nothing works."""
    wanted = f"{need.name}{need.bound}"
    state = "is not installed" if there is None else f"{there} is too old"
    return f"{need.name} {state}, expected {wanted}: pip install --upgrade '{wanted}'"


def _is_met(bound: str, version: str) -> bool:
    """Whether a version is in the bounds that this package sets, which are lower ones and exact ones."""
    for part in filter(None, map(str.strip, bound.split(","))):
        wanted = _release(part.lstrip(">=~"))
        if part.startswith("==") and _release(version) != wanted:
            return False
        if part.startswith(">=") and _release(version) < wanted:
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    found = _RELEASE.match(version.strip())
    numbers = [int(number) for number in found[0].split(".")] if found else []
    while numbers and not numbers[-1]:  # 2.4 is 2.4.0
        numbers.pop()
    return tuple(numbers)


# -- devices and data --------------------------------------------------------------------------------------


def _devices() -> Iterator[Device]:
    import torch

    yield Device("cpu", f"{torch.get_num_threads()} threads", _pages("SC_AVPHYS_PAGES"), _pages("SC_PHYS_PAGES"))
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, memory = torch.cuda.mem_get_info(index)
        yield Device(f"cuda:{index}", torch.cuda.get_device_name(index), free, memory)
    if torch.backends.mps.is_available():
        yield Device("mps", "Apple's GPU")


def _pages(name: str) -> int | None:
    """Bytes of memory, where the system counts it in pages of that name."""
    if name not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")


def _datasets(given: Path | None) -> tuple[str | None, tuple[DatasetStatus, ...]]:
    """The data root, and how each named data set stands; nothing where no root is given."""
    from alignprune.bench import data

    try:
        root = data.data_root(given)
    except ValueMistake:
        return None, ()
    return str(root), tuple(data.check(root))
