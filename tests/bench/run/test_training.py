"""Training runs: exact resume, every method, the reference's kinds, what a run folder promises."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignprune import coresets, losses, presets
from alignprune.bench import commands
from alignprune.bench import data as datasets
from alignprune.bench.run import trace
from alignprune.bench.run.config import TrainConfig, configure, default_config
from alignprune.bench.run.folder import RunFolder, read_checkpoint
from alignprune.bench.run.progress import Progress
from alignprune.bench.run.training import train
from alignprune.policies import Full, InfoBatch


@pytest.fixture
def images(tmp_path: Path) -> str:
    """Small images of four classes, told apart by which quarter is bright; augmentation draws from the global RNG."""
    return quarters(tmp_path / "quarters.npz")


def quarters(path: Path) -> str:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    pictures = rng.integers(0, 80, (200, 16, 16, 3), dtype=np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        picture[8 * (label // 2) :][:8, 8 * (label % 2) :][:, :8] += 120
    np.savez(
        path,
        x_train=pictures[:150],
        y_train=labels[:150],
        x_test=pictures[150:],
        y_test=labels[150:],
        x_reference=pictures[:20],
        y_reference=labels[:20],
    )
    return str(path)


def config(dataset: str, method: str, out: Path, **changes: Any) -> TrainConfig:
    base = default_config(dataset, method)
    recipe = replace(base.recipe, epochs=changes.pop("epochs", 5), batch_size=32, lr=0.02)
    small = {"model": "resnet-tiny", "device": "cpu", "noise": "symmetric", "noise_rate": 0.3}
    return base.with_settings(recipe=recipe, out=out, **small, **changes)


class Stop(Exception):
    """What a killed run looks like to this test."""


class StopAfter(Progress):
    """Interrupts a run after some epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def step(self, epoch: int, step: int, steps: int) -> None:
        if epoch == self.epochs:
            raise Stop


def comparable(result: dict[str, Any]) -> str:
    """All but the times, as text, since NaN is not equal to itself."""
    return json.dumps({key: value for key, value in result.items() if "second" not in key})


@pytest.mark.parametrize("method", ["infobatch+das", "seta", "ies"])
def test_a_resumed_run_ends_exactly_as_one_that_never_stopped(method: str, images: str, tmp_path: Path) -> None:
    whole = train(config(images, method, tmp_path / "whole"))
    with pytest.raises(Stop):
        train(config(images, method, tmp_path / "cut"), StopAfter(3))
    resumed = train(config(images, method, tmp_path / "cut", resume=True))
    assert comparable(resumed) == comparable(whole)
    ends = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "cut")]
    assert all(torch.equal(ends[0]["model"][key], ends[1]["model"][key]) for key in ends[0]["model"])
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    assert [comparable(json.loads(line)) for line in lines[0]] == [comparable(json.loads(line)) for line in lines[1]]


@pytest.mark.parametrize("method", sorted(presets.PRESETS))
def test_every_method_trains_and_reports(method: str, images: str, tmp_path: Path) -> None:
    result = train(config(images, method, tmp_path / "run"))
    assert result["epochs"] == 5
    assert result["forward_passes"] <= 5 * 150
    assert result["noise_rate"] == pytest.approx(0.3, abs=0.02)
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert stored["method"] == method
    assert stored["score"]["kind"] == type(presets.get(method).score).__name__
    assert (tmp_path / "run/noise.npz").exists()


def test_a_run_journals_what_its_network_predicts_of_every_sample(images: str, tmp_path: Path) -> None:
    run = config(images, "infobatch", tmp_path / "run", epochs=8)
    train(run)
    memories = read_checkpoint(tmp_path / "run")["pruner"]["memories"]
    (journal,) = (memory for memory in memories if "predictions" in memory)
    assert (journal["predictions"] == journal["trained"]).all()
    assert journal["trained"].max() == 8
    right = torch.from_numpy(np.load(images)["y_train"])
    given = torch.from_numpy(np.load(tmp_path / "run" / "noise.npz")["labels"])
    wrong = given != right
    says_the_right_one = journal["alternative"][wrong] == right[wrong]
    assert says_the_right_one.float().mean() > 0.5


