"""The command line as a user meets it: commands, options, mistakes."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignprune import coresets, losses, presets
from alignprune.bench.parsing import parse_train
from alignprune.cli import main
from alignprune.errors import ValueMistake
from alignprune.policies import InfoBatch
from alignprune.scores import Alignment


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """Three well separated classes in eight dimensions, a fifth of the labels wrong, with a clean reference."""
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(3, 8))
    truth = rng.integers(0, 3, 420)
    x = (centres[truth] + rng.normal(size=(420, 8))).astype(np.float32)
    given = truth.copy()
    given[:60] = (given[:60] + 1) % 3
    path = tmp_path / "blobs.npz"
    np.savez(
        path,
        x_train=x[:300],
        y_train=given[:300],
        y_train_clean=truth[:300],
        x_test=x[300:400],
        y_test=truth[300:400],
        x_reference=x[400:],
        y_reference=truth[400:],
    )
    return path


def raising(error: BaseException) -> Any:
    """A function that raises, to be planted in a command."""

    def planted(*_: object, **__: object) -> None:
        raise error

    return planted


def into_a_closed_pipe(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in an interpreter of its own; nobody reads what it prints."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "alignprune.cli", *words]
        return subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)


# -- help ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"], ["help", "--help"]])
def test_the_overview_lists_commands_exit_codes_and_debug(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    overview = capsys.readouterr().out
    for name in (
        "demo",
        "train",
        "predict",
        "methods",
        "data",
        "sweep",
        "table",
        "figure",
        "help",
        "--debug",
        "--version",
    ):
        assert re.search(rf"^  {name} *", overview, re.MULTILINE)
    for code in (0, 1, 2, 130, 141):
        assert re.search(rf"^ +{code}  \w", overview, re.MULTILINE)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


@pytest.mark.parametrize("words", [["help", "train"], ["train", "--help"], ["train", "-h"]])
def test_help_of_a_command_lists_its_options(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "usage: alignprune train" in shown
    assert "--prune-ratio" in shown
    plain = re.sub(r"\s+", "", shown)
    assert all(name in plain for name in [*presets.PRESETS, *coresets.CORESETS])


def test_methods_lists_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line for line in listed if line and not line.startswith(" ")] == list(presets.PRESETS)
    assert main(["methods", "--markdown"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == [f"| {name}" for name in presets.PRESETS]


# -- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["trian"], ["help", "trian"]])
def test_a_mistyped_command_names_the_nearest(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "command='trian' is unknown" in said
    assert "did you mean 'train'" in said


@pytest.mark.parametrize(
    "words, mistake",
    [
        (["train"], "DATASET is missing"),
        (["train", "--method", "full", "--even-batches", "--seed", "1"], "DATASET is missing"),
        (["train", "cifar100n", "--recipe"], "--recipe is the last word"),
        (["train", "cifar100n", "--method", "infobach"], "did you mean 'infobatch'"),
        (["train", "cifar100n", "--loss", "elr-cifar1000"], "did you mean 'elr-cifar100'"),
        (["train", "cifar100"], "did you mean 'cifar100n'"),
        (["train", "cifar100n", "--recipe", "sdg"], "did you mean 'sgd'"),
        (["train", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_mistakes_are_answered_in_a_line_before_training(
    words: list[str], mistake: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert mistake in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option, mistake",
    [
        (["--policy.prune-prob", "1.2"], "prune_prob=1.2 is out of range"),
        (["--score.window", "1"], "window=1 is out of range"),
        (["--limit", "-3"], "limit=-3 is out of range"),
        (["--recipe.optimizer", "sdg"], "did you mean 'sgd'"),
    ],
)
def test_a_wrong_setting_is_answered_in_a_line(
    option: list[str], mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "cifar100n", "--method", "infobatch+das", *option]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert mistake in said
    with pytest.raises(ValueMistake, match=re.escape(mistake)):
        parse_train(words[1:])


@pytest.mark.parametrize(
    "words, nearest",
    [
        (["train", "cifar100n", "--epoks", "3"], "--epochs"),
        (["train", "--epoks=3", "cifar100n"], "--epochs"),
        (["train", "--resum", "cifar100n"], "--resume"),
        (["train", "--metod", "full", "cifar100n"], "--method"),
        (["methods", "--makdown"], "--markdown"),
    ],
)
def test_a_mistyped_option_names_the_nearest(
    words: list[str], nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert re.search(rf"{nearest}\b", capsys.readouterr().err)


def test_debug_shows_the_traceback_of_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--debug", "trian"], ["trian", "--debug"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "Traceback" in said
        assert "ValueMistake" in said
        assert said.splitlines()[-1].startswith("error: command='trian' is unknown")


@pytest.mark.parametrize(
    "error, line",
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/summary.json"), "runs/summary.json: No space left on"),
        (PermissionError(errno.EACCES, "Permission denied", Path("runs")), "runs: Permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a.npz"), "a.npz: Is a directory"),
        (OSError(errno.EROFS, "Read-only file system", "a.part", None, "a"), "a.part -> a: Read-only file system"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device"),
        (OSError("cannot identify image file 'cat.png'"), "error: cannot identify image file 'cat.png'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_a_line(
    error: OSError, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignprune.presets.table", raising(error))
    assert main(["methods"]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
    assert main(["methods", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The only line that a command says, which has been refused."""
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


