"""Completion as a shell does it: bash reads the script and is asked what may follow."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alignprune import coresets, losses, presets
from alignprune.bench import recipes
from alignprune.bench.data import DATASETS
from alignprune.bench.grid import experiments
from alignprune.cli import _COMMANDS, main

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="this system has no bash")

# What bash does when somebody presses Tab at the end of a line, which it has split at blanks and at "=".
_TAB = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _alignprune; printf "%s\\n" "${COMPREPLY[@]}"'


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "alignprune.bash"
    done = subprocess.run(
        [sys.executable, "-m", "alignprune.cli", "completion", "bash"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    file.write_text(done.stdout)
    return file


def completed(script: Path, line: str) -> set[str]:
    """What is offered at the end of a line."""
    words = [word for word in re.split(r" |(=)", line) if word is not None]
    words = [*words[:-2], words[-2]] if words[-1:] == [""] and words[-2:-1] == ["="] else words
    command = ["bash", "--norc", "-c", f'source "$0"; {_TAB}', str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


def test_commands_are_completed(script: Path) -> None:
    assert completed(script, "alignprune ") == set(_COMMANDS)
    assert completed(script, "alignprune help tr") == {"train"}
    assert completed(script, "alignprune --debug pre") == {"predict"}


def test_names_are_completed_from_their_registries(script: Path) -> None:
    methods = {*presets.PRESETS, *coresets.CORESETS}
    assert completed(script, "alignprune train --method ") == methods
    assert completed(script, "alignprune train digits --method=") == methods
    assert completed(script, "alignprune train --method=rob") == {"robust"}
    assert completed(script, "alignprune train --loss ") == set(losses.LOSSES)
    assert completed(script, "alignprune train --recipe ") == set(recipes.RECIPES)
    assert completed(script, "alignprune train ") == set(DATASETS)
    assert completed(script, "alignprune table ") == {"all", *experiments.EXPERIMENTS}
    assert completed(script, "alignprune sweep table-1 --protocol ") == set(experiments.PROTOCOLS)
    assert completed(script, "alignprune train --budget ") == {"calibrated", "equal"}
    assert completed(script, "alignprune completion ") == {"bash", "zsh", "fish"}


def test_files_are_left_to_the_shell(script: Path) -> None:
    for line in ("alignprune train --out ", "alignprune predict ", "alignprune runs ", "alignprune nonsense "):
        assert completed(script, line) == set()


@pytest.mark.parametrize("command", [name for name in _COMMANDS if name != "help"])
def test_every_option_of_the_help_is_completed(script: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = re.findall(r"^│ (--.+?) *│?$", capsys.readouterr().out, re.MULTILINE)
    options = {option for line in shown for option in re.findall(r"(?:^|, )(--[\w.-]+)", line)}
    aliases = {"--recipe.epochs", "--recipe.batch-size"}
    assert options - aliases <= completed(script, f"alignprune {command} --")


def test_settings_of_every_method_and_loss_are_completed(script: Path) -> None:
    offered = completed(script, "alignprune train --")
    assert {"--policy.prune-prob", "--policy.no-rescale", "--score.window", "--coreset.c-d", "--loss.beta"} <= offered
    assert {"--epochs", "--recipe.lr", "--json", "--debug", "--help"} <= offered


def test_zsh_reads_the_script_of_bash_and_fish_has_its_own(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.endswith(script.read_text())
    assert main(["completion", "fish"]) == 0
    lines = capsys.readouterr().out.splitlines()
    method = next(line for line in lines if "-l method " in line)
    assert re.search(r"from train' -l method -x -a '.*\brobust\b.*'$", method)
    assert sum("__fish_use_subcommand" in line for line in lines) == len(_COMMANDS)
