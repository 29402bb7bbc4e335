"""The registry: names, the published settings, one way to select, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from scipy import stats

from alignprune import coresets
from alignprune.coresets import CCS, CORESETS, DUAL, SSP, DynUnc, Extent, Forgetting, Proxy, Prune4ReL
from alignprune.errors import ValueMistake

Make = Callable[..., Proxy]

TITLES = {
    "static-random": "Static Random",
    "small-loss": "SmallL",
    "margin": "Margin",
    "forgetting": "Forget",
    "grand": "GraNd",
    "el2n": "EL2N",
    "moderate": "Moderate",
    "ssp": "SSP",
    "prune4rel": "Prune4ReL (CE)",
    "dyn-unc": "Dyn-Unc",
    "dual": "DUAL",
    "ccs": "CCS",
}


def test_the_registry_has_the_papers_methods_under_the_papers_titles() -> None:
    assert {name: coreset.title for name, coreset in CORESETS.items()} == TITLES
    assert all(coresets.get(name) is CORESETS[name] and CORESETS[name].name == name for name in TITLES)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("prune4rel", Prune4ReL(tau=0.95, eta=1.0, balance=True, confidence="max")),
        ("dual", DUAL(window=10, epochs=30, c_d=4.0, sampling="beta")),
        ("dyn-unc", DynUnc(window=10, epochs=None)),
        ("ccs", CCS(beta=None, strata=50)),
        ("forgetting", Forgetting(epochs=None, never_learned="least")),
        ("ssp", SSP(keep="hard", clusters=None, class_floor=0.5, features="self-supervised")),
    ],
)
def test_the_defaults_are_the_published_settings(name: str, settings: object) -> None:
    assert coresets.get(name).settings == settings


def test_methods_say_which_optional_fields_they_read() -> None:
    needs = {name: coreset.needs for name, coreset in CORESETS.items() if coreset.needs}
    assert needs == {
        "ssp": ("self_supervised",),
        "prune4rel": ("strong_features", "strong_logits"),
        "ccs": ("margins",),
    }
    assert coresets.get("ssp").with_settings(features="supervised").needs == ()


@pytest.mark.parametrize("name", TITLES)
@pytest.mark.parametrize("size", [1, 31, 60])
def test_exactly_so_many_samples_are_chosen_each_once_in_ascending_order(
    make_proxy: Make, name: str, size: int
) -> None:
    chosen = coresets.select(name, make_proxy(), size, seed=0)
    assert chosen.dtype == torch.int64
    assert chosen.shape == (size,)
    assert (chosen.diff() > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < 60


@pytest.mark.parametrize("name", TITLES)
def test_the_seed_alone_decides(make_proxy: Make, name: str) -> None:
    state = torch.random.get_rng_state()
    first = coresets.select(name, make_proxy(), 20, seed=7)
    torch.rand(3)
    assert torch.equal(first, coresets.select(name, make_proxy(), 20, seed=7))
    torch.random.set_rng_state(state)
    coresets.select(name, make_proxy(), 20, seed=8)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["static-random", "dual", "ccs"])
def test_another_seed_chooses_others(make_proxy: Make, name: str) -> None:
    first, second = (coresets.select(name, make_proxy(), 20, seed=seed) for seed in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", TITLES)
def test_selection_leaves_the_proxy_as_it_was(make_proxy: Make, name: str) -> None:
    proxy, untouched = make_proxy(), make_proxy()
    coresets.select(name, proxy, 20, seed=0)
    for field, value in vars(untouched).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(proxy, field), value)


@pytest.mark.parametrize("name", sorted(set(TITLES) - {"ssp", "prune4rel", "ccs"}))
def test_methods_work_without_the_fields_they_do_not_need(make_proxy: Make, name: str) -> None:
    bare = make_proxy(strong_features=None, strong_logits=None, self_supervised=None, margins=None)
    assert torch.equal(coresets.select(name, bare, 20, seed=0), coresets.select(name, make_proxy(), 20, seed=0))


def test_static_random_keeps_every_sample_equally_often(make_proxy: Make) -> None:
    proxy = make_proxy(samples=10)
    counts = Counter(i for seed in range(1000) for i in coresets.select("static-random", proxy, 3, seed).tolist())
    assert stats.chisquare([counts[i] for i in range(10)]).pvalue > 1e-3


def test_a_record_of_settings_selects_as_its_name_does(make_proxy: Make) -> None:
    proxy = make_proxy()
    by_name = coresets.select("ssp", proxy, 20, 0, keep="easy", clusters=3)
    assert torch.equal(coresets.select(SSP(keep="easy", clusters=3), proxy, 20, 0), by_name)
    assert torch.equal(coresets.select(SSP(keep="easy"), proxy, 20, 0, clusters=3), by_name)
    changed = coresets.get("ssp").with_settings(keep="easy", clusters=3)
    assert torch.equal(coresets.select(changed.settings, proxy, 20, 0), by_name)
    assert coresets.get("ssp").settings == SSP()


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        coresets.get("dual").title = "Dual"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        coresets.get("dual").settings.c_d = 5.5  # type: ignore[attr-defined]


def test_the_table_has_a_row_for_every_method() -> None:
    rows = coresets.table()
    assert {row["method"]: row["in the paper"] for row in rows} == TITLES
    assert len({tuple(row) for row in rows}) == 1
    for row in rows:
        assert all(row.values())
        assert row["settings"] == repr(coresets.get(row["method"]).settings)


# Mistakes.


@pytest.mark.parametrize(
    "size, error, message",
    [
        (0, ValueError, "size=0 is out of range, expected an integer >= 1"),
        (61, ValueError, "size=61 is out of range, expected at most 60"),
        (0.5, TypeError, "size=0.5 is float"),
    ],
)
def test_an_impossible_size_is_refused(make_proxy: Make, size: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        coresets.select("margin", make_proxy(), size, seed=0)


def test_an_unknown_method_lists_the_known_ones_and_the_nearest(make_proxy: Make) -> None:
    with pytest.raises(ValueError, match="coreset='prune4rell' is unknown.*did you mean 'prune4rel'") as e:
        coresets.select("prune4rell", make_proxy(), 10, seed=0)
    assert all(name in str(e.value) for name in TITLES)


@pytest.mark.parametrize(
    "name, absent", [("ssp", "self_supervised"), ("prune4rel", "strong_features"), ("ccs", "margins")]
)
def test_a_field_that_was_not_recorded_is_named_with_the_way_out(make_proxy: Make, name: str, absent: str) -> None:
    proxy = replace(make_proxy(), strong_features=None, strong_logits=None, self_supervised=None, margins=None)
    with pytest.raises(ValueError, match=rf"proxy\.{absent}=None is not recorded, expected what .* reads: record"):
        coresets.select(name, proxy, 10, seed=0)
    if name == "ssp":
        assert len(coresets.select(name, proxy, 10, seed=0, features="supervised")) == 10


OPTIONAL = ("strong_features", "strong_logits", "self_supervised", "margins")
METHODS = [
    *(CORESETS[name].settings for name in TITLES),
    Forgetting(epochs=3),
    DynUnc(window=2),
    DynUnc(window=2, epochs=6),
    DUAL(window=2, epochs=6),
    SSP(features="supervised"),
    SSP(features="supervised", clusters=7),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_method_says_before_the_proxy_run_whether_it_can_choose_by_it(
    make_proxy: Make, method: coresets.Settings
) -> None:
    for epochs in (1, 2, 3, 6, 10, 30):
        for samples, classes in ((3, 4), (6, 4), (20, 4)):
            for absent in ((), OPTIONAL[:2], OPTIONAL[2:3], OPTIONAL[3:]):
                recorded = frozenset(OPTIONAL) - frozenset(absent)
                whole = make_proxy(samples=samples, classes=classes, epochs=epochs)
                proxy = replace(whole, **dict.fromkeys(absent))
                assert proxy.extent == Extent(samples, classes, epochs, recorded)
                said = outcome(lambda extent=proxy.extent: method.check(extent))
                assert said == outcome(lambda proxy=proxy: coresets.select(method, proxy, 2, seed=0))


def outcome(act: Callable[[], object]) -> str | None:
    """What it is refused with; None where it is not."""
    try:
        act()
    except ValueMistake as refusal:
        return str(refusal)
    return None


def test_what_a_method_needs_of_the_proxy_run_is_checked() -> None:
    little, much = Extent(5, 10, 4, frozenset()), Extent(100, 10, 40, frozenset(OPTIONAL))
    refused = {name for name, coreset in CORESETS.items() if outcome(lambda c=coreset: c.settings.check(little))}
    assert refused == {"ccs", "dual", "dyn-unc", "prune4rel", "ssp"}
    assert not any(outcome(lambda c=coreset: c.settings.check(much)) for coreset in CORESETS.values())


@pytest.mark.parametrize(
    "name, settings, error, message",
    [
        ("dual", {"cd": 5}, TypeError, "cd=5 is no setting of DUAL, expected window, .*; did you mean 'c_d'"),
        ("margin", {"window": 5}, TypeError, "window=5 is no setting of Margin, expected none"),
        ("dual", {"sampling": "bete"}, ValueError, "sampling='bete' is unknown.*did you mean 'beta'"),
        ("dual", {"c_d": 0}, ValueError, "c_d=0 is out of range"),
        ("dual", {"window": 1}, ValueError, "window=1 is out of range"),
        ("dyn-unc", {"window": 1}, ValueError, "window=1 is out of range"),
        ("forgetting", {"never_learned": "mist"}, ValueError, "never_learned='mist' is unknown"),
        ("forgetting", {"epochs": 1}, ValueError, "epochs=1 is out of range"),
        ("prune4rel", {"tau": 1.0}, ValueError, r"tau=1.0 is out of range, expected a number in \[0, 1\)"),
        ("prune4rel", {"eta": 0}, ValueError, "eta=0 is out of range"),
        ("prune4rel", {"confidence": "entropy"}, ValueError, "confidence='entropy' is unknown"),
        ("ccs", {"beta": 1.0}, ValueError, r"beta=1.0 is out of range, expected a number in \[0, 1\)"),
        (
            "ccs",
            {"beta": 0.9},
            ValueError,
            "beta=0.9 leaves 6 of 60 samples, expected at least size=10 of them: choose a",
        ),
        ("ccs", {"strata": 0}, ValueError, "strata=0 is out of range"),
        ("ssp", {"keep": "hart"}, ValueError, "keep='hart' is unknown.*did you mean 'hard'"),
        ("ssp", {"features": "supervise"}, ValueError, "features='supervise' is unknown"),
        ("ssp", {"class_floor": 1.5}, ValueError, "class_floor=1.5 is out of range"),
        ("ssp", {"clusters": 0}, ValueError, "clusters=0 is out of range"),
        ("ssp", {"clusters": 61}, ValueError, "clusters=61 is out of range, expected at most 60"),
    ],
)
def test_a_wrong_setting_is_named(
    make_proxy: Make, name: str, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        coresets.select(name, make_proxy(), 10, seed=0, **settings)


def test_a_negative_seed_is_refused(make_proxy: Make) -> None:
    with pytest.raises(ValueError, match="seed=-1 is out of range"):
        coresets.select("margin", make_proxy(), 10, seed=-1)
