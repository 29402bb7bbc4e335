"""What users install: the wheel holds the package and nothing else, the sdist all that a wheel is built from."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import alignprune

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return out


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for path in (SOURCE / "alignprune").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert held == {path.relative_to(SOURCE).as_posix() for path in files}
    assert "alignprune/py.typed" in held


def test_the_sdist_holds_tests_pages_and_examples(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert held >= {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt", "mkdocs.yml"}
    for folder in ("src", "tests", "docs", "examples", "benchmarks"):
        assert {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")} <= held


def test_an_installed_wheel_imports_and_answers(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    place = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", place, wheel]
    subprocess.run(pip, check=True)
    said = subprocess.run(
        [sys.executable, "-c", "import alignprune; print(alignprune.__file__, alignprune.__version__)"],
        env={"PYTHONPATH": str(place)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    file, version = said.stdout.split()
    assert Path(file).is_relative_to(place)
    assert version == alignprune.__version__
    command = subprocess.run(
        [sys.executable, place / "bin" / "alignprune", "--version"],
        env={"PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert command.stdout.strip() == version


def test_the_version_stands_in_one_place_and_the_citation_follows_it(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    assert wheel.name.startswith(f"alignprune-{alignprune.__version__}-")
    assert re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [alignprune.__version__]
    assert not re.search(r"^version\b", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def required(dist: Path) -> dict[str, set[str]]:
    """What the wheel requires by extra, "" = always; the extras that one names are followed."""
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(name).decode().splitlines()
    found: dict[str, set[str]] = {line.partition(": ")[2]: set() for line in lines if line.startswith("Provides-Extra")}
    for line in lines:
        if line.startswith("Requires-Dist"):
            requirement, _, condition = line.partition(": ")[2].partition(";")
            extra = re.search(r"extra == ['\"]([\w-]+)", condition)
            found.setdefault(extra[1] if extra else "", set()).add(requirement.strip())
    return found


def libraries(extra: str, wanted: dict[str, set[str]]) -> set[str]:
    """The names of the libraries that an extra brings."""
    found = set()
    for requirement in wanted[extra]:
        own = re.fullmatch(r"alignprune\[(.+)]", requirement)
        if own:
            found |= {name for other in own[1].split(",") for name in libraries(other, wanted)}
        else:
            found.add(re.match(r"[\w-]+", requirement)[0])
    return found


def test_the_core_requires_torch_and_numpy_and_what_works_on_the_project_is_no_extra(dist: Path) -> None:
    wanted = required(dist)
    assert libraries("", wanted) == {"torch", "numpy"}
    assert set(wanted) >= {"cli", "bench", "audit", "all"}
    assert not set(wanted) & {"test", "lint", "docs", "lock", "dev"}


def test_the_extra_all_brings_what_every_other_brings(dist: Path) -> None:
    wanted = required(dist)
    assert libraries("all", wanted) == {name for extra in wanted if extra for name in libraries(extra, wanted)}
