"""Ranks that own parts are one run: the same samples as in a single process, and none remembers them all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import alignprune as ap
import launch
from alignprune import pool as pools
from alignprune.audit.facts import facts
from alignprune.ownership import Hashed, Ownership, Replicated, ownership_of
from alignprune.pool import Pool

# This file is also the program of the ranks (see the end): three train and save, two go on.

needs_ranks = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without distributed")

WORLD, FEWER, N, EPOCHS, BATCH = 3, 2, 307, 9, 16
TABLE = torch.rand(EPOCHS, N, generator=torch.Generator().manual_seed(0)) + 0.1
TABLE[2, 7] = TABLE[4, 20:26] = float("nan")
LABELS = torch.arange(N) * 7 % 5 + 10
RANGES = [[(0, 40), (290, 307)], [(40, 55)], [(55, 200), (200, 290)]]
STOP = (5, 2)  # a state is saved in this epoch, after as many batches of each rank

METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "infobatch": {},
    "infobatch+das": {"window": 4},
    "seta+das": {"window": 4, "groups": 3, "alpha": 0.7},
    "ies": {"smoothing": 1, "threshold": 0.5},
    "dynamic-random": {"prune_ratio": 0.37},
    "rs2": {"prune_ratio": 0.37},
    "orderdp": {"prune_ratio": 0.37},
    "rcap": {"prune_ratio": 0.37, "labels": LABELS},
    "repb": {"batches": 2},
    "infobatch+bls": {},
}
every_method = pytest.mark.parametrize("name", METHODS)
JUDGED = [name for name in METHODS if name != "repb"]  # whose windows are of other batches where ranks own parts


def make(name: str, ownership: Any) -> ap.Pruner:
    return ap.Pruner.from_preset(name, num_samples=N, epochs=EPOCHS, ownership=ownership, **METHODS[name])


def batches(order: list[int]) -> Iterator[Tensor]:
    for start in range(0, len(order), BATCH):
        yield torch.tensor(order[start : start + BATCH])


def train(pruner: ap.Pruner, stop: Callable[[ap.Pruner], None] | None = None) -> dict[int, dict[str, Any]]:
    """Train to the end with losses that are a function of (epoch, sample); what a rank shows of every epoch."""
    log: dict[int, dict[str, Any]] = {}
    for epoch in range(pruner.epoch, EPOCHS):
        order, selection = list(pruner.sampler), pruner.selection
        for done, index in enumerate(batches(order), 1):
            pruner.reduce(index, TABLE[epoch, index], predictions=(index + epoch) % 5 + 10)
            if stop is not None and (epoch, done) == STOP:
                stop(pruner)
        if pruner.score.needs_pruned:
            for index in batches(list(pruner.pruned_sampler)):
                pruner.record(index, TABLE[epoch, index])
        metrics = pruner.metrics()
        pruner.end_epoch(2.0 / (epoch + 1) if pruner.needs_reference else None)
        weights = torch.ones(len(selection)) if selection.weights is None else selection.weights
        log[epoch] = {
            "read": order,
            "weights": dict(zip(selection.indices.tolist(), weights.tolist(), strict=True)),
            "scores": dict(zip(pruner.samples.tolist(), pruner.scores.nan_to_num(-9.0).tolist(), strict=True)),
            "nonfinite": pruner.nonfinite,
            "selected": metrics["selected"],
            "share": metrics["pruned_share"],
            "thresholds": selection.thresholds,
            "forward_passes": pruner.forward_passes,
        }
    return log


def save(pruner: ap.Pruner, folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save({"pruner": pruner.state_dict()}, checkpoint_id=folder)


def load(pruner: ap.Pruner, folder: Path) -> ap.Pruner:
    import torch.distributed.checkpoint as dcp

    state = {"pruner": pruner.state_dict()}
    dcp.load(state, checkpoint_id=folder)
    pruner.load_state_dict(state["pruner"])
    return pruner


class _Calls:
    """Counts the collectives and the bytes that this rank sends."""

    def __init__(self) -> None:
        self.calls, self.bytes = 0, 0
        for name in ("all_reduce", "all_gather", "all_gather_object"):
            setattr(torch.distributed, name, self._counting(getattr(torch.distributed, name)))

    def _counting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(first: Any, *rest: Any, **settings: Any) -> Any:
            sent = rest[0] if isinstance(first, list) else first
            self.calls += 1
            self.bytes += sent.nbytes if isinstance(sent, Tensor) else 0
            return call(first, *rest, **settings)

        return counted


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except ap.UserError as error:
        return str(error)
    return "no error"


# -------------------------------------------------------------------------- what a pool is asked

FEW = 5_000
PANEL = 700  # of the pool's samples, in this file


def asked(pool: Pool, draws: ap.Draws) -> dict[str, Any]:
    """All that a pool answers of numbers that are a function of the sample, each answer by sample."""
    samples = np.arange(FEW)[pool.samples_of(np.arange(pool.size))]
    random = np.random.default_rng(0)
    values = random.normal(size=FEW).astype(np.float32).round(1)[samples]  # many are equal
    values[values == 0.3] = np.nan
    groups = random.integers(0, 7, FEW)[samples]
    quotas = np.array([0, 1, 5, 100, 400, 10_000, 3])
    known = np.flatnonzero(~np.isnan(values))
    column, group = pool.panel(values, groups)
    return {
        "count": pool.count(values > 1),
        "mean": pool.mean(values),
        "extremes": pool.extremes(values[known]),
        "extremes of none": pool.extremes(values[:0]),
        "chosen": samples[pool.choose(draws, "test", known, 1_234)].tolist(),
        "chosen of all": samples[pool.choose(draws, "test", None, 1_234)].tolist(),
        "none chosen": samples[pool.choose(draws, "test", known, 0)].tolist(),
        "too many": samples[pool.choose(draws, "test", known, 10 * FEW)].tolist(),
        "least": samples[pool.least(values[known], known, 2_001)].tolist(),
        "least, by chance": samples[pool.least(values[known], known, 2_001, draws, "test")].tolist(),
        "least of float64": samples[pool.least(values[known] / 3.0 + 1e-12 * groups[known], known, 777)].tolist(),
        "least of too few": samples[pool.least(values[known], known, 10 * FEW)].tolist(),
        "least of none": samples[pool.least(values[known], known, 0)].tolist(),
        "least of each": samples[
            pool.least_of_each(values[known], known, groups[known], quotas, draws, "test")
        ].tolist(),
        "first of each": samples[pool.least_of_each(values[known], known, groups[known], quotas)].tolist(),
        "panel": column.tolist(),
        "panel's groups": group.tolist(),
    }


SHARED = ("count", "mean", "extremes", "extremes of none", "panel", "panel's groups")


# -------------------------------------------------------------------------- robust, from its onset on

ROBUST: dict[str, dict[str, Any]] = {
    "few samples": {"size": 600},
    "a panel": {"size": 1_500},
    "few wrong": {"size": 1_500, "wrong": 0.04},
    "easy thinning": {"size": 1_500, "thinning": "easy"},
    "no labels": {"size": 1_500, "labelled": False},
    "given rate": {"size": 600, "noise_rate": 0.3},
}


def robustly(size: int, wrong: float = 0.3, labelled: bool = True, **settings: Any) -> dict[int, dict[str, Any]]:
    """A run of robust whose losses fall as often as a sample was trained on, on any number of ranks."""
    random = np.random.default_rng(0)
    labels, pace = random.integers(0, 6, size), random.random((2, size))
    is_wrong = pace[0] < wrong
    ownership = "owned" if torch.distributed.is_initialized() else "replicated"
    pruner = ap.Pruner.from_preset(
        "robust",
        num_samples=size,
        epochs=14,
        ramp=2,
        labels=labels if labelled else None,
        ownership=ownership,
        **settings,
    )
    times, log = np.zeros(size), {}
    for epoch in range(pruner.epochs):
        noise = np.random.default_rng(epoch + 1).random(size)
        level = np.where(is_wrong, 4.0, 0.6 + 1.5 * pace[1]) * np.exp(-0.35 * times) + 0.05 * noise
        says = np.where(is_wrong | (noise < 0.1), (labels + 1) % 6, labels)
        for index in batches(list(pruner.sampler)):
            pruner.reduce(index, torch.from_numpy(level)[index], predictions=torch.from_numpy(says)[index])
        selection = pruner.selection
        every = [selection.trained.tolist()]
        if torch.distributed.is_initialized():
            every = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(every, selection.trained.tolist())
        times[[sample for part in every for sample in part]] += 1
        pruner.end_epoch()
        weights = torch.ones(len(selection)) if selection.weights is None else selection.weights
        log[epoch] = {
            "weights": dict(zip(selection.indices.tolist(), weights.tolist(), strict=True)),
            "suspects": dict.fromkeys([] if selection.suspects is None else selection.suspects.tolist(), 1.0),
            "noise_rate": pruner.noise_rate,
            "thresholds": selection.thresholds,
            "suspected": pruner.metrics().get("suspects", 0),
        }
    return log


# -------------------------------------------------------------------------- what every rank runs


def refusals(rank: int) -> dict[str, str]:
    """What ranks are told that do not agree, or own parts in a way that cannot be."""

    def an_epoch(ownership: Any) -> None:
        pruner = ap.Pruner.from_preset("full", num_samples=N, epochs=2, ownership=ownership)
        for index in batches(list(pruner.sampler)):
            pruner.reduce(index, TABLE[0, index])
        pruner.end_epoch()

    def another_ones() -> None:
        pruner = ap.Pruner.from_preset("full", num_samples=N, epochs=2, ownership="owned")
        others = torch.from_numpy(np.setdiff1d(np.arange(N), list(pruner.sampler)))
        pruner.reduce(others[:4], TABLE[0, others[:4]])

    moved = [[(0, 60), (290, 307)], [(60, 75)], [(75, 200), (200, 290)]]
    return {
        "other ranges": error_of(lambda: an_epoch(RANGES if rank else moved)),
        "another one's": error_of(another_ones),
    }


def traffic() -> dict[int, list[tuple[int, int]]]:
    """Collectives and bytes of every epoch's end, by the size of the data set."""
    out: dict[int, list[tuple[int, int]]] = {}
    for size in (3_000, 30_000):
        pruner = ap.Pruner.from_preset("seta+das", num_samples=size, epochs=8, delta=1.0, ownership="owned")
        counted, out[size] = _Calls(), []
        for epoch in range(8):
            order = torch.tensor(list(pruner.sampler))
            pruner.reduce(order, (order * 7 % 11 + 1) / (1.0 + epoch))
            counted.calls = counted.bytes = 0
            pruner.end_epoch(1.0 / (epoch + 1))
            out[size].append((counted.calls, counted.bytes))
    return out


