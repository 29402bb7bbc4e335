"""What the doctor says of a package that is made up, and of libraries, devices and data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from alignprune.bench.data import DATASETS
from alignprune.cli import main


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed libraries that Python looks into first."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("ALIGNPRUNE_DATA", raising=False)
    return tmp_path


def install(site: Path, name: str, version: str, code: str = "", needs: tuple[str, ...] = ()) -> None:
    module = f"{name.replace('-', '_')}/__init__.py"
    if name != "alignprune":
        (site / module).parent.mkdir()
        (site / module).write_text(code)
    about = site / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {one}" for one in needs),
    ]
    (about / "METADATA").write_text("\n".join(lines) + "\n")
    (about / "RECORD").write_text(f"{module},,\n")


def examined(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert main(["doctor", "--json", *words]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_extras_are_complete_or_say_what_they_lack_and_the_line_that_gets_it(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "made-up-whole", "2.0")
    install(site, "made-up-old", "1.9.3")
    needs = (
        "made-up-whole>=2.0.0; extra == 'small'",
        "alignprune[small]; extra == 'large'",
        "made-up-old>=1.10; extra == 'large'",
        "made-up-absent==0.1; extra == 'large'",
        "made-up-future>=1; (python_version >= '4.0') and extra == 'small'",
        "made-up-tool; extra == 'lint'",
    )
    install(site, "alignprune", "0.1.0", needs=needs)
    found = examined(capsys)
    assert found["extras"] == [
        {
            "name": "large",
            "missing": ["made-up-old>=1.10 (1.9.3 is there)", "made-up-absent==0.1"],
            "install": "pip install 'alignprune[large]'",
        },
        {"name": "small", "missing": [], "install": None},
    ]
    assert [one["name"] for one in found["libraries"]] == ["made-up-old", "made-up-whole"]
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"large +without made-up-old.*: pip install 'alignprune\[large\]'", shown)
    assert re.search(r"small +complete", shown)


def test_a_library_that_does_not_import_is_broken(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "made-up-broken", "3.1", "raise OSError('no such\\nsymbol')")
    install(site, "alignprune", "0.1.0", needs=("made-up-broken>=3; extra == 'some'",))
    (said,) = examined(capsys, code=1)["broken"]
    assert said == (
        "made-up-broken 3.1 is installed and does not import (OSError: no such symbol): "
        "pip install --force-reinstall made-up-broken"
    )
    assert main(["doctor"]) == 1
    assert said in capsys.readouterr().out


def test_a_torch_too_old_is_broken(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "alignprune", "0.1.0", needs=("torch>=99.1", "numpy>=1"))
    (said,) = examined(capsys, code=1)["broken"]
    assert said.startswith("torch ")
    assert said.endswith("is too old, expected torch>=99.1: pip install --upgrade 'torch>=99.1'")


def test_devices_are_those_of_torch(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "alignprune", "0.1.0")
    cpu, *others = examined(capsys)["devices"]
    assert (cpu["name"], cpu["about"]) == ("cpu", f"{torch.get_num_threads()} threads")
    assert sum(one["name"].startswith("cuda") for one in others) == torch.cuda.device_count()


def test_data_sets_are_looked_for_in_the_data_root(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "alignprune", "0.1.0")
    assert (examined(capsys)["data_root"], examined(capsys)["datasets"]) == (None, [])
    given = examined(capsys, "--data-root", str(site))
    assert [one["name"] for one in given["datasets"]] == list(DATASETS)
    assert {one["name"]: one["complete"] for one in given["datasets"]}["cifar100n"] is False
    monkeypatch.setenv("ALIGNPRUNE_DATA", str(site))
    assert (examined(capsys)["data_root"], examined(capsys)["datasets"]) == (str(site), given["datasets"])


def test_the_doctor_works_where_the_extra_cli_is_all_there_is() -> None:
    pytest.importorskip("tyro", reason="the extra of the command line is not installed")
    code = """
import importlib.abc, importlib.metadata, sys
import torch  # with what it imports itself

of_tyro = {"docstring_parser", "typeguard", "typing_extensions"}
there = {"alignprune", "torch", "numpy", "rich", "markdown_it", "mdurl", "pygments", "tyro", *of_tyro}

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] not in there | sys.stdlib_module_names:
            raise ModuleNotFoundError(f"{name} is not there", name=name)

sys.meta_path.insert(0, Refuse())
importlib.metadata.requires = lambda name: ["torch>=2.4", "tyro>=0.9; extra == 'cli'", "absent-one; extra == 'bench'"]
from alignprune.cli import main
sys.exit(main(["doctor", "--data-root", "/nowhere"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"bench +without absent-one: pip install 'alignprune\[bench\]'", done.stdout)
    assert re.search(r"cifar100n +\d missing", done.stdout)
