"""The command line as a user meets it: commands, options, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alignprune import coresets, presets
from alignprune.cli import main, parse_train
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


def test_help_and_version_and_methods_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "train" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"
    assert main(["methods"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in presets.PRESETS)


def test_a_mistyped_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, told",
    [
        (["train"], "DATASET is missing"),
        (["train", "cifar100n", "--method", "infobach"], "did you mean 'infobatch'"),
        (["train", "cifar100"], "did you mean 'cifar100n'"),
        (["train", "cifar100n", "--recipe", "sdg"], "did you mean 'sgd'"),
        (["train", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_mistakes_are_told_in_a_line_before_training(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--policy.prune-prob", "1.2"], ["--score.window", "1"], ["--epoks", "3"]])
def test_wrong_settings_and_options_are_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_train(["cifar100n", "--method", "infobatch+das", *option])
    assert stopped.value.code == 2
    assert option[0].strip("-").split(".")[-1].replace("-", "_") in capsys.readouterr().err.replace("-", "_")


def test_every_setting_of_score_policy_and_recipe_is_an_option() -> None:
    words = (
        "cifar10n --method=infobatch+das --score.window 7 --policy.prune-prob 0.75 --policy.no-rescale --recipe sgd "
        "--epochs 9 --recipe.lr 0.2 --delta 0.5"
    )
    config = parse_train(words.split())
    assert config.pruning.score == Alignment(window=7)
    assert config.pruning.policy == InfoBatch(prune_prob=0.75, rescale=False)
    assert (config.recipe.name, config.recipe.epochs, config.recipe.lr, config.pruning.delta) == ("sgd", 9, 0.2, 0.5)


def test_settings_of_a_static_method_and_of_relabelling_are_options() -> None:
    words = ["cifar100n", "--method", "dual", "--prune-ratio", "0.7", "--coreset.c-d", "5.5"]
    config = parse_train([*words, "--relabel", "cifar100n", "--relabel.balance", "0.3"])
    assert config.pruning.coreset == coresets.DUAL(c_d=5.5)
    assert config.pruning.prune_ratio == 0.7
    assert config.pruning.relabel is not None
    assert (config.pruning.relabel.consistency, config.pruning.relabel.balance) == (0.9, 0.3)
    plain = parse_train(["cifar100n", "--method", "infobatch"])
    assert (plain.pruning.coreset, plain.pruning.relabel, plain.pruning.prune_ratio) == (None, None, None)


def test_the_recipe_follows_the_data_set() -> None:
    assert parse_train(["cifar100n"]).recipe.name == "cifar100"
    assert parse_train(["cifar10n"]).recipe.name == "cifar10"
    assert parse_train(["mine.npz"]).recipe.name == "sgd"


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
    assert main([*words, "--resume"]) == 0  # complete: told again
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
