"""EpochSampler: a selection goes in, a keyed order comes out, the same for every look at it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import alignprune as ap
from alignprune import sampler as sampler_module
from alignprune._ranks import keyed_generator, rank_and_world


def planned(indices: Tensor, seed: int = 0, epoch: int = 0, start: int = 0) -> ap.EpochSampler:
    sampler = ap.EpochSampler(seed)
    sampler.plan(epoch, indices, start)
    return sampler


ODD = torch.arange(1, 100, 2)


def test_every_selected_sample_is_read_once_in_random_order() -> None:
    order = list(planned(ODD))
    assert all(type(i) is int for i in order)
    assert sorted(order) == ODD.tolist() != order
    assert len(planned(ODD)) == 50


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    order = list(planned(ODD, seed=3, epoch=4))
    torch.manual_seed(1)
    assert list(planned(ODD, seed=3, epoch=4)) == order
    assert list(planned(ODD, seed=4, epoch=4)) != order
    assert list(planned(ODD, seed=3, epoch=5)) != order
    assert list(planned(ODD, seed=34, epoch=0)) != list(planned(ODD, seed=3, epoch=40))


def test_every_position_is_equally_likely_over_the_epochs() -> None:
    firsts = torch.tensor([next(iter(planned(torch.arange(4), epoch=epoch))) for epoch in range(800)])
    counts = torch.bincount(firsts, minlength=4)
    assert ((counts - 200).abs() < 60).all()  # five standard deviations


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every order is computed where it is read, as that of a large data set."""
    monkeypatch.setattr(sampler_module, "_LARGE", 1)


