"""A run from the config.json of another: the same run, but for what is named anew."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from alignprune import coresets, presets
from alignprune.bench.files import write_record
from alignprune.bench.parsing import parse_train
from alignprune.bench.run.config import configure
from alignprune.bench.run.folder import RESULT_KIND, read_result
from alignprune.bench.run.stored import configuration
from alignprune.cli import main
from alignprune.errors import UserError
from alignprune.policies import InfoBatch
from alignprune.scores import Alignment

LINE = (
    "digits --method infobatch+das --noise symmetric --noise-rate 0.3 --epochs 4 --recipe.lr 0.03 --limit 300 "
    "--score.window 9 --policy.no-rescale --reference-size 50 --seed 3 --evaluate-every 2"
)


def stored(line: str, place: Path) -> str:
    """The config.json of a run with these options, which does not train."""
    file = place / "config.json"
    file.write_text(json.dumps(parse_train(line.split()).stored(None), default=str))
    return str(file)


def changed(place: Path, **changes: Any) -> str:
    """The config.json of the run above with some keys replaced, by their names with dots; None removes one."""
    found = json.loads(Path(stored(LINE, place)).read_text())
    for name, value in changes.items():
        *heads, last = name.split("__")
        record = found
        for head in heads:
            record = record[head]
        record[last] = value
    (place / "config.json").write_text(json.dumps(found))
    return str(place / "config.json")


def test_a_run_from_a_config_is_the_run_that_wrote_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["train", *LINE.split(), "--device", "cpu", "--out", str(first)]) == 0
    assert main(["train", "--config", str(first / "config.json"), "--device", "cpu", "--out", str(second)]) == 0
    assert (first / "config.json").read_text() == (second / "config.json").read_text()
    whole, again = (read_result(run) for run in (first, second))
    assert {name: again[name] for name in again if "second" not in name} == {
        name: whole[name] for name in whole if "second" not in name
    }
    rows, others = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (first, second)
    )
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in others]
    assert [row["test_loss"] for row in rows] == [row["test_loss"] for row in others]
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


EVERY_METHOD = [*presets.PRESETS, *coresets.CORESETS]


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_every_method_is_the_same_after_a_config(method: str, tmp_path: Path) -> None:
    config = configure(
        {"dataset": "cifar100n", "method": method, "loss": None if method == "divbs" else "sop-cifar100n"}
    )
    text = json.dumps(config.stored(None))
    found = {name: value for name, value in json.loads(text).items() if name != "version"}
    assert configuration(found) == config


def test_options_on_the_line_override_the_config(tmp_path: Path) -> None:
    file = stored(LINE, tmp_path)
    assert parse_train(["--config", file]) == parse_train(LINE.split())
    config = parse_train(f"--epochs 7 --config {file} --score.window 12 --seed 5 --out there".split())
    assert (config.recipe.epochs, config.recipe.lr, config.seed, config.data.limit) == (7, 0.03, 5, 300)
    assert (config.pruning.score, config.pruning.policy) == (Alignment(window=12), InfoBatch(rescale=False))
    assert parse_train(["--config", file, "cifar10n", "--noise", "worse"]).data.dataset == "cifar10n"
    assert parse_train(["cifar10n", f"--config={file}"]).data.dataset == "cifar10n"


def test_another_method_or_recipe_brings_its_own_settings(tmp_path: Path) -> None:
    file = stored(LINE, tmp_path)
    same = parse_train(f"--config {file} --method infobatch+das".split())
    assert same.pruning.score == Alignment(window=9)
    other = parse_train(f"--config {file} --method seta+das".split())
    assert (other.pruning.score, other.pruning.policy) == (
        presets.get("seta+das").score,
        presets.get("seta+das").policy,
    )
    assert (other.recipe.lr, other.data.noise_rate) == (0.03, 0.3)
    recipe = parse_train(f"--config {file} --recipe news".split())
    assert (recipe.recipe.name, recipe.pruning.score) == ("news", Alignment(window=9))


def test_other_features_bring_their_own_settings(tmp_path: Path) -> None:
    file = stored("own.csv --features pretrained --feature-model resnet18 --method robust --epochs 7", tmp_path)
    assert parse_train(["--config", file]).data.feature_model == "resnet18"
    other = parse_train(f"--config {file} --features tfidf".split())
    assert (other.data.features, other.data.feature_model, other.recipe.epochs) == ("tfidf", None, 7)


def test_the_share_that_a_base_run_measured_is_in_the_config(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    result = {"method": "infobatch", "epochs": 60, "prune_ratio": None, "pruned_share": 0.2877}
    write_record(base / "result.json", RESULT_KIND, result)
    line = f"digits --method infobatch --prune-ratio 0.5 --base-run {base}"
    config = parse_train(line.split())
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.stored(config.measured_base()), default=str))
    again = parse_train(["--config", str(file)])
    assert again.measured_base() == 0.2877
    assert again.epochs(again.measured_base()) == config.epochs(0.2877)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"epoks": 3}, "key='epoks' is unknown"),
        ({"limits": 3}, "did you mean 'limit'?"),
        ({"score__windw": 3}, "key='score.windw' is unknown.*did you mean 'score.window'"),
        ({"recipe__lrr": 3}, "key='recipe.lrr' is unknown.*did you mean 'recipe.lr'"),
        ({"version": 1}, "has version=1, expected 2"),
        ({"seed": "3"}, "seed='3' is str, expected int"),
        ({"seed": True}, "seed=True is bool, expected int"),
        ({"limit": 2.5}, "limit=2.5 is float, expected int or null"),
        ({"even_batches": 1}, "even_batches=1 is int, expected bool"),
        ({"noise": 3}, "noise=3 is int, expected str or null"),
        ({"score__window": "9"}, "score.window='9' is str, expected int"),
        ({"score__kind": "Loss"}, "score.kind='Loss' is unknown, expected one of Alignment"),
        ({"score": [9]}, "score=.9. is list, expected dict"),
        ({"recipe__lr": None}, "recipe.lr=None is NoneType, expected float"),
        ({"recipe__milestones": 0.5}, "recipe.milestones=0.5 is float, expected a list of numbers"),
        ({"recipe__name": "sdg"}, "recipe.name='sdg' is unknown.*did you mean 'sgd'"),
        ({"budget": "most"}, "budget='most' is str, expected 'calibrated', 'equal'"),
        ({"coreset": {"kind": "DUAL"}}, "coreset=.* is given, expected None with this method"),
        ({"loss": {"kind": "SOPSettings"}}, "loss.lr_u is missing"),
        ({"loss": {"kind": "SOPsettings"}}, "loss.kind='SOPsettings' is unknown.*did you mean 'SOPSettings'"),
        ({"loss": {"kind": "GCESettings", "q": 2}}, "q=2.0 is out of range"),
        ({"loss": {"kind": "ELRSettings", "beta": 0, "weight": 1, "targets": "half"}}, "targets='half' is str"),
        ({"policy__prune_prob": 1.5}, "prune_prob=1.5 is out of range"),
        ({"method": "infobach"}, "did you mean 'infobatch'"),
    ],
)
def test_what_is_wrong_in_a_config_is_refused_with_the_key(
    changes: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = changed(tmp_path, **changes)
    with pytest.raises(UserError, match=said):
        parse_train(["--config", file])
    assert main(["train", "--config", file, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: config={file!r}")
    assert re.search(said, error)
    assert not (tmp_path / "run").exists()


def test_what_is_no_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.json' is not there"):
        parse_train(["--config", str(tmp_path / "nowhere.json")])
    file = tmp_path / "config.json"
    for text, said in (("{", "cannot be read"), ("[]", "holds a list"), ('{"seed": 1}', "has version=None")):
        file.write_text(text)
        with pytest.raises(ValueError, match=said):
            parse_train(["--config", str(file)])
    file.write_text('{"version": 2, "method": "full"}')
    with pytest.raises(ValueError, match="dataset is missing"):
        parse_train(["--config", str(file)])
    file.write_text('{"version": 2, "method": "full", "dataset": "digits"}')
    assert parse_train(["--config", str(file)]) == parse_train(["digits", "--method", "full"])


def test_a_run_that_is_resumed_with_other_settings_names_those_that_differ_and_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "train",
        "digits",
        "--method",
        "infobatch",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(words) == 0
    capsys.readouterr()
    assert main([*words, "--resume", "--recipe.lr", "0.5", "--policy.prune-prob", "0.25", "--seed", "1"]) == 2
    error = capsys.readouterr().err
    changes = "policy.prune_prob: 0.5 there, 0.25 now; recipe.lr: 0.1 there, 0.5 now; seed: 0 there, 1 now"
    assert f"another configuration ({changes}), expected the same" in error
