"""Run configurations: names, flat settings, the prune ratio's epochs, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignprune import coresets, losses, presets
from alignprune.bench.files import write_record
from alignprune.bench.recipes import RECIPES
from alignprune.bench.run.config import TrainConfig, configure, default_config
from alignprune.bench.run.folder import RESULT_KIND


def base_run(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    result = {"method": "infobatch", "epochs": 200, "prune_ratio": None, "pruned_share": 0.2877} | changes
    write_record(folder / "result.json", RESULT_KIND, result)
    return folder


def epochs_of(config: TrainConfig, part: float = 1.0) -> int:
    return config.epochs(config.measured_base(), part)


def test_flat_settings_reach_every_record() -> None:
    config = configure(
        {
            "dataset": "cifar100n",
            "method": "infobatch+das",
            "recipe": "sop",
            "recipe.epochs": 7,
            "score.window": 10,
            "policy.prune_prob": 0.75,
            "loss": "sop-cifar100n",
            "loss.balance": 0.2,
            "limit": 500,
            "out": "somewhere",
        }
    )
    assert config.recipe.name == "sop"
    assert config.recipe.epochs == 7
    assert (config.pruning.score.window, config.pruning.policy.prune_prob) == (10, 0.75)  # type: ignore[attr-defined]
    assert config.pruning.loss == replace(losses.get("sop-cifar100n").settings, balance=0.2)  # type: ignore[call-arg]
    assert config.data.limit == 500
    assert config.folder == Path("somewhere")


def test_settings_are_replaced_by_their_flat_names_whichever_record_holds_them() -> None:
    config = default_config("cifar100n", "infobatch").with_settings(noise="clean", seed=3, workers=2, trace=True)
    assert (config.data.noise, config.seed, config.machine.workers, config.outputs.trace) == ("clean", 3, 2, True)
    with pytest.raises(ValueError, match="did you mean 'workers'"):
        config.with_settings(worker=2)
    stored = config.stored(None)
    assert (stored["noise"], stored["seed"], stored["trace"]) == ("clean", 3, True)
    assert not {"workers", "devices", "rank_timeout"} & stored.keys()  # a resumed run may compute in another way


def test_a_configuration_reads_no_file() -> None:
    settings = {"dataset": "nowhere.npz", "method": "infobatch", "prune_ratio": 0.5, "base_run": "nowhere"}
    config = configure(settings)
    assert config.epochs(base_share=0.2) == round(60 * 0.5 / 0.8)
    with pytest.raises(FileNotFoundError, match="base_run='nowhere'"):
        config.measured_base()


@pytest.mark.parametrize("method", [*presets.PRESETS, *coresets.CORESETS])
def test_every_method_has_a_default_configuration_that_can_be_stored(method: str) -> None:
    stored = default_config("cifar100n", method).stored(None)
    assert json.loads(json.dumps(stored))["method"] == method
    assert (stored["coreset"] is not None) == (method in coresets.CORESETS)


@pytest.mark.parametrize("dataset", ["cifar100n", "cifar10n", "webvision", "clothing1m", "imagenet", "news", "news20"])
def test_every_data_set_has_its_recipe(dataset: str) -> None:
    assert default_config(dataset, "full").recipe in RECIPES.values()


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"method": "infobach"}, "infobatch"),
        ({"limitt": 3}, "limit"),
        ({"policy.prune_prop": 0.3}, "prune_prob"),
        ({"score.window": 3}, "no score settings"),
        ({"coreset.window": 3}, "no coreset settings"),
        ({"loss": "sop-cifar100m"}, "sop-cifar100n"),
        ({"loss": "gce", "loss.k": 0.5}, "q"),
        ({"loss.q": 0.5}, "no loss settings.*or name a loss"),
        ({"recipe": "cifar11"}, "cifar10"),
    ],
)
def test_a_misspelt_setting_names_the_nearest(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        configure({"dataset": "cifar100n", "method": "infobatch"} | settings)


def test_a_direct_ratio_goes_into_the_policy_and_keeps_the_epochs() -> None:
    config = configure({"dataset": "cifar100n", "method": "dynamic-random", "prune_ratio": 0.7})
    assert config.pruning.chosen_policy.prune_ratio == 0.7  # type: ignore[attr-defined]
    assert epochs_of(config) == 200
    assert config.batch_size == 128


def test_divbs_reads_batches_of_which_the_recipes_size_is_trained_on() -> None:
    assert configure({"dataset": "cifar100n", "method": "divbs", "prune_ratio": 0.5}).batch_size == 256


def test_the_epochs_follow_from_the_base_run(tmp_path: Path) -> None:
    settings = {"dataset": "cifar100n", "method": "infobatch+das", "prune_ratio": 0.5}
    with pytest.raises(ValueError, match="base_run=None is missing.*infobatch"):
        epochs_of(configure(settings))
    run = base_run(tmp_path / "base")
    assert epochs_of(configure({**settings, "base_run": str(run)})) == 140


@pytest.mark.parametrize("changes", [{"method": "seta"}, {"epochs": 140}, {"prune_ratio": 0.5}])
def test_a_base_run_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = base_run(tmp_path / "base", **changes)
    settings = {"dataset": "cifar100n", "method": "infobatch+das", "prune_ratio": 0.5, "base_run": str(run)}
    with pytest.raises(ValueError, match="expected infobatch over 200 epochs"):
        epochs_of(configure(settings))


def test_the_equal_budget_is_calibrated_on_the_method_itself(tmp_path: Path) -> None:
    run = base_run(tmp_path / "own", method="infobatch+das", pruned_share=0.2)
    settings = {"dataset": "cifar100n", "method": "infobatch+das", "prune_ratio": 0.5, "budget": "equal"}
    config = configure({**settings, "base_run": str(run)})
    assert config.pruning.base == "infobatch+das"
    assert epochs_of(config) == 126  # 200 * 0.5 / 0.8 = 125, and one to be cut inside of


def test_an_unfinished_base_run_is_told(tmp_path: Path) -> None:
    settings = {"dataset": "cifar100n", "method": "seta", "prune_ratio": 0.5, "base_run": str(tmp_path)}
    with pytest.raises(FileNotFoundError, match=r"holds no result\.json"):
        epochs_of(configure(settings))


def test_impossible_combinations_are_refused() -> None:
    with pytest.raises(ValueError, match="prune_ratio=None is missing with dual"):
        configure({"dataset": "cifar100n", "method": "dual", "prune_ratio": None})
    with pytest.raises(ValueError, match="expected method full on one device"):
        configure({"dataset": "cifar100n", "method": "infobatch", "collect": True})
    with pytest.raises(ValueError, match="chooses inside each batch"):
        configure({"dataset": "cifar100n", "method": "divbs", "loss": "gce"})
    with pytest.raises(ValueError, match="trace=True is given on 2 devices"):
        configure({"dataset": "cifar100n", "method": "full", "trace": True, "devices": 2})
    for share in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="holdout=.* in \\(0, 1\\)"):
            configure({"dataset": "cifar100n", "method": "full", "holdout": share})


def test_a_ratio_that_a_method_cannot_realise_is_refused_with_the_budget_that_can() -> None:
    settings = {"dataset": "cifar100n", "method": "full", "prune_ratio": 0.5}
    with pytest.raises(ValueError, match="full, which has no share of its own .* --budget equal"):
        configure(settings)
    assert epochs_of(configure({**settings, "prune_ratio": 0.0})) == 200
    assert epochs_of(configure({**settings, "budget": "equal"})) == 101  # half of 200, and one to be cut inside of


def test_the_oracle_goes_with_dynamic_methods_and_the_equal_budget_only() -> None:
    settings = {"dataset": "cifar100n", "oracle": True}
    with pytest.raises(ValueError, match="oracle=True is given with dual, expected a dynamic method"):
        configure({**settings, "method": "dual"})
    with pytest.raises(ValueError, match="oracle=True .* calibrated budget.* --budget equal"):
        configure({**settings, "method": "dynamic-random", "prune_ratio": 0.5})
    with pytest.raises(ValueError, match="without prune ratio, oracle and without_issues"):
        configure({**settings, "method": "full", "collect": True})


def test_the_equal_budget_takes_more_epochs_on_a_part_of_the_data(tmp_path: Path) -> None:
    equal = {"dataset": "cifar100n", "prune_ratio": 0.4, "budget": "equal", "oracle": True}
    # 200 * 0.6 = 120 epochs of the whole set: 200 of its 60 %, 400 of their half, and one to be cut inside of
    assert epochs_of(configure({**equal, "method": "full"}), 0.6) == 201
    run = base_run(tmp_path / "own", pruned_share=0.5)
    assert epochs_of(configure({**equal, "method": "infobatch", "base_run": str(run)}), 0.6) == 401
    # dynamic-random leaves out 40 % itself
    assert epochs_of(configure({**equal, "method": "dynamic-random"}), 0.5) == 401


def test_losses_are_recorded_without_smoothing_where_probabilities_are_read_off_them() -> None:
    smoothed = {"dataset": "cifar100n", "recipe.label_smoothing": 0.1}
    assert configure({**smoothed, "method": "infobatch"}).recorded_smoothing == 0.1
    assert configure({**smoothed, "method": "robust"}).recorded_smoothing == 0.0