@pytest.mark.usefixtures("computed")
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1_000, 1_024, 1_025, 70_000])
def test_a_computed_order_reads_every_sample_once(size: int) -> None:
    indices = torch.arange(size) * 3 + 1
    order = list(planned(indices, seed=2, epoch=5))
    assert sorted(order) == indices.tolist()
    assert list(planned(indices, seed=2, epoch=5)) == order
    assert list(planned(indices, seed=2, epoch=5, start=size // 2)) == order[size // 2 :]
    if size >= 1_000:
        assert list(planned(indices, seed=2, epoch=6)) != order != indices.tolist()


@settings(deadline=None)
@given(
    start=st.none() | st.integers(-60, 60),
    stop=st.none() | st.integers(-60, 60),
    resumed=st.integers(0, 50),
)
def test_a_part_of_the_order_is_a_slice_of_it(start: int | None, stop: int | None, resumed: int) -> None:
    part = planned(ODD, start=resumed).indices(start or 0, stop)
    assert part.dtype == torch.int64
    assert part.tolist() == list(planned(ODD))[start or 0 : stop]


def test_what_is_left_after_a_resume_is_the_order_from_its_start_on() -> None:
    sampler = planned(ODD, start=20)
    assert sampler.indices(sampler.start).tolist() == list(sampler)


@pytest.mark.usefixtures("computed")
def test_every_position_of_a_computed_order_is_equally_likely() -> None:
    indices, epochs = torch.arange(1_000), 1_500
    orders = torch.stack([planned(indices, epoch=epoch).indices() for epoch in range(epochs)])
    for position in (0, 1, 500, 999):
        counts = torch.bincount(orders[:, position] // 100, minlength=10)
        assert ((counts - epochs / 10).abs() < 65).all()  # five standard deviations and a half
    steps = orders.diff(dim=1)  # neighbours in the order are no neighbours among the samples
    assert (steps.abs() <= 1).float().mean() < 0.006


def test_iterators_are_fresh_and_independent() -> None:
    sampler = planned(ODD)
    first, second = iter(sampler), iter(sampler)
    head = [next(first) for _ in range(7)]
    assert [next(second) for _ in range(7)] == head
    assert iter(first) is first
    assert head + list(first) == list(sampler)
    assert next(first, None) is None


def test_global_generators_are_not_touched() -> None:
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    list(planned(ODD))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]
    assert random.getstate() == state[2]


def test_without_shuffling_indices_are_read_as_they_are() -> None:
    sampler = ap.EpochSampler(0, shuffle=False)
    sampler.plan(2, torch.tensor([3, 5, 9]))
    assert list(sampler) == [3, 5, 9]


def test_a_start_leaves_out_what_is_done() -> None:
    whole, rest = planned(ODD), planned(ODD, start=13)
    assert list(rest) == list(whole)[13:]
    assert len(rest) == 37
    assert rest.epoch_length == 50
    assert list(planned(ODD, start=50)) == []


def test_a_sampler_without_a_plan_is_empty() -> None:
    assert len(ap.EpochSampler(0)) == 0
    assert list(ap.EpochSampler(0)) == []


@pytest.mark.parametrize("count", [65_535, 65_536, 65_537, 200_003])
def test_long_epochs_are_read_whole(count: int) -> None:
    sampler = planned(torch.arange(count) + 11)
    order = torch.tensor(list(sampler))
    assert torch.equal(order.sort().values, torch.arange(count) + 11)
    part = planned(torch.arange(count) + 11, start=65_530)
    assert torch.equal(torch.tensor(list(part)), order[65_530:])


@pytest.mark.parametrize("at", [0, 5, 65_536, 65_540, 70_000])
def test_an_iterator_goes_on_from_its_state(at: int) -> None:
    sampler = planned(torch.arange(70_000), epoch=3)
    reading = iter(sampler)
    for _ in range(at):
        next(reading)
    state = reading.state_dict()  # type: ignore[attr-defined]
    assert state == {"epoch": 3, "position": at}
    other = iter(sampler)
    next(other)  # has read a chunk already
    other.load_state_dict(state)  # type: ignore[attr-defined]
    assert list(other) == list(reading)


def test_an_iterator_refuses_the_state_of_another_epoch() -> None:
    for epoch, start in ((1, 0), (4, 0), (2, 8)):
        reading = iter(planned(ODD, epoch=3, start=start))
        with pytest.raises(ValueError, match=rf"loader's state is of epoch {epoch}, expected 3"):
            reading.load_state_dict({"epoch": epoch, "position": 4})  # type: ignore[attr-defined]


def test_the_state_of_the_epoch_before_begins_the_next_one() -> None:
    reading = iter(planned(ODD, epoch=3))
    reading.load_state_dict({"epoch": 2, "position": 50})  # type: ignore[attr-defined]
    assert list(reading) == list(planned(ODD, epoch=3))


@given(count=st.integers(1, 60), world=st.integers(1, 8), seed=st.integers(0, 2**40), epoch=st.integers(0, 500))
@settings(max_examples=80, deadline=None)
def test_ranks_share_an_epoch_for_any_sizes(count: int, world: int, seed: int, epoch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        alone = list(planned(torch.arange(count), seed, epoch))
        parts = []
        for rank in range(world):
            patch.setattr("alignprune.sampler.rank_and_world", lambda rank=rank: (rank, world))
            sampler = planned(torch.arange(count), seed, epoch)
            parts.append(list(sampler))
            assert len(sampler) == len(parts[-1])
    length = -(-count // world)
    assert [len(part) for part in parts] == [length] * world
    turns = [part[turn] for turn in range(length) for part in parts]  # in the order of their turns
    expected = [alone[turn % count] for turn in range(length * world)]
    assert turns == expected


def test_a_process_alone_is_rank_zero_of_one() -> None:
    assert rank_and_world() == (0, 1)


def test_generators_are_keyed_by_seed_epoch_and_purpose() -> None:
    def draw(seed: int, epoch: int, purpose: str) -> int:
        return int(torch.randint(2**62, (), generator=keyed_generator(seed, epoch, purpose)))

    keys = [(0, 0, "order"), (1, 0, "order"), (0, 1, "order"), (0, 0, "select"), (2**63, 0, "order"), (11, 1, "order")]
    keys += [(1, 11, "order")]
    assert len({draw(*key) for key in keys}) == len(keys)
    assert draw(5, 6, "order") == draw(5, 6, "order")
