"""The registry: names, the paper's hyper-parameters, and how settings are replaced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from alignprune import PRESETS, Pruner, errors, presets
from alignprune.policies import IES, RCAP, DivBS, DynamicRandom, Full, InfoBatch, OrderDP, RePB, Robust, SeTa
from alignprune.scores import Alignment, BatchLoss, ExposureLoss, Loss, SecondDifference

NAMES = [
    "full",
    "dynamic-random",
    "rs2",
    "infobatch",
    "seta",
    "ies",
    "divbs",
    "orderdp",
    "rcap",
    "repb",
    "infobatch+bls",
    "seta+bls",
    "infobatch+das",
    "seta+das",
    "orderdp+das",
    "robust",
]


def test_the_registry_has_every_method() -> None:
    assert sorted(PRESETS) == sorted(NAMES)
    for name in NAMES:
        assert presets.get(name) is PRESETS[name]
        assert PRESETS[name].name == name


@pytest.mark.parametrize(
    "name, score, policy, delta",
    [
        ("full", Loss(), Full(), 1.0),
        ("dynamic-random", Loss(), DynamicRandom(prune_ratio=0.3), 1.0),
        ("rs2", Loss(), DynamicRandom(prune_ratio=0.3, replacement=False), 1.0),
        ("infobatch", Loss(), InfoBatch(prune_prob=0.5, rescale=True), 0.875),
        ("infobatch+das", Alignment(window=25, correlation="pearson"), InfoBatch(prune_prob=0.5, rescale=True), 0.875),
        ("seta", Loss(), SeTa(prune_prob=0.1, groups=5, alpha=0.9, rounding="round"), 0.875),
        (
            "seta+das",
            Alignment(window=25, correlation="pearson"),
            SeTa(prune_prob=0.1, groups=5, alpha=0.9, rounding="round"),
            0.875,
        ),
        ("infobatch+bls", BatchLoss(decay=0.8), InfoBatch(prune_prob=0.5), 0.875),
        ("seta+bls", BatchLoss(decay=0.8), SeTa(prune_prob=0.1, groups=5, alpha=0.9), 0.875),
        ("ies", SecondDifference(smoothing=3), IES(threshold=1e-3), 1.0),
        ("orderdp", Loss(), OrderDP(prune_ratio=0.3, chance=0.6), 1.0),
        ("repb", Loss(), RePB(prune_prob=0.5, batches=1), 1.0),
        ("rcap", Loss(), RCAP(prune_ratio=0.3, temperature=1.0, aggregate="mean"), 1.0),
        ("orderdp+das", Alignment(window=25), OrderDP(prune_ratio=0.3, chance=0.6), 1.0),
        ("divbs", Loss(), DivBS(prune_ratio=0.3, pick="multinomial", trust=False), 1.0),
    ],
)
def test_a_preset_carries_the_papers_hyper_parameters(name: str, score: object, policy: object, delta: float) -> None:
    preset = presets.get(name)
    assert (preset.score, preset.policy, preset.delta) == (score, policy, delta)


def test_the_librarys_own_method_prunes_half_by_exposure_loss_and_never_anneals() -> None:
    preset = presets.get("robust")
    assert (preset.score, preset.policy, preset.delta) == (ExposureLoss(), Robust(prune_ratio=0.5), 1.0)
    assert preset.with_knobs(noise_rate=0.4, exponent=0).policy == Robust(prune_ratio=0.5, noise_rate=0.4)


def test_alignment_presets_leave_gaps_out_and_measure_the_reference_after_an_epoch() -> None:
    for name in ("infobatch+das", "seta+das", "orderdp+das"):
        score = presets.get(name).score
        assert isinstance(score, Alignment)
        assert (score.gaps, score.min_observations, score.flat, score.reference_timing) == (
            "paired",
            3,
            "zero",
            "after",
        )


def test_only_the_alignment_presets_need_a_reference() -> None:
    assert [name for name in NAMES if presets.get(name).needs_reference] == ["infobatch+das", "seta+das", "orderdp+das"]


def test_presets_are_frozen() -> None:
    preset = presets.get("infobatch+das")
    with pytest.raises(FrozenInstanceError):
        preset.delta = 0.5  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        preset.score.window = 5  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        preset.policy.prune_prob = 0.1  # type: ignore[attr-defined]


def test_knobs_are_replaced_in_score_and_policy_at_once() -> None:
    changed = presets.get("infobatch+das").with_knobs(window=5, gaps="carry", prune_prob=0.75)
    assert changed.score == Alignment(window=5, gaps="carry")
    assert changed.policy == InfoBatch(prune_prob=0.75)
    assert changed.delta == 0.875
    assert changed.name == "infobatch+das"
    assert changed.needs_reference


def test_knobs_leave_the_registry_as_it_was() -> None:
    before = repr(PRESETS["seta"])
    assert presets.get("seta").with_knobs(groups=10, alpha=0.5).policy == SeTa(groups=10, alpha=0.5)
    assert repr(PRESETS["seta"]) == before
    assert presets.get("seta").with_knobs() == PRESETS["seta"]


def test_an_unknown_knob_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(TypeError, match="'infobatch\\+das'.*'prune_prop' is unknown.*did you mean 'prune_prob'") as e:
        presets.get("infobatch+das").with_knobs(prune_prop=0.3)
    for knob in ("window", "correlation", "gaps", "min_observations", "flat", "prune_prob", "rescale"):
        assert knob in str(e.value)


def test_a_knob_of_another_method_is_unknown() -> None:
    with pytest.raises(TypeError, match="'window' is unknown"):
        presets.get("infobatch").with_knobs(window=5)


def test_the_known_knobs_are_the_settings_of_score_and_policy() -> None:
    assert presets.get("robust").knobs == [
        *("confused", "exponent", "least_agreement", "noise_rate", "prune_ratio", "ramp", "refresh", "thinning"),
    ]
    assert presets.get("full").knobs == []


@pytest.mark.parametrize("place", ["labels", "device", "bank_path", "delta"])
@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_setting_of_a_pruner_lists_its_other_arguments_too(name: str, place: str) -> None:
    with pytest.raises(errors.TypeMistake, match=f"'{place}_' is unknown.*{place}.*did you mean '{place}'") as e:
        Pruner.from_preset(name, num_samples=40, epochs=5, **{f"{place}_": None})
    for known in ("labels", "device", "bank_path", "delta", *presets.get(name).knobs):
        assert known in str(e.value)


@pytest.mark.parametrize(
    "given, meant",
    [
        ("label", "labels"),
        ("bankpath", "bank_path"),
        ("prune_rati", "prune_ratio"),
        ("noise", "noise_rate"),
        ("sead", "seed"),
    ],
)
def test_an_unknown_setting_of_a_pruner_names_the_nearest(given: str, meant: str) -> None:
    message = f"preset 'robust': setting='{given}' is unknown, expected one of .*; did you mean '{meant}'?"
    with pytest.raises(TypeError, match=message):
        Pruner.from_preset("robust", num_samples=40, epochs=5, **{given: 1})


def test_a_wrong_value_of_a_knob_is_refused() -> None:
    with pytest.raises(ValueError, match="prune_prob=1.2 is out of range"):
        presets.get("infobatch").with_knobs(prune_prob=1.2)


def test_an_unknown_method_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(ValueError, match="method='infobatch-das' is unknown.*did you mean 'infobatch\\+das'") as e:
        presets.get("infobatch-das")
    for name in NAMES:
        assert name in str(e.value)


def test_the_table_has_a_row_for_every_preset() -> None:
    rows = presets.table()
    assert [row["method"] for row in rows] == list(PRESETS)
    assert len({tuple(row) for row in rows}) == 1  # the same columns in every row
    for row in rows:
        assert all(row.values())
        assert (row["reference"] == "needed") == row["method"].endswith("+das")


def test_every_method_has_a_title_of_its_own_for_tables() -> None:
    titles = [preset.title for preset in PRESETS.values()]
    assert all(titles)
    assert len(set(titles)) == len(titles)


# Methods of a user's own.


@pytest.fixture
def mine() -> Iterator[presets.Preset]:
    """A method that is not registered yet; what a test registers is forgotten after it."""
    before = dict(PRESETS)
    yield replace(
        presets.get("infobatch"),
        name="infobatch-by-exposure",
        score=ExposureLoss(exponent=1.0),
        policy=InfoBatch(prune_prob=0.25),
        delta=0.5,
        title="InfoBatch by exposure",
    )
    for name in set(PRESETS) - set(before):
        del presets._STORE[name]


def test_a_method_of_ones_own_is_known_everywhere_once_it_is_registered(mine: presets.Preset) -> None:
    assert presets.register(mine) is mine
    assert presets.get("infobatch-by-exposure") is mine
    assert PRESETS["infobatch-by-exposure"] is mine
    assert list(PRESETS) == [*NAMES, "infobatch-by-exposure"]
    assert presets.table()[-1]["method"] == "infobatch-by-exposure"
    assert "prune_prob=0.25" in presets.table()[-1]["settings"]
    pruner = Pruner.from_preset("infobatch-by-exposure", num_samples=40, epochs=10, exponent=0.25)
    assert (pruner.score, pruner.policy) == (ExposureLoss(exponent=0.25), InfoBatch(prune_prob=0.25))
    assert (pruner.delta, pruner.annealing_start) == (0.5, 5)
    with pytest.raises(ValueError, match="did you mean 'infobatch-by-exposure'"):
        presets.get("infobatch-by-exposur")


def test_a_name_that_is_taken_is_refused_and_changes_nothing(mine: presets.Preset) -> None:
    before = PRESETS["robust"]
    with pytest.raises(errors.ValueMistake, match="name='robust' is taken, expected one that is not: full, dynamic-r"):
        presets.register(replace(mine, name="robust"))
    assert PRESETS["robust"] is before
    presets.register(mine)
    with pytest.raises(errors.ValueMistake, match="name='infobatch-by-exposure' is taken"):
        presets.register(mine)


@pytest.mark.parametrize("thing", ["robust", None, Robust(), presets.Preset])
def test_what_is_no_preset_is_refused(thing: Any) -> None:
    with pytest.raises(errors.TypeMistake, match="preset=.* is .*, expected a Preset: make one and register it"):
        presets.register(thing)
    assert list(PRESETS) == NAMES


def test_the_registry_itself_cannot_be_written_to() -> None:
    for write in (
        lambda: PRESETS.__setitem__("mine", PRESETS["full"]),  # type: ignore[attr-defined]
        lambda: PRESETS.pop("full"),  # type: ignore[attr-defined]
        lambda: PRESETS.clear(),  # type: ignore[attr-defined]
    ):
        with pytest.raises(AttributeError):
            write()
    with pytest.raises(TypeError):
        PRESETS["mine"] = PRESETS["full"]  # type: ignore[index]
    with pytest.raises(TypeError):
        del PRESETS["full"]  # type: ignore[attr-defined]
    assert list(PRESETS) == NAMES