def test_reference_by_indices_and_noisy_control(images: str, tmp_path: Path) -> None:
    np.save(tmp_path / "trusted.npy", np.arange(12))
    by_index = train(config(images, "infobatch+das", tmp_path / "a", reference=str(tmp_path / "trusted.npy"), epochs=2))
    assert by_index["reference_forward_passes"] == 2 * 12
    noisy = train(config(images, "infobatch+das", tmp_path / "b", reference="noisy", reference_size=30, epochs=2))
    assert noisy["reference_forward_passes"] == 2 * 30
    with pytest.raises(FileNotFoundError, match=r"missing\.npy"):
        train(config(images, "infobatch+das", tmp_path / "c", reference=str(tmp_path / "missing.npy")))
    with pytest.raises(ValueError, match="expected auto, clean, noisy, none"):
        train(config(images, "infobatch+das", tmp_path / "c", reference="cleen"))
    assert not (tmp_path / "c").exists()


def test_half_precision_trains_and_scores(images: str, tmp_path: Path) -> None:
    result = train(config(images, "infobatch+das", tmp_path / "run", precision="bf16"))
    assert np.isfinite(result["test_loss"])


def test_a_run_folder_never_holds_half_a_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {"seed": 0}, resume=False)
    folder.save_metrics([{"epoch": 1}])
    folder.save_checkpoint({"epoch": 1})

    class Unsaveable:
        def __reduce__(self) -> Any:
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        folder.save_checkpoint({"epoch": Unsaveable()})
    folder.close()
    assert read_checkpoint(folder.path) == {"epoch": 1}
    names = sorted(path.name for path in folder.path.iterdir() if path.name != ".lock")
    assert names == ["checkpoint.pt", "config.json", "metrics.jsonl"]


