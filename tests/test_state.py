"""Stopping and going on: a resumed run is, bit for bit, the run that was never stopped."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import alignprune as ap

N, EPOCHS, BATCH = 29, 7, 6
TABLE = torch.rand(EPOCHS, N, generator=torch.Generator().manual_seed(0)) + 0.1
TABLE[1, 3] = TABLE[1, 5] = math.nan  # a state must carry the count of bad losses too

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*losses of epoch"),  # the bad losses in TABLE
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),  # torchdata, on new torch
]

Step = tuple[int, list[int], list[float]]


def das(gaps: str) -> Callable[[], ap.Pruner]:
    return lambda: ap.Pruner.from_preset("infobatch+das", num_samples=N, epochs=EPOCHS, window=3, gaps=gaps, seed=1)


METHODS: dict[str, Callable[[], ap.Pruner]] = {
    "infobatch+das, paired": das("paired"),
    "infobatch+das, carry": das("carry"),
    "infobatch+das, last_obs": das("last_obs"),
    "seta+das": lambda: ap.Pruner.from_preset(
        "seta+das", num_samples=N, epochs=EPOCHS, window=4, groups=3, alpha=0.7, seed=1
    ),
    "infobatch": lambda: ap.Pruner.from_preset("infobatch", num_samples=N, epochs=EPOCHS, seed=1),
    "dynamic-random": lambda: ap.Pruner.from_preset("dynamic-random", num_samples=N, epochs=EPOCHS, seed=1),
    "rs2": lambda: ap.Pruner.from_preset("rs2", num_samples=N, epochs=EPOCHS, seed=1),
    "orderdp": lambda: ap.Pruner.from_preset("orderdp", num_samples=N, epochs=EPOCHS, seed=1),
    "repb": lambda: ap.Pruner.from_preset("repb", num_samples=N, epochs=EPOCHS, seed=1, batches=2),
    "rcap": lambda: ap.Pruner.from_preset("rcap", num_samples=N, epochs=EPOCHS, seed=1, labels=torch.arange(N) % 3),
    "ies": lambda: ap.Pruner(
        N, EPOCHS, ap.scores.SecondDifference(smoothing=1), ap.policies.IES(threshold=0.5), seed=1
    ),
    "robust": lambda: ap.Pruner.from_preset("robust", num_samples=N, epochs=EPOCHS, seed=1, prune_ratio=0.3, ramp=1),
}
every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


def saved(pruner: ap.Pruner) -> bytes:
    buffer = io.BytesIO()
    torch.save(pruner.state_dict(), buffer)
    return buffer.getvalue()


def loaded(state: bytes) -> dict[str, Any]:
    return torch.load(io.BytesIO(state), weights_only=True)


def same(a: Any, b: Any) -> bool:
    """Equality to the bit, through dicts and lists; NaN equals NaN, -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        width = {torch.float32: torch.int32, torch.float64: torch.int64}.get(a.dtype, a.dtype)
        return torch.equal(a.contiguous().view(width), b.contiguous().view(width))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def batches(order: list[int]) -> Iterator[Tensor]:
    for start in range(0, len(order), BATCH):
        yield torch.tensor(order[start : start + BATCH])


def train(pruner: ap.Pruner, after: Callable[[], None] = lambda: None) -> tuple[list[Step], list[Tensor]]:
    """Train to the end; returns every step (epoch, indices, weights) and the scores after every epoch.

    ``after`` is called wherever a run may be stopped: at the start, after every batch and after every epoch.
    """
    steps: list[Step] = []
    scores = []
    after()
    for epoch in range(pruner.epoch, pruner.epochs):
        weights = pruner.selection.dense_weights()
        for index in batches(list(pruner.sampler)):
            ones = torch.ones(N) if weights is None else weights
            pruner.reduce(index, TABLE[epoch, index])
            steps.append((epoch, index.tolist(), ones[index].tolist()))
            after()
        if pruner.score.needs_pruned:
            for index in batches(list(pruner.pruned_sampler)):
                pruner.record(index, TABLE[epoch, index])
            after()
        pruner.end_epoch(1.0 / (epoch + 1) if pruner.needs_reference else None)
        scores.append(pruner.scores.clone())
        after()
    return steps, scores


