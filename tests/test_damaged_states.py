"""Damaged states: whatever was done to one, it is refused in a line and nothing is changed, or it loads and works."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import alignprune as ap
from alignprune import Selection
from alignprune.errors import UserError
from alignprune.memory import Journal, Ledger, Memory, Readings, RunningAverage, TrajectoryBank

N, EPOCHS, BATCH = 29, 7, 10
TABLE = torch.rand(EPOCHS, N, generator=torch.Generator().manual_seed(0)) + 0.1

pytestmark = pytest.mark.filterwarnings("ignore:.*(losses of epoch|selected none of)")

METHODS: dict[str, dict[str, Any]] = {
    "infobatch+das": {"window": 3},
    "infobatch+das, carry": {"window": 3, "gaps": "carry"},
    "infobatch+das, last_obs": {"window": 3, "gaps": "last_obs"},
    "seta": {},
    "ies": {"smoothing": 1, "threshold": 0.4},
    "infobatch+bls": {},
    "divbs": {},
    "repb": {},
    "rcap": {"labels": torch.arange(N) % 3},
    "robust": {"labels": torch.arange(N) % 3, "ramp": 1},
}


def make(method: str) -> ap.Pruner:
    name = method.partition(",")[0]
    return ap.Pruner.from_preset(name, num_samples=N, epochs=EPOCHS, seed=1, **METHODS[method])


def train(pruner: ap.Pruner, steps: int | None = None) -> ap.Pruner:
    """Go on for so many steps, None = to the end; every selection on the way is a valid one."""
    done = 0
    for epoch in range(pruner.epoch, EPOCHS):
        for index in torch.tensor(list(pruner.sampler), dtype=torch.int64).split(BATCH):
            if steps is not None and done == steps:
                return pruner
            done += 1
            if isinstance(pruner.policy, ap.BatchPolicy):
                outputs = TABLE[epoch, index].outer(torch.arange(3.0))
                index = index[pruner.choose(index, logits=outputs, features=outputs, labels=index % 3)]
            if pruner.score.needs_batches:
                pruner.reduce_batch(index, TABLE[epoch, index].mean())
            elif len(index):
                pruner.reduce(index, TABLE[epoch, index], predictions=index % 3)
        left_out = list(pruner.pruned_sampler) if pruner.score.needs_pruned else []
        if left_out:
            pruner.record(torch.tensor(left_out), TABLE[epoch, left_out])
        pruner.end_epoch(1 / (epoch + 1) if pruner.needs_reference else None, partial=True)
        chosen = pruner.selection.indices.tolist()
        assert chosen == sorted(set(chosen))
        assert all(0 <= sample < N for sample in chosen)
        assert pruner.noise_rate is None or 0 <= pruner.noise_rate <= 1
    return pruner


@functools.cache
def states(method: str) -> list[dict[str, Any]]:
    """States at the start, in the middle of epochs early and late, and at the end."""
    return [train(make(method), steps).state_dict() for steps in (0, 1, 5, 11, 16, None)]


Path = tuple[Any, ...]


def paths(value: Any, path: Path = ()) -> list[Path]:
    """The way to every part of a state."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in parts for found in [(*path, key), *paths(part, (*path, key))]]


HUGE = 10**30
JUNK: list[Any] = [
    *[None, True, False, 0, 1, -1, HUGE, -HUGE, 1.5, math.nan, math.inf, -math.inf],
    *["", "x", b"x", [], {}, (), [1], [None], {"a": 1}, (1, 2), {1}],
    *[torch.tensor(1.0), torch.zeros(3), torch.zeros(N), torch.zeros(0), torch.full((N,), math.nan)],
]


def variants(value: Any) -> list[Any]:
    """What may stand where a value stood: something else altogether, or a damaged form of it."""
    if isinstance(value, Tensor):
        ends = [torch.finfo, torch.iinfo][not value.is_floating_point()](value.dtype)
        numbers = [0, -1, ends.max, ends.min, *([math.nan, math.inf, -math.inf] if value.is_floating_point() else [])]
        forms = [value.double(), value.int(), value[..., :-1], value[None], value.tolist()]
        forms += [value.to("meta"), value.to_sparse()]
        forms += [value.clone().requires_grad_()] if value.is_floating_point() else []
        return [*JUNK, *forms, *(torch.full_like(value, number) for number in numbers)]
    if isinstance(value, list):
        return [*JUNK, value[:-1], value + value, [*value, None], value[::-1]]
    if type(value) is int:
        return [*JUNK, value + 1, value - 1, float(value), str(value)]
    return JUNK