# -- static methods, budgets, re-labelling -----------------------------------------------------------------


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A data set and the folder of a full training on it that collected."""
    folder = tmp_path_factory.mktemp("proxy")
    dataset = quarters(folder / "quarters.npz")
    train(config(dataset, "full", folder / "run", epochs=12, collect=True))
    return dataset, folder / "run"


STATIC = {"dual": {"coreset": coresets.DUAL(epochs=12)}}


@pytest.mark.parametrize("method", coresets.CORESETS)
def test_every_static_method_trains_on_the_share_that_it_keeps(
    method: str, proxy: tuple[str, Path], tmp_path: Path
) -> None:
    dataset, folder = proxy
    if method == "ssp":
        torch.save(torch.randn(150, 4, generator=torch.Generator().manual_seed(0)), tmp_path / "features.pt")
        extra: dict[str, Any] = {"self_supervised": tmp_path / "features.pt"}
    else:
        extra = STATIC.get(method, {})
    result = train(config(dataset, method, tmp_path / "run", epochs=2, prune_ratio=0.3, proxy=folder, **extra))
    assert result["train_size"] == 105
    assert result["forward_fraction"] == pytest.approx(0.7)
    assert (result["proxy_forward_passes"] == 0) == (method == "static-random")


def test_a_run_says_which_proxy_it_needs_and_starts_no_other_run(
    images: str, proxy: tuple[str, Path], tmp_path: Path
) -> None:
    static = config(images, "small-loss", tmp_path / "run", epochs=2, prune_ratio=0.5)
    with pytest.raises(ValueError, match="proxy=None is missing.* --method full --collect"):
        train(static)
    with pytest.raises(ValueError, match="other samples or labels"):
        train(static.with_settings(seed=1, proxy=proxy[1]))
    with pytest.raises(FileNotFoundError, match="is no finished run"):
        train(static.with_settings(proxy=tmp_path / "nowhere"))
    assert not list(tmp_path.glob("run*"))


def test_the_proxy_run_collects_what_a_slow_look_at_the_network_finds(proxy: tuple[str, Path]) -> None:
    _, folder = proxy
    found = coresets.Proxy.load(folder / "proxy.npz")
    assert found.label_probabilities.shape == (12, 150)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    noise = np.load(folder / "noise.npz")
    assert torch.equal(found.labels, torch.from_numpy(noise["labels"]))
    # the recorded loss of an epoch is -log of the label's probability in it: the recipe smooths no labels
    own = -found.label_probabilities[-1].log()
    wrong = torch.from_numpy(noise["labels"] != noise["clean"])
    assert float(own[wrong].mean()) == pytest.approx(metrics[-1]["noisy_loss"], rel=1e-4)
    assert float(own[~wrong].mean()) == pytest.approx(metrics[-1]["clean_loss"], rel=1e-4)
    assert found.correct[-1].float().mean() > found.correct[0].float().mean()
    assert found.strong_logits is not None
    assert found.margins is not None  # above 0 where the label is the first choice; two classes share what is left
    assert torch.equal(found.margins > 0, found.correct)
    assert (found.margins >= 2 * found.label_probabilities - 1 - 1e-6).all()


def test_collecting_does_not_change_the_training(images: str, tmp_path: Path) -> None:
    plain = train(config(images, "full", tmp_path / "plain", epochs=3))
    collecting = train(config(images, "full", tmp_path / "collecting", epochs=3, collect=True))
    assert collecting["test_loss"] == plain["test_loss"]


def test_a_pseudo_clean_reference_is_what_the_coreset_method_keeps(proxy: tuple[str, Path], tmp_path: Path) -> None:
    dataset, folder = proxy
    result = train(
        config(
            dataset, "infobatch+das", tmp_path / "a", epochs=2, reference="small-loss", reference_size=30, proxy=folder
        )
    )
    assert result["reference_forward_passes"] == 2 * 30
    chosen = coresets.select("small-loss", coresets.Proxy.load(folder / "proxy.npz"), 30, seed=0)
    np.save(tmp_path / "chosen.npy", chosen.numpy())
    given = train(config(dataset, "infobatch+das", tmp_path / "b", epochs=2, reference=str(tmp_path / "chosen.npy")))
    assert result["test_loss"] == given["test_loss"]


@pytest.mark.parametrize("method", ["infobatch", "seta+das", "dynamic-random", "divbs"])
def test_the_equal_budget_trains_every_method_on_exactly_as_many_samples(
    method: str, images: str, tmp_path: Path
) -> None:
    equal = config(images, method, tmp_path / "equal", epochs=6, prune_ratio=0.5, budget="equal")
    if equal.pruning.base is not None:
        train(config(images, method, tmp_path / "own", epochs=6))
        equal = equal.with_settings(base_run=tmp_path / "own")
    result = train(equal)
    assert result["trained_fraction"] == pytest.approx(0.5, abs=0.02 if method == "divbs" else 1e-9)


def test_a_calibrated_run_is_shorter_and_takes_its_epochs_from_the_base(images: str, tmp_path: Path) -> None:
    base = train(config(images, "infobatch", tmp_path / "base", epochs=10))
    short = train(
        config(images, "infobatch+das", tmp_path / "run", epochs=10, prune_ratio=0.5, base_run=tmp_path / "base")
    )
    assert short["epochs"] == round(10 * 0.5 / (1 - base["pruned_share"]))


@pytest.mark.parametrize(
    "method, name",
    [
        ("full", "sop-cifar10n"),
        ("infobatch+das", "elr-cifar10"),
        ("prune4rel", "sop-cifar10n"),
        ("infobatch+bls", "elr-cifar10"),
        ("ies", "gce"),
    ],
)
def test_losses_compose_with_every_kind_of_method(
    method: str, name: str, proxy: tuple[str, Path], tmp_path: Path
) -> None:
    dataset, folder = proxy
    extra: dict[str, Any] = {"prune_ratio": 0.3, "proxy": folder} if method == "prune4rel" else {}
    whole = config(dataset, method, tmp_path / "whole", epochs=4, loss=losses.get(name).settings, **extra)
    result = train(whole)
    assert np.isfinite(result["test_loss"])
    with pytest.raises(Stop):
        train(whole.with_settings(out=tmp_path / "cut"), StopAfter(2))
    assert comparable(train(whole.with_settings(out=tmp_path / "cut", resume=True))) == comparable(result)


def test_two_views_of_features_are_refused_before_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)).astype(np.float32), rng.integers(0, 2, 60)
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    wrong = default_config(str(tmp_path / "x.npz"), "full", loss="sop-cifar10n")
    with pytest.raises(ValueError, match=r"loss=SOPSettings\(lr_u=10, .* which has one, expected a loss of one view"):
        train(wrong.with_settings(out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_evaluations_are_as_rare_as_asked_and_never_miss_the_end(images: str, tmp_path: Path) -> None:
    train(config(images, "full", tmp_path / "run", epochs=5, evaluate_every=2))
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["accuracy"] is not None for row in metrics] == [False, True, False, True, True]


def test_the_losses_of_right_and_wrong_labels_are_kept_for_figures(images: str, tmp_path: Path) -> None:
    train(config(images, "infobatch", tmp_path / "run", epochs=6))
    stored = np.load(tmp_path / "run/losses.npz")
    assert stored["epochs"].tolist() == [3, 6]
    assert stored["losses"].shape == (2, 150)
    assert stored["is_noisy"].mean() == pytest.approx(0.3, abs=0.02)


# -- holdout, oracle, trace, robust ------------------------------------------------------------------------


def digits(method: str, out: Path, **settings: Any) -> TrainConfig:
    """200 digits with 40 % wrong labels, a run of a second."""
    shared = {"dataset": "digits", "noise": "symmetric", "noise_rate": 0.4, "limit": 200, "device": "cpu"}
    recipe = {"recipe.epochs": 6, "recipe.batch_size": 32, "evaluate_every": 6}
    return configure({**shared, **recipe, "method": method, "out": str(out), **settings})


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_holdout_is_judged_in_place_of_the_test_set_and_never_trained_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 64)).astype(np.float32), rng.integers(0, 2, 200)  # nothing to learn but by heart
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    settings = {"dataset": str(tmp_path / "x.npz"), "noise": "none", "noise_rate": None, "limit": None}
    settings |= {"recipe.epochs": 25, "evaluate_every": 25}
    whole = train(digits("full", tmp_path / "whole", **settings))
    assert (whole["evaluated_on"], whole["train_size"]) == ("test", 200)
    assert whole["accuracy"] > 0.95
    held = train(digits("full", tmp_path / "held", holdout=0.4, **settings))
    assert (held["evaluated_on"], held["train_size"]) == ("holdout", 120)
    assert held["accuracy"] < 0.7


def test_the_holdout_follows_from_the_seed_alone_and_leaves_the_rest_consistent(tmp_path: Path) -> None:
    def kept(name: str, **settings: Any) -> dict[str, np.ndarray]:
        method = str(settings.pop("method", "full"))
        train(digits(method, tmp_path / name, holdout=0.25, limit=None, **{"recipe.epochs": 2}, **settings))
        with np.load(tmp_path / name / "noise.npz") as stored:
            return {key: stored[key] for key in ("labels", "clean")}

    full, other = kept("full"), kept("other", method="infobatch+das")
    assert all(np.array_equal(full[name], other[name]) for name in full)
    assert len(full["labels"]) == 1437 - 359
    assert (full["labels"] != full["clean"]).mean() == pytest.approx(0.4, abs=0.05)
    assert not np.array_equal(kept("seed", seed=1)["clean"], full["clean"])


def test_a_coreset_of_what_the_holdout_leaves_is_chosen_by_a_proxy_of_the_same(tmp_path: Path) -> None:
    result = commands.train(digits("small-loss", tmp_path / "run", holdout=0.25, prune_ratio=0.5))
    assert (result["train_size"], result["evaluated_on"]) == (75, "holdout")
    with pytest.raises(ValueError, match="same data set, noise, seed, limit and holdout"):
        train(digits("small-loss", tmp_path / "other", prune_ratio=0.5, proxy=str(tmp_path / "run-proxy")))


def test_a_holdout_without_a_sample_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds out 0 of the 200 training samples"):
        train(digits("full", tmp_path / "run", holdout=0.004))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["full", "dynamic-random", "infobatch"])
def test_the_oracle_spends_the_same_budget_on_right_labels_alone(method: str, tmp_path: Path) -> None:
    data = datasets.limit(datasets.load("digits", noise="symmetric", noise_rate=0.4, seed=0), 200, seed=0)
    settings: dict[str, Any] = {"oracle": True, "prune_ratio": 0.25, "budget": "equal"}
    if method == "infobatch":
        train(digits(method, tmp_path / "own", oracle=True))
        settings["base_run"] = str(tmp_path / "own")
    result = train(digits(method, tmp_path / "run", **settings))
    assert result["train_size"] == int((data.labels == data.clean_labels).sum())
    assert result["kept_noise"] == 0
    assert result["trained_fraction"] * 6 * 200 == pytest.approx(900)  # floor(0.75 * 6 * 200)
    assert result["epochs"] >= 8  # 900 samples of about 120 right ones
    with np.load(tmp_path / "run/noise.npz") as stored:
        assert np.array_equal(stored["labels"], stored["clean"])


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".txt"])
def test_a_reference_whose_file_is_damaged_is_refused_before_training(suffix: str, tmp_path: Path) -> None:
    file = (tmp_path / "indices").with_suffix(suffix)
    for content in ("", "no indices"):
        file.write_text(content)
        with pytest.raises(
            ValueError, match="reference='.*indices.*' (is empty|cannot be read .*), expected training indices"
        ):
            train(digits("infobatch+das", tmp_path / "run", reference=str(file)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"recipe": {"lr": 0.5}}, "(recipe.lr: 0.02 there, 0.5 now)"),
        ({"seed": 1, "holdout": 0.2}, "(holdout: None there, 0.2 now; seed: 0 there, 1 now)"),
        ({"policy": InfoBatch(prune_prob=0.25)}, "(policy.prune_prob: 0.5 there, 0.25 now)"),
        ({"policy": Full()}, "(policy.kind: 'InfoBatch' there, 'Full' now)"),
        ({"loss": losses.get("gce").settings}, "(loss.kind: None there, 'GCESettings' now)"),
    ],
)
def test_a_resumed_run_with_other_settings_is_told_those_that_differ_alone(
    changes: dict[str, Any], told: str, images: str, tmp_path: Path
) -> None:
    begun = config(images, "infobatch", tmp_path / "run")
    with pytest.raises(Stop):
        train(begun, StopAfter(1))
    recipe = replace(begun.recipe, **changes.pop("recipe", {}))
    with pytest.raises(ValueError, match=re.escape(told)):
        train(begun.with_settings(**changes, recipe=recipe, resume=True))


def test_an_oracle_without_truth_is_refused_before_training(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32), np.arange(60) % 2
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    settings = {"noise": "none", "noise_rate": None, "limit": None, "oracle": True}
    with pytest.raises(ValueError, match="expected data of which it is known which labels are right"):
        train(digits("full", tmp_path / "run", dataset=str(tmp_path / "x.npz"), **settings))
    with pytest.raises(ValueError, match="none of the 200 labels is right, expected one at least"):
        train(digits("full", tmp_path / "run", noise_rate=1.0, oracle=True))
    assert not (tmp_path / "run").exists()


def test_a_pseudo_clean_reference_of_the_oracle_is_chosen_from_all_samples(tmp_path: Path) -> None:
    settings = {"oracle": True, "reference": "small-loss", "reference_size": 20}
    result = commands.train(digits("infobatch+das", tmp_path / "run", **settings))
    assert result["reference_forward_passes"] == 6 * 20
    assert json.loads((tmp_path / "run-proxy/result.json").read_text())["train_size"] == 200


def test_a_coreset_spends_the_equal_budget_to_the_last_sample(tmp_path: Path) -> None:
    # round(0.61 * 150) = 92 samples by 6 epochs are 552, more than floor(0.61 * 6 * 150) = 549 pay for;
    # round(0.662 * 150) = 99 samples by 6 epochs are 594, one less than floor(0.662 * 6 * 150) = 595
    for ratio, budget in ((0.39, 549), (0.338, 595)):
        result = train(digits("static-random", tmp_path / f"{ratio}", limit=150, prune_ratio=ratio, budget="equal"))
        assert result["trained_fraction"] * 6 * 150 == pytest.approx(budget)


def test_the_trace_is_what_a_proxy_run_and_the_stored_losses_say(tmp_path: Path) -> None:
    train(digits("full", tmp_path / "run", collect=True, trace=True))
    traced, proxy = trace.load(tmp_path / "run/trace.npz"), coresets.Proxy.load(tmp_path / "run/proxy.npz")
    assert traced.losses.shape == traced.margins.shape == (6, 200)
    torch.testing.assert_close(traced.losses.float(), -proxy.label_probabilities.log(), rtol=2e-3, atol=2e-3)
    assert torch.equal(traced.margins > 0, proxy.correct)
    with np.load(tmp_path / "run/noise.npz") as stored:
        assert np.array_equal(traced.is_noisy, stored["labels"] != stored["clean"])
    assert traced.reference.isnan().all()


@pytest.mark.parametrize("method", ["infobatch+das", "seta", "ies"])
def test_a_trace_is_the_same_after_a_resume_and_changes_nothing(method: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"recipe.epochs": 8} | ({"policy.threshold": 0.1} if method == "ies" else {})
    plain = train(digits(method, tmp_path / "plain", **settings))
    assert plain["pruned_share"] > 0
    whole = train(digits(method, tmp_path / "whole", trace=True, **settings))
    assert comparable(whole) == comparable(plain)
    with pytest.raises(Stop):
        train(digits(method, tmp_path / "cut", trace=True, **settings), StopAfter(4))
    train(digits(method, tmp_path / "cut", trace=True, resume=True, **settings))
    with np.load(tmp_path / "whole/trace.npz") as ours, np.load(tmp_path / "cut/trace.npz") as theirs:
        assert sorted(ours.files) == sorted(theirs.files) == ["is_noisy", "losses", "margins", "reference"]
        for name in ours.files:
            np.testing.assert_array_equal(ours[name], theirs[name])
        seen = np.isfinite(ours["losses"])
        assert np.array_equal(seen, np.isfinite(ours["margins"]))
        rows = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
        shares = [0.0 if method == "ies" else row["pruned_share"] for row in rows]  # ies records what it leaves out
        assert (1 - seen.mean(1)).tolist() == pytest.approx(shares, abs=1e-9)
        references = [np.nan if row["reference_loss"] is None else row["reference_loss"] for row in rows]
        np.testing.assert_allclose(ours["reference"], references, rtol=1e-6)


def test_robust_goes_on_with_its_suspects_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    settings = {"limit": 400, "recipe": "features", "recipe.epochs": 10, "recipe.batch_size": 16, "recipe.lr": 5e-3}
    whole = train(digits("robust", tmp_path / "whole", **settings))
    with pytest.raises(Stop):
        train(digits("robust", tmp_path / "cut", **settings), StopAfter(7))
    before = metrics_of(tmp_path / "cut")
    assert len(before) == 7
    assert before[-1]["memorisation"] > 0.04
    assert before[-1]["estimated_noise_rate"] > 0  # suspects were left out before the interruption
    resumed = train(digits("robust", tmp_path / "cut", resume=True, **settings))
    assert comparable(resumed) == comparable(whole)
    rows = [metrics_of(tmp_path / name) for name in ("whole", "cut")]
    assert [comparable(row) for row in rows[0]] == [comparable(row) for row in rows[1]]
    ends = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"] for name in ("whole", "cut")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert whole["estimated_noise_rate"] == rows[0][-1]["estimated_noise_rate"]


def test_methods_that_estimate_no_noise_rate_store_none(tmp_path: Path) -> None:
    result = train(digits("infobatch", tmp_path / "run", **{"recipe.epochs": 2}))
    assert result["estimated_noise_rate"] is None
    assert all(row["memorisation"] is row["estimated_noise_rate"] is None for row in metrics_of(tmp_path / "run"))


@pytest.mark.parametrize("name", ["sop-cifar10n", "elr-cifar10"])
def test_robust_judges_samples_by_plain_cross_entropy_under_another_loss(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 160)
    x = (rng.normal(size=(160, 6)) + np.eye(2, 6)[y]).astype(np.float32)
    np.savez(tmp_path / "two.npz", x_train=x[:120], y_train=y[:120], x_test=x[120:], y_test=y[120:])
    settings = {"dataset": str(tmp_path / "two.npz"), "limit": None, "trace": True, "policy.noise_rate": 0.4}
    settings |= {"recipe": "features", "recipe.epochs": 12, "recipe.batch_size": 8, "recipe.lr": 1e-2}
    one_view = {"loss.consistency": 0.0, "loss.balance": 0.0} if name == "sop-cifar10n" else {}
    train(digits("robust", tmp_path / "run", **settings, loss=name, **one_view))
    # with two classes the margin says all: -log p = log(1 + exp(-margin)), and NaN where a sample was left out
    traced, stored = trace.load(tmp_path / "run/trace.npz"), np.load(tmp_path / "run/losses.npz")
    expected = torch.nn.functional.softplus(-traced.margins.float())
    torch.testing.assert_close(traced.losses.float(), expected, rtol=2e-3, atol=2e-3, equal_nan=True)
    for epoch, row in zip(stored["epochs"], stored["losses"], strict=True):
        for sample, loss in enumerate(row):
            seen = expected[:epoch, sample]
            assert loss == pytest.approx(float(seen[~seen.isnan()][-1]), rel=2e-3, abs=2e-3)
    assert traced.losses.isfinite().float().mean(1).tolist() == pytest.approx([0.5] * 12)
    assert metrics_of(tmp_path / "run")[-1]["estimated_noise_rate"] == 0.4  # it left suspects out


def test_the_losses_shown_are_of_their_epoch_also_in_runs_longer_than_the_window(tmp_path: Path) -> None:
    train(digits("infobatch+das", tmp_path / "run", trace=True, **{"score.window": 4}))
    stored, traced = np.load(tmp_path / "run/losses.npz"), trace.load(tmp_path / "run/trace.npz")
    assert stored["epochs"].tolist() == [3, 6]
    np.testing.assert_array_equal(stored["losses"], traced.losses[[2, 5]].numpy())