def rank_main(folder: Path, rank: int, world: int) -> None:
    early = make("full", "owned")  # as where a trainer sets up the ranks
    launch.join(folder, rank, world)
    out: dict[str, Any] = {"made early": error_of(lambda: train(early))}
    for name in METHODS:
        ownership = RANGES if world == WORLD and name == "infobatch" else "owned"
        saved = folder.parent / f"saved {name}"
        if world == WORLD:
            out[name] = train(make(name, ownership), lambda pruner, to=saved: save(pruner, to))
            out[f"{name}, resumed"] = train(load(make(name, ownership), saved))
        else:
            ownership = [RANGES[0], [*RANGES[1], *RANGES[2]]] if name == "infobatch" else "owned"
            out[name] = train(load(make(name, ownership), saved))
    if world == WORLD:
        pools.PANEL = PANEL
        out["asked"] = asked(Pool(Hashed(FEW, rank, world)), ap.Draws(3, 4))
        out["refused"] = refusals(rank)
        out["traffic"] = traffic()
        out |= {f"robust, {case}": robustly(**settings) for case, settings in ROBUST.items()}
    launch.write(folder, rank, world, out)


# -------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("owned")


def found(folder: Path, world: int) -> list[dict[str, Any]]:
    place = folder / f"{world} ranks"
    place.mkdir()
    codes, said = launch.started(__file__, place, world, str(world))
    assert codes == [0] * world, said
    return [torch.load(place / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What each of three ranks found."""
    return found(folder, WORLD)


@pytest.fixture(scope="module")
def fewer(folder: Path, ranks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each of two ranks found that went on where the three had saved."""
    return found(folder, FEWER)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return {name: train(make(name, "replicated")) for name in METHODS}


def joined(ranks: list[dict[str, Any]], name: str, epoch: int, what: str) -> dict[int, float]:
    """What the ranks show of their samples, put together; each shows others."""
    out: dict[int, float] = {}
    for result in ranks:
        part = result[name][epoch][what]
        assert not out.keys() & part.keys()
        out |= part
    return out


@needs_ranks
@pytest.mark.parametrize("name", JUDGED)
def test_the_ranks_select_together_what_one_process_does(
    ranks: list[dict[str, Any]], alone: dict[str, Any], name: str
) -> None:
    for epoch, expected in alone[name].items():
        assert joined(ranks, name, epoch, "weights") == expected["weights"], epoch
        assert joined(ranks, name, epoch, "scores") == pytest.approx(expected["scores"], abs=1e-6)
        for result in ranks:
            for what in ("nonfinite", "selected", "share", "thresholds"):
                assert result[name][epoch][what] == pytest.approx(expected[what]), (epoch, what)


@needs_ranks
@every_method
def test_all_ranks_read_as_many_samples_and_together_the_selection(ranks: list[dict[str, Any]], name: str) -> None:
    for epoch in range(EPOCHS):
        parts = [result[name][epoch]["read"] for result in ranks]
        assert len({len(part) for part in parts}) == 1
        read = [sample for part in parts for sample in part]
        selected = sorted(joined(ranks, name, epoch, "weights"))
        assert sorted(set(read)) == selected
        assert len(read) == -(-len(selected) // WORLD) * WORLD  # fewer than there are ranks are read twice


@needs_ranks
@every_method
def test_ranks_go_on_in_the_middle_of_an_epoch_as_if_nothing_had_been(ranks: list[dict[str, Any]], name: str) -> None:
    for result in ranks:
        whole, rest = result[name], result[f"{name}, resumed"]
        assert rest[STOP[0]]["read"] == whole[STOP[0]]["read"][STOP[1] * BATCH :]
        assert rest[STOP[0]]["scores"] == whole[STOP[0]]["scores"]
        for epoch in range(STOP[0] + 1, EPOCHS):
            assert rest[epoch] == whole[epoch], epoch


@needs_ranks
@pytest.mark.parametrize("name", JUDGED)
def test_another_number_of_ranks_goes_on_with_the_same_samples(
    ranks: list[dict[str, Any]], fewer: list[dict[str, Any]], alone: dict[str, Any], name: str
) -> None:
    rest = [sample for result in fewer for sample in result[name][STOP[0]]["read"]]
    before = [sample for result in ranks for sample in result[name][STOP[0]]["read"][: STOP[1] * BATCH]]
    assert len({len(result[name][STOP[0]]["read"]) for result in fewer}) == 1
    assert sorted({*rest, *before}) == sorted(alone[name][STOP[0]]["weights"])
    assert len(rest) + len(before) <= len(alone[name][STOP[0]]["weights"]) + WORLD + FEWER
    for epoch in range(STOP[0] + 1, EPOCHS):
        assert joined(fewer, name, epoch, "weights") == alone[name][epoch]["weights"], epoch


@needs_ranks
@pytest.mark.parametrize("case", ROBUST)
def test_robust_flags_looks_at_and_thins_out_the_same_samples(
    ranks: list[dict[str, Any]], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "PANEL", PANEL)
    alone = robustly(**ROBUST[case])
    assert any(epoch["suspects"] for epoch in alone.values())  # there was an onset
    for epoch, expected in alone.items():
        name = f"robust, {case}"
        assert joined(ranks, name, epoch, "suspects") == expected["suspects"], epoch
        assert joined(ranks, name, epoch, "weights") == expected["weights"], epoch
        for result in ranks:
            for what in ("noise_rate", "thresholds", "suspected"):
                assert result[name][epoch][what] == pytest.approx(expected[what]), (epoch, what)


@needs_ranks
@pytest.mark.parametrize("name", JUDGED)
def test_one_process_goes_on_with_what_three_ranks_saved(
    ranks: list[dict[str, Any]], folder: Path, alone: dict[str, Any], name: str
) -> None:
    ownership = [[(0, N)]] if name == "infobatch" else "owned"
    pruner = load(make(name, ownership), folder / f"saved {name}")
    rest = train(pruner)
    for epoch in range(STOP[0] + 1, EPOCHS):
        assert rest[epoch]["weights"] == alone[name][epoch]["weights"], epoch
        assert rest[epoch]["scores"] == pytest.approx(alone[name][epoch]["scores"], abs=1e-6)


@needs_ranks
def test_a_label_report_is_made_of_what_ranks_have_saved_in_one_process(
    ranks: list[dict[str, Any]], folder: Path
) -> None:
    saved = load(make("rcap", "owned"), folder / "saved rcap")
    train(saved)
    whole = make("rcap", "replicated")
    train(whole)
    for name, expected in vars(facts(whole)).items():
        if isinstance(expected, np.ndarray):
            np.testing.assert_allclose(getattr(facts(saved), name), expected, rtol=1e-5, err_msg=name)


# What a pool is asked.


@needs_ranks
def test_a_pool_of_parts_answers_as_one_that_has_all(
    ranks: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "PANEL", PANEL)
    expected = asked(Pool(Replicated(FEW)), ap.Draws(3, 4))
    assert 0.7 * PANEL < len(expected["panel"]) < 1.3 * PANEL
    for name, answer in expected.items():
        if name in SHARED:
            for result in ranks:
                assert result["asked"][name] == pytest.approx(answer, nan_ok=True), name
        else:
            assert sorted(sample for result in ranks for sample in result["asked"][name]) == answer, name


def test_the_least_are_those_of_a_sort_and_chance_or_order_decides_among_equal_ones() -> None:
    values = np.random.default_rng(0).integers(0, 20, FEW).astype(np.float32)
    pool, draws, slots = Pool(Replicated(FEW)), ap.Draws(0, 0), np.arange(FEW)
    keys = draws.keys("test", FEW)
    for count in (0, 1, 777, FEW - 1, FEW, FEW + 1):
        by_chance = sorted(range(FEW), key=lambda i: (values[i], keys[i]))
        assert pool.least(values, slots, count, draws, "test").tolist() == sorted(by_chance[:count])
        in_order = sorted(range(FEW), key=lambda i: values[i])
        assert pool.least(values, slots, count).tolist() == sorted(in_order[:count])


def test_a_panel_of_few_samples_is_all_of_them() -> None:
    values = np.arange(10.0)
    assert Pool(Replicated(10)).panel(values)[0] is values


# Who owns what.


@given(st.integers(1, 20_000), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_a_hash_gives_every_sample_one_owner_and_all_ranks_about_as_many(num_samples: int, world: int) -> None:
    try:
        owned = [ownership_of("owned", num_samples, rank, world) for rank in range(world)]
    except ap.UserError:
        assert num_samples < 8 * world
        return
    sizes = [ownership.size for ownership in owned]
    assert max(sizes) - min(sizes) <= 0.005 * num_samples + 8
    for ownership in owned:
        _check_slots(ownership)
    assert sorted(np.concatenate([ownership.samples for ownership in owned])) == list(range(num_samples))


def _check_slots(ownership: Ownership) -> None:
    """Every slot is that of its sample, and no other sample has one."""
    slots = ownership.slots(torch.arange(ownership.num_samples)).numpy()
    assert slots[ownership.samples].tolist() == list(range(ownership.size))
    assert np.count_nonzero(slots >= 0) == ownership.size


@pytest.mark.parametrize("rank", range(WORLD))
def test_ranges_are_owned_as_they_are_given(rank: int) -> None:
    ownership = ownership_of(RANGES, N, rank, WORLD)
    assert ownership.samples.tolist() == [i for start, stop in RANGES[rank] for i in range(start, stop)]
    _check_slots(ownership)


def test_a_run_of_samples_falls_evenly_on_the_ranks() -> None:
    hashed = Hashed(1_000_000, 0, 8)
    for start in (0, 123_456, 999_000):
        owned = int((hashed.slots(torch.arange(start, start + 1_000)) >= 0).sum())
        assert 110 <= owned <= 140  # of 125


@pytest.mark.parametrize(
    "ownership, message",
    [
        ("own", "ownership='own' is unknown, expected 'replicated', 'owned' or the ranges"),
        (3, "ownership=3 is int, expected a list of ranges for every rank"),
        ([[(0, N)]], "ownership has ranges for 1 ranks, expected 2"),
        ([[(0, N)], []], "ownership has ranges for 1 ranks, expected 2"),
        ([[(0, 5)], [(6, N)]], "samples 5 to 5 have no owner"),
        ([[(0, 6)], [(5, N)]], "sample 5 has two owners"),
        ([[(0, 6)], [(6, N - 1)]], f"samples {N - 1} to {N - 1} have no owner"),
        ([[(0, 6)], [(6, N + 1)]], f"range 6 to {N + 1}, expected 0 <= start < stop <= {N}"),
        ([[(0, 6)], [(6, 6), (6, N)]], "the range 6 to 6"),
        ([[(0, 6)], ["6", N]], "expected ranges: (start, stop)"),
    ],
)
def test_an_ownership_that_cannot_be_is_refused(ownership: Any, message: str) -> None:
    with pytest.raises(ap.UserError) as refused:
        ownership_of(ownership, N, 0, 2)
    assert message in str(refused.value)


def test_fewer_samples_than_ranks_are_refused() -> None:
    with pytest.raises(ap.UserError, match="leaves a rank without samples"):
        ownership_of("owned", 2, 0, 3)


@needs_ranks
def test_ranks_with_other_ranges_are_refused_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert "ownership differs between the 3 ranks" in result["refused"]["other ranges"]


@needs_ranks
def test_a_pruner_that_was_made_before_the_ranks_met_is_refused(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert "divided among 1 ranks and there are 3" in result["made early"]


@needs_ranks
def test_the_sample_of_another_rank_is_refused(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert "which other ranks read in epoch 0" in result["refused"]["another one's"]


def test_a_method_that_sees_all_samples_at_once_is_refused() -> None:
    with pytest.raises(ap.UserError, match="DivBS does not say that it works by parts"):
        ap.Pruner.from_preset("divbs", num_samples=N, epochs=2, ownership="owned")


@needs_ranks
def test_an_epoch_ends_with_as_many_collectives_and_bytes_whatever_the_size(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        small, large = result["traffic"].values()
        settled = {calls for calls, _ in small[3:] + large[3:]}  # from the epoch on in which there are scores
        assert max(settled) - min(settled) <= 2  # where the parts are even nothing is handed on
        assert abs(large[-1][1] - small[-1][1]) < 20_000  # a panel of 700 rows, and what is handed on


@pytest.mark.parametrize("ownership, other", [("owned", "replicated"), ("replicated", "owned")])
def test_a_state_of_the_other_kind_is_refused(ownership: str, other: str) -> None:
    pruner = ap.Pruner.from_preset("infobatch", num_samples=N, epochs=2, ownership=ownership)
    with pytest.raises(ap.UserError, match="own parts"):
        ap.Pruner.from_preset("infobatch", num_samples=N, epochs=2, ownership=other).load_state_dict(
            pruner.state_dict()
        )


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda state: state | {"values": "{"}, "is no text of values"),
        (lambda state: state | {"values": '{"memories": []}'}, "lacks"),
        (lambda state: state | {"values": state["values"].replace('"world": 1', '"world": 0')}, "state.world=0"),
        (lambda state: state | {"tables": {**state["tables"], "unread": torch.zeros(N)}}, "state.unread"),
        (lambda state: state | {"tables": {**state["tables"], "scores": None}}, "expected tensors"),
        (lambda state: state | {"tables": {}}, "lacks scores"),
        (lambda state: {"values": state["values"]}, "is no state of ranks that own parts"),
    ],
)
def test_a_damaged_state_of_parts_is_refused_and_changes_nothing(
    damage: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    pruner = make("infobatch", "owned")
    for index in batches(list(pruner.sampler)):
        pruner.reduce(index, TABLE[0, index])
    pruner.end_epoch()
    other = make("infobatch", "owned")
    with pytest.raises(ap.UserError) as refused:
        other.load_state_dict(damage(pruner.state_dict()))
    assert message in str(refused.value)
    assert other.epoch == 0
    other.load_state_dict(pruner.state_dict())
    assert other.epoch == 1
    assert torch.equal(other.selection.indices, pruner.selection.indices)


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