@every_method
def test_a_run_resumed_anywhere_equals_the_run_that_never_stopped(make: Callable[[], ap.Pruner]) -> None:
    pruner = make()
    states: list[bytes] = []
    moments: list[tuple[int, int]] = []  # epochs and samples done when the state was taken

    def stop() -> None:
        states.append(saved(pruner))
        moments.append((pruner.epoch, pruner.state_dict()["read"]))

    steps, scores = train(pruner, stop)
    final = pruner.state_dict()
    assert {len(step[1]) for step in steps} >= {BATCH}
    assert min(sum(len(s[1]) for s in steps if s[0] == epoch) for epoch in range(EPOCHS)) < N  # it did prune
    assert final["nonfinite"] == sum(not TABLE[epoch, i].isfinite() for epoch, indices, _ in steps for i in indices) > 0
    for state, (epoch, position) in zip(states, moments, strict=True):
        resumed = make()
        resumed.load_state_dict(loaded(state))
        assert same(resumed.state_dict(), loaded(state))
        rest, scores_of_rest = train(resumed)
        assert [s for s in rest if s[0] > epoch] == [s for s in steps if s[0] > epoch]
        assert [i for s in rest if s[0] == epoch for i in s[1]] == [i for s in steps if s[0] == epoch for i in s[1]][
            position:
        ]
        assert rest == steps[len(steps) - len(rest) :]
        assert same(scores_of_rest, scores[epoch:])
        assert same(resumed.state_dict(), final)


def test_a_run_stopped_between_refresh_and_end_of_epoch_counts_bad_losses_once() -> None:
    def refreshed(pruner: ap.Pruner, epoch: int) -> None:
        for index in batches(list(pruner.pruned_sampler)):
            pruner.record(index, TABLE[epoch, index].masked_fill(index == bad, math.nan))

    pruner = METHODS["ies"]()
    for epoch in range(5):
        for index in batches(list(pruner.sampler)):
            pruner.reduce(index, TABLE[epoch, index])
        bad = int(pruner.selection.pruned[0]) if epoch == 4 else -1
        refreshed(pruner, epoch)
        if epoch < 4:
            pruner.end_epoch()
    resumed = METHODS["ies"]()
    resumed.load_state_dict(loaded(saved(pruner)))
    refreshed(resumed, 4)  # the loop goes on: no batch is left to train on, the refresh follows
    resumed.end_epoch()
    pruner.end_epoch()
    assert same(resumed.state_dict(), pruner.state_dict())


def test_refreshed_losses_load_into_a_pruner_that_was_not_asked_for_them_yet() -> None:
    pruner, resumed = begun("infobatch"), METHODS["infobatch"]()
    left_out = torch.tensor(list(pruner.pruned_sampler))
    pruner.record(left_out[:2], TABLE[4, left_out[:2]])
    resumed.load_state_dict(loaded(saved(pruner)))
    assert list(resumed.pruned_sampler) == left_out[2:].tolist()
    for one in (pruner, resumed):
        for index in batches(list(one.sampler)):
            one.reduce(index, TABLE[4, index])
        one.end_epoch()
    assert same(resumed.state_dict(), pruner.state_dict())


@every_method
def test_a_state_that_was_taken_is_not_changed_by_more_training(make: Callable[[], ap.Pruner]) -> None:
    pruner = make()
    states: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def keep() -> None:
        state = pruner.state_dict()
        states.append((state, copy.deepcopy(state)))

    train(pruner, keep)
    assert all(same(state, before) for state, before in states)
    assert not same(states[2][0], states[-1][0])