WRITING = [
    ["train", "digits", "--method", "full", "--out", "OUT"],
    ["train", "digits", "--method", "dual", "--prune-ratio", "0.5", "--out", "OUT/run"],
    ["audit", "digits", "--out", "OUT"],
    ["predict", "run", "digits", "--out", "OUT/predictions.csv"],
    ["demo", "--out", "OUT"],
    ["table", "table-1", "--protocol", "cpu", "--out", "OUT/table.txt"],
    ["table", "table-1", "table-3", "--protocol", "cpu", "--out", "OUT"],
    ["figure", "table-1", "--protocol", "cpu", "--out", "OUT"],
    ["sweep", "table-1", "--protocol", "cpu", "--runs", "OUT"],
    ["export", "--out", "OUT"],
]


@pytest.mark.parametrize("words", WRITING, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize("place", ["file", "file/below", "link"])
def test_a_folder_that_cannot_be_made_is_refused_before_any_work(
    words: list[str], place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for work in ("alignprune.bench.data.load", "alignprune.bench.demo.digits", "alignprune.bench.grid.sweep.run"):
        monkeypatch.setattr(work, raising(AssertionError("the work has begun")))
    said = refused(capsys, *(word.replace("OUT", place) for word in words))
    assert re.search(rf"(out|runs)='{place}[^']*' is to be a folder, but '.*{place[:4]}' is none", said)
    assert {file.name for file in tmp_path.iterdir()} == {"file", "link"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no folder that even root cannot write")
@pytest.mark.parametrize("words", WRITING, ids=lambda words: " ".join(words[:2]))
def test_a_folder_that_the_system_protects_is_refused_before_any_work(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cannot be written, since '/proc' does not let it" in refused(
        capsys, *(word.replace("OUT", "/proc/of/nobody") for word in words)
    )


@pytest.mark.parametrize("words", [["table", "table-1"], ["figure", "table-1"], ["sweep", "--list"]])
def test_runs_in_the_place_of_a_file_are_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    said = refused(capsys, *words, "--protocol", "cpu", "--runs", str(tmp_path / "file"))
    assert f"runs='{tmp_path}/file' is a file, expected a folder" in said


def test_a_table_in_the_place_of_a_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "table", "table-1", "--protocol", "cpu", "--out", str(tmp_path))
    assert f"out='{tmp_path}' is a folder, expected a file" in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_output_to_a_full_disk_is_answered_in_a_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "alignprune.cli", "methods"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: No space left on device")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command, extra", [("methods", "cli"), ("train", "bench"), ("demo", "demo")])
def test_a_missing_library_is_answered_with_what_to_install(
    command: str, extra: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert main([command]) == 2
    said = capsys.readouterr().err
    assert said == f"error: {command} needs tyro: pip install 'alignprune[{extra}]'\n"


def test_every_library_of_the_extras_is_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    needed = [need for name in ("cli", "bench", "ray", "demo") for need in extras["optional-dependencies"][name]]
    names = {re.split(r"[>\[]", need)[0] for need in needed} - {"alignprune", "torch"}
    imported = {"scikit-learn": "sklearn", "pillow": "PIL"}
    for library in (imported.get(name, name.replace("-", "_")) for name in names):
        error = ModuleNotFoundError(f"No module named '{library}'", name=f"{library}.part")
        monkeypatch.setattr("alignprune.presets.table", raising(error))
        assert main(["methods"]) == 2
        assert f"needs {library}: pip install" in capsys.readouterr().err


# -- bugs, interruptions, closed pipes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "bug",
    [
        TypeError("object of type 'NoneType' has no len()"),
        ValueError("not enough values to unpack"),
        RuntimeError("shape mismatch"),
        KeyError("name"),
        ModuleNotFoundError("No module named 'alignprune.nothing'", name="alignprune.nothing"),
    ],
)
def test_a_bug_shows_its_traceback_and_what_to_report(
    bug: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignprune.presets.table", raising(bug))
    assert main(["methods", "--no-markdown"]) == 1
    *trace, what, report = capsys.readouterr().err.splitlines()
    assert trace[0].startswith("Traceback")
    assert trace[-1].startswith(f"{type(bug).__name__}: ")
    assert "bug in AlignPrune" in what
    assert re.fullmatch(
        r"alignprune 0\.1\.0, torch \d+\.\S+, python 3\.\S+, \w+; alignprune methods --no-markdown", report
    )


def test_an_interruption_ends_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignprune.presets.table", raising(KeyboardInterrupt()))
    assert main(["methods"]) == 130
    assert capsys.readouterr().err == "error: interrupted.\n"


@pytest.mark.parametrize("words", [["--help"], ["methods"], ["methods", "--help"], ["sweep", "--list"]])
def test_a_closed_pipe_ends_quietly_as_shells_expect(words: list[str]) -> None:
    done = into_a_closed_pipe(*words)
    assert (done.returncode, done.stderr) == (141, "")


def test_letters_that_the_encoding_of_the_output_does_not_have_are_shown_by_their_numbers() -> None:
    command = [sys.executable, "-m", "alignprune.cli", "table", "table-1", "--protocol", "cpu"]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"mean \u0394" in done.stdout


# -- the options of train -----------------------------------------------------------------------------------


_GROUPS = (
    ["digits"],
    ["--method", "infobatch"],
    ["--recipe=cifar10"],
    ["--epochs", "3"],
    ["--even-batches"],
    ["--no-give-labels"],
    ["--policy.no-rescale"],
    ["--seed", "7"],
)


@settings(deadline=None, max_examples=20)
@given(st.permutations(_GROUPS))
def test_options_and_data_set_come_in_any_order(groups: list[list[str]]) -> None:
    config = parse_train([word for group in groups for word in group])
    assert (config.data.dataset, config.pruning.method, config.pruning.policy) == (
        "digits",
        "infobatch",
        InfoBatch(rescale=False),
    )
    assert (config.recipe.name, config.recipe.epochs, config.seed) == ("cifar10", 3, 7)
    assert (config.data.even_batches, config.pruning.give_labels) == (True, False)


@pytest.mark.parametrize("method", [["--method", "full"], ["--method=full"], ["--method", "seta", "--method", "full"]])
def test_the_value_of_an_option_is_not_the_data_set(method: list[str]) -> None:
    rate = ["--recipe.div-factor", "10"]  # an option of the recipe that this data set has, and others have not
    assert parse_train([*method, *rate, "cifar100n"]) == parse_train(["cifar100n", *method, *rate])
    shares = ["--recipe.schedule", "multistep", "--recipe.milestones", "0.3", "0.6"]
    config = parse_train([*shares, *method, "digits"])
    assert config == parse_train(["digits", *method, *shares])
    assert (config.data.dataset, config.recipe.milestones) == ("digits", (0.3, 0.6))


def test_every_setting_of_score_policy_and_recipe_is_an_option() -> None:
    words = (
        "cifar10n --method=infobatch+das --score.window 7 --policy.prune-prob 0.75 --policy.no-rescale --recipe sgd "
        "--epochs 9 --recipe.lr 0.2 --delta 0.5"
    )
    config = parse_train(words.split())
    assert config.pruning.score == Alignment(window=7)
    assert config.pruning.policy == InfoBatch(prune_prob=0.75, rescale=False)
    assert (config.recipe.name, config.recipe.epochs, config.recipe.lr, config.pruning.delta) == ("sgd", 9, 0.2, 0.5)


def test_settings_of_a_static_method_and_of_a_loss_are_options() -> None:
    words = ["cifar100n", "--method", "dual", "--prune-ratio", "0.7", "--coreset.c-d", "5.5"]
    config = parse_train([*words, "--loss", "sop-cifar100n", "--loss.balance", "0.3"])
    assert config.pruning.coreset == coresets.DUAL(c_d=5.5)
    assert config.pruning.prune_ratio == 0.7
    assert config.pruning.loss == replace(losses.get("sop-cifar100n").settings, balance=0.3)  # type: ignore[call-arg]
    elr = parse_train(["cifar100n", "--loss", "elr-cifar10", "--loss.targets", "float16", "--loss.beta", "0.8"])
    changed: dict[str, Any] = {"targets": "float16", "beta": 0.8}
    assert elr.pruning.loss == replace(losses.get("elr-cifar10").settings, **changed)
    plain = parse_train(["cifar100n", "--method", "infobatch"])
    assert (plain.pruning.coreset, plain.pruning.loss, plain.pruning.prune_ratio) == (None, None, None)


def test_the_recipe_follows_the_data_set() -> None:
    assert parse_train(["cifar100n"]).recipe.name == "cifar100"
    assert parse_train(["cifar10n"]).recipe.name == "cifar10"
    assert parse_train(["mine.npz"]).recipe.name == "sgd"


# -- runs ---------------------------------------------------------------------------------------------------


def test_train_on_own_arrays_writes_the_run(
    blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", str(blobs), "--epochs", "6", "--recipe.lr", "0.02", "--device", "cpu", "--out", "run"]
    assert main(words) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert f"accuracy {result['accuracy']:.2%}" in capsys.readouterr().out
    assert result["accuracy"] > 0.6
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert result["forward_passes"] == sum(round((1 - row["pruned_share"]) * 300) for row in rows)
    assert result["reference_forward_passes"] == 6 * 20
    assert rows[0]["kept_noise"] == pytest.approx(0.2)

    assert main(words) == 2  # nothing is overwritten
    assert "--resume" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0  # complete: reported again
    assert main([*words, "--resume", "--seed", "1"]) == 2
    assert "seed: 0 there, 1 now" in capsys.readouterr().err


def test_a_method_that_needs_a_reference_says_so_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 2
    np.savez(tmp_path / "bare.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    out = tmp_path / "run"
    for reference in ("auto", "none"):
        assert main(["train", str(tmp_path / "bare.npz"), "--reference", reference, "--out", str(out)]) == 2
        assert "reference" in capsys.readouterr().err
    assert not out.exists()


def test_demo_writes_summary_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--seeds", "1", "--epochs", "6"]) == 0
    rows = json.loads((out / "summary.json").read_text())["rows"]
    assert [row["method"] for row in rows] == [
        "full",
        "dynamic-random",
        "infobatch",
        "infobatch+das",
        "seta+das",
        "robust",
    ]
    keys = {"method", "accuracy_mean", "accuracy_std", "forward_fraction", "seconds", "kept_noise", "noise_auroc"}
    assert all(set(row) == keys for row in rows)
    by_name = {row["method"]: row for row in rows}
    assert by_name["full"]["forward_fraction"] == 1.0
    assert by_name["dynamic-random"]["forward_fraction"] == pytest.approx(0.7, abs=0.001)
    assert by_name["infobatch"]["kept_noise"] > by_name["full"]["kept_noise"] > by_name["infobatch+das"]["kept_noise"]
    for name in ("loss_distribution.png", "trajectories.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert "infobatch+das" in capsys.readouterr().out