@st.composite
def damaged(draw: Any, whole: list[dict[str, Any]]) -> dict[str, Any]:
    """One of the states with a part of it replaced, taken away, or a foreign one put in."""
    state = copy.deepcopy(draw(st.sampled_from(whole)))
    *way, last = draw(st.sampled_from(paths(state)))
    holder = functools.reduce(lambda part, key: part[key], way, state)
    how = draw(st.sampled_from(["replaced"] * 8 + ["taken away", "foreign"]))
    if how == "taken away":
        del holder[last]
    elif how == "foreign" and isinstance(holder, dict):
        holder["foreign"] = draw(st.sampled_from(JUNK))
    else:
        holder[last] = draw(st.sampled_from(variants(holder[last])))
    return state


def same(one: Any, other: Any) -> bool:
    """Equality to the bit; NaN equals NaN."""
    if isinstance(one, Tensor):
        return torch.equal(one.nan_to_num(-9, -8, -7), other.nan_to_num(-9, -8, -7))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other or (one != one and other != other))


def refused(call: Callable[[], Any]) -> bool:
    """Whether a call is refused, in one line."""
    try:
        call()
    except UserError as refusal:
        return "\n" not in str(refusal) or pytest.fail(f"more than a line: {refusal}")
    return False


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=80)
@given(data=st.data())
def test_a_damaged_state_of_a_pruner_is_refused_and_changes_nothing_or_works(method: str, data: st.DataObject) -> None:
    state, pruner = data.draw(damaged(states(method))), train(make(method), data.draw(st.sampled_from([0, 4])))
    before = copy.deepcopy(pruner.state_dict())
    if refused(lambda: pruner.load_state_dict(state)):
        assert same(pruner.state_dict(), before)
    else:
        train(pruner)
        pruner.metrics()


def written(memory: Memory) -> Memory:
    for epoch in range(4):
        kept = torch.arange(epoch % 2, N, 2)
        losses = torch.full((N,), math.nan).index_copy(0, kept, TABLE[epoch, kept])
        predicted, steps = (TABLE[epoch] * 3).int(), torch.where(losses.isnan(), -1, torch.arange(N) // 4).int()
        memory.write(ap.Observed(epoch, losses, Selection(kept, None, N, uniform=True), predicted, steps))
    return memory


MEMORIES: dict[str, Callable[[], Memory]] = {
    "bank": lambda: TrajectoryBank(N, 3),
    "bank that carries": lambda: TrajectoryBank(N, 3, gaps="carry"),
    "bank of observations": lambda: TrajectoryBank(N, 3, gaps="last_obs"),
    "ledger": lambda: Ledger(N),
    "journal": lambda: Journal(N),
    "average": lambda: RunningAverage(N, 0.8),
    "readings": lambda: Readings(N, EPOCHS),
}


@pytest.mark.parametrize("memory", MEMORIES)
@settings(max_examples=80)
@given(data=st.data())
def test_a_damaged_state_of_a_memory_is_refused_by_its_check_or_works(memory: str, data: st.DataObject) -> None:
    there, state = MEMORIES[memory](), data.draw(damaged([written(MEMORIES[memory]()).state_dict()]))
    before = copy.deepcopy(there.state_dict())
    if refused(lambda: there.check_state_dict(state)):
        assert same(there.state_dict(), before)
    else:
        there.load_state_dict(state)
        written(there).state_dict()


def test_a_state_of_an_ended_run_that_says_something_was_refreshed_since_is_that_of_an_ended_run() -> None:
    state = copy.deepcopy(states("robust")[-1]) | {"refreshed": 1}
    pruner = make("robust")
    pruner.load_state_dict(state)
    assert pruner.epoch == EPOCHS
    assert len(pruner.pruned_sampler) == 0


SELECTION = Selection(
    torch.tensor([1, 4, 5]),
    torch.tensor([2.0, 0.0, 1.0]),
    N,
    suspects=torch.tensor([0, 4]),
    noise_rate=0.25,
    onset=ap.selection.Onset(2, 1.5),
    thresholds=(0.5, 1.5),
)


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_state_of_a_selection_is_refused_or_is_one(data: st.DataObject) -> None:
    state = data.draw(damaged([SELECTION.state_dict(), Selection.full(N).state_dict()]))
    if state.get("num_samples") is HUGE:
        return  # a part of a data set that no memory holds: only who knows its size can refuse that, as a pruner does
    if not refused(lambda: Selection.from_state_dict(state)):
        selection = Selection.from_state_dict(state)
        assert len(selection.pruned) == selection.num_samples - len(selection)
        assert selection.weights is None or selection.weights.isfinite().all()
        assert selection.noise_rate is None or 0 <= selection.noise_rate <= 1
        assert all(map(math.isfinite, selection.thresholds))


@pytest.mark.parametrize("state", [None, [], "x", 3, torch.zeros(3), {}])
def test_what_is_no_state_at_all_is_refused(state: Any) -> None:
    assert refused(lambda: make("seta").load_state_dict(state))
    assert refused(lambda: Selection.from_state_dict(state))