@every_method
def test_a_state_that_was_loaded_is_not_changed_by_more_training(make: Callable[[], ap.Pruner]) -> None:
    pruner = make()
    states: list[dict[str, Any]] = []
    train(pruner, lambda: states.append(pruner.state_dict()))
    for state in states[:: len(states) // 5]:
        before, resumed = copy.deepcopy(state), make()
        resumed.load_state_dict(state)
        train(resumed)
        assert same(state, before)


@every_method
def test_a_run_can_be_set_back(make: Callable[[], ap.Pruner]) -> None:
    pruner = make()
    states: list[bytes] = []
    steps, _ = train(pruner, lambda: states.append(saved(pruner)))
    final = pruner.state_dict()
    for state in (states[0], states[2]):
        pruner.load_state_dict(loaded(state))
        again, _ = train(pruner)
        assert again == steps[len(steps) - len(again) :]
        assert same(pruner.state_dict(), final)


def test_a_state_holds_tensors_and_plain_values_only() -> None:
    def kinds(value: Any) -> set[type]:
        if isinstance(value, dict):
            return set().union(*(kinds(v) for v in value.values()), *(kinds(k) for k in value))
        return set().union(*map(kinds, value)) if isinstance(value, list) else {type(value)}

    for make in METHODS.values():
        pruner, found = make(), set()
        train(pruner, lambda pruner=pruner, found=found: found.update(kinds(pruner.state_dict())))  # type: ignore[misc]
        assert found <= {Tensor, str, int, float, bool, type(None)}


def test_a_memory_mapped_bank_resumes_alike(tmp_path: Path) -> None:
    def make(name: str) -> ap.Pruner:
        return ap.Pruner.from_preset(
            "infobatch+das", num_samples=N, epochs=EPOCHS, window=3, seed=1, bank_path=str(tmp_path / name)
        )

    pruner = make("first")
    states: list[bytes] = []
    steps, scores = train(pruner, lambda: states.append(saved(pruner)))
    plain_steps, plain_scores = train(das("paired")())
    assert steps == plain_steps
    assert same(scores, plain_scores)
    resumed = make("second")
    resumed.load_state_dict(loaded(states[len(states) // 2]))
    assert train(resumed)[0] == steps[-len(train_of(states[len(states) // 2])) :]
    assert same(resumed.state_dict(), pruner.state_dict())


def train_of(state: bytes) -> list[Step]:
    """The steps that a plain pruner takes from a state on."""
    pruner = das("paired")()
    pruner.load_state_dict(loaded(state))
    return train(pruner)[0]


# -------------------------------------------------------------------------- loaders


def begun(name: str = "infobatch+das, paired", epochs: int = 4) -> ap.Pruner:
    """A pruner at the start of an epoch that leaves samples out and has weights."""
    pruner = METHODS[name]()
    for epoch in range(epochs):
        for index in batches(list(pruner.sampler)):
            pruner.reduce(index, TABLE[epoch, index])
        pruner.end_epoch(1.0 / (epoch + 1) if pruner.needs_reference else None)
    assert 2 * BATCH < len(pruner.selection) < N
    assert pruner.selection.weights is not None
    return pruner


def test_iterating_the_sampler_twice_gives_the_same() -> None:
    pruner = begun()
    assert list(pruner.sampler) == list(pruner.sampler)
    half = iter(pruner.sampler)
    head = [next(half) for _ in range(5)]
    assert list(pruner.sampler)[:5] == head
    assert head + list(half) == list(pruner.sampler)


def test_a_resumed_sampler_yields_the_rest_and_says_how_much() -> None:
    pruner = begun()
    order = list(pruner.sampler)
    pruner.reduce(torch.tensor(order[:BATCH]), torch.rand(BATCH))
    resumed = METHODS["infobatch+das, paired"]()
    resumed.load_state_dict(pruner.state_dict())
    assert list(resumed.sampler) == list(resumed.sampler) == order[BATCH:]
    assert len(resumed.sampler) == len(order) - BATCH
    assert len(resumed.loader(data(), batch_size=BATCH)) == math.ceil((len(order) - BATCH) / BATCH)


@pytest.mark.parametrize("settings", [{}, {"even_batches": True}, {"drop_last": True}])
def test_a_resumed_sampler_counts_the_whole_epoch_where_it_is_told_to(settings: dict[str, bool]) -> None:
    pruner = begun()
    whole = pruner.loader(data(), batch_size=BATCH, **settings)
    batches = [index.tolist() for index, _ in whole]
    pruner.reduce(torch.tensor(batches[0]), torch.rand(len(batches[0])))
    resumed = METHODS["infobatch+das, paired"]()
    resumed.load_state_dict(pruner.state_dict())
    resumed.sampler.counts_whole = True
    loader = resumed.loader(data(), batch_size=BATCH, **settings)
    assert len(loader) == len(batches)
    assert [index.tolist() for index, _ in loader] == batches[1:]


def data() -> TensorDataset:
    return TensorDataset(torch.arange(N) * 10)


def read(pruner: ap.Pruner, loader: Any, stop: int | None = None) -> list[list[int]]:
    """Train on up to ``stop`` batches; returns their indices, having checked that the data belongs to them."""
    out: list[list[int]] = []
    for index, (x,) in loader:
        assert torch.equal(x, index * 10)
        pruner.reduce(index, TABLE[pruner.epoch, index])
        out.append(index.tolist())
        if len(out) == stop:
            break
    return out


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_loader_resumes_in_the_middle_whatever_was_fetched_ahead(workers: int) -> None:
    settings: dict[str, Any] = {"batch_size": BATCH, "num_workers": workers}
    if workers:
        settings |= {"prefetch_factor": 4, "multiprocessing_context": "fork"}
    pruner, other = begun(), begun()
    whole = read(other, DataLoader(ap.Indexed(data()), sampler=other.sampler, **settings))
    head = read(pruner, pruner.loader(data(), **settings), stop=2)
    resumed = METHODS["infobatch+das, paired"]()
    resumed.load_state_dict(loaded(saved(pruner)))
    assert head + read(resumed, resumed.loader(data(), **settings)) == whole
    resumed.end_epoch(0.1)
    other.end_epoch(0.1)
    assert same(resumed.state_dict(), other.state_dict())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 2])
def test_a_stateful_loader_resumes_together_with_the_pruner(workers: int, stop: int) -> None:
    stateful = pytest.importorskip(
        "torchdata.stateful_dataloader", reason="torchdata offers the loader that saves its own state"
    )
    settings: dict[str, Any] = {"batch_size": BATCH, "num_workers": workers}
    if workers:
        settings |= {"multiprocessing_context": "fork"}

    def loader(pruner: ap.Pruner) -> Any:
        return stateful.StatefulDataLoader(ap.Indexed(data()), sampler=pruner.sampler, **settings)

    pruner, other = begun(), begun()
    whole, reading = read(other, loader(other)), loader(pruner)
    head = read(pruner, reading, stop)
    buffer = io.BytesIO()
    torch.save({"pruner": pruner.state_dict(), "loader": reading.state_dict()}, buffer)
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    resumed = METHODS["infobatch+das, paired"]()
    resumed.load_state_dict(state["pruner"])
    going_on = loader(resumed)
    going_on.load_state_dict(state["loader"])
    assert head + read(resumed, going_on) == whole
    resumed.end_epoch(0.1)
    other.end_epoch(0.1)
    assert same(resumed.state_dict(), other.state_dict())
    next_epoch = [i for batch in read(resumed, going_on) for i in batch]
    assert sorted(next_epoch) == resumed.selection.indices.tolist()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_states_of_loader_and_pruner_between_two_epochs_fit_together(workers: int, drop_last: bool) -> None:
    stateful = pytest.importorskip(
        "torchdata.stateful_dataloader", reason="torchdata offers the loader that saves its own state"
    )
    settings: dict[str, Any] = {"batch_size": BATCH, "num_workers": workers, "drop_last": drop_last}
    if workers:
        settings |= {"multiprocessing_context": "fork"}

    def loader(pruner: ap.Pruner) -> Any:
        return stateful.StatefulDataLoader(ap.Indexed(data()), sampler=pruner.sampler, **settings)

    pruner, resumed = begun(), METHODS["infobatch+das, paired"]()
    reading = loader(pruner)
    read(pruner, reading)
    pruner.end_epoch(0.1)
    resumed.load_state_dict(loaded(saved(pruner)))
    going_on = loader(resumed)
    going_on.load_state_dict(reading.state_dict())
    assert read(resumed, going_on) == read(pruner, reading)
    for one in (pruner, resumed):
        one.end_epoch(0.05)
    assert same(resumed.state_dict(), pruner.state_dict())


def test_a_stateful_loader_of_another_epoch_is_refused() -> None:
    stateful = pytest.importorskip(
        "torchdata.stateful_dataloader", reason="torchdata offers the loader that saves its own state"
    )
    pruner, later = begun(), begun(epochs=5)
    later_loader = stateful.StatefulDataLoader(ap.Indexed(data()), sampler=later.sampler, batch_size=BATCH)
    read(later, later_loader, 1)
    going_on = stateful.StatefulDataLoader(ap.Indexed(data()), sampler=pruner.sampler, batch_size=BATCH)
    going_on.load_state_dict(later_loader.state_dict())
    with pytest.raises(ValueError, match=r"loader's state is of epoch 5, expected 4"):
        iter(going_on)
