"""Every command takes its words in any order, has a help, and answers as JSON where there is an answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from alignprune.cli import _COMMANDS, main

TABLE = ["--protocol", "cpu", "--runs", "RUNS"]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_has_a_help_that_goes_to_standard_output(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain = said(capsys, name, "--help")
    assert "usage: alignprune" in plain
    assert said(capsys, "help", name) == plain
    assert said(capsys, name, "-h", "--json") == plain


@pytest.mark.parametrize("name", _COMMANDS)
def test_an_argument_is_called_by_what_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not re.findall(r"^[ │]{1,3}\[*(?:STR|PATH|\{None\})", said(capsys, name, "--help"), re.MULTILINE)


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_option_is_explained_in_words(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = " ".join(said(capsys, name, "--help").replace("│", " ").split())
    silent = re.findall(r"(?<= )--[a-z][a-z.-]+(?: [^a-z ]\S*)? \((?:default|required)", words)
    assert not silent


def test_arguments_stand_before_between_and_after_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [word.replace("RUNS", str(tmp_path)) for word in TABLE]
    both = said(capsys, "table", "table-1", "table-3", *options)
    assert said(capsys, "table", *options, "table-1", "table-3") == both
    assert said(capsys, "table", "table-1", *options, "table-3") == both
    assert said(capsys, "table", *options[:2], "table-1", *options[2:], "table-3") == both
    narrowed = said(capsys, "table", "table-1", *options, "--rows", "InfoBatch")
    assert said(capsys, "table", "--rows", "InfoBatch", *options, "table-1") == narrowed


def test_json_and_debug_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    listed = said(capsys, "methods", "--json")
    assert said(capsys, "--json", "methods") == listed
    assert said(capsys, "--debug", "--json", "methods") == listed
    assert json.loads(listed)[0]["method"] == "full"


def test_figure_answers_with_the_files_that_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from runs import complete_run

    rows = [{"epoch": 1, "accuracy": 0.5, "train_loss": 1.0, "pruned_share": 0.0}]
    run = complete_run(tmp_path / "run", None, {"method": "full"}, {"accuracy": 0.5}, rows)
    found = json.loads(said(capsys, "figure", "--out", str(tmp_path / "out"), str(run), "--json"))
    assert found == {"written": [str(tmp_path / "out/run.png")]}
    assert [str(file) for file in (tmp_path / "out").iterdir()] == found["written"]
